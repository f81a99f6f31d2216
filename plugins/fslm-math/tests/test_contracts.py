"""What fslm relies on in every stage and stack."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st

from fslm_core import Stack, Stage
from fslm_core.testing import StackContract, StageContract, ToolContract
from fslm_math import calculator, equation, numbers, solve
from fslm_math.messages import Equation, Number, Numbered, Question

VALUES = st.one_of(st.integers(0, 10**6).map(str), st.decimals(0, 99, places=2).map(lambda d: f"{d:f}"))


class TestNumbers(ToolContract):
    inputs = st.builds(Question, question=st.integers(2, 10**6).map("Ann has {} pens and 3 cups. How many?".format))

    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return numbers


class TestEquation(StageContract):
    inputs = st.builds(
        Numbered,
        asked=st.text(min_size=1, max_size=100),
        told=st.text(max_size=200),
        numbers=st.lists(st.builds(Number, value=VALUES, start=st.just(0), end=st.just(1)), max_size=8),
        implied=st.lists(st.sampled_from(["2", "12", "100"]), unique=True),
    )

    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return equation


class TestCalculator(ToolContract):
    inputs = st.builds(
        Equation,
        steps=st.lists(st.builds("{}+{}".format, st.integers(0, 999), st.integers(0, 999)), min_size=1, max_size=3),
    )

    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return calculator


class TestSolve(StackContract):
    @pytest.fixture
    def stack(self) -> Stack[Any, Any]:
        return solve

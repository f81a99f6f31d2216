"""What fslm relies on in the plugin, its stages, its tool and its stack."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from hypothesis import strategies as st

import fslm_reason
from fslm_core import Stack, Stage
from fslm_core.testing import PluginContract, StackContract, StageContract, ToolContract
from fslm_reason.messages import Picking

CHOICES = st.lists(st.text(min_size=1, max_size=30), min_size=2, max_size=8, unique=True)


class TestPlugin(PluginContract):
    @pytest.fixture
    def plugin(self) -> ModuleType:
        return fslm_reason


class TestTopic(StageContract):
    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return fslm_reason.topic


class TestFacts(StageContract):
    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return fslm_reason.facts


class TestReasoning(StageContract):
    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return fslm_reason.reasoning


class TestAnswer(StageContract):
    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return fslm_reason.answer


class TestPick(ToolContract):
    inputs = CHOICES.map(lambda choices: Picking(question="Which?", choices=choices, choice=choices[-1]))

    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return fslm_reason.pick


class TestReason(StackContract):
    @pytest.fixture
    def stack(self) -> Stack[Any, Any]:
        return fslm_reason.reason

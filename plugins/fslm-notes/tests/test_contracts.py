"""What fslm relies on in every stage and stack."""

from __future__ import annotations

from typing import Any

import pytest

from fslm_core import Stack, Stage
from fslm_core.testing import StackContract, StageContract
from fslm_notes import facts, notes, service, summary

CAPPED = r"an output longer than \d+ tokens is cut and fails"


class TestService(StageContract):
    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return service


class TestFacts(StageContract):
    warnings = (CAPPED,)

    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return facts


class TestSummary(StageContract):
    warnings = (CAPPED,)

    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return summary


class TestNotes(StackContract):
    warnings = (CAPPED,)

    @pytest.fixture
    def stack(self) -> Stack[Any, Any]:
        return notes

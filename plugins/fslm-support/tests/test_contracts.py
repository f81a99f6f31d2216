"""What fslm relies on in every stage and stack."""

from __future__ import annotations

from typing import Any

import pytest

from fslm_core import Stack, Stage
from fslm_core.testing import StackContract, StageContract
from fslm_support import category, details, intent, triage


class TestCategory(StageContract):
    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return category


class TestIntent(StageContract):
    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return intent


class TestDetails(StageContract):
    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return details


class TestTriage(StackContract):
    @pytest.fixture
    def stack(self) -> Stack[Any, Any]:
        return triage

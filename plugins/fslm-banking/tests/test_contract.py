"""What fslm relies on, and users with it: the kit looks at the installed plugin, its prompts, schemas and names."""

from __future__ import annotations

from typing import Any

import pytest
from fslm_core import Stack, Stage
from fslm_core.testing import StackContract, StageContract

from fslm_banking import stack, topic

MEANT = ()
"""Warnings of the check that are meant."""


class TestTopic(StageContract):
    warnings = MEANT

    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return topic


class TestWhole(StackContract):
    warnings = MEANT

    @pytest.fixture
    def stack(self) -> Stack[Any, Any]:
        return stack

"""What fslm relies on in every plugin, stage and stack."""

from __future__ import annotations

from types import ModuleType

import pytest

import fslm_echo
from fslm_core import Stack, Stage
from fslm_core.testing import PluginContract, StackContract, ToolContract
from fslm_echo import Echo, Said


class TestPlugin(PluginContract):
    @pytest.fixture
    def plugin(self) -> ModuleType:
        return fslm_echo


class TestSay(ToolContract):
    @pytest.fixture
    def stage(self) -> Stage[Said, Echo]:
        return fslm_echo.say


class TestEcho(StackContract):
    @pytest.fixture
    def stack(self) -> Stack[Said, Echo]:
        return fslm_echo.echo

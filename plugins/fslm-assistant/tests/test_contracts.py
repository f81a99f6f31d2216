"""What fslm relies on in the plugin, its stages, its tools and its stack."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

import fslm_assistant
from fslm_core import Stack, Stage
from fslm_core.testing import PluginContract, StackContract, StageContract, ToolContract


class TestPlugin(PluginContract):
    @pytest.fixture
    def plugin(self) -> ModuleType:
        return fslm_assistant


class TestIntent(StageContract):
    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return fslm_assistant.intent


class TestSlots(StageContract):
    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return fslm_assistant.slots


class TestAct(StageContract):
    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return fslm_assistant.act


class TestReply(StageContract):
    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return fslm_assistant.reply


class TestPlain(ToolContract):
    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return fslm_assistant.plain


class TestOpen(ToolContract):
    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return fslm_assistant.open_turn


class TestTask(ToolContract):
    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return fslm_assistant.task


class TestSettle(ToolContract):
    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return fslm_assistant.settle


class TestCall(ToolContract):
    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return fslm_assistant.call


class TestFill(ToolContract):
    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return fslm_assistant.fill


class TestRemember(ToolContract):
    @pytest.fixture
    def stage(self) -> Stage[Any, Any]:
        return fslm_assistant.remember


class TestAssistant(StackContract):
    @pytest.fixture
    def stack(self) -> Stack[Any, Any]:
        return fslm_assistant.assistant

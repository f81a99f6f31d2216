"""The trace of hook calls: whose, how long, what came back; and no text of anyone's."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import BaseModel

from fslm_core.hooks import hookimpl
from fslm_core.message import Problem
from fslm_core.plugins import PluginHost
from fslm_core.plugins.calling import plainly, traced
from fslm_core.settings import load
from fslm_core.stage import Stage, Tool


class Text(BaseModel):
    text: str


stage: Stage[Any, Any] = Stage("a.one", input=Text, output=Text, tool=Tool(lambda message: message, "1"))


class Plugin:
    """Offers a stage, refuses every message twice, and fails to observe."""

    @hookimpl
    def fslm_stages(self) -> list[Stage[Any, Any]]:
        return [stage]

    @hookimpl
    def fslm_commands(self) -> dict[str, Any]:
        return {"greet": print}

    @hookimpl(specname="fslm_check_message")
    def judge(self, message: BaseModel) -> Any:
        yield Problem("refused", "secret")
        yield Problem("refused", str(message))

    @hookimpl
    def fslm_observe(self, event: Any) -> None:
        raise LookupError(f"secret {event}")


def traced_lines(text: str) -> list[str]:
    lines = text.splitlines()
    assert all(re.fullmatch(r"hook fslm_\w+: a \(a\), \d+\.\d ms, (returned|raised) .*", line) for line in lines)
    return [re.sub(r"\d+\.\d ms", "n ms", line) for line in lines]


def test_each_call_is_told_with_its_owner_and_what_came_back(capsys: pytest.CaptureFixture[str]) -> None:
    host = PluginHost(load(files=(), trace_hooks=True), plugins={"a": Plugin()}, installed=False)
    assert len(host.check_message(stage, Text(text="secret"), Text(text="given"))) == 2
    ((_, observe),) = host.observers
    with pytest.raises(LookupError):
        observe("secret")  # type: ignore[arg-type]
    said = capsys.readouterr()
    assert said.out == ""
    assert "secret" not in said.err
    assert traced_lines(said.err) == [
        "hook fslm_stages: a (a), n ms, returned 1 Stage",
        "hook fslm_commands: a (a), n ms, returned 1 name",
        "hook fslm_check_message: a (a), n ms, returned 2 Problem",
        "hook fslm_observe: a (a), n ms, raised LookupError",
    ]


def test_off_nothing_is_told_and_nothing_stands_between(capsys: pytest.CaptureFixture[str]) -> None:
    host = PluginHost(load(files=()), plugins={"a": Plugin()}, installed=False)
    assert len(host.check_message(stage, Text(text="secret"), Text(text="given"))) == 2
    assert host._loaded.call is plainly
    assert capsys.readouterr().err == ""


def test_the_variable_turns_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSLM_TRACE_HOOKS", "1")
    assert load(files=()).trace_hooks
    assert PluginHost(load(files=()), installed=False)._loaded.call is traced


def test_a_check_that_breaks_off_refuses_when_traced_too(capsys: pytest.CaptureFixture[str]) -> None:
    class BreaksOff(Plugin):
        @hookimpl(specname="fslm_check_message")
        def judge(self, message: BaseModel) -> Any:
            yield Problem("refused", "first")
            raise LookupError("second")

    host = PluginHost(load(files=(), trace_hooks=True), plugins={"a": BreaksOff()}, installed=False)
    (problem,) = host.check_message(stage, Text(text="a"), Text(text="given"))
    assert problem.text.startswith("the check of a failed: LookupError")
    assert "fslm_check_message: a (a)" in capsys.readouterr().err

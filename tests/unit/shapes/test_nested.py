"""Stacks within stacks: wiring, paths, seeds, errors, what is hidden, and steps that may fail."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from fslm_core import Engine, Route, Stack, Stage, Step, tool
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.errors import CheckError, RunFailed, StackError
from fslm_core.message import Message, Skipped
from fslm_core.settings import load
from fslm_core.stack import places
from fslm_core.stack.shape import MOST_LEVELS
from fslm_core.stage import SLM
from fslm_core.store import TraceStore, marks_of

SECRET: dict[str, Any] = {"json_schema_extra": {"sensitive": True}}
MODEL = SLM("smollm2-135m", tuned=True)


class Text(BaseModel):
    text: str = Field(max_length=200)


class Loud(BaseModel):
    loud: str = Field(max_length=200)


class Count(BaseModel):
    count: int


class Both(BaseModel):
    loud: str
    count: int


class Maybe(BaseModel):
    loud: str | None
    count: int | None


class Caller(BaseModel):
    text: str = Field(max_length=200)
    phone: str = Field(max_length=20, **SECRET)


class Line(BaseModel):
    line: str = Field(max_length=300)
    kind: str = Field(default="", max_length=5, json_schema_extra={"sensitive": False})


@tool("t.shout", version="1")
def shout(message: Text) -> Loud:
    return Loud(loud=message.text.upper())


@tool("t.count", version="1")
def count(message: Text) -> Count:
    if "!" in message.text:
        raise ValueError("no shouting")
    return Count(count=len(message.text))


@tool("t.line", version="1")
def line(caller: Caller) -> Line:
    return Line(line=f"{caller.text} ({caller.phone})", kind="call")


def inner(**more: Any) -> Stack[Text, Both]:
    return Stack("t.inner", input=Text, output=Both, steps=[shout, count], **more)


def test_a_stack_is_a_step_and_its_steps_are_known_by_their_paths() -> None:
    outer = Stack("t", input=Text, output=Both, steps=[inner()])
    assert [path for path, _ in places(outer)] == ["inner", "inner.shout", "inner.count"]
    assert [stage.name for stage in outer.stages] == ["t.shout", "t.count"]
    with Engine(trace=False) as engine:
        run = engine.run(outer, {"text": "abc"})
    assert run.output == Both(loud="ABC", count=3)
    assert set(run.messages) == {"inner", "inner.shout", "inner.count"}
    nodes = {name: message.node_id for name, message in run.messages.items()}
    assert nodes["inner.shout"] == f"{run.id}/inner.shout/0/0"
    messages = {name: m for name, m in run.messages.items() if isinstance(m, Message)}
    assert messages["inner.shout"].parents == (run.input.node_id,)
    assert set(messages["inner"].parents) == {nodes["inner.shout"], nodes["inner.count"]}
    assert run.result is not None and run.result.parents == (nodes["inner"],)


def test_steps_that_do_not_need_each_other_run_at_once_within_too() -> None:
    met = asyncio.Barrier(2)

    @tool("t.left", version="1")
    async def left(message: Text) -> Loud:
        await met.wait()
        return Loud(loud=message.text)

    @tool("t.right", version="1")
    async def right(message: Text) -> Count:
        await met.wait()
        return Count(count=1)

    pair = Stack("t.pair", input=Text, output=Both, steps=[left, right])
    with Engine(trace=False) as engine:
        run = engine.run(Stack("t", input=Text, output=Both, steps=[pair]), {"text": "a"}, timeout=20)
    assert run.output.count == 1


def test_what_is_wrong_within_is_found_before_anything_runs() -> None:
    class Other(BaseModel):
        other: str

    broken = Stack("t.broken", input=Text, output=Other, steps=[shout])
    with pytest.raises(CheckError) as caught:
        _ = Stack("t", input=Text, output=Other, steps=[broken]).wiring
    (finding,) = caught.value.findings
    assert finding.startswith("step broken.output: nobody supplies field 'other' (str)")


def test_an_error_names_the_path_of_the_step() -> None:
    outer = Stack("t", input=Text, output=Both, steps=[inner()])
    with Engine(trace=False) as engine, pytest.raises(RunFailed) as caught:
        engine.run(outer, {"text": "stop!"})
    assert caught.value.error.where == "stack t, step inner.count"
    assert caught.value.error.code == "tool"


def test_a_step_that_fails_may_be_skipped_and_its_fields_are_null() -> None:
    stack = Stack("t", input=Text, output=Maybe, steps=[shout, Step(count, on_error="skip")])
    with Engine(trace=False) as engine:
        good, bad = engine.run(stack, {"text": "abc"}), engine.run(stack, {"text": "stop!"})
    assert good.output == Maybe(loud="ABC", count=3)
    assert bad.output == Maybe(loud="STOP!", count=None)
    skipped = bad.messages["count"]
    assert isinstance(skipped, Skipped) and skipped.when == "on_error: tool"


def test_a_shape_that_fails_may_be_skipped_whole() -> None:
    stack = Stack("t", input=Text, output=Maybe, steps=[Step(inner(), on_error="skip")])
    with Engine(trace=False) as engine:
        run = engine.run(stack, {"text": "stop!"})
    assert run.output == Maybe(loud=None, count=None)
    assert isinstance(run.messages["inner"], Skipped)


def test_whoever_takes_from_a_step_that_may_be_skipped_must_accept_null() -> None:
    stack = Stack("t", input=Text, output=Both, steps=[shout, Step(count, on_error="skip")])
    with pytest.raises(CheckError, match=r"comes from count.count, a step that may be skipped"):
        _ = stack.wiring


def test_a_deadline_is_never_skipped() -> None:
    @tool("t.hang", version="1")
    async def hang(message: Text) -> Count:
        await asyncio.Event().wait()
        return Count(count=0)

    stack = Stack("t", input=Text, output=Maybe, steps=[shout, Step(hang, on_error="skip")])
    with Engine(trace=False) as engine, pytest.raises(RunFailed) as caught:
        engine.run(stack, {"text": "abc"}, timeout=0.2)
    assert caught.value.error.code == "deadline"


def test_the_failed_attempts_of_a_skipped_step_stay_in_the_trace(tmp_path: Path) -> None:
    guess = Stage("t.guess", input=Text, output=Count, prompt="{{ text }}", model=MODEL)
    stack = Stack("t", input=Text, output=Maybe, steps=[shout, Step(guess, on_error="skip")])
    settings = load(files=[], data_dir=tmp_path)
    with Engine(backend=ScriptedBackend({"t.guess": "{}"}), settings=settings, content="full") as engine:
        run = engine.run(stack, {"text": "abc"})
    with TraceStore.open(settings.trace_path, readonly=True) as store:
        stored = store.run(run.id)
    statuses = {(node.step, node.status) for node in stored.nodes}
    assert {("guess", "failed"), ("guess", "skipped"), ("shout", "ok")} <= statuses


def test_no_more_than_so_many_levels() -> None:
    def nested(levels: int) -> Stack[Text, Loud]:
        stack = Stack("t.s", input=Text, output=Loud, steps=[shout])
        for _ in range(levels - 1):
            stack = Stack("t.s", input=Text, output=Loud, steps=[stack])
        return stack

    with Engine(trace=False) as engine:
        run = engine.run(nested(MOST_LEVELS), {"text": "deep"})
    assert run.output.loud == "DEEP" and len(run.messages) == MOST_LEVELS
    with pytest.raises(StackError, match="nested too deep"):
        nested(MOST_LEVELS + 1)


def test_seeds_go_by_the_path_so_that_equal_stages_sample_apart() -> None:
    guess = Stage("t.guess", input=Text, output=Count, prompt="{{ text }}", model=MODEL)
    twice = Stack(
        "t",
        input=Text,
        output=Count,
        steps=[
            Step(Stack("t.a", input=Text, output=Count, steps=[guess]), name="a"),
            Step(Stack("t.b", input=Text, output=Count, steps=[guess]), name="b"),
        ],
        bind={"count": "b.count"},
    )
    backend = ScriptedBackend({"t.guess": '{"count":1}'})
    with Engine(backend=backend, trace=False) as engine:
        engine.run(twice, {"text": "x"}, seed=5)
        seeds = {request.id.split("/")[1]: request.seed for request in backend.requests}
        engine.run(twice, {"text": "x"}, seed=5)
    assert set(seeds) == {"a.guess", "b.guess"} and len(set(seeds.values())) == 2
    assert [r.seed for r in backend.requests[2:]] == [r.seed for r in backend.requests[:2]]


def test_all_that_a_shape_may_hold_of_what_is_marked_is_hidden() -> None:
    called = Stack("t.called", input=Caller, output=Line, steps=[line])
    desk = Route("t.desk", by="input.text", cases={"x": called}, default=called)
    marks = marks_of(Stack("t", input=Caller, output=Line, steps=[desk]))
    assert marks.made["desk.called.line"] == {"line"}
    assert marks.given["desk.called"] == {"text", "phone"}
    assert "line" in marks.made["desk"] and marks.made["input"] == {"text", "phone"}

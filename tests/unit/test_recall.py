"""What a step of an earlier run was given is told by walking its stack again, and held against what its prompt held."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, field_validator

from fslm_core import SLM, Engine, Stack, Stage, Step, tool
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.engine.making import SEMANTICS
from fslm_core.engine.recall import recall
from fslm_core.errors import InputError, RunFailed
from fslm_core.message import digest, plain_path
from fslm_core.schema import canonical
from fslm_core.settings import load
from fslm_core.shapes import Agent, Ask, Fallback, Map, Repair, Repeat, Route, Vote
from fslm_core.stack import places
from fslm_core.stage import Decoding
from fslm_core.store import StoredRun, TraceStore

MODEL = SLM("smollm2-135m", tuned=True)


class Text(BaseModel):
    text: str = Field(max_length=200)


class Words(BaseModel):
    words: list[str] = Field(max_length=20)


class Word(BaseModel):
    word: str = Field(max_length=40)
    problems: list[str] = []


class Code(BaseModel):
    code: str = Field(max_length=40)

    @field_validator("code")
    @classmethod
    def _known(cls, code: str) -> str:
        if not code.startswith("A"):
            raise ValueError(f"{code} does not begin with an A")
        return code


class Codes(BaseModel):
    codes: list[str] = Field(max_length=20)


class Count(BaseModel):
    count: int


class Two(BaseModel):
    code: str | None
    count: int | None


class Heard(BaseModel):
    heard: str = ""


@tool("r.remember", version="1", pure=True)
def remember(given: Code) -> Heard:
    return Heard(heard=given.code)


@tool("r.words", version="1", pure=True)
def words(given: Text) -> Words:
    return Words(words=given.text.split())


@tool("r.count", version="1", pure=True)
def count(given: Text) -> Count:
    if "boom" in given.text:
        raise ValueError("too loud")
    return Count(count=len(given.text))


@tool("r.half", version="1", pure=True)
def half(given: Count) -> Count:
    return Count(count=given.count // 2)


def stage(name: str, given: type[BaseModel] = Word, prompt: str = "{{ word }}", **rest: Any) -> Stage[Any, Any]:
    return Stage(f"r.{name}", input=given, output=Code, prompt=prompt, model=MODEL, **rest)


told = stage("told", prompt="{{ word }}{% for p in problems %} Mind: {{ p }}.{% endfor %}")
whole = stage("whole", Text, "{{ text }}")
tries = stage("tries", Text, "{{ text }}", decoding=Decoding(temperature=0.5, attempts=3))
GOOD, BAD = '{"code":"A1"}', '{"code":"B1"}'


def made(stack: Stack[Any, Any], text: str, tmp_path: Path, answers: dict[str, Any]) -> StoredRun:
    """A run of the stack, out of the trace, whether it succeeded or not."""
    settings = load(data_dir=tmp_path)
    with Engine(settings=settings, backend=ScriptedBackend(answers), content="full") as engine:
        try:
            run = engine.run(stack, {"text": text})
        except RunFailed as failed:
            run = failed.run
    with TraceStore.open(settings.trace_path, readonly=True) as store:
        return store.run(run.id)


def held(run: StoredRun, stack: Stack[Any, Any], at_least: int = 1) -> list[str]:
    """Recall what every step was given, and hold it against the work that was done: its prompt, or its work key."""
    by_path = dict(places(stack))
    wanted = {n.step for n in run.nodes if n.attempts and isinstance(by_path[plain_path(n.step)].node, Stage)}
    found = recall(run, stack, wanted)
    assert found.error is None and found.given.keys() == wanted
    checked = []
    for node in run.nodes:
        if node.step not in wanted or not node.attempts:
            continue
        at, value = by_path[plain_path(node.step)].stage, found.given[node.step]
        if at.tool is None:
            assert at.render(value) == node.attempts[-1].prompt, node.step
        elif node.work_key:
            assert digest(SEMANTICS, node.fingerprint, canonical(value)) == node.work_key, node.step
        else:
            continue
        checked.append(node.step)
        assert recall(run, stack, [node.step]).given == {node.step: value}  # walked no further than it has to be
    assert len(checked) >= at_least
    return checked


def test_the_steps_of_every_kind_of_shape(tmp_path: Path) -> None:
    inner = Stack("r.inner", input=Text, output=Code, steps=[whole])
    route = Route("r.route", by="'long' if input.text|length > 8 else 'short'", cases={"long": inner}, default=tries)
    fix = Repair("r.fix", told, remedies=[Ask("problems", times=2)], input=Word)
    each = Map("r.each", fix, over="words", item="word", into="codes", pick="code", input=Words, output=Codes)
    halving = Repeat("r.halving", half, until="last.count < 4", most=9, carry={"count": "count"})
    vote = Vote("r.vote", [whole, Step(tries, name="other")], by="code", quorum=1)
    stack: Stack[Any, Any] = Stack(
        "r.all",
        input=Text,
        output=Two,
        steps=[route, words, each, count, Step(halving, bind={"count": "count.count"}), vote],
        bind={"code": "vote.code", "count": "halving.count"},
    )
    answers = {"r.whole": GOOD, "r.tries": [BAD, GOOD, BAD, GOOD, GOOD], "r.told": [BAD, '{"code":"C"}', GOOD, GOOD]}
    run = made(stack, "one two three", tmp_path, answers)
    assert run.row.status == "succeeded"
    checked = held(run, stack, at_least=10)
    assert {"route.inner.whole", "halving.half[1]", "vote.whole"} <= set(checked)
    again = [step for step in checked if step.startswith("each.fix") and step.endswith(".told[1]")]
    (first, *_) = recall(run, stack, again).given.values()
    assert "does not begin with an A" in str(first)  # what the try before it was refused for


def test_an_agent_that_was_told_of_a_failure(tmp_path: Path) -> None:
    node = Agent("r.agent", input=Text, output=Count, tools=[count, half], model=MODEL)
    stack: Stack[Any, Any] = Stack("r", input=Text, output=Count, steps=[node])
    plans = [
        {"tool": "count", "arguments": {"text": "boom"}},
        {"tool": "count", "arguments": {"text": "four"}},
        {"tool": "finish", "arguments": {"count": 4}},
    ]
    run = made(stack, "?", tmp_path, {"r.agent.plan": [json.dumps({"next": plan}) for plan in plans]})
    assert run.row.status == "succeeded", run.row.error
    assert {"agent.plan[0]", "agent.plan[1]", "agent.plan[2]"} <= set(held(run, stack))
    assert "tool: ValueError" in str(recall(run, stack, ["agent.plan[1]"]).given)


def test_a_step_that_failed_and_what_stood_in_for_it(tmp_path: Path) -> None:
    sure = Fallback("r.sure", [tries, Step(whole, name="other")])
    stack: Stack[Any, Any] = Stack("r", input=Text, output=Code, steps=[sure])
    run = made(stack, "x", tmp_path, {"r.tries": BAD, "r.whole": GOOD})
    assert run.row.status == "succeeded"
    assert {"sure.tries", "sure.other"} <= set(held(run, stack))


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_what_went_on_beside_a_step_that_failed(tmp_path: Path, on_error: Any) -> None:
    first = Stack(
        "r.first", input=Text, output=Code, steps=[Step(tries, on_error=on_error), whole], bind={"code": "whole.code"}
    )
    chain = [Step(first, name="first"), Step(count, name="counted"), Step(half, bind={"count": "counted.count"})]
    stack: Stack[Any, Any] = Stack(
        "r", input=Text, output=Count, steps=[*chain, Step(half, name="quarter", bind={"count": "half.count"})],
        bind={"count": "quarter.count"},
    )  # fmt: skip
    run = made(stack, "some text", tmp_path, {"r.tries": BAD, "r.whole": GOOD})
    assert run.row.status == ("failed" if on_error == "fail" else "succeeded")
    assert "first.tries" in held(run, stack, at_least=3)


def test_a_replay_whose_messages_were_edited_and_left_out(tmp_path: Path) -> None:
    settings = load(data_dir=tmp_path)
    inner = Stack("r.inner", input=Text, output=Code, steps=[whole])
    steps = [Step(count, when="true"), Step(inner, name="inner"), Step(stage("last", Code, "{{ code }}"), name="last")]
    stack: Stack[Any, Any] = Stack(
        "r", input=Text, output=Two, steps=steps, bind={"code": "last.code", "count": "count.count"}
    )
    answers = {"r.whole": GOOD, "r.last": GOOD}
    with Engine(settings=settings, backend=ScriptedBackend(answers), content="full") as engine:
        first = engine.run(stack, {"text": "x"})
        again = engine.replay(first.id, edits={"inner.code": "A2", "count": None}, stack=stack)
    with TraceStore.open(settings.trace_path, readonly=True) as store:
        run = store.run(again.id)
    assert held(run, stack) == ["last"] and recall(run, stack, ["last"]).given == {"last": Code(code="A2")}


def test_what_a_session_s_turn_read(tmp_path: Path) -> None:
    class Both(BaseModel):
        text: str
        heard: str

    stack: Stack[Any, Any] = Stack(
        "r",
        input=Text,
        output=Code,
        steps=[Step(stage("both", Both, "{{ heard }}: {{ text }}"), bind={"heard": "session.heard"}), remember],
        session=Heard,
        writes="remember",
    )
    settings = load(data_dir=tmp_path)
    with Engine(settings=settings, backend=ScriptedBackend({"r.both": GOOD}), content="full") as engine:
        engine.run(stack, {"text": "one"}, session="s")
        second = engine.run(stack, {"text": "two"}, session="s")
    with TraceStore.open(settings.trace_path, readonly=True) as store:
        run = store.run(second.id)
    assert held(run, stack, at_least=2) == ["both", "remember"]
    assert recall(run, stack, ["both"]).given == {"both": Both(text="two", heard="A1")}


def test_what_cannot_be_told_is_said_why(tmp_path: Path) -> None:
    stack: Stack[Any, Any] = Stack("r", input=Text, output=Code, steps=[whole])
    run = made(stack, "x", tmp_path, {"r.whole": GOOD})

    class Longer(BaseModel):
        text: str = Field(max_length=200)
        more: str

    longer = stage("longer", Longer, "{{ text }} {{ more }}")
    before = Stack("r", input=Text, output=Code, steps=[Step(stage("new", Text, "{{ text }}"), name="new"), Step(
        stage("whole", Code, "{{ code }}"), name="whole", bind={"code": "new.code"}
    )], bind={"code": "whole.code"})  # fmt: skip
    for changed, why in (
        (Stack("r", input=Longer, output=Code, steps=[Step(longer, name="whole")]), "does not fit"),
        (before, "no message of this step"),
    ):
        found = recall(run, changed, ["whole"])
        assert found.given == {} and isinstance(found.error, InputError) and why in str(found.error)
    assert recall(run, stack, ["nobody"]).given == {}


@pytest.mark.parametrize("mode", ["redacted", "none"])
def test_of_a_run_that_was_not_kept_in_full_nothing_is_told(tmp_path: Path, mode: Any) -> None:
    stack: Stack[Any, Any] = Stack("r", input=Text, output=Code, steps=[whole])
    settings = load(data_dir=tmp_path)
    with Engine(settings=settings, backend=ScriptedBackend({"r.whole": GOOD}), content=mode) as engine:
        run = engine.run(stack, {"text": "x"})
    with TraceStore.open(settings.trace_path, readonly=True) as store:
        found = recall(store.run(run.id), stack, ["whole"])
    assert found.given == {} and "not kept as it was" in str(found.error)

"""Earlier runs anew: what is edited, what is taken, what is done again, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from fslm_core import SLM, Engine, Map, PluginHost, Run, Stack, Stage, Step, hookimpl, tool
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.errors import EngineStateError, InputError, RunFailed, UnknownNameError, UsageError
from fslm_core.explain.difference import compare_runs
from fslm_core.message import LEFT_OUT, Message, Problem
from fslm_core.settings import load
from fslm_core.stage import Decoding
from fslm_core.store import StoredRun, TraceStore
from fslm_core.store.edits import apply

CALLS: Counter[str] = Counter()


class Said(BaseModel):
    text: str


class Kind(BaseModel):
    kind: Literal["bug", "praise", "other"]
    sure: bool = True


class Place(BaseModel):
    place: str


class Labels(BaseModel):
    text: str
    kind: str
    allowed: list[str]


class Allowed(BaseModel):
    allowed: list[str]


class Detail(BaseModel):
    detail: Literal["screen", "button", "none"]


class Reply(BaseModel):
    reply: str


class Ticket(BaseModel):
    kind: str
    detail: str | None
    reply: str


class Words(BaseModel):
    words: list[str] = Field(max_length=5)


class Word(BaseModel):
    word: str


class Loud(BaseModel):
    loud: str


class Louds(BaseModel):
    louds: list[Loud]


@pytest.fixture(autouse=True)
def counted() -> None:
    CALLS.clear()


@tool("desk.place", version="1")
def place(said: Said) -> Place:
    """Not pure: it asks somebody."""
    CALLS["place"] += 1
    return Place(place=f"desk {CALLS['place']}")


@tool("desk.allowed", version="1", pure=True)
def allowed(kind: Kind) -> Allowed:
    CALLS["allowed"] += 1
    return Allowed(allowed=["screen", "none"] if kind.kind == "bug" else ["none"])


class Told(BaseModel):
    kind: str
    place: str
    detail: str | None


@tool("desk.answer", version="1")
def answer(told: Told) -> Reply:
    CALLS["answer"] += 1
    return Reply(reply=f"{told.place}: {told.kind}, {told.detail}")


def model(name: str, output: type[BaseModel], prompt: str, **rest: Any) -> Stage[Any, Any]:
    given = Labels if "allowed" in prompt else Said
    return Stage(f"desk.{name}", input=given, output=output, prompt=prompt, model=SLM("smollm2-135m"), **rest)


def desk(temperature: float = 0.0) -> Stack[Any, Any]:
    kind = model("kind", Kind, "{{ text }}", decoding=Decoding(temperature=temperature))
    detail = model("detail", Detail, "{{ kind }} {{ text }} {{ allowed|join }}", narrow={"detail": "allowed"})
    steps = [place, kind, allowed, Step(detail, when="kind.kind != 'praise'"), answer]
    bind = {"kind": "kind.kind", "detail": "detail.detail", "reply": "answer.reply"}
    return Stack("desk", input=Said, output=Ticket, steps=steps, bind=bind)


class Script:
    """Answers by stage, counting what each was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: Counter[str] = Counter()

    def backend(self) -> ScriptedBackend:
        def said(name: str) -> Any:
            def answered(request: Any) -> str:
                self.asked[name] += 1
                found = self.answers[name]
                return json.dumps(found(request) if callable(found) else found, separators=(",", ":"))

            return answered

        return ScriptedBackend({f"desk.{name}": said(name) for name in self.answers})


def opened(tmp_path: Path, script: Script, content: Any = "full") -> Engine:
    return Engine(settings=load(data_dir=tmp_path), backend=script.backend(), content=content)


def script() -> Script:
    return Script(kind={"kind": "bug", "sure": True}, detail=lambda request: {"detail": "screen"})


def stored(tmp_path: Path, run: Run[Any]) -> StoredRun:
    with TraceStore.open(load(data_dir=tmp_path).trace_path, readonly=True) as store:
        return store.run(run.id)


def taken(run: Run[Any]) -> set[str]:
    return {m.step for m in run.messages.values() if isinstance(m, Message) and m.reused and not m.edited}


def test_what_does_not_change_by_an_edit_is_taken(tmp_path: Path) -> None:
    said = script()
    with opened(tmp_path, said) as engine:
        first = engine.run(desk(), {"text": "it broke"})
        again = engine.replay(first.id, edits={"detail.detail": "none"}, stack=desk())
    assert first.output.reply == "desk 1: bug, screen" and again.output.reply == "desk 1: bug, none"
    assert taken(again) == {"place", "kind", "allowed"}
    assert said.asked == {"kind": 1, "detail": 1} and CALLS == {"place": 1, "allowed": 1, "answer": 2}
    assert again.parent == first.id and again.messages["detail"].edited == ("detail",)
    assert again.messages["kind"].reused == first.messages["kind"].node_id
    kept = stored(tmp_path, again)
    assert kept.row.parent == first.id and stored(tmp_path, first).row.parent is None
    nodes = {node.step: node for node in kept.nodes}
    assert nodes["detail"].edited == ("detail",) and nodes["kind"].reused == first.messages["kind"].node_id
    assert nodes["answer"].reused == "" and nodes["kind"].work_key == first.messages["kind"].work_key


def test_what_follows_an_edit_is_done_again(tmp_path: Path) -> None:
    said = script()
    said.answers["detail"] = lambda request: {"detail": "none" if "other" in str(request.prompt) else "screen"}
    with opened(tmp_path, said) as engine:
        first = engine.run(desk(), {"text": "it broke"})
        again = engine.replay(first.id, edits={"kind.kind": "other"}, stack=desk())
        praised = engine.replay(first.id, edits={"kind.kind": "praise"}, stack=desk())
    assert again.output.model_dump() == {"kind": "other", "detail": "none", "reply": "desk 1: other, none"}
    assert again.messages["kind"].content.sure is True  # what was not edited stays
    assert praised.output.detail is None and CALLS["place"] == 1 and CALLS["allowed"] == 3
    assert said.asked["kind"] == 1


def test_with_a_start_it_and_all_after_it_are_done_again(tmp_path: Path) -> None:
    said = script()
    with opened(tmp_path, said) as engine:
        first = engine.run(desk(), {"text": "it broke"})
        again = engine.replay(first.id, start="detail", stack=desk())
        assert taken(again) == {"place", "kind", "allowed"} and said.asked == {"kind": 1, "detail": 2}
        whole = engine.replay(first.id, stack=desk())
    assert taken(whole) == set() and said.asked == {"kind": 2, "detail": 3} and CALLS["place"] == 2
    assert again.output == first.output


def test_a_step_that_may_be_skipped_can_be_left_out(tmp_path: Path) -> None:
    said = script()
    with opened(tmp_path, said) as engine:
        first = engine.run(desk(), {"text": "it broke"})
        again = engine.replay(first.id, edits={"detail": None}, stack=desk())
        with pytest.raises(UsageError, match="cannot be left out"):
            engine.replay(first.id, edits={"kind": None}, stack=desk())
    assert again.output.detail is None and again.output.reply == "desk 1: bug, None" and said.asked["detail"] == 1
    node = next(node for node in stored(tmp_path, again).nodes if node.step == "detail")
    assert (node.status, node.when) == ("skipped", LEFT_OUT)
    found = compare_runs(stored(tmp_path, first), stored(tmp_path, again))
    assert found.parted is not None and (found.parted.step, found.parted.why) == ("detail", ("edited",))


def test_an_edited_input_begins_anew_and_takes_what_is_the_same_work(tmp_path: Path) -> None:
    said = script()
    with opened(tmp_path, said) as engine:
        first = engine.run(desk(), {"text": "it broke"})
        again = engine.replay(first.id, edits={"input.text": "it fell"}, stack=desk())
        assert again.input.content == Said(text="it fell")
        assert taken(again) == {"allowed"} and said.asked["kind"] == 2 and CALLS["place"] == 2
        other = engine.replay(first.id, input={"text": "it broke"}, edits={"detail.detail": "none"}, stack=desk())
    assert "kind" in taken(other)


def test_a_stage_that_changed_is_asked_again(tmp_path: Path) -> None:
    said = script()
    changed = desk()
    with opened(tmp_path, said) as engine:
        first = engine.run(desk(), {"text": "it broke"})
        kind = model("kind", Kind, "Please: {{ text }}")
        steps = [Step(kind, name="kind") if s.name == "kind" else s for s in changed.steps]
        newer: Any = Stack("desk", input=Said, output=Ticket, steps=steps, bind={
            "kind": "kind.kind", "detail": "detail.detail", "reply": "answer.reply",
        })  # fmt: skip
        again = engine.replay(first.id, edits={"detail.detail": "none"}, stack=newer)
    assert taken(again) == {"place", "allowed"} and said.asked == {"kind": 2, "detail": 1}


def test_what_was_sampled_is_taken_with_the_run_s_seed(tmp_path: Path) -> None:
    said = script()
    with opened(tmp_path, said) as engine:
        first = engine.run(desk(0.7), {"text": "it broke"}, seed=5)
        again = engine.replay(first.id, edits={"detail.detail": "none"}, stack=desk(0.7))
    assert again.seed == 5 and "kind" in taken(again) and said.asked["kind"] == 1


def test_what_only_the_second_attempt_gave_is_taken_too_again_and_again(tmp_path: Path) -> None:
    said = script()
    tries = iter([{"kind": "no such"}, {"kind": "bug", "sure": True}])
    said.answers["kind"] = lambda request: next(tries)
    kind = model("kind", Kind, "{{ text }}", decoding=Decoding(temperature=0.7, attempts=2))
    steps: list[Any] = [place, kind, allowed]
    stack: Stack[Any, Any] = Stack("desk", input=Said, output=Allowed, steps=steps)
    with opened(tmp_path, said) as engine:
        first = engine.run(stack, {"text": "it broke"})
        again = engine.replay(first.id, edits={"allowed.allowed": ["none"]}, stack=stack)
        third = engine.replay(again.id, edits={"allowed.allowed": ["button"]}, stack=stack)
    assert taken(again) == taken(third) == {"place", "kind"} and said.asked == {"kind": 2}


def test_steps_of_a_shape_are_edited_one_by_one(tmp_path: Path) -> None:
    @tool("shout.split", version="1", pure=True)
    def split(said: Said) -> Words:
        return Words(words=said.text.split())

    @tool("shout.loud", version="1", pure=True)
    def loud(word: Word) -> Loud:
        CALLS["loud"] += 1
        return Loud(loud=word.word.upper())

    each = Map("each", loud, over="words", item="word", into="louds", input=Words, output=Louds)
    shout = Stack("shout", input=Said, output=Louds, steps=[split, each])
    with opened(tmp_path, Script()) as engine:
        first = engine.run(shout, {"text": "a b c"})
        inner = engine.replay(first.id, edits={"each.loud[1].loud": "!"}, stack=shout)
        assert [each.loud for each in inner.output.louds] == ["A", "!", "C"] and CALLS["loud"] == 3
        whole = engine.replay(first.id, edits={"each.louds[0].loud": "?"}, stack=shout)
        assert [each.loud for each in whole.output.louds] == ["?", "B", "C"] and CALLS["loud"] == 3
        words = engine.replay(first.id, edits={"split.words": ["a", "x"]}, stack=shout)
        assert [each.loud for each in words.output.louds] == ["A", "X"] and CALLS["loud"] == 4


@pytest.mark.parametrize(
    ("edits", "why"),
    [
        ({"detail.detail": "button"}, "nothing that the step could write"),
        ({"kind.kind": "nonsense"}, "does not fit the step's output"),
        ({"kind.sort": "bug"}, "a field that the step's output does not have"),
        ({"answer.reply": 3}, "does not fit the step's output"),
    ],
)
def test_an_edit_that_is_nothing_the_step_could_say_fails(tmp_path: Path, edits: dict[str, Any], why: str) -> None:
    with opened(tmp_path, script()) as engine:
        first = engine.run(desk(), {"text": "it broke"})
        with pytest.raises(RunFailed) as failed:
            engine.replay(first.id, edits=edits, stack=desk())
    assert isinstance(failed.value.error, InputError) and why in failed.value.error.what
    step = next(iter(edits)).partition(".")[0]
    assert f"step {step}" in str(failed.value.error.where)
    assert stored(tmp_path, failed.value.run).row.parent == first.id


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"edits": {"nothing.kind": "bug"}}, UnknownNameError),
        ({"edits": {"kind": "bug"}}, UsageError),
        ({"edits": {"input.text.inner": "x"}}, UsageError),
        ({"edits": {"input.nothing": "x"}}, InputError),
        ({"edits": {"session.turns": []}}, UnknownNameError),
        ({"start": "nothing"}, UnknownNameError),
    ],
)
def test_what_names_no_place_is_refused_before_anything_runs(tmp_path: Path, arguments: Any, error: Any) -> None:
    with opened(tmp_path, script()) as engine:
        first = engine.run(desk(), {"text": "it broke"})
        with pytest.raises(error):
            engine.replay(first.id, stack=desk(), **arguments)
    with TraceStore.open(load(data_dir=tmp_path).trace_path, readonly=True) as store:
        assert [row.id for row in store.runs()] == [first.id]


def test_runs_and_stacks_that_are_not_there(tmp_path: Path) -> None:
    with opened(tmp_path, script()) as engine:
        first = engine.run(desk(), {"text": "it broke"})
        with pytest.raises(UnknownNameError, match="run"):
            engine.replay("zzzz", stack=desk())
        with pytest.raises(UnknownNameError, match="stack"):
            engine.replay(first.id)
        kept = stored(tmp_path, first)
    with (
        Engine(settings=load(data_dir=tmp_path), backend=script().backend(), trace=False) as engine,
        pytest.raises(EngineStateError, match="no trace"),
    ):
        engine.replay(first.id, stack=desk())
    with Engine(settings=load(data_dir=tmp_path), backend=script().backend(), trace=False) as engine:
        assert engine.replay(kept, start="answer", stack=desk()).output.kind == "bug"


def test_an_export_holds_what_was_taken_and_edited(tmp_path: Path) -> None:
    with opened(tmp_path, script()) as engine:
        first = engine.run(desk(), {"text": "it broke"})
        again = engine.replay(first.id, edits={"detail.detail": "none"}, stack=desk())
    with TraceStore.open(load(data_dir=tmp_path).trace_path) as store:
        store.export_runs(tmp_path / "runs.jsonl")
    with TraceStore.open(tmp_path / "other.db") as other:
        other.import_runs(tmp_path / "runs.jsonl")
        assert other.run(again.id) == stored(tmp_path, again)
        assert other.run(again.id).row.parent == first.id


def test_an_edit_that_a_plugin_s_check_refuses_fails(tmp_path: Path) -> None:
    class Strict:
        """Owns the stage, and refuses praise of what broke."""

        @hookimpl
        def fslm_stages(self) -> list[Any]:
            return [step.node for step in stack.steps]

        @hookimpl
        def fslm_check_message(self, message: BaseModel, input: BaseModel) -> list[Problem]:
            wrong = isinstance(message, Kind) and message.kind == "praise" and "broke" in str(input)
            return [Problem("refused", "nobody praises that", "kind")] if wrong else []

    stack, configured = desk(), load(data_dir=tmp_path)
    host = PluginHost(configured, plugins={"desk": Strict()}, installed=False)
    with Engine(settings=configured, host=host, backend=script().backend(), content="full") as engine:
        first = engine.run(stack, {"text": "it broke"})
        with pytest.raises(RunFailed, match="refused by a check") as failed:
            engine.replay(first.id, edits={"kind.kind": "praise"}, stack=stack)
    assert isinstance(failed.value.error, InputError) and "nobody praises that" in str(failed.value.error)


def test_a_run_in_hand_needs_no_trace() -> None:
    said = script()
    with Engine(backend=said.backend(), trace=False) as engine:
        first = engine.run(desk(0.7), {"text": "it broke"}, seed=3)
        again = engine.replay(first, edits={"detail.detail": "none"}, stack=desk(0.7))
        once_more = engine.replay(again, edits={"detail.detail": "screen"}, stack=desk(0.7))
    assert taken(again) == taken(once_more) == {"place", "kind", "allowed"} and said.asked == {"kind": 1, "detail": 1}
    assert once_more.parent == again.id and once_more.output == first.output


@pytest.mark.parametrize("content", ["redacted", "none"])
def test_a_run_whose_input_was_not_kept_asks_for_it(tmp_path: Path, content: str) -> None:
    class Private(BaseModel):
        text: str = Field(json_schema_extra={"sensitive": True})

    kind = model("kind", Kind, "{{ text }}")
    private = Stack("desk", input=Private, output=Kind, steps=[kind])
    with opened(tmp_path, script(), content) as engine:
        first = engine.run(private, {"text": "it broke"})
        with pytest.raises(InputError, match="not kept as it was"):
            engine.replay(first.id, stack=private)
        again = engine.replay(first.id, input={"text": "it broke"}, stack=private)
    assert again.output == first.output and again.parent == first.id


def test_it_can_be_awaited(tmp_path: Path) -> None:
    async def twice() -> Run[Any]:
        async with opened(tmp_path, script()) as engine:
            first = await engine.arun(desk(), {"text": "it broke"})
            return await engine.areplay(first.id, edits={"detail.detail": "none"}, stack=desk())

    assert asyncio.run(twice()).output.detail == "none"


JSON = st.recursive(
    st.none() | st.integers(0, 3),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from("abc"), part),
)


def leaves(data: Any, path: str = "") -> dict[str, Any]:
    if isinstance(data, dict):
        return {
            k: v for name, part in data.items() for k, v in leaves(part, f"{path}.{name}" if path else name).items()
        }
    if isinstance(data, list):
        return {k: v for n, part in enumerate(data) for k, v in leaves(part, f"{path}[{n}]").items()}
    return {path: data}


@given(st.dictionaries(st.sampled_from("abc"), JSON, min_size=1), st.data())
def test_an_edit_changes_its_place_and_no_other(data: dict[str, Any], drawn: st.DataObject) -> None:
    before = leaves(data)
    if before:
        path = drawn.draw(st.sampled_from(sorted(before)))
        assert leaves(apply(data, {path: "new"}, "here")) == {**before, path: "new"}
    assert leaves(data) == before

"""Two runs beside each other: where they part, and why."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from rich.console import Console

from fslm_core import Engine, Map, Run, Stack, Step, tool
from fslm_core.errors import UnknownNameError
from fslm_core.explain.difference import RunDiff, StepChange, changes, compare_runs, compare_sets
from fslm_core.explain.difference_drawn import drawn, set_drawn, set_to_json, to_json
from fslm_core.settings import load
from fslm_core.store import ContentMode, TraceStore

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text("ab", max_size=2), part, max_size=3),
    max_leaves=8,
)


class Said(BaseModel):
    text: str


class Kind(BaseModel):
    kind: str


class Told(BaseModel):
    text: str
    kind: str


class Reply(BaseModel):
    reply: str


class Summary(BaseModel):
    reply: str | None
    kind: str


class Words(BaseModel):
    words: list[str] = Field(max_length=10)


def desk(version: str = "1", mistake: str = "") -> Stack[Any, Any]:
    """Says of what kind a letter is, and answers all but praise; a mistake says what another version says."""

    @tool("desk.kind", version=version)
    def kind(said: Said) -> Kind:
        return Kind(kind=mistake or said.text.split()[0])

    @tool("desk.answer", version="1")
    def answer(told: Told) -> Reply:
        return Reply(reply=f"{told.kind}: {told.text}")

    steps: list[Any] = [kind, Step(answer, when="kind.kind != 'praise'")]
    return Stack("desk", input=Said, output=Summary, steps=steps, bind={"reply": "answer.reply", "kind": "kind.kind"})


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., list[str]]:
    """Run stacks on texts into one trace; returns the runs' ids."""

    def record(*work: tuple[Stack[Any, Any], str], content: ContentMode = "full", seed: int = 0) -> list[str]:
        ids = []
        for stack, text in work:
            with Engine(settings=load(data_dir=tmp_path), content=content) as engine:
                run: Run[Any] = engine.run(stack, {"text": text}, seed=seed)
                ids.append(run.id)
        return ids

    return record


@pytest.fixture
def store(tmp_path: Path) -> Callable[[], TraceStore]:
    return lambda: TraceStore.open(load(data_dir=tmp_path).trace_path, readonly=True)


def compared(store: Callable[[], TraceStore], one: str, other: str) -> RunDiff:
    with store() as opened:
        return compare_runs(opened.run(one), opened.run(other))


def steps(found: RunDiff) -> dict[str, StepChange]:
    return {step.step: step for step in found.steps}


def printed(renderable: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=100).print(renderable)
    return " ".join(out.getvalue().split())


def test_runs_that_are_the_same_say_so(recorded: Any, store: Any) -> None:
    one, other = recorded((desk(), "bug it broke"), (desk(), "bug it broke"))
    found = compared(store, one, other)
    assert found.same and found.parted is None and found.makers == {}
    assert [step.step for step in found.steps] == ["input", "kind", "answer", "output"]
    assert "All that was kept of the two runs is the same." in printed(drawn(found))


def test_a_replay_of_a_turn_is_no_turn_of_its_session_and_parts_where_it_was_edited(tmp_path: Path, store: Any) -> None:
    class Talk(BaseModel):
        kind: str = ""

    bind = {"kind": "kind.kind"}
    talk = Stack("talk", input=Said, output=Kind, steps=desk().steps[:1], session=Talk, writes="kind", bind=bind)
    with Engine(settings=load(data_dir=tmp_path), content="full") as engine:
        first = engine.run(talk, {"text": "bug it broke"}, session="ann")
        again = engine.replay(first.id, stack=talk, edits={"kind.kind": "praise"})
    found = compared(store, first.id, again.id)
    assert {name: step.how for name, step in steps(found).items()} == {
        "input": "same", "session": "same", "kind": "changed", "output": "changed",
    }  # fmt: skip
    assert found.parted is not None and found.parted.step == "kind"


def test_they_part_at_the_step_that_was_given_the_same(recorded: Any, store: Any) -> None:
    one, other = recorded((desk(), "bug it broke"), (desk("2", mistake="lost"), "bug it broke"))
    found = compared(store, one, other)
    assert found.parted is not None and found.parted.step == "kind" and found.parted.why == ("maker",)
    kind, answer, output = (steps(found)[name] for name in ("kind", "answer", "output"))
    assert [(c.field, c.before, c.after) for c in kind.fields] == [("kind", "bug", "lost")]
    assert answer.why == output.why == ("given",) and not answer.parts
    assert set(found.makers) == {"kind"}
    text = printed(drawn(found))
    assert 'kind "bug" → "lost"' in text
    assert "They part at kind: made by another stage, prompt, adapter or model." in text
    told = to_json(found)
    assert told["parted"] == "kind" and told["steps"][1]["fields"][0]["after"] == "lost"


def test_another_input_is_no_parting(recorded: Any, store: Any) -> None:
    one, other = recorded((desk(), "bug it broke"), (desk(), "bug it fell"))
    found = compared(store, one, other)
    assert found.parted is None and not found.same
    assert {name: step.how for name, step in steps(found).items()} == {
        "input": "changed", "kind": "same", "answer": "changed", "output": "changed",
    }  # fmt: skip
    assert "each step does the same with the same" in printed(drawn(found))


def test_a_step_that_is_passed_over_in_one_of_them(recorded: Any, store: Any) -> None:
    one, other = recorded((desk(), "bug it broke"), (desk("2", mistake="praise"), "bug it broke"))
    answer = steps(compared(store, one, other))["answer"]
    assert answer.status == ("ok", "skipped") and answer.how == "changed" and answer.why == ("given",)
    assert "ok → skipped" in printed(drawn(compared(store, one, other)))


def test_same_makers_and_the_same_given_are_chance_or_the_seed(recorded: Any, store: Any) -> None:
    first, *_ = recorded((desk(), "bug it broke"))
    again, *_ = recorded((desk(mistake="odd"), "bug it broke"))
    seeded, *_ = recorded((desk(mistake="odd"), "bug it broke"), seed=3)
    for other, why in ((again, "unexplained"), (seeded, "seed")):
        parted = compared(store, first, other).parted
        assert parted is not None and (parted.step, parted.why) == ("kind", (why,))


def test_steps_of_a_shape_are_compared_by_their_path(recorded: Any, store: Any) -> None:
    def shouting(version: str, tail: str) -> Stack[Any, Any]:
        @tool("shout.split", version="1")
        def split(said: Said) -> Words:
            return Words(words=said.text.split())

        @tool("shout.loud", version=version)
        def loud(kind: Kind) -> Reply:
            return Reply(reply=kind.kind.upper() + (tail if kind.kind == "b" else ""))

        class Given(BaseModel):
            words: list[str]

        class Replies(BaseModel):
            replies: list[Reply]

        each = Map("each", loud, over="words", item="kind", into="replies", input=Given, output=Replies)
        return Stack("shout", input=Said, output=Replies, steps=[split, each])

    one, other = recorded((shouting("1", ""), "a b c"), (shouting("2", "!"), "a b c"))
    found = compared(store, one, other)
    assert [step.step for step in found.steps if step.parts] == ["each.loud[1]"]
    changed = [step.step for step in found.steps if step.how == "changed"]
    assert "each" in changed and "output" in changed and steps(found)["each"].why == ("given",)


def test_without_content_the_hashes_are_compared(recorded: Any, store: Any) -> None:
    pair = recorded((desk(), "bug it broke"), (desk("2", mistake="lost"), "bug it broke"), content="none")
    found = compared(store, *pair)
    assert found.parted is not None and found.parted.step == "kind" and found.parted.fields == ()
    (kept,) = recorded((desk(), "bug it broke"))
    unknown = steps(compared(store, pair[0], kept))
    assert unknown["input"].how == unknown["kind"].how == "unknown"
    assert "what was kept does not tell" in printed(drawn(compared(store, pair[0], kept)))


def test_pairs_of_before_and_after_are_counted(recorded: Any, store: Any) -> None:
    texts = ["bug a", "bug b", "praise c"]
    old = recorded(*[(desk(), text) for text in texts], (desk(), "bug only before"))
    new = recorded(*[(desk("2", mistake="bug"), text) for text in texts])
    with store() as opened:
        pairs = opened.pairs("desk")
        assert sorted(pairs) == sorted(zip(old, new, strict=False))
        found = compare_sets((opened.run(a), opened.run(b)) for a, b in pairs)
        assert opened.pairs("desk", limit=1) == [(old[2], new[2])]
        assert opened.pairs("desk", since=0.0) == []
    assert (found.pairs, found.same) == (3, 2) and found.changed == ((old[2], new[2]),)
    kind, answer, output = found.steps
    assert (kind.step, kind.same, kind.parted, kind.fields) == ("kind", 2, 1, {"kind": 1})
    assert (answer.step, answer.same, answer.parted) == ("answer", 2, 0)
    assert output.interval[0] < 2 / 3 < output.interval[1]
    text = printed(set_drawn(found))
    assert "2 of 3 pairs of runs have the same output" in text and f"{old[2]} {new[2]}" in text
    assert set_to_json(found)["changed"] == [[old[2], new[2]]]


def test_pairs_need_a_change(recorded: Any, store: Any) -> None:
    recorded((desk(), "bug a"), (desk(), "bug a"))
    with store() as opened:
        for stack in ("desk", "none"):
            with pytest.raises(UnknownNameError, match="before its makers changed"):
                opened.pairs(stack)


def test_hostile_text_is_shown_as_text(recorded: Any, store: Any) -> None:
    evil = "[bold]x[/bold]\x1b[31m"
    one, other = recorded((desk(), f"bug {evil}"), (desk(mistake=evil), f"bug {evil}"))
    out = io.StringIO()
    Console(file=out, width=200).print(drawn(compared(store, one, other)))
    assert "\x1b" not in out.getvalue() and "[bold]x[/bold]" in out.getvalue()


@given(JSON, JSON)
def test_there_are_changes_where_data_differs_and_nowhere_else(one: Any, other: Any) -> None:
    def typed(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: typed(part) for name, part in value.items()}
        return [typed(part) for part in value] if isinstance(value, list) else (type(value), value)

    found = list(changes(one, other))
    assert bool(found) == (typed(one) != typed(other))
    back = list(changes(other, one))
    assert {(c.field, repr(c.before), repr(c.after)) for c in found} == {
        (c.field, repr(c.after), repr(c.before)) for c in back
    }

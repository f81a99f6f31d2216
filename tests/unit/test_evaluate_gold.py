"""What each step should say: from the row, from the wiring, or not known; and rows that contradict themselves."""

from __future__ import annotations

import datetime
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from fslm_core import SLM, Stack, Stage, Step, tool
from fslm_core.evaluate.fields import Mark
from fslm_core.evaluate.gold import begun, bound, clusters, coverage, read_cases, slices

SLM_ = SLM(base="smollm2-135m", tuned=True)


class Said(BaseModel):
    text: str


class Kind(BaseModel):
    kind: Literal["A", "B", "OTHER"]


class Thought(BaseModel):
    thought: Literal["long", "short"]
    plan: Literal["go", "stay"]


class Both(BaseModel):
    text: str
    kind: Literal["A", "B", "OTHER"]
    plan: Literal["go", "stay"] | None


class Detail(BaseModel):
    detail: Literal["x", "y"]


class Ticket(BaseModel):
    kind: Literal["A", "B", "OTHER"]
    plan: Literal["go", "stay"] | None
    detail: Literal["x", "y"] | None


def slm(name: str, given: Any, made: Any) -> Stage[Any, Any]:
    return Stage(name, input=given, output=made, prompt="{{ text }}", model=SLM_)


@tool("demo.length", version="1", pure=True)
def length(message: Said) -> Thought:
    """Says nothing of use."""
    raise AssertionError


NOT_OTHER = "kind.kind != 'OTHER'"
stack = Stack(
    "demo",
    input=Said,
    output=Ticket,
    steps=[
        slm("demo.kind", Said, Kind),
        Step(length, name="think", when=NOT_OTHER),
        Step(slm("demo.detail", Both, Detail), when=NOT_OTHER),
    ],
)
KIND, THINK, DETAIL = stack.steps


def row(kind: Any = "A", plan: Any = "go", detail: Any = "x", **more: Any) -> dict[str, Any]:
    return {"input": {"text": "t"}, "output": {"kind": kind, "plan": plan, "detail": detail}, **more}


def test_gold_is_taken_from_the_output_as_far_as_the_wiring_takes_it_over() -> None:
    read = read_cases(stack, [row(), row("OTHER", None, None)])
    first, second = read.cases
    assert first.steps == {"kind": {"kind": "A"}, "think": {"plan": "go"}, "detail": {"detail": "x"}}
    assert second.steps == {"kind": {"kind": "OTHER"}, "think": Mark.SKIPPED, "detail": Mark.SKIPPED}
    assert coverage(read.cases, THINK) == (2, frozenset({"plan"})) and not read.notes


def test_steps_of_the_row_come_first() -> None:
    given = {"think": {"thought": "long", "plan": "go"}, "kind": {"kind": "A"}}
    (case,) = read_cases(stack, [row(steps=given)]).cases
    assert case.steps["think"] == {"thought": "long", "plan": "go"} and case.steps["detail"] == {"detail": "x"}
    (case,) = read_cases(stack, [row("OTHER", None, None, steps={"think": None})]).cases
    assert case.steps["think"] is Mark.SKIPPED


@pytest.mark.parametrize(
    ("line", "step", "said"),
    [
        (row("OTHER", None, "x"), "detail", "although its condition says that it is skipped"),
        (row("A", "go", None), "detail", "no gold"),
        (row("OTHER", None, None, steps={"detail": {"detail": "x"}}), "detail", "by which it is skipped"),
        (row(steps={"detail": None}), "detail", "by which it runs"),
        (row(steps={"detail": {"detail": "z"}}), "detail", "no gold"),
        (row(steps={"detail": {"wrong": "z", "detail": "x"}}), "detail", "wrong"),
        (row(steps={"detail": 5}), "detail", "no object"),
    ],
)
def test_gold_that_contradicts_itself_is_noted_with_its_line(line: dict[str, Any], step: str, said: str) -> None:
    read = read_cases(stack, [line], [17])
    assert [(note.line, said in note.text, f"step {step}" in note.text) for note in read.notes] == [(17, True, True)]
    assert len(read.cases) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"input": {"text": "t"}}, "no 'output'"),
        ({"input": "t", "output": {}}, "no 'input'"),
        (row("C"), "kind"),
        ({**row(), "input": {"txt": "t"}}, "txt"),
        ({**row(), "output": {**row()["output"], "more": 1}}, "more"),
        (row(steps={"nobody": {}}), "kind, think, detail"),
    ],
)
def test_a_row_that_does_not_fit_is_listed_with_its_line(line: dict[str, Any], said: str) -> None:
    read = read_cases(stack, [row(), line], [3, 9])
    assert [case.line for case in read.cases] == [3]
    assert [(m.line, said in m.text) for m in read.misfits] == [(9, True)], read.misfits


def test_a_step_is_fed_from_gold_as_the_stack_would_feed_it() -> None:
    (case,) = read_cases(stack, [row()]).cases
    fed = bound(stack, DETAIL, {"input": {"text": "t"}, **case.steps})
    assert fed == Both(text="t", kind="A", plan="go")
    assert isinstance(bound(stack, DETAIL, {"input": {"text": "t"}, "kind": Mark.UNKNOWN, "think": {}}), str)
    assert isinstance(bound(stack, DETAIL, {"input": {"text": "t"}, "kind": {"kind": "A"}, "think": {}}), str)


def test_a_step_whose_fields_nobody_takes_over_has_no_gold_nor_what_depends_on_it() -> None:
    class Only(BaseModel):
        detail: Literal["x", "y"] | None

    kind = slm("demo.kind", Said, Kind)
    detail = Step(Stage("demo.detail", input=Kind, output=Detail, prompt="{{ kind }}", model=SLM_), when=NOT_OTHER)
    hidden = Stack("demo", input=Said, output=Only, steps=[kind, detail])
    rows = [{"input": {"text": "t"}, "output": {"detail": value}} for value in ("x", None)]
    first, second = read_cases(hidden, rows).cases
    assert first.steps == {"kind": Mark.UNKNOWN, "detail": {"detail": "x"}}
    assert second.steps == {"kind": Mark.UNKNOWN, "detail": Mark.UNKNOWN}


def test_columns_slices_and_groups() -> None:
    rows = [row(tags=["p", "q"], n=1, who="ann"), row(tags=[], n=2, who="ann"), row(tags=["p", "p"], n=1), row(who="")]
    cases = read_cases(stack, rows).cases
    assert slices(cases, "tags") == {"p": [True, False, True, False], "q": [True, False, False, False]}
    assert list(slices(cases, "n")) == ["1", "2"] and list(slices(cases, "who")) == ["ann"]
    assert clusters(cases, None) == [0, 1, 2, 3]
    assert clusters(cases, "n") == [0, 1, 0, 2]
    assert clusters(cases, "who") == [0, 0, 1, 2]


class Choice(BaseModel):
    choice: Literal["p", "q", "r"]


class Offer(BaseModel):
    text: str
    kind: Literal["A", "B", "OTHER"]

    @property
    def choices(self) -> list[str]:
        return {"A": ["p", "q"], "B": ["r"], "OTHER": []}[self.kind]


class Chosen(BaseModel):
    kind: Literal["A", "B", "OTHER"]
    choice: Literal["p", "q", "r"]


def test_gold_that_narrowing_rules_out_is_noted() -> None:
    chooser = Stage(
        "demo.choose", input=Offer, output=Choice, prompt="{{ text }}", model=SLM_, narrow={"choice": "choices"}
    )
    narrowing = Stack("demo", input=Said, output=Chosen, steps=[slm("demo.kind", Said, Kind), chooser])
    pairs = [("A", "q"), ("B", "q"), ("OTHER", "p")]
    read = read_cases(narrowing, [{"input": {"text": "t"}, "output": {"kind": k, "choice": c}} for k, c in pairs])
    assert len(read.cases) == 3
    assert [note.line for note in read.notes] == [2, 3]
    assert "outside what gold narrows it to" in read.notes[0].text and "nothing it could say" in read.notes[1].text


def test_a_part_of_a_message_is_read_as_its_model_reads_it() -> None:
    class Timed(BaseModel):
        minutes: int
        when: Literal["now", "later"]

    timing = Stack(
        "demo",
        input=Said,
        output=Kind,
        steps=[slm("demo.kind", Said, Kind), Step(Stage("demo.t", input=Said, output=Timed, prompt="x", model=SLM_))],
    )
    parts = [{"minutes": "5"}, {"minutes": "soon"}, {"when": "never"}, {"when": "now"}]
    rows = [{"input": {"text": "t"}, "output": {"kind": "A"}, "steps": {"t": part}} for part in parts]
    read = read_cases(timing, rows)
    assert [case.steps["t"] for case in read.cases] == [{"minutes": 5}, Mark.UNKNOWN, Mark.UNKNOWN, {"when": "now"}]
    assert [note.line for note in read.notes] == [2, 3]


def test_cells_of_any_kind_make_slices_and_groups() -> None:
    day = datetime.date(2026, 1, 2)
    cases = read_cases(stack, [row(c=day), row(c=float("nan")), row(c={"a": [1]}), row(c=day)]).cases
    assert list(slices(cases, "c")) == ["2026-01-02", "nan", '{"a":[1]}']
    assert clusters(cases, "c") == [0, 1, 2, 0]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["A", "go", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kind", "plan", "detail", "think", "text", "thought", "z"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(["input", "output", "steps", "more"]), _JSON, max_size=4), _JSON)
def test_no_row_can_break_the_reader(wild: dict[str, Any], steps: Any) -> None:
    read = read_cases(stack, [wild, row(steps=steps), {**row(), **wild}])
    assert len(read.cases) + len(read.misfits) == 3


class Asked(BaseModel):
    kinds: list[str] = []


class Asking(BaseModel):
    text: str
    kinds: list[str]


class Kept(BaseModel):
    kinds: list[str]


@tool("demo.keep", version="1", pure=True)
def keep(message: Asking) -> Kept:
    """Keeps what was asked."""
    return Kept(kinds=[*message.kinds, message.text])


class Labelled(BaseModel):
    kind: Literal["A", "B", "OTHER"]
    detail: Literal["x", "y"] | None


def test_the_session_of_a_row_is_one_that_begins() -> None:
    asking = slm("demo.asking", Asking, Detail)
    steps = [slm("demo.kind", Said, Kind), Step(asking, name="later", when="session.kinds|length > 0"), Step(keep)]
    talk = Stack("demo", input=Said, output=Labelled, steps=steps, session=Asked, writes="keep")
    (case,) = read_cases(talk, [{"input": {"text": "t"}, "output": {"kind": "A", "detail": None}}]).cases
    assert case.steps == {"kind": {"kind": "A"}, "later": Mark.SKIPPED, "keep": Mark.UNKNOWN}
    fed = bound(talk, talk.steps[2], {**begun(talk, case.input), **case.steps})
    assert fed == Asking(text="t", kinds=[])

"""A stack that is known to be wrong in known places gets the figures that it must."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from fslm_core import SLM, Engine, Stack, Stage, Step, tool
from fslm_core.backends.protocol import Request
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.errors import StoreError, UsageError
from fslm_core.evaluate import Plan, Report, evaluate, read_cases
from fslm_core.evaluate.running import alone
from fslm_core.settings import Settings
from fslm_core.store import marks_of, recorder

pytestmark = pytest.mark.torch
SLM_ = SLM(base="smollm2-135m", tuned=True)


class Said(BaseModel):
    text: str


class Kind(BaseModel):
    kind: Literal["A", "B", "OTHER"]


class Kinded(Said):
    kind: Literal["A", "B", "OTHER"]


class Detail(BaseModel):
    detail: Literal["x", "y"]


class Ticket(BaseModel):
    kind: Literal["A", "B", "OTHER"]
    detail: Literal["x", "y"] | None


kind = Stage("demo.kind", input=Said, output=Kind, prompt="{{ text }}", model=SLM_)
detail = Stage("demo.detail", input=Kinded, output=Detail, prompt="{{ text }}|{{ kind }}", model=SLM_)
stack = Stack("demo", input=Said, output=Ticket, steps=[kind, Step(detail, when="kind.kind != 'OTHER'")])

#         text  gold              said kind  said detail, by kind
ROWS = [
    ("r1", ("A", "x"), "A", {"A": "x"}),  # right
    ("r2", ("A", "x"), "A", {"A": "y"}),  # detail wrong by itself
    ("r3", ("A", "y"), "B", {"A": "y", "B": "x"}),  # kind wrong, and detail wrong because of it
    ("r4", ("A", "y"), "OTHER", {"A": "y"}),  # kind wrong, and detail wrongly skipped
    ("r5", ("A", "x"), "A", {"A": "x"}),
    ("r6", ("B", "x"), "B", {"B": "x"}),
    ("r7", ("B", "y"), "B", {"B": "?"}),  # detail writes nonsense: the run fails
    ("r8", ("B", "x"), "B", {"B": "x"}),
    ("r9", ("OTHER", None), "OTHER", {}),  # rightly skipped
    ("r10", ("OTHER", None), "A", {"A": "x"}),  # kind wrong, and detail run though gold skips it
]


def data() -> list[dict[str, Any]]:
    return [
        {"input": {"text": text}, "output": {"kind": k, "detail": d}, "even": not place % 2}
        for place, (text, (k, d), _, _) in enumerate(ROWS, start=1)
    ]


def backend() -> ScriptedBackend:
    kinds = {text: said for text, _, said, _ in ROWS}
    details: dict[tuple[str, str], str] = {(text, k): d for text, _, _, by in ROWS for k, d in by.items()}

    def answer_kind(request: Request) -> str:
        return json.dumps({"kind": kinds[request.prompt.text("user") or ""]}, separators=(",", ":"))

    def answer_detail(request: Request) -> str:
        text, _, k = (request.prompt.text("user") or "").partition("|")
        return json.dumps({"detail": details[text, k]}, separators=(",", ":"))

    return ScriptedBackend({"demo.kind": answer_kind, "demo.detail": answer_detail})


def run(**options: Any) -> tuple[Report, ScriptedBackend]:
    script = backend()
    with Engine([stack], backend=script, trace=False) as engine:
        return evaluate(stack, data(), engine=engine, resamples=100, **options), script


@pytest.fixture(scope="module")
def report() -> Report:
    return run(by=["even"])[0]


def test_the_whole_output(report: Report) -> None:
    assert report.rows == 10 and report.wrong == 5
    assert report.output.exact.value == 0.5 and report.output.valid.value == 0.9
    assert report.output.failures == {"stage-failed": 1}
    field = report.output.field("kind")
    assert field.figures["accuracy"].value == 0.6  # r3, r4 and r10 are wrong, r7 gave nothing
    assert field.confusion is not None and field.confusion.predicted == ("A", "B", "OTHER", "(failed)")
    assert field.confusion.counts == ((3, 1, 1, 0), (0, 2, 0, 1), (1, 0, 1, 0))
    assert report.output.field("detail").figures["accuracy"].value == 0.5


def test_a_step_fed_with_gold_and_fed_with_predictions(report: Report) -> None:
    first, second = report.steps
    assert first.gold_fed is not None and first.predicted_fed is not None
    assert first.gold_fed.exact.value == first.predicted_fed.exact.value == 0.7
    assert first.lost is not None and first.lost.value == 0 and (first.ran, first.reused) == (0, 10)
    assert second.gold_fed is not None and second.predicted_fed is not None and second.lost is not None
    assert second.gold_fed.rows == 8 and second.gold_fed.exact.value == 6 / 8
    assert second.predicted_fed.rows == 9 and second.predicted_fed.exact.value == pytest.approx(4 / 9)
    assert second.lost.value == pytest.approx((6 - 4) / 8) and second.lost.n == 8
    assert (second.ran, second.reused, second.unfed) == (2, 6, 0)
    assert second.gold_fed.failures == {"stage-failed": 1} and second.predicted_fed.failures == {"stage-failed": 1}
    assert second.skips is not None
    assert second.skips.rightly_skipped == 1
    assert second.skips.wrongly_skipped == (4,) and second.skips.wrongly_run == (10,)


def test_only_other_work_is_done_again() -> None:
    _, script = run()
    asked = sorted(request.prompt.text("user") or "" for request in script.requests)
    whole = [text for text, *_ in ROWS] + [f"{text}|{said}" for text, _, said, _ in ROWS if said != "OTHER"]
    assert asked == sorted([*whole, "r3|A", "r4|A"])


def test_a_full_disk_is_no_mistake_of_the_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with Engine([stack], settings=Settings(data_dir=tmp_path), backend=backend()) as engine:
        monkeypatch.setattr(recorder, "transaction", full)
        with pytest.raises(StoreError):
            evaluate(stack, data(), engine=engine, resamples=100)
        monkeypatch.undo()


def test_rows_in_error_say_what_each_step_said(report: Report) -> None:
    errors = {error.row: error for error in report.errors}
    assert sorted(errors) == [2, 3, 4, 7, 10]
    assert errors[3].fields == ("kind", "detail")
    assert errors[3].steps["detail"] == {
        "gold": {"detail": "y"},
        "predicted_fed": {"detail": "x"},
        "gold_fed": {"detail": "y"},
    }
    assert errors[4].steps["detail"]["predicted_fed"] == "(skipped)" and errors[4].run
    assert errors[7].predicted == "(failed)" and errors[7].error is not None
    assert errors[7].error["code"] == "stage-failed"
    assert errors[10].steps["detail"] == {"gold": "(skipped)", "predicted_fed": {"detail": "x"}}


def test_slices(report: Report) -> None:
    assert [(s.column, s.value, s.rows, s.exact.value) for s in report.slices] == [
        ("even", "false", 5, 0.6),
        ("even", "true", 5, 0.4),
    ]


def test_every_name_is_known_before_anything_is_run(report: Report) -> None:
    plan = Plan(stack, read_cases(stack, data()), by=("even",))
    assert set(report.metrics) == plan.known.every
    assert report.metrics["steps.detail.gold_fed.exact"].value == 0.75
    assert report.metrics["kind.OTHER.recall"].value == 0.5
    assert report.metrics["by.even.true.kind.accuracy"].n == 5


def test_what_is_asked_is_judged_by_its_value() -> None:
    asked = {"ticket": 0.5, "kind": 0.61, "detail.x.f1": 0.1}
    report, _ = run(fail_under=asked)
    assert [(r.name, r.wanted, r.met) for r in report.requirements] == [
        ("exact", 0.5, True),
        ("kind.accuracy", 0.61, False),
        ("detail.x.f1", 0.1, True),
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fail_under": {"kindd.f1": 0.5}}, "kind.f1"),
        ({"fail_under": {"exact": 90}}, "0 to 1"),
        ({"by": ["tag"]}, "even"),
        ({"group": "tag"}, "even"),
        ({"train": [{"input": {}}]}, "no training row"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_run(options: Any, said: str) -> None:
    script = backend()
    with Engine([stack], backend=script, trace=False) as engine, pytest.raises(UsageError) as caught:
        evaluate(stack, data(), engine=engine, **options)
    assert said in str(caught.value) and not script.requests


def test_data_without_a_row_that_fits_are_refused() -> None:
    with pytest.raises(UsageError, match="no row of the data fits") as caught:
        evaluate(stack, [{"input": {"text": "t"}, "output": {"kind": "Z", "detail": None}}])
    assert "line 1" in str(caught.value)


def test_a_control_is_fitted_and_compared_on_the_same_rows() -> None:
    train = [
        {"input": {"text": f"{word} {n}"}, "output": {"kind": k, "detail": d}}
        for n in range(4)
        for word, k, d in (("r1 r2 r3 r4 r5", "A", "x"), ("r6 r7 r8", "B", "x"), ("r9 r10", "OTHER", None))
    ]
    report, _ = run(train=train)
    assert report.control is not None and report.control.ways == {"kind": "linear", "detail": "linear"}
    assert report.control.rows == 12 and report.control.seen == 0
    exact = report.output.exact
    assert exact.control is not None and exact.difference is not None and exact.value is not None
    assert exact.control.value == 0.7  # r3, r4 and r7 want y
    assert exact.difference.value == pytest.approx(exact.value - 0.7)
    kinds = report.output.field("kind")
    assert kinds.labels[0].f1.control is not None and kinds.labels[0].f1.control.value == 1
    assert run()[0].no_control == "no training rows were given"


def test_groups_widen_intervals_and_one_seed_gives_one_report() -> None:
    one, other = (run(seed=4)[0].model_dump(exclude={"created", "seconds", "errors"}) for _ in range(2))
    assert one == other
    assert run(group="even")[0].groups == 2


# -- what is sensitive -----------------------------------------------------------------------------------------------


class Call(BaseModel):
    text: str = Field(max_length=99)


class Caller(BaseModel):
    phone: str = Field(max_length=20, json_schema_extra={"sensitive": True})
    mood: Literal["good", "bad"]


class Dialled(BaseModel):
    phone: str = Field(max_length=20)


class Done(BaseModel):
    note: str = Field(max_length=99)


class Log(BaseModel):
    phone: str
    mood: Literal["good", "bad"]
    note: str


@tool("demo.caller", version="1", pure=True)
def caller(message: Call) -> Caller:
    """Always takes the caller for 555 0199."""
    return Caller(phone="555 0199", mood="good")


@tool("demo.dial", version="1")
def dial(message: Dialled) -> Done:
    """Says what was dialled."""
    if message.phone == "555 0100":
        raise ValueError(f"busy: {message.phone}")
    return Done(note=f"dialled {message.phone}")


calls = Stack("calls", input=Call, output=Log, steps=[caller, dial])
CALL = {"input": {"text": "ring 555 0100"}, "output": {"phone": "555 0100", "mood": "bad", "note": "dialled 555 0100"}}


def quoted(content: Any) -> str:
    report = evaluate(calls, [CALL], content=content, resamples=100)
    return (
        report.to_json() + report.to_markdown() + report.to_html() + "".join(e.model_dump_json() for e in report.errors)
    )


def test_sensitive_text_stays_out_of_the_report() -> None:
    assert "555 0199" in quoted("full") and "555 0100" in quoted("full")
    redacted = quoted("redacted")
    assert "555 0" not in redacted and "[redacted]" in redacted and "bad" in redacted
    nothing = quoted("none")
    assert "555 0" not in nothing and "ring" not in nothing and "bad" in nothing


def test_a_row_that_does_not_fit_is_not_quoted_where_anything_is_sensitive() -> None:
    odd: Mapping[str, Any] = {"input": {"text": 5550100}, "output": CALL["output"]}
    wrong = {"input": CALL["input"], "output": {**CALL["output"], "mood": "555 0100"}}
    read = read_cases(calls, [odd, wrong])
    assert len(read.misfits) == 2 and not any("555" in m.text for m in read.misfits)


def test_a_step_alone_marks_what_the_whole_stack_marks() -> None:
    whole, single = marks_of(calls), marks_of(alone(calls, calls.steps[1]))
    assert "phone" in whole.given["dial"] and "phone" in single.given["dial"] and "phone" in single.made["input"]
    assert single.made["dial"] >= whole.made["dial"]
    assert alone(calls, calls.steps[1]).wiring.steps[0].stage is dial
    assert alone(stack, stack.steps[1]).input is Kinded


def test_a_step_that_gold_always_skips_is_scored_where_it_runs() -> None:
    rows = [row for row in data() if row["output"]["kind"] == "OTHER"]
    with Engine([stack], backend=backend(), trace=False) as engine:
        report = evaluate(stack, rows, engine=engine, resamples=100)
    second = report.steps[1]
    assert second.unknown is None and second.gold_fed is not None and second.predicted_fed is not None
    assert second.gold_fed.rows == 0 and second.gold_fed.exact.value is None
    assert second.predicted_fed.rows == 1 and second.predicted_fed.exact.value == 0
    assert second.skips is not None and second.skips.wrongly_run == (2,)
    assert "gold unknown" not in report.to_html() + report.to_markdown()


class Hidden(BaseModel):
    detail: Literal["x", "y"] | None


def test_a_step_whose_gold_nobody_knows_is_named() -> None:
    hidden = Stack("demo", input=Said, output=Hidden, steps=stack.steps)
    rows = [{"input": row["input"], "output": {"detail": row["output"]["detail"]}} for row in data()]
    with Engine([hidden], backend=backend(), trace=False) as engine:
        report = evaluate(hidden, rows, engine=engine, resamples=100)
    first, second = report.steps
    assert first.unknown is not None and first.gold_fed is None and '"kind"' in first.unknown
    assert second.unfed == 8 and second.gold_fed is not None and second.gold_fed.rows == 0
    assert second.predicted_fed is not None and second.predicted_fed.rows == 8
    for text in (report.to_markdown(), report.to_html()):
        assert "Not scored" in text and "could not be fed with gold" in text
    assert "steps.kind.gold_fed.exact" not in report.metrics

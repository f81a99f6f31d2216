"""Temperatures, thresholds and bounds, against numbers worked out otherwise; and cascades as they would have run."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from scipy.stats import binom

from fslm_core import Cascade, Engine, Scored, Stack, Step, tool
from fslm_core.errors import UnknownNameError, UsageError
from fslm_core.evaluate import Calibration, calibrate, evaluate, pictures
from fslm_core.evaluate.calibrating import trying_all
from fslm_core.evaluate.calibration_plot import draw
from fslm_core.evaluate.simulating import Rules, Tried, passages
from fslm_core.evaluate.thresholds import (
    calibration_error,
    cooled,
    fit_temperature,
    least_rows,
    least_threshold,
    risk,
    upper_bound,
)
from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings
from fslm_core.shapes import scaled

pytestmark = pytest.mark.torch

pairs = st.lists(st.tuples(st.floats(0.01, 0.99), st.booleans()), min_size=1, max_size=60)

# -- numbers ---------------------------------------------------------------------------------------------------------


def loss(confidence: list[float], right: list[bool], heat: float) -> float:
    return -sum(math.log(c if hit else 1 - c) for c, hit in zip(cooled(confidence, heat), right, strict=True))


@given(pairs)
def test_no_other_temperature_is_likelier(rows: list[tuple[float, bool]]) -> None:
    sure, right = [p for p, _ in rows], [hit for _, hit in rows]
    found = fit_temperature(sure, right)
    if all(right) or not any(right):
        assert found == 1.0
        return
    assert 0.05 <= round(found, 6) <= 20
    if 0.06 < found < 19:
        others = [loss(sure, right, found * near) for near in (0.9, 0.99, 1.01, 1.1)]
        assert loss(sure, right, found) <= min(others) + 1e-9


def test_the_temperature_that_spoilt_a_calibrated_confidence_is_found_again() -> None:
    chance = random.Random(7)
    truth = [chance.uniform(0.05, 0.99) for _ in range(4000)]
    right = [chance.random() < p for p in truth]
    spoilt = cooled(truth, 1 / 2.5)  # too sure of itself
    found = fit_temperature(spoilt, right)
    assert found == pytest.approx(2.5, rel=0.1)
    before, after = calibration_error(spoilt, right), calibration_error(cooled(spoilt, found), right)
    assert before is not None and after is not None and before > 0.1 > 0.03 > after


@pytest.mark.parametrize(("wrong", "rows", "level"), [(0, 149, 0.95), (3, 60, 0.9), (17, 200, 0.99), (1, 1, 0.95)])
def test_the_bound_is_that_of_the_binomial(wrong: int, rows: int, level: float) -> None:
    bound = float(upper_bound(wrong, rows, level))
    if wrong == rows:
        assert bound == 1.0
    else:  # were the error as high as the bound, so few wrong ones would be seen this seldom
        assert binom.cdf(wrong, rows, bound) == pytest.approx(1 - level)


@given(st.floats(0.01, 0.5), st.floats(0.5, 0.99))
def test_so_many_rows_are_needed_and_no_fewer(max_error: float, level: float) -> None:
    need = least_rows(max_error, level)
    assert float(upper_bound(0, need, level)) <= max_error + 1e-9
    assert need == 1 or float(upper_bound(0, need - 1, level)) > max_error - 1e-9


@given(pairs, st.floats(0.05, 0.6), st.floats(0.3, 0.95))
def test_it_is_the_lowest_threshold_that_does_it(rows: list[tuple[float, bool]], most: float, level: float) -> None:
    sure, right = [p for p, _ in rows], [hit for _, hit in rows]

    def good(least: float) -> bool:
        taken = [hit for p, hit in rows if p >= least]
        return bool(taken) and float(upper_bound(taken.count(False), len(taken), level)) <= most

    found = least_threshold(sure, right, most, level)
    lowest = min((p for p in sure if good(p)), default=None)
    assert (found is None) == (lowest is None)
    if found is not None and lowest is not None:
        assert found <= lowest <= found + 1e-4
        assert [p >= found for p in sure] == [p >= lowest for p in sure]


def test_a_threshold_accepts_the_rows_it_was_found_on() -> None:
    sure = [0.9682279] * 60 + [0.9682278] * 40
    found = least_threshold(sure, [True] * 60 + [False] * 40, 0.1, 0.95)
    assert found is not None and 0.9682278 < found <= 0.9682279
    assert least_threshold([0.5] * 60, [True] * 60, 0.1, 0.95) == 0.5


def test_calibration_error_and_risk_are_those_of_their_definitions() -> None:
    sure, right = [0.95, 0.95, 0.95, 0.55, 1.0], [True, True, False, False, True]
    assert calibration_error(sure, right) == pytest.approx((abs(3 * 0.95 + 1.0 - 3) + 0.55) / 5)
    assert calibration_error([], []) is None
    assert risk(sure, right) == ((0.2, 0.0), (0.8, 0.25), (1.0, 0.4))


def test_what_a_cascade_would_have_done() -> None:
    rules = Rules({"small": {"kind": (1.0, 0.8), "tone": (2.0, 0.7)}, "large": {"kind": (1.0, None)}, "last": {}})
    sure, unsure = {"kind": 0.9, "tone": 0.9}, {"kind": 0.9, "tone": 0.8}
    assert scaled(0.9, 2.0) > 0.7 > scaled(0.8, 2.0)
    rows = [
        {"small": Tried(sure, True, 10), "large": Tried({"kind": 1.0}, True, 100)},
        {"small": Tried(unsure, True, 10), "large": Tried({"kind": 1.0}, False, 100)},
        {"small": Tried({}, True, 10), "large": Tried({}, None, 100), "last": Tried({}, False, 1)},
        {},
    ]
    ends = passages(rows, rules)
    assert [(e.tried, e.answered, e.right, e.tokens) for e in ends] == [
        (("small",), "small", True, 10),
        (("small", "large"), None, False, 110),
        (("small", "large", "last"), "last", False, 111),
        ((), None, None, 0),
    ]
    assert rules.told(0) == {"small.kind": 0.8, "small.tone": 0.7, "large.kind": 1.0}
    assert [e.answered for e in passages(rows[:2], rules, first=0.0)] == ["small", "small"]


# -- stacks ----------------------------------------------------------------------------------------------------------

Kinds = Literal["complaint", "praise"]


class Letter(BaseModel):
    """A text, how sure each step is of it, and what each says."""

    text: str
    small: float | None = None
    large: float | None = None
    says: tuple[Kinds, Kinds] = ("praise", "praise")


class Kind(BaseModel):
    kind: Kinds


@tool("t.small", version="1")
def small(letter: Letter) -> Scored[Kind]:
    return Scored(Kind(kind=letter.says[0]), {} if letter.small is None else {"kind": letter.small})


@tool("t.large", version="1")
def large(letter: Letter) -> Scored[Kind]:
    return Scored(Kind(kind=letter.says[1]), {} if letter.large is None else {"kind": letter.large})


triage = Cascade("t.triage", [small, large], abstain_below={"kind": 0.5})
cascaded = Stack("t", input=Letter, output=Kind, steps=[triage])
alone = Stack("t", input=Letter, output=Kind, steps=[small])
deep = Stack("t", input=Letter, output=Kind, steps=[Stack("t.inner", input=Letter, output=Kind, steps=[triage])])


def rows(count: int = 200, seed: int = 1) -> list[dict[str, Any]]:
    """The small step is right as often as it says, half the way to certainty too sure; the large one nearly always."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        true = chance.uniform(0.5, 0.999)
        hit = chance.random() < true, chance.random() < 0.97
        says = ["praise" if right else "complaint" for right in hit]
        given = {"text": str(number), "small": scaled(true, 0.5), "large": 0.97, "says": says}
        made.append({"input": given, "output": {"kind": "praise"}})
    return made


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(trace=False, host=PluginHost(Settings(), installed=False)) as opened:
        yield opened


@pytest.fixture(scope="module")
def found(engine: Engine) -> Calibration:
    return calibrate(cascaded, rows(), max_error=0.3, engine=engine)


def test_a_step_alone_is_calibrated_on_one_half_and_judged_on_the_other(engine: Engine) -> None:
    report = calibrate(alone, rows(600), max_error=0.25, engine=engine)
    (one,) = report.fields
    assert (one.step, one.field, one.rows, report.fitted_on, report.reported_on) == ("small", "kind", 600, 300, 300)
    assert one.temperature == pytest.approx(2.0, rel=0.3)
    assert one.ece_before is not None and one.ece_after is not None and one.ece_after < one.ece_before
    assert one.threshold is not None and one.fitted.bound is not None and one.fitted.bound <= 0.25
    assert one.held_out.rows == 300 and one.held_out.error is not None and one.held_out.error < 0.25
    assert one.held_out.coverage is not None and 0.1 < one.held_out.coverage < 0.9
    line = f"abstain_below={{'kind': {one.threshold!r}}}, temperature={{'kind': {one.temperature!r}}}"
    assert list(report.lines()) == ["# small", line] and report.cascades == () and report.missed == ()


def test_the_same_seed_finds_the_same_and_another_divides_otherwise(engine: Engine) -> None:
    one, again, other = (calibrate(alone, rows(100), max_error=0.3, engine=engine, seed=seed) for seed in (0, 0, 1))
    assert one.fields == again.fields and one.fields != other.fields


def test_every_step_of_a_cascade_is_tried_on_every_row_and_its_cost_reckoned(found: Calibration) -> None:
    assert [(f.step, f.rows) for f in found.fields] == [("triage.small", 200), ("triage.large", 200)]
    (cascade,) = found.cascades
    first, second = found.fields
    assert cascade.step == "triage" and cascade.rows == 100
    assert cascade.abstain_below == {"small.kind": first.threshold, "large.kind": second.threshold}
    assert cascade.answered["small"] == pytest.approx(first.held_out.coverage)
    assert cascade.passed_on == pytest.approx(1 - cascade.answered["small"])
    assert sum(cascade.answered.values()) + cascade.unsure == pytest.approx(1)
    assert cascade.error is not None and cascade.error < 0.3 and cascade.tokens == 0  # tools read no tokens
    assert cascade.curve[0][0] <= 1 and len(cascade.curve) > 10


def test_what_is_printed_can_be_pasted(found: Calibration, engine: Engine) -> None:
    _, line = found.lines()
    pasted = eval(f"dict({line})")  # it is our own line
    made = Cascade("t.triage", [small, large], **pasted)
    stack = Stack("t", input=Letter, output=Kind, steps=[made])
    runs = list(engine.map(stack, [row["input"] for row in rows(20)]))
    assert {outcome.run.status for outcome in runs if outcome.run} <= {"succeeded", "review"}


def test_cascades_within_stacks_are_found_and_their_gold_with_them(engine: Engine) -> None:
    report = calibrate(deep, rows(60), max_error=0.3, engine=engine)
    assert [f.step for f in report.fields] == ["inner", "inner.triage.small", "inner.triage.large"]
    assert [c.step for c in report.cascades] == ["inner.triage"]
    probe = trying_all(deep)
    run = engine.run(probe, rows(1)[0]["input"])
    assert {"inner.triage.small", "inner.triage.large"} <= set(run.messages) and run.status == "succeeded"
    assert triage.abstain_below == {"kind": 0.5} and triage.then == "review"


def test_fields_can_be_chosen_and_unknown_ones_are_told(engine: Engine) -> None:
    report = calibrate(cascaded, rows(60), max_error=0.3, engine=engine, fields=["triage.large.kind"])
    assert [f.step for f in report.fields] == ["triage.large"]
    assert report.cascades[0].abstain_below["small.kind"] == 0.5
    with pytest.raises(UnknownNameError, match="did you mean"):
        calibrate(cascaded, rows(), max_error=0.1, engine=engine, fields=["kinds"])


def test_confidence_that_is_not_told_counts_as_unsure(engine: Engine) -> None:
    given = rows()
    for row in given[::2]:
        row["input"]["small"] = None
    report = calibrate(cascaded, given, max_error=0.3, engine=engine)
    assert (report.fields[0].rows, report.fields[0].unknown) == (100, 100)
    assert report.cascades[0].answered["small"] <= 0.6


def test_too_few_rows_are_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="300 rows are too few") as refused:
        calibrate(alone, rows(300), max_error=0.01)
    assert "at least 299" in str(refused.value)


@pytest.mark.parametrize(
    ("max_error", "level"), [(0.0, 0.95), (1.0, 0.95), (0.1, 0.0), (0.1, 1.0), (float("nan"), 0.9)]
)
def test_what_is_no_share_is_refused(max_error: float, level: float) -> None:
    with pytest.raises(UsageError, match="this is no share"):
        calibrate(alone, rows(100), max_error=max_error, confidence=level)


def test_a_stack_that_never_says_how_sure_it_is_is_refused(engine: Engine) -> None:
    given = [{**row, "input": {"text": row["input"]["text"]}} for row in rows(100)]
    with pytest.raises(UsageError, match="no step tells how sure it is"):
        calibrate(alone, given, max_error=0.1, engine=engine)


def test_where_no_threshold_does_it_that_is_said(engine: Engine) -> None:
    given = rows(80)
    for place, row in enumerate(given):
        row["input"]["says"] = ["complaint" if place % 2 else "praise", "praise"]
    report = calibrate(cascaded, given, max_error=0.1, confidence=0.8, engine=engine)
    assert report.fields[0].threshold is None and report.missed == ("triage.small.kind",)
    assert report.fields[0].held_out.accepted == 0 and report.fields[0].held_out.error is None
    assert report.cascades[0].answered["small"] == 0 and report.cascades[0].abstain_below["small.kind"] == 1.0


def test_rows_that_divide_without_a_doubt_are_told(engine: Engine) -> None:
    given = rows(80)
    for place, row in enumerate(given):
        row["input"] |= {"small": 0.6 if place % 2 else 0.4, "says": ["praise" if place % 2 else "complaint", "praise"]}
    report = calibrate(alone, given, max_error=0.2, engine=engine)
    assert report.fields[0].temperature == 0.05 and any("at the limit, 0.05" in note for note in report.notes)
    assert report.fields[0].held_out.wrong == 0 and 0.3 < (report.fields[0].held_out.coverage or 0) < 0.7


def test_runs_that_fail_are_counted_and_told(engine: Engine) -> None:
    @tool("t.picky", version="1")
    def picky(message: Kind) -> Kind:
        if message.kind == "complaint":
            raise ValueError("no")
        return message

    stack = Stack("t", input=Letter, output=Kind, steps=[small, Step(picky)], bind={"kind": "picky.kind"})
    given = [{**row, "steps": {"small": {"kind": "praise"}}} for row in rows(80)]
    report = calibrate(stack, given, max_error=0.2, engine=engine)
    assert any("runs ended without an output" in note for note in report.notes)
    assert next(f for f in report.fields if f.step == "small").rows == 80


def test_the_plot_is_a_picture(found: Calibration, tmp_path: Path) -> None:
    pictures.write(lambda: draw(found), tmp_path / "deep" / "plot.png")
    raw = (tmp_path / "deep" / "plot.png").read_bytes()
    assert raw.startswith(b"\x89PNG") and len(raw) > 5000
    with pytest.raises(UsageError, match="cannot be written"):
        pictures.write(lambda: draw(found), Path("/proc/none/plot.png"))


def test_it_can_be_written_as_json(found: Calibration) -> None:
    again = Calibration.model_validate_json(found.model_dump_json())
    assert again == found and np.isfinite(again.fields[0].temperature)


def test_an_evaluation_counts_what_waits_for_a_person_as_no_answer(engine: Engine) -> None:
    given = rows(20)
    for row in given[:5]:
        row["input"] |= {"small": 0.1, "large": 0.1}
    report = evaluate(cascaded, given, engine=engine, resamples=100)
    assert report.output.failures == {"review": 5} and report.output.valid.value == 0.75
    assert {wrong.error["code"] for wrong in report.errors if wrong.error} == {"review"}

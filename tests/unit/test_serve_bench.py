"""The benchmark's figures, its arms, and what a failing arm does to the others. Nothing here is timed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from fslm_core.backends.scripted import Script, ScriptedBackend
from fslm_core.engine import Engine
from fslm_core.errors import BackendError, InputError, UnknownNameError, UsageError
from fslm_core.explain.paired import percentile
from fslm_core.message import Usage
from fslm_core.serve.bench import Figure, agreement, arms_of, bench, read_rows
from fslm_core.serve.measuring import Arm, Loaded, Local, Timing, peak_memory_of_program
from fslm_core.settings import load
from fslm_core.stack import Stack
from fslm_core.stage import SLM, Stage


class Enquiry(BaseModel):
    text: str = Field(max_length=100)


class Topic(BaseModel):
    topic: Literal["ORDER", "REFUND"]


STAGE = Stage(
    "shop.topic", input=Enquiry, output=Topic, prompt="Topic: {{ text }}", model=SLM("smollm2-135m", tuned=True)
)
STACK = Stack("shop", input=Enquiry, output=Topic, steps=[STAGE])
ROWS = [{"text": f"a table {number}"} for number in range(6)]


def local(tmp_path: Path, script: Script) -> Local:
    settings = load(files=(), data_dir=tmp_path)
    return Local(
        STACK, ROWS, lambda: Engine(settings=settings, backend=ScriptedBackend({"shop.topic": script}), trace=False)
    )


def timing(*latencies: float, seconds: float = 1.0, messages: Any = None) -> Timing:
    made = messages if messages is not None else tuple({"topic": "a"} for _ in latencies)
    return Timing(latencies, seconds, made, (), Usage(), 3 << 20)


class Told:
    """An arm that says what it is told to say, and in which order it was asked."""

    def __init__(self, name: str, asked: list[tuple[str, int]], answers: Callable[[int], Timing]) -> None:
        self._name, self._asked, self._answers = name, asked, answers
        self.closed = False

    def load(self) -> Loaded:
        return Loaded(2.0, 0.5, {"topic": "torch cpu"})

    def time(self, concurrency: int, seed: int) -> Timing:
        self._asked.append((self._name, concurrency))
        return self._answers(sum(name == self._name for name, _ in self._asked))

    def close(self) -> None:
        self.closed = True


def test_rounds_are_interleaved_and_summed_up_by_medians() -> None:
    asked: list[tuple[str, int]] = []
    begun: list[Told] = []

    def begin(arm: Arm) -> Told:
        begun.append(Told(arm.name, asked, lambda turn: timing(float(turn), float(turn), seconds=float(turn))))
        return begun[-1]

    report = bench("shop", [Arm("a"), Arm("b")], begin, rows=2, concurrency=(1, 8), rounds=3)
    one_round = [("a", 1), ("b", 1), ("a", 8), ("b", 8)]
    assert asked == one_round * 3
    assert all(told.closed for told in begun)
    first, second = report.arms
    assert first.speeds[1].p50_s == Figure(3.0, 1.0, 5.0)
    assert first.speeds[8].stacks_per_s == Figure(0.5, 2 / 6, 1.0)
    assert (first.load_s, first.first_s, first.peak_rss_mb) == (2.0, 0.5, 3.0)
    assert (first.agreement, second.agreement) == (None, 1.0)
    assert json.loads(json.dumps(report.to_dict()))["arms"][1]["speeds"]["8"]["p50_s"]["median"] == 4.0


def test_an_arm_that_breaks_is_reported_and_the_others_go_on() -> None:
    asked: list[tuple[str, int]] = []

    def begin(arm: Arm) -> Told:
        def answers(turn: int) -> Timing:
            if arm.name == "bad" and turn == 2:
                raise BackendError("the model failed", where="here", hint="do")
            return timing(1.0)

        return Told(arm.name, asked, answers)

    report = bench("shop", [Arm("bad"), Arm("good")], begin, rows=1, concurrency=(1,), rounds=3)
    bad, good = report.arms
    assert bad.error is not None
    assert bad.error["what"] == "the model failed"
    assert good.error is None
    assert asked.count(("bad", 1)) == 2
    assert asked.count(("good", 1)) == 3


def test_what_is_no_error_of_ours_is_not_swallowed_and_arms_are_closed() -> None:
    begun: list[Told] = []

    def broken(turn: int) -> Timing:
        raise KeyboardInterrupt

    def begin(arm: Arm) -> Told:
        begun.append(Told(arm.name, [], broken))
        return begun[-1]

    with pytest.raises(KeyboardInterrupt):
        bench("shop", [Arm("a"), Arm("b")], begin, rows=1, concurrency=(1,), rounds=1)
    assert [told.closed for told in begun] == [True, True]


def test_a_scripted_stack_is_measured_as_it_is(tmp_path: Path) -> None:
    wrong = ['{"topic":"ORDER"}'] * 8 + ['{"topic":"WEATHER"}', '{"topic":"REFUND"}']
    scripts = {"a": '{"topic":"ORDER"}', "b": wrong}
    report = bench(
        "shop",
        [Arm("a"), Arm("b")],
        lambda arm: local(tmp_path, scripts[arm.name]),
        rows=len(ROWS),
        concurrency=(1, 4),
        rounds=1,
    )
    first, second = report.arms
    assert (first.valid, first.errors, first.forwards, first.cached) == (1.0, {}, 1.0, 0.0)
    assert list(first.runs.values()) == ["scripted"]
    # b: the first run and six rows one by one are right; of the six rows at four at once one is right, one is no
    # valid message, and four are another one
    assert second.valid == pytest.approx(11 / 12)
    assert second.errors == {"stage-failed": 1}
    assert second.agreement == pytest.approx(7 / 12)


def test_agreement_compares_row_by_row_what_both_have() -> None:
    ours = {1: [timing(1, 1, 1, messages=({"x": "1", "y": "1"}, None, {"x": "2", "y": "skipped"}))]}
    theirs = {1: [timing(1, 1, 1, messages=({"x": "1", "y": "9"}, {"x": "1"}, None))]}
    assert agreement(ours, theirs) == 0.25
    assert agreement({1: [timing(1, messages=(None,))]}, {1: [timing(1)]}) is None


@pytest.mark.parametrize(
    ("values", "share", "expected"), [([1.0], 0.95, 1.0), ([3.0, 1.0, 2.0], 0.5, 2.0), ([0.0, 10.0], 0.95, 9.5)]
)
def test_percentiles(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == pytest.approx(expected)


# -- arms and rows ---------------------------------------------------------------------------------------------------


def test_arms_are_every_executor_at_every_precision_that_it_has() -> None:
    settings = load(files=())
    arms = arms_of(settings, ["generic", "fused"], ["auto", "int8"])
    assert [arm.name for arm in arms] == ["generic auto", "fused auto", "fused int8"]
    chosen = arms[2].settings(settings).torch
    assert (chosen.executor, chosen.precision, chosen.max_batch) == ("fused", "int8", settings.torch.max_batch)
    assert [arm.name for arm in arms_of(settings, ["fused"], [])] == ["fused auto"]
    assert arms_of(settings, [], []) == [Arm("torch")]
    assert Arm("torch").settings(settings) == settings


def test_arms_that_cannot_be_are_refused() -> None:
    settings = load(files=())
    with pytest.raises(UnknownNameError, match="no executor named 'fusd'") as wrong:
        arms_of(settings, ["fusd"], [])
    assert "did you mean 'fused'" in str(wrong.value)
    with pytest.raises(UnknownNameError, match="no precision named 'int7'"):
        arms_of(settings, [], ["int7"])
    with pytest.raises(UsageError, match="none of these precisions"):
        arms_of(settings, ["generic"], ["int8"])
    with pytest.raises(UsageError, match="only the torch backend"):
        arms_of(load(files=(), backend="openai"), ["fused"], [])
    assert arms_of(load(files=(), backend="openai"), [], []) == [Arm("openai")]


def test_rows_are_spread_evenly_and_labelled_rows_give_their_input(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [{"input": {"text": f"row {n}"}, "output": {"topic": "ORDER"}} for n in range(10)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    assert [row["text"] for row in read_rows(STACK, path, 3)] == ["row 1", "row 5", "row 8"]
    assert len(read_rows(STACK, path, 99)) == 10
    path.write_text('{"text": "a"}\n"b"\n', "utf-8")
    assert read_rows(STACK, path, 99) == [{"text": "a"}, {"text": "b"}]
    path.write_text("{\n", "utf-8")
    with pytest.raises(InputError, match=r"rows.jsonl, line 1"):
        read_rows(STACK, path, 99)
    path.write_text("\n", "utf-8")
    with pytest.raises(UsageError, match="there is no row"):
        read_rows(STACK, path, 99)


def test_peak_memory_is_of_this_program() -> None:
    peak = peak_memory_of_program()
    assert peak is None or peak > 1 << 20

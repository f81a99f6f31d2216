"""From timings to records, and from records to tables, the picture and the standings."""

from __future__ import annotations

import doctest
import io
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel
from rich.console import Console

from fslm_core import Stack
from fslm_core.stage import tool

from ..bench import agree, engines, entrants, isolation, limit, measure, report, workloads
from ..bench.agree import by_place, differences, holds
from ..bench.engines import OURS, EngineSpec
from ..bench.entrants import Entrant, Found, Plan, Quality, agreement, record
from ..bench.limit import Rates, Shape, Work
from ..bench.limit import Round as Part
from ..bench.measure import Timing
from ..bench.report import document, show, standings
from ..bench.workloads import Row, Rows, by_field, exact

RATES = Rates(bandwidth=1e10, float32=1e11, bfloat16=1e10, int8=2e11)
WORK = Work(Shape(30, 3_500_000, 28_000_000, 384, 576), 18, [[Part(20, 20, 10**6, 1, 800, 40)] * 4])


class Note(BaseModel):
    domain: str | None
    count: int


@tool("bench.note", version="1")
def note(given: Note) -> Note:
    return given


PLAN = Plan(Path("data"), OURS, ["support"], rows=2, batch=4, rounds=2)
USAGE = {"prompt": 80, "cached": 20, "output": 30, "forced": 20, "forwards": 12}
FUSED = next(engine for engine in OURS if engine.name == "fused-int8")
PEER = EngineSpec("x:int8", "peer", "int8", peer=("x", "int8"))


def entrant(spec: EngineSpec, *, score: float = 0.95, verdict: str = "held") -> Entrant:
    loaded = {"runs": ["cpu"], "load_s": 1.0, "prepare_s": 0.0, "settings": {}}
    quality = Quality(100, 1.0, score, 1.0, 0.95, 0.99)
    return Entrant(spec, None, loaded, 2.0, quality, {"verdict": verdict}, {}, 900.0)


def made(one: Entrant, clients: int = 1, seconds: float = 1.0) -> dict[str, Any]:
    timings = [(Timing((seconds,) * 2, 2 * seconds), {"usage": USAGE, "messages": 6})] * 2
    return record("support", PLAN, one, clients, timings, WORK, RATES)


def test_a_record_has_figures_counts_and_its_share_of_the_limit() -> None:
    found = made(entrant(FUSED))
    assert (found["engine"], found["workload"], found["concurrency"], found["mode"]) == (
        "fused-int8",
        "support",
        1,
        "loop",
    )
    assert (found["p50_s"], found["stacks_per_s"], found["peak_rss_mb"]) == (1.0, 1.0, 900.0)
    assert found["forwards_per_message"] == 2.0
    assert (found["prompt_tokens_computed"], found["prompt_tokens_cached"], found["forced"]) == (30.0, 10.0, 10.0)
    assert found["limit_s"] == WORK.seconds(RATES, "int8", 1)
    assert found["share_of_limit"] == pytest.approx(found["limit_s"])
    assert found["share_of_best_limit"] == pytest.approx(WORK.seconds(RATES, "int4", 1))
    assert made(entrant(FUSED), clients=4)["mode"] == "batch"


@pytest.mark.parametrize(
    ("score", "verdict", "gate", "counts"),
    [
        (0.95, "held", True, True),
        (0.941, "held", True, True),
        (0.93, "held", False, False),
        (0.95, "fails", True, False),
    ],
)
def test_a_peer_counts_if_it_is_as_good_and_keeps_its_adapters_apart(
    score: float, verdict: str, gate: bool, counts: bool
) -> None:
    found = made(entrant(PEER, score=score, verdict=verdict))
    assert (found["gate"], found["counts_as_peer"]) == (gate, counts)


def test_standings_name_our_best_and_the_best_peer_that_counts() -> None:
    cheat = entrant(EngineSpec("y:int8", "peer", "int8", peer=("y", "int8")), verdict="fails")
    records = [made(entrant(FUSED), 4, 0.5), made(entrant(PEER), 4, 1.0), made(cheat, 4, 0.1)]
    assert list(standings(records)) == [
        "overall, 4 at once: fused-int8 does 2.00 times as much as x:int8",
        "int8, 4 at once: fused-int8 does 2.00 times as much as x:int8",
    ]


def whole() -> dict[str, Any]:
    records = [made(entrant(spec), clients) for spec in (FUSED, PEER) for clients in (1, 4)]
    cost = {"workload": "support", "of": "engine", "concurrency": 1, "p50_s": 0.01, "s_per_stack": 0.01}
    work = {"support": {"tokens": 80.0, "tokens_below_adapters": 60.0, "decisions": 9.0, "rounds": 6.0}}
    failures = [{"workload": "support", "engine": "fused-int4", "reason": "no [kernels] here"}]
    facts = {"cpu": "a processor", "flags": ["avx2"], "versions": {"torch": "2"}}
    return document(Found(records, failures, [cost], work, RATES), PLAN, facts)


def test_everything_is_shown() -> None:
    out = io.StringIO()
    show(whole(), Console(file=out, width=220))
    told = out.getvalue()
    for part in ("fused-int8", "x:int8", "9.0 decisions", "10.0 ms a stack", "no [kernels] here", "10.0 GB/s"):
        assert part in told


@pytest.mark.torch  # where matplotlib comes along
def test_a_picture_is_drawn(tmp_path: Path) -> None:
    from ..bench.plot import draw

    draw(whole()["records"], tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_agreement_is_counted_by_message() -> None:
    assert agreement([{"a": "x", "b": "y"}, {"a": "x"}], [{"a": "x", "b": "z"}, {"a": "x"}]) == pytest.approx(2 / 3)


def message(row: int, step: str, ids: list[int], tokens: list[int]) -> dict[str, Any]:
    return {"row": row, "step": step, "stage": step, "ids": ids, "tokens": tokens, "text": str(tokens)}


def test_a_difference_is_told_where_it_began_and_not_where_it_led() -> None:
    left = by_place([message(0, "a", [1], [5, 6]), message(0, "b", [6], [9]), message(1, "a", [1], [5])])
    right = by_place([message(0, "a", [1], [5, 7]), message(0, "b", [7], [8]), message(1, "a", [1], [5])])
    same, found = differences(left, right, ["a", "b"], 2)
    assert same == 1
    assert [(each.row, each.step, each.place, each.tokens) for each in found] == [(0, "a", 1, (6, 7))]


@pytest.mark.parametrize(
    ("same", "near", "score", "exact_holds", "score_holds"),
    [(1.0, True, 0.95, True, True), (0.996, False, 0.95, False, True), (0.99, True, 0.94, False, False)],
)
def test_near_ties_are_forgiven_and_nothing_else(
    same: float, near: bool, score: float, exact_holds: bool, score_holds: bool
) -> None:
    pair = {"same": same, "differences": [{"near_tie": near}]}
    found = {"pairs": {"alone": pair}, "scores": {"alone": score, "mixed": score, "other": 0.95}}
    assert holds(found, exact=True) is exact_holds
    assert holds(found, exact=False) is score_holds


@pytest.mark.parametrize("module", [agree, engines, entrants, isolation, limit, measure, report, workloads])
def test_the_examples_in_the_text_hold(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


def test_rows_are_given_out_once() -> None:
    rows = Rows((), tuple(Row({"text": str(number)}, {}) for number in range(10)))
    first, second = rows.slices([4, 5])
    assert len(first) == 4
    assert not {row["text"] for row in first} & {row["text"] for row in second}


def test_outputs_are_scored_whole_or_by_field() -> None:
    stack = Stack("bench.notes", input=Note, output=Note, steps=[note])
    gold = {"domain": "two words", "count": 3}
    assert exact(gold, gold, stack) == 1.0
    assert exact(gold, {**gold, "count": 4}, stack) == 0.0
    assert by_field(gold, {"domain": "two", "count": 3}, stack) == pytest.approx((2 / 3 + 1) / 2)
    assert by_field(gold, None, stack) == 0.0

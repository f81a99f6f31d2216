"""What runs come to: counted from the trace, told for the whole and by hours, days and weeks."""

from __future__ import annotations

import io
import json
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fslm_core.errors import StoreError, UnknownNameError
from fslm_core.explain.paired import wilson
from fslm_core.explain.stats import Spread, StepStats, before, stacks_of, start_of, stats
from fslm_core.explain.stats_drawn import drawn
from fslm_core.store import ContentMode, TraceStore
from fslm_core.store.counting import read_counts

from .history import NOON, History

DAY = 86400.0
MOMENTS = st.floats(0, 4e9, allow_nan=False)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    made = History(tmp_path)
    yield made
    made.close()


def printed(renderable: Any, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width, markup=False, emoji=False, highlight=False).print(renderable)
    return out.getvalue()


def steps(found: Any) -> dict[str, StepStats]:
    return {step.step: step for step in found.steps}


def test_every_way_a_step_ends_is_counted(history: History) -> None:
    history.run()
    history.run(abstained=True, sure=0.4)
    history.run(tries=2)
    history.run(failed=True)
    history.run(failed=True, skipped="on_error: stage_failed")
    history.run(skipped="kind.urgent")
    found = stats(history.store, "desk")
    assert dict(found.runs) == {"succeeded": 5, "failed": 1}
    kind, reply = steps(found)["kind"], steps(found)["reply"]
    assert (kind.times, kind.valid.hits, kind.repaired.hits, kind.failed.hits, kind.skipped) == (6, 3, 1, 2, 0)
    assert kind.abstained.hits == 1 and kind.abstained.rows == 4
    assert kind.valid.interval == wilson(3, 6)
    assert kind.confidence["kind"].median == 0.9 and kind.confidence["kind"].p10 == pytest.approx(0.55)
    assert kind.spent == {"prompt": 40, "cached": 8, "output": 6, "forced": 4, "forwards": 2}
    assert kind.seconds == Spread(4, 0.25, 0.25, 0.25) and kind.least_sure == 0.9
    # It was passed over once because its condition was false, and once because a step failed.
    assert (reply.times, reply.skipped, reply.failed.hits) == (4, 1, 1)


def test_a_step_that_failed_and_went_on_is_counted_once(history: History) -> None:
    history.run(failed=True, skipped="on_error: stage_failed", step="reply")
    reply = steps(stats(history.store, "desk"))["reply"]
    assert (reply.times, reply.failed.hits, reply.skipped) == (1, 1, 0)


def test_a_step_that_runs_several_times_is_one_step(history: History) -> None:
    history.run(step="pages[0].kind")
    history.run(step="pages[12].kind")
    assert list(steps(stats(history.store, "desk"))) == ["pages.kind", "reply"]


def test_replays_runs_under_way_and_candidates_are_not_counted(history: History) -> None:
    first = history.run()
    history.run(parent=first)
    history.run(status="running", step="kind~candidate")
    found = stats(history.store, "desk")
    assert (dict(found.runs), found.replays, found.running) == ({"succeeded": 1}, 1, 1)
    assert "Not counted: 1 under way, 1 that replay another" in printed(drawn(found))
    assert "kind~candidate" not in steps(found)


def test_windows_hold_what_began_in_them(history: History) -> None:
    history.runs(["a", "b", "c", "d"])
    assert sum(stats(history.store, "desk", since=NOON + 1, until=NOON + 3).runs.values()) == 2
    one = stats(history.store, "desk", since=NOON, until=NOON + 1)
    assert one.span == (NOON, NOON) and steps(one)["kind"].times == 1
    none = stats(history.store, "desk", since=NOON + DAY)
    assert (none.span, dict(none.runs), none.steps, none.buckets) == (None, {}, (), ())
    assert printed(drawn(none)).strip() == "desk  0 runs"
    assert json.loads(json.dumps(none.to_dict()))["runs"] == {}


def test_time_is_told_by_what_suits_the_window_or_as_asked(history: History) -> None:
    history.run(at=NOON)
    history.run(at=NOON + 3 * 3600, sure=0.5)
    assert (stats(history.store, "desk").by, len(stats(history.store, "desk").buckets)) == ("hour", 2)
    assert [bucket.start for bucket in stats(history.store, "desk").buckets] == [
        start_of(NOON, "hour"),
        start_of(NOON + 3 * 3600, "hour"),
    ]
    history.run(at=NOON + 30 * DAY)
    assert stats(history.store, "desk").by == "day"
    history.run(at=NOON + 100 * DAY)
    assert stats(history.store, "desk").by == "week"
    found = stats(history.store, "desk", by="day")
    assert sum(sum(bucket.runs.values()) for bucket in found.buckets) == 4
    assert "least sure field" in printed(drawn(found)) and "the newest 48" in printed(drawn(found))


def test_stacks_are_told_apart_and_an_unknown_one_is_named(history: History) -> None:
    history.run()
    history.run(stack="shop")
    assert stacks_of(history.store) == ("desk", "shop")
    assert sum(stats(history.store, "shop").runs.values()) == 1
    with pytest.raises(UnknownNameError, match="desc"):
        stats(history.store, "desc")
    with pytest.raises(UnknownNameError) as told:
        stacks_of(history.store, "desc")
    assert "desk" in str(told.value)


@pytest.mark.parametrize("content", ["redacted", "none"])
def test_what_is_counted_needs_no_text(tmp_path: Path, content: ContentMode) -> None:
    made = History(tmp_path, content)
    made.run(tries=2)
    found = stats(made.store, "desk")
    made.close()
    assert dict(found.kept) == {content: 1} and steps(found)["kind"].repaired.hits == 1
    assert steps(found)["kind"].confidence["kind"].median == 0.9


def test_hostile_names_are_shown_as_text(history: History) -> None:
    history.run(stack="\x1b[31mred[bold]", step="a\x1b[2Jb\nc")
    shown = printed(drawn(stats(history.store, "\x1b[31mred[bold]")))
    assert "\x1b" not in shown and "\\x1b[31mred[bold]" in shown and "a\\x1b[2Jb\\nc" in shown


def test_a_database_of_before_is_counted_too(history: History, tmp_path: Path) -> None:
    history.run(abstained=True)
    history.close()
    with closing(sqlite3.connect(history.path)) as connection:
        for table, column in (("nodes", "doubt"), ("nodes", "past"), ("runs", "parent")):
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.commit()
    with TraceStore.open(history.path, readonly=True) as store:
        found = stats(store, "desk")
        assert steps(found)["kind"].times == 1 and steps(found)["kind"].abstained.hits == 0
        assert {said.step for said in store.said("desk")} == {"input", "kind", "reply"}


def test_what_else_a_label_might_have_been_is_no_abstention(history: History) -> None:
    for _ in range(3):
        history.run()
    history.close()
    told = ['{"fields":[],"alternatives":{"kind":[["praise",0.2]]}}', '{"fields":["kind"],"alternatives":{}}']
    lone = '{"fields":["kind"],"alternatives":{"kind":[["\ud800",0.2]]}}'.encode("utf-8", "surrogatepass")
    with closing(sqlite3.connect(history.path)) as connection:
        rows = connection.execute("SELECT id FROM nodes WHERE step = 'kind' ORDER BY seq").fetchall()
        for (node,), doubt in zip(rows, (*told, lone), strict=True):
            connection.execute("UPDATE nodes SET doubt = ? WHERE id = ?", (doubt, node))
        connection.commit()
    with TraceStore.open(history.path, readonly=True) as store:
        assert steps(stats(store, "desk"))["kind"].abstained.hits == 2


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE nodes SET doubt = '{' WHERE step = 'kind'",
        "UPDATE nodes SET doubt = '{}' WHERE step = 'kind'",
        'UPDATE nodes SET usage = \'{"prompt": "many"}\'',
        "UPDATE nodes SET usage = '{\"output\": 1e999}'",
        "UPDATE nodes SET confidence = '{\"kind\": NaN}' WHERE confidence IS NOT NULL",
        "UPDATE nodes SET confidence = '[['",
        "UPDATE nodes SET seconds = 'long'",
        "UPDATE runs SET started = 1e300",
    ],
)
def test_damage_is_told(history: History, damage: str) -> None:
    history.run()
    history.close()
    with closing(sqlite3.connect(history.path)) as connection:
        connection.execute(damage)
        connection.commit()
    with TraceStore.open(history.path, readonly=True) as store, pytest.raises(StoreError, match="damaged"):
        stats(store, "desk")


@given(MOMENTS, st.sampled_from(["hour", "day", "week"]))
def test_spans_of_time_lie_one_behind_the_other(moment: float, by: Any) -> None:
    start = start_of(moment, by)
    assert start <= moment < start + {"hour": 3600, "day": 25 * 3600, "week": 7 * DAY + 3600}[by]
    assert start_of(start, by) == start
    earlier = before(start, by)
    assert earlier < start and start_of(start - 1, by) == earlier
    assert by != "week" or datetime.fromtimestamp(start).weekday() == 0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_a_spread_lies_where_its_values_do(values: list[float]) -> None:
    found = Spread.of(values)
    assert found.n == len(values) and found.median == pytest.approx(median(values))
    assert found.p10 is not None and found.p95 is not None
    assert min(values) <= found.p10 <= found.p95 <= max(values)
    assert math.isfinite(found.p10)


def test_the_length_of_a_week_of_days() -> None:
    noon = datetime(2026, 11, 18, 12)
    week = start_of(noon.timestamp(), "week")
    assert datetime.fromtimestamp(week) == datetime(2026, 11, 16)
    assert datetime.fromtimestamp(before(week, "week")) == datetime(2026, 11, 16) - timedelta(days=7)


def test_counting_reads_no_more_than_the_window(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan begins at the index of stack and time, and goes from there to each run's steps."""
    history.run()
    asked: list[str] = []
    with closing(sqlite3.connect(history.path)) as connection:
        connection.set_trace_callback(asked.append)
        read_counts(connection, "desk", NOON, NOON + 1, lambda moment: 0.0)
        connection.set_trace_callback(None)
        selects = [sql for sql in asked if sql.lstrip().startswith("SELECT")]
        plans = [row[3] for sql in selects for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
    assert len(selects) == 2
    assert all("SCAN" not in plan for plan in plans), plans
    assert any("runs_stack (stack=? AND started>? AND started<?)" in plan for plan in plans), plans


def test_when_the_newest_runs_of_a_stack_began_leaves_replays_and_other_stacks_out(history: History) -> None:
    history.runs(["a", "b", "c"])
    history.run(at=NOON + 10, parent="01run000000000000000000000")
    history.run(at=NOON + 20, stack="other")
    store = history.store
    assert [store.beginning("desk", newest) for newest in (1, 3, 4)] == [NOON + 2, NOON, None]
    assert store.beginning("nobody's", 1) is None


def test_the_first_and_the_last_run_of_each_stack_in_a_window(history: History) -> None:
    history.runs(["a", "b", "c"])
    history.run(at=NOON + 20, stack="other")
    assert history.store.spans() == {"desk": (NOON, NOON + 2), "other": (NOON + 20, NOON + 20)}
    assert history.store.spans(since=NOON + 1, until=NOON + 2) == {"desk": (NOON + 1, NOON + 1)}
    assert history.store.spans(until=NOON) == {}

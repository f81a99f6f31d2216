"""What the runs of a stack come to, step by step: counted straight from the rows, a few thousand at a time.

Only runs that have ended count, and none that replays another: what ``blame``, ``ablate`` or a person tried afterwards
says nothing of what came in. Candidates that ran beside steps are not among them either.
"""

from __future__ import annotations

import json
import math
import sqlite3
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..message import CANDIDATE, failed_with, plain_path
from .encode import from_database
from .finding import NAMES
from .owner import is_gone

SPENT = ("prompt", "cached", "output", "forced", "forwards")
"""What is told of a message's cost, besides its seconds: fields of :class:`~fslm_core.message.Usage`."""
_AT_ONCE = 4096
_WINDOW = "runs.stack = :stack AND runs.started >= :since AND runs.started < :until"
_ENDED = f"{_WINDOW} AND runs.status != 'running' AND {{own}}"
_RUNS = f"SELECT started, status, owner, content, {{replay}} FROM runs WHERE {_WINDOW}"
_NODES = f"""
SELECT runs.started, n.run, n.step, n.idx, n.attempt, n.status, n.skipped_by, n.seconds, n.usage, n.confidence,
    {{doubt}} FROM runs CROSS JOIN nodes n ON n.run = runs.id WHERE {_ENDED} ORDER BY runs.started
"""
_INPUTS = f"SELECT input, count(*) FROM runs WHERE {_ENDED} AND input IS NOT NULL GROUP BY input"
_MESSAGES = f"""
SELECT n.step, n.content_id, count(*) FROM runs CROSS JOIN nodes n ON n.run = runs.id
WHERE {_ENDED} AND n.status = 'ok' AND n.content_id IS NOT NULL GROUP BY n.step, n.content_id
"""
_SPANS = f"""
{NAMES} SELECT name,
    (SELECT min(started) FROM runs WHERE stack = name AND started >= :since AND started < :until) AS first,
    (SELECT max(started) FROM runs WHERE stack = name AND started >= :since AND started < :until)
FROM names WHERE first IS NOT NULL
"""
"""Two looks into the index a stack."""
_NTH = "SELECT started FROM runs WHERE stack = ? AND {own} ORDER BY started DESC LIMIT 1 OFFSET ?"
_USAGE, _CONFIDENCE, _DOUBT = 8, 9, 10
"""Places in those rows."""
_Node: TypeAlias = tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]
"""A row, its cost and its confidence."""


def _numbers() -> array[float]:
    return array("d")


@dataclass(slots=True)
class Tally:
    """One step, in one span of time. A step that runs several times in a run counts each time.

    Attributes:
        valid: messages that were valid at the first attempt.
        repaired: messages that took another one.
        failed: times that no attempt gave a valid message, whether the run failed by it or went on.
        skipped: times that its condition was false.
        abstained: messages that abstained on a field.
        seconds: of each message.
        spent: of each message, by :data:`SPENT`.
        confidence: of each message that tells it, by field.
    """

    valid: int = 0
    repaired: int = 0
    failed: int = 0
    skipped: int = 0
    abstained: int = 0
    seconds: array[float] = field(default_factory=_numbers)
    spent: dict[str, array[float]] = field(default_factory=lambda: {name: _numbers() for name in SPENT})
    confidence: dict[str, array[float]] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Count what another span counted too."""
        for name in ("valid", "repaired", "failed", "skipped", "abstained"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.seconds += other.seconds
        for name, values in other.spent.items():
            self.spent[name] += values
        for name, values in other.confidence.items():
            self.confidence.setdefault(name, _numbers()).extend(values)


@dataclass(slots=True)
class Counts:
    """The runs of a stack by spans of time, each named by the moment it begins.

    Attributes:
        runs: of each span, how many ended how.
        steps: of each span, its steps by their paths without indices, in the order in which they were met.
        kept: how many runs were kept in which mode.
        running: runs that are under way, which are not counted.
        replays: runs that replay another, which are not either.
    """

    runs: dict[float, Counter[str]] = field(default_factory=dict)
    steps: dict[float, dict[str, Tally]] = field(default_factory=dict)
    kept: Counter[str] = field(default_factory=Counter)
    running: int = 0
    replays: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """A message that a step said so many times: ``data`` is what was kept of it, in the mode ``kind``."""

    step: str
    kind: str
    data: Any
    times: int


def read_spans(connection: sqlite3.Connection, since: float, until: float) -> dict[str, tuple[float, float]]:
    """When the first and the last run of each stack began, of those that began in between."""
    rows = connection.execute(_SPANS, {"since": since, "until": until})
    return {str(from_database(stack)): (float(first), float(last)) for stack, first, last in rows}


def read_beginning(connection: sqlite3.Connection, stack: str, newest: int) -> float | None:
    """When the first of a stack's newest so many runs began, replays left out; None where there are fewer."""
    row = connection.execute(_NTH.format(own=_own(connection)), (stack, newest - 1)).fetchone()
    return None if row is None else float(row[0])


def read_counts(
    connection: sqlite3.Connection, stack: str, since: float, until: float, span: Callable[[float], float]
) -> Counts:
    """Count the runs of a stack that began since a moment and before another.

    Args:
        span: when the span of time began that a moment lies in.
    """
    found = Counts()
    asked = {"stack": stack, "since": since, "until": until}
    replayed = "parent IS NOT NULL" if _has(connection, "runs", "parent") else "FALSE"
    plain = connection.cursor()
    plain.row_factory = None
    rows = plain.execute(_RUNS.format(replay=replayed), asked).fetchall()
    for (start, status, owner, content, replay), times in Counter(
        (span(float(row[0])), row[1], row[2] if row[1] == "running" else "", row[3], row[4]) for row in rows
    ).items():
        if owner and not is_gone(owner):
            found.running += times
        elif replay:
            found.replays += times
        else:
            found.runs.setdefault(start, Counter())["interrupted" if owner else str(status)] += times
            found.kept[str(content)] += times
    doubt = "n.doubt" if _has(connection, "nodes", "doubt") else "NULL"
    nodes = plain.execute(_NODES.format(doubt=doubt, own=_own(connection)), asked)
    failures: dict[tuple[Any, ...], tuple[float, str]] = {}
    while group := nodes.fetchmany(_AT_ONCE):
        _count(found, group, span, failures)
    for start, step in failures.values():
        _tally(found, start, step).failed += 1
    return found


def read_said(connection: sqlite3.Connection, stack: str, since: float, until: float, given: str) -> list[Said]:
    """What the steps of these runs said, equal messages once; what they were given stands under the name ``given``."""
    asked = {"stack": stack, "since": since, "until": until}
    own = _own(connection)
    rows = [(given, content, times) for content, times in connection.execute(_INPUTS.format(own=own), asked)]
    rows += map(tuple, connection.execute(_MESSAGES.format(own=own), asked))
    times: Counter[tuple[str, str]] = Counter()
    for step, content, count in rows:
        if not (name := str(from_database(step))).endswith(CANDIDATE):
            times[plain_path(name), content] += count
    return list(_said(connection, times))


def _said(connection: sqlite3.Connection, times: Counter[tuple[str, str]]) -> Iterator[Said]:
    for (step, content), count in times.items():
        row = connection.execute("SELECT kind, json FROM contents WHERE id = ?", (content,)).fetchone()
        if row is not None:
            yield Said(step, str(row[0]), json.loads(from_database(row[1]) or "null", parse_constant=_finite), count)


def _count(
    found: Counts,
    rows: list[tuple[Any, ...]],
    span: Callable[[float], float],
    failures: dict[tuple[Any, ...], tuple[float, str]],
) -> None:
    """Count nodes; what failed is put together first, for each failed try is a node of its own."""
    groups: dict[tuple[float, Any, str], list[_Node]] = {}
    moment, start = None, 0.0
    for row, cost, sure in zip(rows, _parsed(rows, _USAGE), _parsed(rows, _CONFIDENCE), strict=True):
        if row[0] != moment:
            moment, start = row[0], span(float(row[0]))
        groups.setdefault((start, row[2], row[5]), []).append((row, cost or {}, sure or {}))
    for (start, stored, status), nodes in groups.items():
        path = str(from_database(stored))
        if path.endswith(CANDIDATE):
            continue
        step = plain_path(path)
        if status == "ok":
            _messages(_tally(found, start, step), nodes)
            continue
        for row, _, _ in nodes:
            if status == "failed" or failed_with(str(from_database(row[6] or ""))):
                failures[row[1], path, row[3]] = (start, step)
            else:
                _tally(found, start, step).skipped += 1


def _messages(tally: Tally, nodes: list[_Node]) -> None:
    repaired = sum(row[4] > 0 for row, _, _ in nodes)
    tally.repaired += repaired
    tally.valid += len(nodes) - repaired
    doubts = (json.loads(from_database(row[_DOUBT]) or "null") for row, _, _ in nodes if row[_DOUBT] is not None)
    tally.abstained += sum(bool(doubt["fields"]) for doubt in doubts)
    _extend(tally.seconds, [row[7] or 0.0 for row, _, _ in nodes])
    for name, values in tally.spent.items():
        _extend(values, [cost.get(name, 0) for _, cost, _ in nodes])
    for name in dict.fromkeys(name for _, _, sure in nodes for name in sure):
        scores = [sure[name] for _, _, sure in nodes if name in sure]
        _extend(tally.confidence.setdefault(name, _numbers()), scores)


def _tally(found: Counts, start: float, step: str) -> Tally:
    steps = found.steps.setdefault(start, {})
    return steps[step] if step in steps else steps.setdefault(step, Tally())


def _finite(text: str) -> None:
    raise ValueError(f"{text} where a number should be")


def _extend(values: array[float], more: list[float]) -> None:
    if not math.isfinite(sum(more)):
        raise ValueError("what is no number, where one should be")
    values.extend(more)


def _parsed(rows: list[tuple[Any, ...]], column: int) -> list[dict[str, Any] | None]:
    """The JSON of a column, of many rows at once: that takes a third of the time that one by one takes."""
    return list(json.loads(f"[{','.join([from_database(row[column]) or 'null' for row in rows])}]"))


def _own(connection: sqlite3.Connection) -> str:
    """The condition that a run replays no other."""
    return "runs.parent IS NULL" if _has(connection, "runs", "parent") else "TRUE"


def _has(connection: sqlite3.Connection, table: str, column: str) -> bool:
    """Whether the database, which an older fslm may have made, has a column."""
    return any(row[1] == column for row in connection.execute(f"PRAGMA table_info({table})"))


__all__ = ["SPENT", "Counts", "Said", "Tally", "read_beginning", "read_counts", "read_said", "read_spans"]

"""The outline of a run: which steps it has, and how each ended, without what they said.

A run may have ten thousand steps, and whoever shows it a page at a time reads the rest of those alone that are on the
page (:meth:`~fslm_core.store.TraceStore.run` with ``nodes``).
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from pydantic import TypeAdapter

from ..message import CANDIDATE
from .rows import RunRow, read_row
from .typed import typed_row
from .words import text_of

_NODES = "SELECT id, step, idx, attempt, status, started, seconds FROM nodes WHERE run = ? ORDER BY seq"
_PULSE = """
SELECT runs.*, (SELECT max(seq) FROM nodes WHERE nodes.run = runs.id) AS last_node FROM runs WHERE id = ?
"""

_INPUT = """
SELECT substr(contents.json, 1, :most + 1) FROM runs JOIN contents ON contents.id = runs.input
WHERE runs.id = :run AND contents.kind != 'none'
"""
_MOST = 10_000
"""Characters of an input that are read for the sake of its beginning."""
_GLIMPSE = 160


@dataclass(frozen=True, slots=True)
class OutlinedNode:
    """One step of a run, as :class:`~fslm_core.store.StoredNode`, but without what it said."""

    id: str
    step: str
    index: int
    attempt: int
    status: str
    started: float | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Outline:
    """A run's steps in the order in which they ended.

    Attributes:
        candidates: by the path of a step, the ids of the candidates that ran beside it.
    """

    row: RunRow
    nodes: tuple[OutlinedNode, ...]
    candidates: dict[str, tuple[str, ...]]


_ROWS = TypeAdapter(tuple[tuple[str, str, int, int, str, float | None, float | None], ...])


def read_outline(connection: sqlite3.Connection, row: sqlite3.Row) -> Outline:
    """The outline of a row of ``runs``. Call it inside a transaction."""
    run = typed_row(read_row(row))
    rows = _ROWS.validate_python(tuple(map(tuple, connection.execute(_NODES, (run.id,)))))
    found = [OutlinedNode(*values) for values in rows]
    beside: dict[str, tuple[str, ...]] = {}
    for node in (node for node in found if node.step.endswith(CANDIDATE)):
        step = node.step.removesuffix(CANDIDATE)
        beside[step] = (*beside.get(step, ()), node.id)
    return Outline(run, tuple(node for node in found if not node.step.endswith(CANDIDATE)), beside)


def read_pulse(connection: sqlite3.Connection, run: str) -> str | None:
    """What is another text once something more of a run was recorded, or it ended; None where there is no such run."""
    row = connection.execute(_PULSE, (run,)).fetchone()
    return None if row is None else f"{read_row(row).status}/{row['last_node'] or 0}"


def read_glimpse(connection: sqlite3.Connection, run: str) -> str:
    """The beginning of what a run was given, on one line; nothing where no text was kept."""
    row = connection.execute(_INPUT, {"run": run, "most": _MOST}).fetchone()
    if row is None:
        return ""
    text = row[0].decode("utf-8", "replace") if isinstance(row[0], bytes) else row[0]
    said = " ".join((text_of(text) if len(text) <= _MOST else text).split())
    return said if len(said) <= _GLIMPSE else f"{said[:_GLIMPSE]}…"


__all__ = ["Outline", "OutlinedNode", "read_glimpse", "read_outline", "read_pulse"]

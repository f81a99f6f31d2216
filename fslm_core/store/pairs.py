"""Runs of one stack that were given the same, before a moment and after it."""

from __future__ import annotations

import sqlite3

_RUNS = (
    "SELECT id, input FROM runs WHERE stack = ? AND started {side} ? AND input IS NOT NULL"
    " AND status IN ('succeeded', 'failed', 'review') ORDER BY started DESC, id DESC"
)


def read_change(connection: sqlite3.Connection, stack: str) -> float | None:
    """When the newest run of a stack's latest makers but one began, Unix seconds; None where they never changed.

    The makers of a run are its steps' fingerprints: stages, prompts, adapters and models.
    """
    newest = connection.execute(
        "SELECT fingerprints FROM runs WHERE stack = ? ORDER BY started DESC, id DESC LIMIT 1", (stack,)
    ).fetchone()
    if newest is None:
        return None
    last = connection.execute(
        "SELECT max(started) FROM runs WHERE stack = ? AND fingerprints != ?", (stack, newest[0])
    ).fetchone()
    return None if last[0] is None else float(last[0])


def read_pairs(connection: sqlite3.Connection, stack: str, moment: float, limit: int) -> list[tuple[str, str]]:
    """Ids of the last run before (or at) a moment and of the newest after it, of each input that has both.

    The newest pairs first, ``limit`` of them at most.
    """
    before: dict[str, str] = {}
    for run, given in connection.execute(_RUNS.format(side="<="), (stack, moment)):
        before.setdefault(given, run)
    found: dict[str, tuple[str, str]] = {}
    for run, given in connection.execute(_RUNS.format(side=">"), (stack, moment)):
        if len(found) == limit:
            break
        if given in before:
            found.setdefault(given, (before[given], run))
    return list(found.values())


__all__ = ["read_change", "read_pairs"]

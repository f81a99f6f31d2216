"""Runs that will never end, for their process is gone."""

from __future__ import annotations

import sqlite3

from .database import transaction
from .owner import is_gone

INTERRUPT = "UPDATE runs SET status = 'interrupted' WHERE id = ? AND status = 'running'"


def mark_interrupted(connection: sqlite3.Connection) -> None:
    """Mark the runs of processes that are known to have ended."""
    rows = connection.execute("SELECT id, owner FROM runs WHERE status = 'running'").fetchall()
    lost = [(run,) for run, owner in rows if is_gone(owner)]
    if lost:
        with transaction(connection):
            connection.executemany(INTERRUPT, lost)


__all__ = ["INTERRUPT", "mark_interrupted"]

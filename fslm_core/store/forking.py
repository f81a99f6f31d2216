"""SQLite and forks: a child inherits a connection's memory but none of its locks on the file.

A fork that happens while a thread is inside SQLite leaves the child with mutexes that nobody will ever release, and one
that happens between leaves it a library that believes in locks which are the parent's. So a fork waits until no thread
of fslm is inside, and the child closes what it inherited before it opens a connection of its own.
See "How To Corrupt An SQLite Database File", section 2.6: https://sqlite.org/howtocorrupt.html.
"""

from __future__ import annotations

import contextlib
import sqlite3
from weakref import WeakSet

from ..forking import lock_that_forks_wait_for


class Connection(sqlite3.Connection):
    """A connection that a fork of this process closes in the child."""

    def close(self) -> None:
        """Close it; no fork happens meanwhile."""
        with inside:
            super().close()


_connections: WeakSet[Connection] = WeakSet()


def inherited_nowhere(connection: Connection) -> Connection:
    """Have ``connection`` closed in every process that is forked from this one."""
    _connections.add(connection)
    return connection


def _close_inherited() -> None:
    for connection in list(_connections):
        with contextlib.suppress(sqlite3.Error):
            connection.close()
    _connections.clear()


inside = lock_that_forks_wait_for(in_child=_close_inherited)
"""Held by whatever is inside SQLite."""

__all__ = ["Connection", "inherited_nowhere", "inside"]

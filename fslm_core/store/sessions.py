"""The session store: the states that stacks remember from run to run, in a database of its own.

One row a session: its id, its stack, the state as JSON with its model's ``schema_id``, how many turns wrote it, when,
and by which run. A turn writes only what nobody else has written since it read, so no update is ever lost.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder, Sessions.open(Path(folder) / "sessions.db") as sessions:
...     first = sessions.put("ann", '{"turns":1}', stack="chat", schema_id="…", run="01k…", read=None)
...     sessions.fork("ann", "ann.try").version, sessions.get("ann").state
(1, {'turns': 1})
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, field_validator

from ..errors import SessionConflict, SessionError, StoreError, UnknownNameError
from ..schema import dumps, loads
from .database import Kind, connect, transaction, translated, understood
from .forking import inside

MOST_BYTES = 16 << 20
"""Of one state's JSON."""
_DAY = 86400.0
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]{0,199}")
_PAUSE_SECONDS = 0.05
_PATIENCE_SECONDS = 10.0

SESSIONS = Kind(
    name="session store",
    what="a session store",
    application_id=0x66736C73,  # "fsls"
    version=1,
    tables="""
CREATE TABLE sessions (
    id TEXT PRIMARY KEY, stack TEXT NOT NULL, schema_id TEXT NOT NULL, version INTEGER NOT NULL, state TEXT NOT NULL,
    created REAL NOT NULL, updated REAL NOT NULL, parent TEXT, run TEXT
) WITHOUT ROWID;
CREATE INDEX sessions_updated ON sessions (updated);
""",
    setting="sessions.path",
    without="run without a session",
    anew="at the next turn of a session",
    nothing=("there is no session yet", "begin one: `fslm run STACK INPUT --session ID`, or `fslm chat STACK`"),
)


class SavedSession(BaseModel):
    """A session as it is kept.

    Attributes:
        id: what it is called.
        stack: whose it is.
        schema_id: of the model that its state was written by.
        version: how many turns wrote it, those before it was forked too.
        state: as JSON data.
        created: Unix seconds; so is ``updated``, when it was last written.
        parent: the session that it was forked from, as ``ID@VERSION``; None where it was not.
        run: the run that wrote it last.
    """

    model_config = ConfigDict(frozen=True, strict=True, hide_input_in_errors=True)

    id: str
    stack: str
    schema_id: str
    version: int
    state: dict[str, Any]
    created: float
    updated: float
    parent: str | None
    run: str | None

    @field_validator("state", mode="before")
    @classmethod
    def _parsed(cls, text: Any) -> Any:
        try:
            return loads(text)
        except (ValueError, TypeError, RecursionError):
            raise ValueError("not JSON") from None  # which would quote it


class Sessions:
    """A session store, open. Safe from any thread; other processes may have it open too.

    Open it with :meth:`open`, or take ``engine.sessions``; close it, or use it as a context manager.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, keep_days: float) -> None:
        self.path = path
        self._connection = connection
        self._connection.row_factory = sqlite3.Row
        self._keep = keep_days * _DAY
        self._lock = threading.RLock()
        self._pid = os.getpid()

    @classmethod
    def open(cls, path: Path | str, *, keep_days: float = 30.0, readonly: bool = False) -> Sessions:
        """Open the database at ``path``, making it (0600, in folders of 0700) where there is none.

        Args:
            keep_days: days after its last turn that a session counts as forgotten; 0 for never. It is deleted when
                any session is written next.
            readonly: read only: nothing is made or forgotten.

        Raises:
            StoreError: there is nothing to read, or the file is locked, damaged, no session store, of a newer version
                or not writable; the text says which, and what to do.
        """
        place = Path(path).absolute()
        return cls(place, connect(place, readonly=readonly, kind=SESSIONS), keep_days)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._pid == os.getpid():
            with self._lock:
                self._connection.close()

    # -- reading --------------------------------------------------------------------------------------------------

    def get(self, id: str) -> SavedSession:
        """One session.

        Raises:
            UnknownNameError: there is none, or it was forgotten.
            StoreError: it cannot be read.
        """
        found = self.find(id)
        if found is None:
            raise UnknownNameError.of("session", id, (), hint="see `fslm sessions list`")  # ids may be people's names
        return found

    def find(self, id: str) -> SavedSession | None:
        """One session, or None where there is none.

        Raises:
            StoreError: it cannot be read.
        """
        with self._at_work() as connection:
            return self._one(connection, id)

    def list(self, stack: str | None = None) -> tuple[SavedSession, ...]:
        """All sessions, or those of one stack; the one written last is the first.

        Raises:
            StoreError: they cannot be read.
        """
        sql = (
            "SELECT * FROM sessions WHERE updated >= :oldest AND (:stack IS NULL OR stack = :stack)"
            " ORDER BY updated DESC, id"
        )
        with self._at_work() as connection:
            rows = connection.execute(sql, {"oldest": self._oldest(), "stack": stack})
            return tuple(_saved(row) for row in rows)

    # -- writing --------------------------------------------------------------------------------------------------

    def put(
        self, id: str, state: str, *, stack: str, schema_id: str, run: str, read: SavedSession | None
    ) -> SavedSession:
        """Write the state that a turn leaves, unless somebody else wrote the session since it was read.

        Args:
            state: canonical JSON.
            run: the id of the run whose turn it is.
            read: the session as the turn found it; None where there was none.

        Raises:
            SessionConflict: another run wrote it meanwhile, or it was forgotten. It is as that left it.
            SessionError: the state is larger than 16 MiB.
            StoreError: it cannot be written.
        """
        if (size := len(state.encode())) > MOST_BYTES:
            raise SessionError(
                "the state is too large to be kept",
                where=f"session {id}",
                found=f"{size:,} bytes",
                expected=f"at most {MOST_BYTES:,}",
                hint="let the step that writes the session drop what is old",
            )
        now = time.time()
        with self._at_work(write=True) as connection:
            self._sweep(connection, but="" if read is None else id)  # it may have been in time when it was read
            if read is None:
                sql = "INSERT OR IGNORE INTO sessions VALUES (?, ?, ?, 1, ?, ?, ?, NULL, ?)"
                done = connection.execute(sql, (id, stack, schema_id, state, now, now, run))
            else:
                sql = (
                    "UPDATE sessions SET schema_id = ?, version = version + 1, state = ?, updated = ?, run = ?"
                    " WHERE id = ? AND version = ? AND run IS ?"
                )
                done = connection.execute(sql, (schema_id, state, now, run, id, read.version, read.run))
            found = self._one(connection, id, late=True)
            if done.rowcount != 1 or found is None:
                raise _conflict(id, read, found)
            return found

    def undo(self, written: SavedSession, before: SavedSession | None) -> bool:
        """Take back what :meth:`put` wrote, if nobody has written the session since; whether it was taken back.

        Raises:
            StoreError: it cannot be written.
        """
        mine = (written.id, written.version, written.run)
        where = "WHERE id = ? AND version = ? AND run IS ?"
        with self._at_work(write=True) as connection:
            if before is None:
                return connection.execute(f"DELETE FROM sessions {where}", mine).rowcount == 1
            sql = f"UPDATE sessions SET schema_id = ?, version = ?, state = ?, updated = ?, run = ? {where}"
            old = (before.schema_id, before.version, _text(before), before.updated, before.run)
            return connection.execute(sql, (*old, *mine)).rowcount == 1

    def fork(self, id: str, to: str | None = None) -> SavedSession:
        """A new session that begins where another stands now; from here on each goes its own way.

        Args:
            to: what to call it; the old id with a number behind it if not given.

        Raises:
            UnknownNameError: there is no session to fork.
            SessionError: ``to`` is no id, or is taken.
            StoreError: it cannot be written.
        """
        if to is not None:
            check_id(to)
        source = self.get(id)
        with self._at_work(write=True) as connection:
            self._sweep(connection, but=id)
            name = to or self._free(connection, id)
            if self._one(connection, name, late=True) is not None:
                raise SessionError(
                    "there is a session of that id already",
                    where=f"session {name}",
                    hint="choose another id, or leave it out, and one is made",
                )
            row = {**source.model_dump(), "id": name, "state": _text(source), "parent": f"{id}@{source.version}"}
            row["created"] = row["updated"] = time.time()
            marks = ", ".join(f":{column}" for column in row)
            connection.execute(f"INSERT INTO sessions ({', '.join(row)}) VALUES ({marks})", row)
            return _there(self._one(connection, name))

    def forget(self, *ids: str, stack: str | None = None, everything: bool = False) -> tuple[str, ...]:
        """Forget sessions for good: the file is written anew, so nothing of them stays in it or in its log.

        Those whose time is over go too. Without arguments it is them alone, and what an earlier call left behind.

        Args:
            stack: forget those of this stack, besides.
            everything: forget all.

        Returns:
            The ids of what was forgotten; one that is not there is left out.

        Raises:
            StoreError: they cannot be deleted; or they are, and others keep the file busy, so that it could not be
                written anew yet, and the text says so.
        """
        with self._at_work(write=True) as connection:
            gone = [id for (id,) in connection.execute("SELECT id FROM sessions WHERE updated < ?", (self._oldest(),))]
            rows = connection.execute("SELECT id, stack FROM sessions").fetchall()
            gone += [id for id, its in rows if id not in gone and (everything or id in ids or its == stack)]
            connection.executemany("DELETE FROM sessions WHERE id = ?", [(id,) for id in gone])
        with self._lock, translated(self.path, SESSIONS), inside:
            self._overwrite()
        return tuple(gone)

    # -- within -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _at_work(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        if self._pid != os.getpid():
            raise StoreError(
                "the session store was opened before a fork",
                where=str(self.path),
                hint="open it, or the engine, in each worker process, after the fork",
            )
        understanding = understood(self.path, SESSIONS)
        with self._lock, translated(self.path, SESSIONS), understanding, transaction(self._connection, write=write):
            yield self._connection

    def _oldest(self) -> float:
        """When a session must have been written last, to be kept still."""
        return time.time() - self._keep if self._keep else 0.0

    def _sweep(self, connection: sqlite3.Connection, but: str = "") -> None:
        connection.execute("DELETE FROM sessions WHERE updated < ? AND id != ?", (self._oldest(), but))

    def _one(self, connection: sqlite3.Connection, id: str, *, late: bool = False) -> SavedSession | None:
        sql = "SELECT * FROM sessions WHERE id = ? AND updated >= ?"
        row = connection.execute(sql, (id, 0.0 if late else self._oldest())).fetchone()
        return None if row is None else _saved(row)

    @staticmethod
    def _free(connection: sqlite3.Connection, id: str) -> str:
        taken = {id for (id,) in connection.execute("SELECT id FROM sessions")}
        number = 2
        while (name := f"{id[:190]}.{number}") in taken:
            number += 1
        return name

    def _overwrite(self) -> None:
        """``secure_delete`` leaves copies in unused parts of pages, and the log holds the old pages."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        try:
            self._connection.execute("VACUUM")
            while self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                if time.monotonic() > deadline:
                    raise sqlite3.OperationalError("another process reads the store")
                time.sleep(_PAUSE_SECONDS)
        except sqlite3.Error as error:
            raise StoreError(
                "the sessions are forgotten, but their bytes are not overwritten yet",
                where=str(self.path),
                found=str(error),
                hint="run `fslm sessions forget --expired` when nobody else uses the store and its disk has room",
            ) from error


def check_id(id: str) -> str:
    """The id, where it is one: letters, digits and ``_ . : @ + -``, 200 at most.

    Raises:
        SessionError: it is none.

    >>> check_id("shop:ann@example.org")
    'shop:ann@example.org'
    """
    if not isinstance(id, str) or not _ID.fullmatch(id):
        raise SessionError(
            "that is no id of a session",
            where="session",
            found=id,
            expected="letters, digits and _ . : @ + - (the first a letter, a digit or _), 200 at most",
            hint="choose another; a hash of what identifies it will do",
        )
    return id


def _saved(row: sqlite3.Row) -> SavedSession:
    return SavedSession.model_validate(dict(row))


def _there(found: SavedSession | None) -> SavedSession:
    assert found is not None
    return found


def _text(session: SavedSession) -> str:
    return dumps(session.state)


def _conflict(id: str, read: SavedSession | None, found: SavedSession | None) -> SessionConflict:
    now = "no session" if found is None else f"version {found.version}"
    return SessionConflict(
        "the session was written by another run, or forgotten, while this one was at work",
        where=f"session {id}",
        found=now,
        expected="no session" if read is None else f"version {read.version}, as this run read it",
        hint="run the turn again; it then begins with what is there now",
    )


__all__ = ["SavedSession", "Sessions", "check_id"]

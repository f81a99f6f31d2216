"""Forgetting runs, so that their bytes are gone from the database and its log, and not only their rows.

Deleting is one transaction: a run is wholly there or wholly gone. In it the index for searching is merged into one
piece, for words that were taken out of it stand in its older pieces until then. SQLite's ``secure_delete`` overwrites
what is deleted but not the copies that lie in the unused parts of pages, nor the log; so the file is then written anew
(``VACUUM``) and the log cut to nothing. Until that is done a table ``forgetting`` names the runs, and whoever forgets
next completes it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ..errors import StoreError
from .database import connect, transaction, translated, understood
from .owner import is_gone
from .tables import FORGETTING, has_index, offers_index
from .words import settle, take

PATIENCE_SECONDS = 30.0
"""How long to wait for others who read or write."""
_PAUSE_SECONDS = 0.05
_IN_MEMORY = 256 << 20
"""Bytes: a larger database is written anew by way of a temporary file."""
_EACH = 500

_SUBJECTS = """
SELECT id, stack, status, owner, started FROM runs
UNION ALL
SELECT run, '', 'lost', NULL, max(coalesce(started, 0)) FROM nodes
WHERE NOT EXISTS (SELECT 1 FROM runs WHERE runs.id = nodes.run) GROUP BY run
"""  # the second: steps of runs whose own row could not be written
_OF_RUNS = (
    "DELETE FROM blobs WHERE node IN (SELECT id FROM nodes WHERE run IN ({marks}))",
    "DELETE FROM attempts WHERE node IN (SELECT id FROM nodes WHERE run IN ({marks}))",
    "DELETE FROM nodes WHERE run IN ({marks})",
    "DELETE FROM labels WHERE run IN ({marks})",
    "DELETE FROM runs WHERE id IN ({marks})",
)
_UNUSED = """
DELETE FROM contents WHERE id NOT IN (
    SELECT content_id FROM nodes WHERE content_id IS NOT NULL
    UNION SELECT input FROM runs WHERE input IS NOT NULL
    UNION SELECT output FROM runs WHERE output IS NOT NULL
)
"""
_OF_A_RUN = 600
"""Bytes of a run's own row, its name elsewhere, and the indices of these."""
_ROOM = 0.95
"""Of the bytes that may stay: what a run takes is told from its texts alone."""
_WEIGHTS = """
SELECT run, sum(
    800 + coalesce((SELECT 3 * length(json) FROM contents WHERE contents.id = content_id), 0)
    + coalesce((SELECT sum(100 + coalesce(length(prompt), 0) + coalesce(length(raw), 0) + length(problems))
                FROM attempts WHERE node = nodes.id), 0)
    + coalesce((SELECT sum(length(data)) FROM blobs WHERE node = nodes.id), 0)
) FROM nodes GROUP BY run
"""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was forgotten, or would be.

    Attributes:
        runs: their ids, oldest first.
        contents: messages that no other run has; 0 where nothing was forgotten yet.
        bytes_before: the size of the database and its log before.
        bytes_after: and after.
    """

    runs: tuple[str, ...]
    contents: int = 0
    bytes_before: int = 0
    bytes_after: int = 0

    def and_then(self, more: Forgotten) -> Forgotten:
        """This, and what was forgotten after it."""
        return Forgotten(self.runs + more.runs, self.contents + more.contents, self.bytes_before, more.bytes_after)


def forget(path: Path, runs: Sequence[str], *, patience: float = PATIENCE_SECONDS) -> Forgotten:
    """Delete these runs and what only they refer to, and overwrite what they left behind.

    A run that is gone already counts as forgotten. Without runs it completes what an earlier call could not.

    Args:
        patience: seconds to wait for others who read or write.

    Raises:
        StoreError: one of them is running (none is forgotten then), others keep the database busy, or there is no room
            to write it anew; where the runs are gone from the tables but not yet overwritten, the text says so.
    """
    before = _size(path)
    with translated(path), closing(connect(path, readonly=False)) as connection:
        connection.execute(f"PRAGMA busy_timeout = {int(patience * 1000)}")
        with understood(path), transaction(connection):
            _refuse_running(connection, runs, path)
            _refuse_unseen(connection, path)
            contents = _delete(connection, runs)
        if pending(connection):
            try:
                _overwrite(connection, path, patience)
            except sqlite3.Error as error:
                raise _unfinished(path, str(error)) from error
    return Forgotten(tuple(runs), contents, before, _size(path))


def select(
    connection: sqlite3.Connection,
    *,
    older_than: float | None = None,
    keep: int | None = None,
    stack: str | None = None,
    larger_than: int | None = None,
    now: float | None = None,
) -> tuple[str, ...]:
    """The runs to forget, oldest first; never one that is running.

    Args:
        older_than: those that began more than so many seconds ago.
        keep: all but the newest so many.
        stack: only runs of this stack, among which ``keep`` counts too.
        larger_than: of those, the oldest, as many as must go for the file to have no more bytes, as far as can be told.
        now: Unix seconds.
    """
    rows = connection.execute(
        f"SELECT * FROM ({_SUBJECTS}) WHERE :stack IS NULL OR stack = :stack ORDER BY started DESC, id DESC",
        {"stack": stack},
    ).fetchall()
    rows = rows[keep or 0 :]
    if older_than is not None:
        limit = (time.time() if now is None else now) - older_than
        rows = [row for row in rows if row[4] < limit]
    found = tuple(run for run, _, status, owner, _ in reversed(rows) if not _runs(status, owner))
    return found if larger_than is None else _too_many(connection, found, larger_than)


def _too_many(connection: sqlite3.Connection, runs: Sequence[str], most: int) -> tuple[str, ...]:
    """The first of the runs whose share of the file is what is too much of it."""
    pages, free, each = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    size = (pages - free) * each
    if size <= most:
        return ()
    weights = dict(connection.execute(_WEIGHTS).fetchall())
    whole = sum(weights.values()) + _OF_A_RUN * (len(weights) or 1)
    left = (1 - _ROOM * most / size) * whole
    chosen = []
    for run in runs:
        if left <= 0:
            break
        chosen.append(run)
        left -= weights.get(run, 0) + _OF_A_RUN
    return tuple(chosen)


def pending(connection: sqlite3.Connection) -> tuple[str, ...]:
    """The runs that are gone from the tables, but perhaps not yet from the file's unused parts."""
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'forgetting'").fetchone()
    return tuple(run for (run,) in connection.execute("SELECT run FROM forgetting")) if known else ()


def _runs(status: str, owner: str | None) -> bool:
    return status == "running" and not (owner is not None and is_gone(owner))


def _refuse_running(connection: sqlite3.Connection, runs: Sequence[str], path: Path) -> None:
    wanted = set(runs)
    running = [
        run
        for run, status, owner in connection.execute("SELECT id, status, owner FROM runs WHERE status = 'running'")
        if run in wanted and _runs(status, owner)
    ]
    if running:
        raise StoreError(
            "a run that is under way cannot be forgotten",
            where=str(path),
            found=", ".join(running),
            hint="wait until it has ended, or end its program; nothing was forgotten",
        )


def _refuse_unseen(connection: sqlite3.Connection, path: Path) -> None:
    """What cannot be taken out of the index is not forgotten."""
    if has_index(connection) and not offers_index(connection):
        raise StoreError(
            "the words of the runs cannot be taken out of the index for searching",
            where=str(path),
            found=f"SQLite {sqlite3.sqlite_version} without full-text search (FTS5)",
            hint="use a Python whose sqlite3 has it, as the one that made the index; nothing was forgotten",
        )


def _delete(connection: sqlite3.Connection, runs: Sequence[str]) -> int:
    """Delete within the caller's transaction; return how many contents went with them."""
    if not runs:
        return 0
    connection.executemany("INSERT OR IGNORE INTO forgetting (run) VALUES (?)", [(run,) for run in runs])
    take(connection, runs)
    for part in _parts(runs):
        for sql in _OF_RUNS:
            connection.execute(sql.format(marks=", ".join("?" * len(part))), part)
    unused = connection.execute(_UNUSED).rowcount
    settle(connection)
    return unused


def _parts(runs: Sequence[str]) -> Iterable[Sequence[str]]:
    return (runs[start : start + _EACH] for start in range(0, len(runs), _EACH))


def _overwrite(connection: sqlite3.Connection, path: Path, patience: float) -> None:
    """Write the file anew, cut the log, then take back the note that this was to be done."""
    large = path.stat().st_size > _IN_MEMORY
    connection.execute(f"PRAGMA temp_store = {'FILE' if large else 'MEMORY'}")
    connection.execute("VACUUM")
    _cut_log(connection, path, patience)
    with transaction(connection):
        connection.execute("DROP TABLE forgetting")
        connection.execute(FORGETTING)
    _cut_log(connection, path, patience)


def _cut_log(connection: sqlite3.Connection, path: Path, patience: float) -> None:
    """Move the log into the file and leave it empty, which takes a moment without readers."""
    deadline = time.monotonic() + patience
    while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        if time.monotonic() > deadline:
            raise _unfinished(path, "another process reads the database")
        time.sleep(_PAUSE_SECONDS)


def _unfinished(path: Path, why: str) -> StoreError:
    return StoreError(
        "the runs are gone from the tables, but their bytes are not overwritten yet",
        where=str(path),
        found=why,
        hint="run the same command again when nobody else uses the database and its disk has room for a copy of it",
    )


def _size(path: Path) -> int:
    files = (path, Path(f"{path}-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


__all__ = ["PATIENCE_SECONDS", "Forgotten", "forget", "pending", "select"]

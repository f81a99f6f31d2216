"""Finding runs: by their names, and the newest."""

from __future__ import annotations

import sqlite3

from ..errors import UnknownNameError
from .encode import from_database
from .rows import RunRow, StoredRun, read_row, read_run
from .tables import has_labels
from .typed import typed_row, typed_run

LAST = "last"
_NEAR = 5
_LAST_CHARACTER = "\U0010ffff"
_BEGINNING = "SELECT * FROM runs WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
_STORED = {"running": "status = 'running'", "interrupted": "status IN ('interrupted', 'running')"}
"""What may stand in the file where a run is so: that its process is gone may not be written yet."""

NAMES = """
WITH RECURSIVE names (name) AS (
    SELECT min(stack) FROM runs
    UNION ALL SELECT (SELECT min(stack) FROM runs WHERE stack > name) FROM names WHERE name IS NOT NULL
)
"""
"""The stacks, to be selected from: one look into the index a stack, however many runs there are."""
_LABELLED = "(SELECT DISTINCT run FROM labels) AS marked CROSS JOIN runs ON runs.id = marked.run"
"""Few runs have labels, so it is from these that runs are looked up."""


def newest(
    connection: sqlite3.Connection,
    limit: int,
    *,
    stack: str | None = None,
    status: str | None = None,
    since: float | None = None,
    labelled: bool = False,
    before: str | None = None,
) -> list[RunRow]:
    """The newest runs, newest first: of a stack, of a status, since a moment, with labels, older than a run."""
    if labelled and not has_labels(connection):
        return []
    last = None if before is None else find(connection, before)
    asked = {"stack": stack, "status": status, "since": since}
    asked |= {} if last is None else {"moment": last["started"], "id": last["id"]}
    stored = _STORED.get(status or "", "status = :status")
    wanted = [("stack = :stack", stack), (stored, status), ("started >= :since", since)]
    wanted.append(("(started, id) < (:moment, :id)", before))
    given = [words for words, value in wanted if value is not None]
    runs = _LABELLED if labelled else "runs"
    sql = f"SELECT runs.* FROM {runs} WHERE {' AND '.join(given) or 'TRUE'} ORDER BY started DESC, id DESC"
    found: list[RunRow] = []
    for row in connection.execute(sql, asked):
        if len(found) >= limit:
            break
        run = typed_row(read_row(row))
        if status in (None, run.status):
            found.append(run)
    return found


def ids(connection: sqlite3.Connection, *, stack: str | None = None, since: float | None = None) -> tuple[str, ...]:
    """The ids of all runs, the oldest first: of a stack, or begun since a moment."""
    wanted = [("stack = :stack", stack), ("started >= :since", since)]
    given = " AND ".join(words for words, value in wanted if value is not None) or "TRUE"
    sql = f"SELECT id FROM runs WHERE {given} ORDER BY started, id"
    return tuple(str(row[0]) for row in connection.execute(sql, {"stack": stack, "since": since}))


def stacks(connection: sqlite3.Connection) -> tuple[str, ...]:
    """The names of all stacks that have runs, in the order of letters."""
    return tuple(
        str(from_database(row[0]))
        for row in connection.execute(f"{NAMES} SELECT name FROM names WHERE name IS NOT NULL")
    )


def find(connection: sqlite3.Connection, name: str) -> sqlite3.Row:
    """The row of the run that has this id, whose id alone begins so, or that is the ``last``.

    Raises:
        UnknownNameError: no such run, or several.
    """
    if not name.isprintable():  # no id is so, and what is no Unicode cannot be asked for at all
        raise UnknownNameError(f"there is no run named {name[:80]!r}", where="the trace", hint="see `fslm trace list`")
    if name == LAST:
        found = connection.execute("SELECT * FROM runs ORDER BY started DESC, id DESC LIMIT 1").fetchall()
    else:
        found = connection.execute("SELECT * FROM runs WHERE id = ?", (name,)).fetchall()
        found = found or _beginning(connection, name)
    if len(found) == 1:
        row: sqlite3.Row = found[0]
        return row
    if not found and name == LAST:
        raise UnknownNameError(
            "no run is in the trace yet", where="the trace", hint="run a stack first: `fslm run STACK INPUT`"
        )
    if found:
        raise UnknownNameError(
            f"several runs begin with {name!r}",
            where="the trace",
            expected="one of " + ", ".join(row["id"] for row in found[:_NEAR]),
            hint="write more of the id",
        )
    recent = connection.execute("SELECT id FROM runs ORDER BY started DESC, id DESC LIMIT 200").fetchall()
    raise _unknown(name, [row["id"] for row in recent])


def ended(connection: sqlite3.Connection, run: str) -> StoredRun | None:
    """A run whole; None where it is not there, or is under way."""
    row = connection.execute("SELECT * FROM runs WHERE id = ?", (run,)).fetchone()
    found = None if row is None else typed_run(read_run(connection, row))
    return None if found is None or found.row.status == "running" else found


def subject(connection: sqlite3.Connection, name: str) -> str:
    """The id of the run meant, which may have no more than steps left of it."""
    steps = connection.execute("SELECT run FROM nodes WHERE run = ? LIMIT 1", (name,)).fetchone()
    return str(steps[0] if steps else find(connection, name)["id"])


def _beginning(connection: sqlite3.Connection, name: str) -> list[sqlite3.Row]:
    if not name:
        return []
    found: dict[str, sqlite3.Row] = {}
    for start in dict.fromkeys((name, name.upper(), name.lower())):  # ids are of one case, whichever was typed
        rows = connection.execute(_BEGINNING, (start, start + _LAST_CHARACTER, _NEAR + 1)).fetchall()
        found |= {row["id"]: row for row in rows}
    return [found[run] for run in sorted(found)]


def _unknown(name: str, recent: list[str]) -> UnknownNameError:
    error = UnknownNameError.of("run", name, recent, hint="see `fslm trace list`")
    error.expected = "one of " + ", ".join(recent[:_NEAR]) if recent else None
    return error


__all__ = ["LAST", "NAMES", "ended", "find", "ids", "newest", "stacks", "subject"]

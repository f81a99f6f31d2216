"""Runs as they come into a store: from exports, and from the databases of other servers.

The same id is the same run: one that is there already is passed over, so an import that was cut short is done by the
same command again, and stores can be merged in any order. A run of an id that is there with other contents is left out
and named. Labels are no part of what a run is: of two that are given to one message the newer stands. What comes in is
taken at its word only once it reads back as a run: a line that does not is refused, and so is a message whose id is
not that of its text.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..message import digest
from .database import connect, transaction, translated, understood
from .encode import pack, to_database, to_json
from .exporting import AS_JSON, ATTEMPT_COLUMNS, CONTENT_COLUMNS, FORMAT, FORMAT_VERSION, NODE_COLUMNS, RUN_COLUMNS
from .exporting import line_of as as_line
from .labels import checked_portable, merge
from .owner import this_writer
from .rows import read_run
from .typed import typed_run

AT_ONCE = 50
"""Runs in one transaction: others wait no longer than for these."""
_ENDED = frozenset({"succeeded", "failed", "cancelled", "review", "interrupted"})
_DATABASE = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did.

    Attributes:
        runs: the ids of those that came in.
        same: how many were there already.
        different: the ids of those that were left out, for a run of that id is there and differs.
        labels: how many labels came in, of runs that were there already too.
    """

    runs: tuple[str, ...] = ()
    same: int = 0
    different: tuple[str, ...] = ()
    labels: int = 0


def import_file(path: Path, source: Path) -> Imported:
    """Take the runs of an export, or of another trace database, into the database at ``path``.

    Raises:
        StoreError: the source cannot be read, or a line of it is no run (those before it are there then); or the
            database cannot be written.
    """
    new: list[str] = []
    different: list[str] = []
    same = labels = 0
    owner = this_writer()
    with translated(path), closing(connect(path, readonly=False)) as connection:
        connection.row_factory = sqlite3.Row
        for part in _parts(lines_of(source)):
            wrong = None
            with transaction(connection):
                for place, line in part:
                    try:
                        run = _checked(line, place)
                        with understood(path):
                            there = _there(connection, run["run"]["id"])
                        if there is None and not _contradicts(connection, run):
                            _insert(connection, run, owner, place)
                            new.append(run["run"]["id"])
                        elif _equal(there, run):
                            same += 1
                        else:
                            different.append(run["run"]["id"])
                            continue
                        labels += merge(connection, run["labels"])
                    except StoreError as error:  # those before it stay
                        wrong = error
                        break
            if wrong is not None:
                raise wrong
    return Imported(tuple(new), same, tuple(different), labels)


def lines_of(source: Path) -> Iterator[tuple[str, Any]]:
    """What an export, or another database, holds: the place, for errors, and the line."""
    try:
        with source.open("rb") as file:
            is_database = file.read(len(_DATABASE)) == _DATABASE
        if is_database:
            yield from _of_database(source)
            return
        with source.open("rb") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    place = f"{source}:{number}"
                    try:
                        yield place, json.loads(text)
                    except (ValueError, RecursionError) as error:
                        raise _no_run(place, f"not JSON: {error}") from error
    except OSError as error:
        raise StoreError(
            "the file to import cannot be read",
            where=str(source),
            found=error.strerror or str(error),
            hint="name a file that `fslm trace export` made, or a trace database",
        ) from error


def _of_database(source: Path) -> Iterator[tuple[str, Any]]:
    with translated(source), understood(source), closing(connect(source, readonly=True)) as connection:
        connection.row_factory = sqlite3.Row
        for (run,) in connection.execute("SELECT id FROM runs ORDER BY started, id").fetchall():
            with transaction(connection, write=False):
                line = as_line(connection, run)
            if line is not None:
                yield f"{source}, run {run}", line


def _parts(lines: Iterable[tuple[str, Any]]) -> Iterator[list[tuple[str, Any]]]:
    """Groups of lines; what goes wrong in reading is raised after those before it were handed on."""
    part: list[tuple[str, Any]] = []
    try:
        for line in lines:
            part.append(line)
            if len(part) == AT_ONCE:
                yield part
                part = []
    except StoreError:
        yield part
        raise
    yield part


def _checked(line: Any, place: str) -> dict[str, Any]:
    """The line, if it has the shape of one; values are looked at when they are in their tables."""
    if not isinstance(line, dict) or line.get("format") != FORMAT:
        raise _no_run(place, f"no object with format {FORMAT!r}")
    if line.get("version") != FORMAT_VERSION:
        raise StoreError(
            "the export has a version that this fslm does not know",
            where=place,
            found=f"version {line.get('version')!r}",
            expected=f"version {FORMAT_VERSION}",
            hint="upgrade with `python -m pip install --upgrade fslm-core`",
        )
    try:
        run = {name: line["run"].get(name) for name in RUN_COLUMNS}
        nodes = [
            {
                **{name: node.get(name) for name in NODE_COLUMNS},
                "attempts": [
                    {name: one.get(name) for name in (*ATTEMPT_COLUMNS, "tokens")} for one in node["attempts"]
                ],
            }
            for node in line["nodes"]
        ]
        contents = {
            str(name): {column: content.get(column) for column in CONTENT_COLUMNS}
            for name, content in line["contents"].items()
        }
        if not isinstance(run["id"], str) or not run["id"] or not run["id"].isprintable():
            raise ValueError(f"a run's id is {run['id']!r}")
        if run["status"] not in _ENDED:
            raise ValueError(f"a run that is {run['status']!r}")
        labels = checked_portable(line.get("labels", []), run, nodes)
        for name, content in contents.items():
            if content["kind"] == "full" and digest(content["schema_id"], content["json"]) != name:
                raise ValueError(f"a message whose id is not that of its text: {name}")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _no_run(place, f"{type(error).__name__}: {error}") from error
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "run": run,
        "nodes": nodes,
        "contents": contents,
        "labels": labels,
    }


def _there(connection: sqlite3.Connection, run: str) -> dict[str, Any] | None:
    """The run as it is there already; of one under way no more than that it is."""
    if connection.execute("SELECT 1 FROM runs WHERE id = ?", (run,)).fetchone() is None:
        return None
    return as_line(connection, run) or {}


def _equal(there: dict[str, Any] | None, run: dict[str, Any]) -> bool:
    """Whether two lines are of the same run, whatever is said of it; a number that is none equals itself here."""
    one, other = (
        json.dumps({name: part for name, part in (line or {}).items() if name != "labels"}, sort_keys=True)
        for line in (there, run)
    )
    return one == other


def _contradicts(connection: sqlite3.Connection, run: dict[str, Any]) -> bool:
    """Whether a message or a node of that id is there, and is another."""
    for name, content in run["contents"].items():
        row = connection.execute("SELECT * FROM contents WHERE id = ?", (name,)).fetchone()
        if row is not None and any(row[column] != _value(column, content[column]) for column in ("kind", "json")):
            return True
    ids = [node["id"] for node in run["nodes"]]
    return any(connection.execute("SELECT 1 FROM nodes WHERE id = ?", (one,)).fetchone() for one in ids)


def _insert(connection: sqlite3.Connection, run: dict[str, Any], owner: str, place: str) -> None:
    """Write a run, and read it back; what is not as every run is refused, and nothing of it stays."""
    name = run["run"]["id"]
    connection.execute("SAVEPOINT one_run")
    try:
        for content, columns in run["contents"].items():
            _row(connection, "contents", {"id": content, **columns}, verb="INSERT OR IGNORE")
        _row(connection, "runs", {**run["run"], "owner": owner})
        for node in run["nodes"]:
            _row(connection, "nodes", {**{column: node[column] for column in NODE_COLUMNS}, "run": name})
            for attempt in node["attempts"]:
                _row(connection, "attempts", {**{c: attempt[c] for c in ATTEMPT_COLUMNS}, "node": node["id"]})
                if attempt["tokens"] is not None:
                    blob = {"node": node["id"], "idx": attempt["idx"], "data": pack(attempt["tokens"])}
                    _row(connection, "blobs", blob)
        row = connection.execute("SELECT * FROM runs WHERE id = ?", (name,)).fetchone()
        typed_run(read_run(connection, row))
        if not _equal(as_line(connection, name), run):
            raise ValueError("it does not read back as it was")
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        connection.execute("ROLLBACK TO one_run")
        raise _no_run(place, f"{type(error).__name__}: {error}") from error
    except (sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError) as error:
        connection.execute("ROLLBACK TO one_run")
        raise _no_run(place, str(error)) from error
    connection.execute("RELEASE one_run")


def _row(connection: sqlite3.Connection, table: str, row: dict[str, Any], *, verb: str = "INSERT") -> None:
    values = [_value(name, value) for name, value in row.items()]
    marks = ", ".join("?" * len(row))
    connection.execute(f"{verb} INTO {table} ({', '.join(row)}) VALUES ({marks})", values)


def _value(column: str, value: Any) -> Any:
    if column in AS_JSON and value is not None:
        value = to_json(value)
    return to_database(value) if isinstance(value, str) else value


def _no_run(place: str, found: str) -> StoreError:
    return StoreError(
        "this is no run of fslm",
        where=place,
        found=found[:300],
        expected="a line that `fslm trace export` wrote",
        hint="export it again; what came before it is imported",
    )


__all__ = ["Imported", "import_file", "lines_of"]

"""Runs as they leave a store: whole, one a line of JSON, for another store or for any program.

A line is an object: ``format`` is ``fslm-run``, ``version`` is 1; ``run`` has what is known of the run; ``nodes`` its
steps in the order they ended, each with its ``attempts``; ``contents`` the messages that these name, by id, with their
JSON as the text that was kept; ``labels`` what people say of them. What the database keeps as JSON stands there as
JSON. Which process ran the run stays behind. Nothing is added to what the run's mode kept: what was redacted is
redacted, keyed hashes are what they were.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import StoreError
from ..folders import sync
from .encode import from_database, unpack
from .labels import portable
from .rows import read_row

FORMAT, FORMAT_VERSION = "fslm-run", 1
# fmt: off
RUN_COLUMNS = (
    "id", "stack", "status", "started", "ended", "seconds", "seed", "input", "output", "output_parents", "error",
    "engine", "backend", "fingerprints", "content", "parent",
)
NODE_COLUMNS = (
    "id", "step", "idx", "attempt", "status", "skipped_by", "parents", "stage", "plugin", "version", "model",
    "backend", "tuned", "fingerprint", "work_key", "content_id", "usage", "confidence", "narrowed", "started",
    "seconds", "compared", "doubt", "past",
)
ATTEMPT_COLUMNS = ("idx", "prompt", "raw", "raw_chars", "problems", "usage", "finish_reason", "truncated")
CONTENT_COLUMNS = ("schema_id", "model", "kind", "json")
AS_JSON = frozenset({
    "output_parents", "error", "fingerprints", "parents", "usage", "confidence", "narrowed", "compared", "doubt",
    "past", "prompt", "problems",
})
# fmt: on
"""Columns whose text is JSON."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported.

    Attributes:
        runs: their ids, in the order of the file.
        bytes: the size of the file.
    """

    runs: tuple[str, ...]
    bytes: int


def line_of(connection: sqlite3.Connection, run: str) -> dict[str, Any] | None:
    """A run as it stands in a line; None where it is not there, or is under way. Call it inside a transaction."""
    row = connection.execute("SELECT * FROM runs WHERE id = ?", (run,)).fetchone()
    status = None if row is None else read_row(row).status
    if status in (None, "running"):
        return None
    nodes = connection.execute("SELECT * FROM nodes WHERE run = ? ORDER BY seq", (run,)).fetchall()
    named = [row["input"], row["output"], *(node["content_id"] for node in nodes)]
    contents = {}
    for content in sorted({from_database(one) for one in named if one is not None}):
        if (found := connection.execute("SELECT * FROM contents WHERE id = ?", (content,)).fetchone()) is not None:
            contents[content] = _columns(found, CONTENT_COLUMNS)
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "run": {**_columns(row, RUN_COLUMNS), "status": status},
        "nodes": [{**_columns(node, NODE_COLUMNS), "attempts": _attempts(connection, node["id"])} for node in nodes],
        "contents": contents,
        "labels": portable(connection, run),
    }


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> Exported:
    """Write lines to a file that is there whole or not at all, for its owner alone; what was there goes.

    Raises:
        StoreError: it cannot be written.
    """
    runs: list[str] = []

    def write(file: IO[bytes]) -> None:
        for line in lines:
            file.write(json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n")
            runs.append(line["run"]["id"])

    put_private(path, write)
    return Exported(tuple(runs), path.stat().st_size)


def put_private(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Have a file written whole beside its place, 0600, then moved there; where that fails nothing of it stays.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, made = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(made, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(made)
            raise
        sync(path.parent)
    except OSError as error:
        raise StoreError(
            "the export cannot be written",
            where=str(path),
            found=error.strerror or str(error),
            hint="name a file in a folder that can be written, on a disk with room; what was there is as it was",
        ) from error


def _attempts(connection: sqlite3.Connection, node: str) -> list[dict[str, Any]]:
    rows = connection.execute(
        "SELECT a.*, b.data FROM attempts a LEFT JOIN blobs b ON b.node = a.node AND b.idx = a.idx"
        " WHERE a.node = ? ORDER BY a.idx",
        (node,),
    )
    return [
        {**_columns(row, ATTEMPT_COLUMNS), "tokens": None if row["data"] is None else unpack(row["data"])}
        for row in rows
    ]


def _columns(row: sqlite3.Row, names: Iterable[str]) -> dict[str, Any]:
    return dict(_values(row, names))


def _values(row: sqlite3.Row, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    there = set(row.keys())
    for name in names:
        value = from_database(row[name]) if name in there else None
        yield name, json.loads(value) if name in AS_JSON and isinstance(value, str) else value


__all__ = [
    "AS_JSON",
    "ATTEMPT_COLUMNS",
    "CONTENT_COLUMNS",
    "FORMAT",
    "FORMAT_VERSION",
    "NODE_COLUMNS",
    "RUN_COLUMNS",
    "Exported",
    "line_of",
    "put_private",
    "write_lines",
]

"""Searching what was said in runs: plain words and "quoted phrases", the newest first.

The newest first, and not by rank: who looks for a run knows about when it was, a list can be read on, and a word that
stands in every message is found as fast as a rare one.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import StoreError, UsageError
from .rows import read_row
from .tables import has_index, offers_index
from .typed import typed_row
from .words import PLACES, first_number, mark_of, moment_of, text_of

_PART = re.compile(r'"([^"]*)"?|[^\s"]+')
_AROUND = 60
"""Characters of a snippet on each side of what was found."""
_END = 2**63 - 1
"""No message's number is as large."""
_SELECT = """
SELECT said.id AS number, said.step, said.content AS said_content, contents.json, runs.*
FROM words CROSS JOIN said CROSS JOIN runs CROSS JOIN contents
WHERE words MATCH :query AND words.rowid >= :since AND words.rowid < :until AND said.id = words.rowid
    AND runs.id = said.run AND contents.id = said.content
ORDER BY words.rowid DESC
"""


@dataclass(frozen=True, slots=True)
class Found:
    """A message that was found. One that a run holds several times is found once, where it was said last.

    Attributes:
        step: the step that said it; ``input`` and ``output`` for what the run was given and gave.
        status: of the run.
        when: when it was said, in Unix seconds.
        snippet: a piece of its text, with what was found in it.
    """

    run: str
    stack: str
    step: str
    status: str
    when: float
    snippet: str


def search(
    connection: sqlite3.Connection,
    query: str,
    *,
    stack: str | None = None,
    step: str | None = None,
    status: str | None = None,
    since: float | None = None,
    until: float | None = None,
    limit: int = 20,
) -> list[Found]:
    """The newest messages that hold every word and phrase of ``query``. Call it inside a transaction.

    Raises:
        UsageError: there is no word in the query.
        StoreError: there is no index.
    """
    wanted = parts_of(query)
    if not wanted:
        raise UsageError(
            "there is nothing to search for",
            where="the query",
            found=query[:80],
            expected='words, or "a phrase" in quotation marks',
            hint='fslm trace search refund "broken kettle"',
        )
    require_index(connection)
    asked = {
        "query": _expression(wanted, (stack, status, step)),
        "since": 0 if since is None else first_number(since),
        "until": _END if until is None else first_number(until),
    }
    found: list[Found] = []
    told: set[tuple[str, str]] = set()
    for row in connection.execute(_SELECT, asked):
        if len(found) >= limit:
            break
        run = read_row(row)
        if status not in (None, run.status) or (stack or run.stack, step or row["step"]) != (run.stack, row["step"]):
            continue
        if (run.id, row["said_content"]) in told:
            continue
        told.add((run.id, row["said_content"]))
        text = text_of(row["json"].decode("utf-8", "replace") if isinstance(row["json"], bytes) else row["json"])
        snippet = snippet_of(text, wanted)
        run = typed_row(run)
        found.append(Found(run.id, run.stack, str(row["step"]), run.status, moment_of(row["number"]), snippet))
    return found


def require_index(connection: sqlite3.Connection) -> None:
    """Raise a StoreError that says what to do where nothing can be searched."""
    if not offers_index(connection):
        raise StoreError(
            "this Python's SQLite has no full-text search (FTS5)",
            where="searching the trace",
            found=f"SQLite {sqlite3.sqlite_version}",
            hint="use a Python whose sqlite3 has it, such as those of python.org, Debian and uv",
        )
    if not has_index(connection):
        raise StoreError(
            "the trace has no index for searching yet",
            where="searching the trace",
            hint="open it once where it can be written: run any stack, or `fslm trace search` as its owner",
        )


def parts_of(query: str) -> list[str]:
    """The words and phrases of a query; whatever else stands in it is no syntax.

    >>> parts_of('refund "broken  kettle" AND* -- "')
    ['refund', 'broken  kettle', 'AND*']
    """
    clean = query.encode("utf-8", "replace").decode().replace("\0", " ")
    parts = (match[0].strip('"') for match in _PART.finditer(clean))
    return [part for part in parts if any(map(str.isalnum, part))]


def snippet_of(text: str, wanted: Sequence[str]) -> str:
    """A piece of the text around the first place where something of what was wanted stands, on one line."""
    folded, places = _folded(text)
    at, length = 0, 0
    words = [word for part in wanted for word in re.findall(r"\w+", _folded(part)[0])]
    for word in words:
        if (match := re.search(rf"(?<!\w){re.escape(word)}(?!\w)", folded)) is not None:
            at, length = places[match.start()], len(word)
            break
    start, end = max(0, at - _AROUND), min(len(text), at + length + _AROUND)
    piece = " ".join(text[start:end].split())
    return f"{'…' if start else ''}{piece}{'…' if end < len(text) else ''}"


def _expression(wanted: Sequence[str], places: Sequence[str | None]) -> str:
    """In FTS5's language, every part a phrase in quotation marks, within which nothing but those means anything."""
    words = " AND ".join(f'"{part}"' for part in wanted)
    marks = [mark_of(kind, name) for kind, name in zip(PLACES, places, strict=True) if name is not None]
    return " AND ".join([f"text : ({words})", *(f'place : "{mark}"' for mark in marks)])


def _folded(text: str) -> tuple[str, list[int]]:
    """The text without case and accents, and the place in ``text`` of each of its characters."""
    letters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        for part in unicodedata.normalize("NFKD", character).casefold():
            if not unicodedata.combining(part):
                letters.append(part)
                places.append(place)
    return "".join(letters), places


__all__ = ["Found", "parts_of", "require_index", "search", "snippet_of"]

"""The index for searching: which words stand in which message of which run.

``said`` has one row a message that can be found, ``words`` (FTS5) the words of each and where it stands. The texts are
in ``contents`` alone, once: the index keeps words and places, and whoever takes a message out of it hands it the very
words that went in. What is indexed is a message as its run's mode kept it; of shapes (``none``) nothing is.

A run is indexed once it has ended, some time after its last record was committed. ``runs.said`` is 1 from then on; a
run that lacks it, because its process was killed, because it was imported or written by an fslm that knew no index, is
indexed by whoever opens the database to write next (:func:`catch_up`). A message's number is the time it was said, so
that the newest are found first, wherever and whenever they were indexed.

:func:`text_of` must give the same text for the same JSON for ever: to change it, give the index another name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..message import CANDIDATE
from ..prompt import REDACTED
from ..stack import INPUT, OUTPUT
from .database import transaction
from .encode import from_database
from .tables import has_index, offers_index

log = logging.getLogger("fslm.store")
RUNS_AT_ONCE = 64
"""Runs that are indexed in one transaction: other writers wait a hundredth of a second or so."""
PLACES = ("s", "u", "t")
"""Before the names of stacks, statuses and steps."""
_SLOT = 4096
"""Messages of one millisecond that are told apart before the next one's numbers are used."""
_LAST_MOMENT = 253_370_764_800_000
"""Milliseconds, with the year 9999: any later time, which only damage gives, counts as this one."""
_UNSAID = """
SELECT id, stack, status, started, ended, input, output, content FROM runs
WHERE said IS NULL AND status != 'running' ORDER BY started, id LIMIT ?
"""
_NODES = "SELECT step, started, content_id FROM nodes WHERE run = ? AND content_id IS NOT NULL ORDER BY seq"
_ADD = "INSERT INTO words (rowid, text, place) VALUES (?, ?, ?)"
_TAKE = "INSERT INTO words (words, rowid, text, place) VALUES ('delete', ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class _Message:
    at: float
    run: str
    stack: str
    status: str
    step: str
    content: str


def lags(connection: sqlite3.Connection) -> bool:
    """Whether a run that has ended is not in the index."""
    return connection.execute(_UNSAID, (1,)).fetchone() is not None


def catch_up(connection: sqlite3.Connection, *, runs: int = RUNS_AT_ONCE) -> int:
    """Index some of the runs that are not indexed, the oldest first, in one transaction; return how many.

    Without an index nothing is done.
    """
    if not (has_index(connection) and offers_index(connection)):
        return 0
    with transaction(connection):
        rows = connection.execute(_UNSAID, (runs,)).fetchall()
        again = [row[0] for row in rows if _is_said(connection, row[0])]
        take(connection, again)  # it ended twice: interrupted by word, it went on all the same
        messages = [message for row in rows for message in _of_run(connection, *row)]
        _add(connection, messages)
        connection.executemany("UPDATE runs SET said = 1 WHERE id = ?", [(row[0],) for row in rows])
    return len(rows)


def index_all(connection: sqlite3.Connection) -> None:
    """Index every run that is not, a few at a time; where that fails, runs are recorded all the same."""
    try:
        while catch_up(connection):
            pass
    except (sqlite3.Error, ValueError, TypeError) as error:
        log.info("the index for searching is left behind: %s", type(error).__name__)


def take(connection: sqlite3.Connection, runs: Iterable[str]) -> None:
    """Take these runs out of the index, within the caller's transaction, before anything of them is deleted.

    Where the words that went in cannot be told any more, the whole index is emptied, and made again by and by.
    """
    if not has_index(connection):
        return
    for run in runs:
        rows = connection.execute(
            "SELECT said.id, contents.json, runs.stack, said.status, said.step FROM said"
            " LEFT JOIN contents ON contents.id = said.content LEFT JOIN runs ON runs.id = said.run"
            " WHERE said.run = ? ORDER BY said.id",
            (run,),
        ).fetchall()
        if any(json_text is None or stack is None for _, json_text, stack, _, _ in rows):
            empty(connection)
            return
        gone = [
            (number, text_of(from_database(found)), _place(stack, status, step))
            for number, found, stack, status, step in rows
        ]
        connection.executemany(_TAKE, gone)
        connection.execute("DELETE FROM said WHERE run = ?", (run,))


def empty(connection: sqlite3.Connection) -> None:
    """Empty the index, within the caller's transaction: all runs are indexed again by and by."""
    connection.execute("INSERT INTO words (words) VALUES ('delete-all')")
    connection.execute("DELETE FROM said")
    connection.execute("UPDATE runs SET said = NULL WHERE said IS NOT NULL")


def settle(connection: sqlite3.Connection) -> None:
    """Merge the index into one piece: until then the words that were taken out still stand in the older ones."""
    if has_index(connection):
        connection.execute("INSERT INTO words (words) VALUES ('optimize')")


def text_of(content: str) -> str:
    """The words of a message that can be found: every text and number among the values of its JSON.

    >>> text_of('{"text": "a [redacted] b", "n": [1, true, null], "of": {"k": "v"}}')
    'a   b\\n1\\nv'
    """
    try:
        text = "\n".join(_values(content)).replace(REDACTED, " ")
    except (ValueError, RecursionError):  # damage, which whoever reads the message is told of
        return ""
    return text.encode("utf-8", "replace").decode().replace("\0", " ")


@lru_cache(maxsize=1024)
def mark_of(kind: str, name: str) -> str:
    """A name as one word of the index, whatever stands in it; ``kind`` is one of :data:`PLACES`."""
    return kind + hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def first_number(at: float) -> int:
    """The least number of a message that was said at that moment."""
    moment = int(at * 1000) if 0 < at * 1000 < _LAST_MOMENT else 0 if not at > 0 else _LAST_MOMENT
    return moment * _SLOT


def moment_of(number: int) -> float:
    """When the message of that number was said, in Unix seconds."""
    return number // _SLOT / 1000


def _values(content: str) -> Iterator[str]:
    """Every text and number among the values of JSON data, in their order."""
    left = [json.loads(content)]
    while left:
        data = left.pop()
        if isinstance(data, dict):
            left += reversed(data.values())
        elif isinstance(data, list):
            left += reversed(data)
        elif isinstance(data, str) or (isinstance(data, int | float) and not isinstance(data, bool)):
            yield str(data)


def _of_run(
    connection: sqlite3.Connection,
    run: str,
    stack: str,
    status: str,
    started: float,
    ended: float | None,
    given: str | None,
    output: str | None,
    mode: str,
) -> Iterator[_Message]:
    """What was said in a run: its input, each step's message, and the output where no step said the same."""
    if mode == "none":
        return
    said = set()
    if given is not None:
        yield _Message(started, run, stack, status, INPUT, given)
    for step, at, content in connection.execute(_NODES, (run,)):
        if not step.endswith(CANDIDATE):  # it may end after its run
            said.add(content)
            yield _Message(at or started, run, stack, status, step, content)
    if output is not None and output not in said:
        yield _Message(ended or started, run, stack, status, OUTPUT, output)


def _add(connection: sqlite3.Connection, messages: Sequence[_Message]) -> None:
    """Number and index messages in the order of time, in which the index takes them fastest."""
    for message in sorted(messages, key=lambda message: first_number(float(message.at))):
        found = connection.execute("SELECT json FROM contents WHERE id = ?", (message.content,)).fetchone()
        text = "" if found is None else text_of(from_database(found[0]))
        if text.strip():
            number = _free(connection, first_number(float(message.at)))
            row = (number, message.run, message.step, message.status, message.content)
            connection.execute("INSERT INTO said (id, run, step, status, content) VALUES (?, ?, ?, ?, ?)", row)
            connection.execute(_ADD, (number, text, _place(message.stack, message.status, message.step)))


def _free(connection: sqlite3.Connection, first: int) -> int:
    while True:
        sql = "SELECT max(id) FROM said WHERE id >= ? AND id < ?"
        last = connection.execute(sql, (first, first + _SLOT)).fetchone()[0]
        if last is None:
            return first
        if last + 1 < first + _SLOT:
            return int(last) + 1
        first += _SLOT


def _place(stack: str, status: str, step: str) -> str:
    """Where a message stands, as words of the index: filters are looked up as words are."""
    return " ".join(
        mark_of(kind, from_database(name)) for kind, name in zip(PLACES, (stack, status, step), strict=True)
    )


def _is_said(connection: sqlite3.Connection, run: str) -> bool:
    return connection.execute("SELECT 1 FROM said WHERE run = ? LIMIT 1", (run,)).fetchone() is not None


__all__ = [
    "PLACES",
    "RUNS_AT_ONCE",
    "catch_up",
    "first_number",
    "index_all",
    "lags",
    "mark_of",
    "moment_of",
    "settle",
    "take",
    "text_of",
]

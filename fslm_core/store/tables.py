"""The tables of a trace database, and what came after version 1 of it.

``runs`` one row a run · ``nodes`` one row a step that ran or was skipped · ``attempts`` one row a try ·
``contents`` every message's JSON, equal ones once · ``blobs`` the arrays of an attempt, token by token ·
``said`` and ``words`` the index for searching (:mod:`.words`) · ``labels`` what people say of messages
(:mod:`.labels`) · ``forgetting`` runs that are being forgotten.

What a candidate gave beside a step is a row of ``nodes`` too, its ``step`` followed by ``~candidate``, with what came
of comparing the two in ``compared``; ``doubt`` has the fields that a message abstained on, and what else its labels
might have been. A run that replays another has its id in ``parent``, and its nodes say in ``past`` which messages were
taken and edited.

What is younger than version 1 is made, where it is missing, by whoever writes. An fslm that does not know it reads and
writes the rest as ever; only forgetting it is refused, for it would leave the words of the forgotten in the index: the
second column of ``forgetting`` is there to stop it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

TABLES = """
CREATE TABLE runs (
    id TEXT PRIMARY KEY, stack TEXT NOT NULL, status TEXT NOT NULL,
    started REAL NOT NULL, ended REAL, seconds REAL, seed,
    input TEXT, output TEXT, output_parents TEXT, error TEXT,
    engine TEXT NOT NULL, backend TEXT NOT NULL, fingerprints TEXT NOT NULL,
    content TEXT NOT NULL, owner TEXT NOT NULL
);
CREATE INDEX runs_started ON runs (started);
CREATE INDEX runs_stack ON runs (stack, started);
CREATE INDEX runs_running ON runs (id) WHERE status = 'running';
CREATE TABLE nodes (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
    run TEXT NOT NULL, step TEXT NOT NULL, idx INTEGER NOT NULL, attempt INTEGER NOT NULL,
    status TEXT NOT NULL, skipped_by TEXT, parents TEXT NOT NULL,
    stage TEXT, plugin TEXT, version TEXT, model TEXT, backend TEXT, tuned INTEGER, fingerprint TEXT,
    work_key TEXT, content_id TEXT, usage TEXT, confidence TEXT, narrowed TEXT,
    started REAL, seconds REAL, compared TEXT, doubt TEXT
);
CREATE INDEX nodes_run ON nodes (run, seq);
CREATE INDEX nodes_content ON nodes (content_id);
CREATE TABLE attempts (
    node TEXT NOT NULL, idx INTEGER NOT NULL, prompt TEXT, raw TEXT, raw_chars INTEGER NOT NULL,
    problems TEXT NOT NULL, usage TEXT NOT NULL, finish_reason TEXT NOT NULL, truncated INTEGER NOT NULL,
    PRIMARY KEY (node, idx)
) WITHOUT ROWID;
CREATE TABLE contents (
    id TEXT PRIMARY KEY, schema_id TEXT NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL, json TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE blobs (
    node TEXT NOT NULL, idx INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (node, idx)
) WITHOUT ROWID;
"""
FORGETTING = "CREATE TABLE forgetting (run TEXT PRIMARY KEY, words INTEGER) WITHOUT ROWID"
_SAID = (
    "CREATE TABLE said (id INTEGER PRIMARY KEY, run TEXT NOT NULL, step TEXT NOT NULL, status TEXT NOT NULL,"
    " content TEXT NOT NULL)"
)
_LABELS = (
    "CREATE TABLE labels (run TEXT NOT NULL, step TEXT NOT NULL, stage TEXT, node TEXT NOT NULL, content_id TEXT,"
    " good INTEGER NOT NULL, correction TEXT, note TEXT NOT NULL, at REAL NOT NULL,"
    " PRIMARY KEY (run, step)) WITHOUT ROWID"
)
_LATER = {"nodes": ("compared TEXT", "doubt TEXT", "past TEXT"), "runs": ("parent TEXT", "said INTEGER")}
_LATER_TABLES = {
    "said": _SAID,
    "said_run": "CREATE INDEX said_run ON said (run)",
    "runs_unsaid": "CREATE INDEX runs_unsaid ON runs (started, id) WHERE said IS NULL",
    "runs_status": "CREATE INDEX runs_status ON runs (status, started, id, stack)",
    "labels": _LABELS,
    "labels_stage": "CREATE INDEX labels_stage ON labels (stage, at)",
    "forgetting": FORGETTING,
}
_WORDS = (
    "CREATE VIRTUAL TABLE words USING fts5("
    "text, place, content='', columnsize=0, tokenize='unicode61 remove_diacritics 2')"
)


def lacks(connection: sqlite3.Connection) -> bool:
    """Whether the database lacks something that came later and can be made here."""
    return any(_missing(connection))


def complete(connection: sqlite3.Connection) -> None:
    """Make what came later where it is missing, within the caller's transaction."""
    for statement in list(_missing(connection)):  # looked at again: somebody may have made it before the lock was ours
        connection.execute(statement)


def has_index(connection: sqlite3.Connection) -> bool:
    """Whether the database has an index for searching.

    Raises:
        ValueError: it has one that is none of ours.
    """
    row = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'words'").fetchone()
    if row is not None and row[0] != _WORDS:
        raise ValueError("an index for searching that is not ours")
    return row is not None


def has_labels(connection: sqlite3.Connection) -> bool:
    """Whether the database was opened for writing by an fslm that knows labels."""
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'labels'").fetchone() is not None


def offers_index(connection: sqlite3.Connection) -> bool:
    """Whether this Python's SQLite has full-text search (FTS5)."""
    return connection.execute("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'").fetchone() is not None


def _missing(connection: sqlite3.Connection) -> Iterator[str]:
    for table, columns in {**_LATER, "forgetting": ("words INTEGER",)}.items():
        found = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        if found:
            yield from (f"ALTER TABLE {table} ADD COLUMN {c}" for c in columns if c.partition(" ")[0] not in found)
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    yield from (statement for name, statement in _LATER_TABLES.items() if name not in names)
    if "words" not in names and offers_index(connection):
        yield _WORDS


__all__ = ["FORGETTING", "TABLES", "complete", "has_index", "has_labels", "lacks", "offers_index"]

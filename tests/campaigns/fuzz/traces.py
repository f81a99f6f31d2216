"""Doors for traces from elsewhere, and for the whole command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sqlite3
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any
from unittest import mock

from pydantic import BaseModel
from rich.console import Console

from fslm_core.cli.root import EXIT_CODES, run
from fslm_core.cli.screen import as_json
from fslm_core.errors import InputError, StoreError, UnknownNameError
from fslm_core.events import AttemptFailed, MessageEmitted, RunFinished, RunStarted, StepSkipped
from fslm_core.explain.show import runs_table, show, to_json
from fslm_core.message import Attempt, Message, Origin, Problem, Skipped, TokenTrace, Usage, node_id
from fslm_core.prompt import Prompt, Span
from fslm_core.schema import content_id
from fslm_core.store import TraceStore

from . import Target
from .taking import Taken, decode, scratch

RUN = "01KAJ7Q0ZK3M8N4T5V6W7X8Y9Z"


class Said(BaseModel):
    text: str


def trace(data: bytes) -> None:
    """A trace database with foreign cells, tables, views or bytes: read and shown, or refused in our words."""
    file = scratch("trace") / "trace.db"
    taken = Taken(data)
    kind = taken.number(3)
    whole = bytearray(whole_trace())
    if kind == 0:
        for _ in range(4):
            at = taken.number(len(whole) - 1)
            patch = taken.bytes(taken.number(16))
            whole[at : at + len(patch)] = patch
    file.write_bytes(whole)
    if kind > 0:
        with contextlib.closing(sqlite3.connect(file)) as connection, suppress(sqlite3.Error):
            connection.execute("PRAGMA synchronous = OFF")
            _spoil(connection, taken, structure=kind == 1)
            connection.commit()
    look(file, taken.one_of(("last", RUN, RUN[:5], decode(taken.rest()))))


def look(file: os.PathLike[str], name: str) -> None:
    """Do all that ``fslm trace list`` and ``show`` do."""
    with suppress(StoreError, UnknownNameError, InputError), TraceStore.open(str(file), readonly=True) as store:
        rows = store.runs(20)
        stored = store.run(name)
        console = Console(file=io.StringIO(), width=80, markup=False)
        for drawing in (runs_table(rows), show(stored), show(stored, full=True)):
            console.print(drawing)
        text = as_json(to_json(stored))
        json.loads(text)
        assert isinstance(console.file, io.StringIO)
        acting = [c for c in console.file.getvalue() + text if (c < " " and c != "\n") or "\x7f" <= c <= "\x9f"]
        assert not acting, f"{acting[0]!r} is shown raw"


def _spoil(connection: sqlite3.Connection, taken: Taken, *, structure: bool) -> None:
    if structure:
        connection.execute(taken.one_of(_CHANGES))
        return
    for _ in range(taken.number(2) + 1):
        table, column = taken.one_of(_cells())
        connection.execute(f"UPDATE {table} SET {column} = ?", (_value(taken),))


def _value(taken: Taken) -> Any:
    match taken.number(8):
        case 0:
            return None
        case 1:
            return int.from_bytes(taken.bytes(8).rjust(8, b"\0"), signed=True)
        case 2:
            return struct.unpack("<d", taken.bytes(8).ljust(8, b"\0"))[0]
        case 3:
            return taken.bytes(30)
        case 4:
            return sqlite3.Binary(zlib.compress(taken.one_of(_BLOBS)))
        case 5 | 6:
            return taken.one_of(_JSON)
        case _:
            return decode(taken.bytes(40)).encode("utf-8", "replace").decode()


_JSON = (
    "null",
    "{}",
    "[]",
    "[[]]",
    "1",
    '"a"',
    '{"a": 1}',
    "[1, 2]",
    '[["user", true, null, "x", 1]]',
    '[["x", 1, 2, 3]]',
    "NaN",
    '[{"kind": "a", "text": "b"}]',
    '[{"kind": 1, "text": [], "field": {}, "source": 5}]',
    '{"prompt": "x"}',
    "[" * 3000,
    '{"prompt": 1e999, "seconds": null}',
    '{"code": 5, "what": ["\\u001b[31m"]}',
    '{"properties": 5}',
    '{"hash": 1}',
    '{"properties": {"a": {"anyOf": 5, "items": 7, "enum": 3}}}',
    '{"label": "high"}',
    '{"label": 1e999}',
    "\x1b[31m",
    "full",
    '{"seconds": -1e308, "forwards": 1.5, "queued": "\\u001b"}',
    '["\\ud800", "\\u202e"]',
    "running",
    "interrupted",
    "skipped",
)
_BLOBS = (
    b"{}",
    b"[]",
    b"null",
    b"{",
    b'{"tokens":5,"texts":5,"logprobs":5,"forced":5}',
    b"\xff",
    b'{"tokens":["a"],"texts":[1],"logprobs":["x"],"forced":"1"}',
    b'{"tokens":[],"texts":["a"],"logprobs":null,"forced":""}',
    b"[" * 100_000,
    b" " * 50_000_000,
)
_CHANGES = (
    "DROP TABLE contents",
    "DROP TABLE nodes",
    "ALTER TABLE runs DROP COLUMN seed",
    "PRAGMA user_version = 9",
    "PRAGMA user_version = -3",
    "ALTER TABLE nodes RENAME COLUMN seq TO x",
    "PRAGMA application_id = 5",
    "ALTER TABLE attempts RENAME TO other",
    "DROP TABLE blobs",
    "CREATE VIEW v AS SELECT 1",
    "CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM runs; END",
    "DELETE FROM runs",
    "ALTER TABLE runs ADD COLUMN more",
    "UPDATE runs SET id = id || char(27)",
    "DELETE FROM contents",
)


@cache
def whole_trace() -> bytes:
    """A database of one run with everything in it: a prompt, tries, scores, a skipped step, an error."""
    file = scratch("whole") / "trace.db"
    usage = Usage(20, 15, 4, 3, 2, 0.01, 0.1, 0.2, 0.31)
    prompt = Prompt((Span("Say.", "system"), Span("hello", "user", False, "text")))
    bad = Attempt(0, prompt, "{", (Problem("json", "not JSON", "text", "fslm-no"),), usage, finish_reason="length")
    tokens = TokenTrace((1, 2), ('{"text":', '"a"}'), (0.0, -0.1), (True, False))
    good = Attempt(1, prompt, '{"text":"a"}', (), usage, tokens, truncated=2)
    origin = Origin("a.say", "fslm-a", "1", "smollm2-135m", "torch", False, "0" * 64, Said, Said)
    said = Said(text="hello")
    started = Message("input", said, node_id(RUN, "input"), content_id(said))
    say = Message(
        "say",
        said,
        node_id(RUN, "say"),
        content_id(said),
        "0" * 64,
        (started.node_id,),
        (bad, good),
        usage,
        {"text": 0.9},
        origin,
        {"properties": {"text": {"enum": ["a", None]}}},
        1e9,
    )
    with TraceStore.open(file, content="full") as store:
        recorder = store.recorder()
        for event in (
            RunStarted(RUN, "a", started, 7, 1e9, "torch", {"say": "0" * 64}),
            AttemptFailed(RUN, "other", node_id(RUN, "other"), bad, origin, (started.node_id,), 1e9),
            MessageEmitted(RUN, say),
            StepSkipped(RUN, Skipped("no", node_id(RUN, "no"), "say.text == 'b'")),
            RunFinished(RUN, "a", "failed", 1e9 + 1, 0.5, None, InputError("bad", where="here", found="x")),
        ):
            recorder.record_sync(event)
        recorder.flush()
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    return file.read_bytes()


@cache
def _cells() -> tuple[tuple[str, str], ...]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(whole_trace())
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        tables = [name for (name,) in names]
        return tuple((table, row[1]) for table in tables for row in connection.execute(f"PRAGMA table_info({table})"))


def command(data: bytes) -> None:
    """The command line itself, in this process: an exit code of ours, no traceback, nothing a terminal obeys."""
    taken = Taken(data)
    home = scratch("home")
    args = [taken.one_of(_VERBS) if taken.number(7) else taken.text(9)]
    args += [taken.one_of((*_ARGUMENTS, taken.text(30))) for _ in range(taken.number(4))]
    (home / "rows.jsonl").write_bytes(taken.one_of((b'{"text": "a"}\n"b"\n{\n', taken.bytes(60))))
    (home / "out.jsonl").unlink(missing_ok=True)
    (home / "trace.db").write_bytes(whole_trace())
    piped = taken.rest()
    args = [_as_typed(argument) for argument in args]
    with _at(home, piped) as (out, err):
        code = run(args)
    shown = out.getvalue() + err.getvalue()
    assert code in EXIT_CODES and code != 70, f"exit code {code} of {args}: {err.getvalue()[-800:]}"
    assert "Traceback" not in shown
    acting = [c for c in shown if (c < " " and c != "\n") or "\x7f" <= c <= "\x9f" or c in "\u202e\u2066"]
    assert not acting, f"{acting[0]!r} is shown raw by {args}"


def _as_typed(argument: str) -> str:
    """As the shell would hand it over: no NUL, and bytes that are no UTF-8 as surrogates of their own kind."""
    raw = argument.replace("\0", "").encode("utf-8", "surrogatepass")
    return os.fsdecode(raw)


_VERBS = ("run", "batch", "check", "list", "plugins", "models", "trace", "train", "doctor")
_ARGUMENTS = (
    "echo",
    "-",
    "--json",
    "rows.jsonl",
    "--out",
    "out.jsonl",
    "--force",
    "list",
    "show",
    "last",
    "--full",
    "--limit",
    "--seed",
    "1",
    "99999999999999999999999",
    "--timeout",
    "nan",
    "--stack",
    "--status",
    "smollm2-135m",
    "path",
    "verify",
    "--strict",
    "hf:a/b@c",
    '{"text": "a"}',
    "\x1b[31m",
    "\udcff",
    "--",
    "--set",
    "a=1",
    "recipe.toml",
    "--help",
    "--debug",
    RUN[:3],
    "/",
)


@contextlib.contextmanager
def _at(home: os.PathLike[str], piped: bytes) -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """A machine with the echo plugin alone, no network, and pipes for a terminal."""
    out, err, place = io.StringIO(), io.StringIO(), str(home)
    variables = {
        "FSLM_CONFIG": f"{place}/fslm.toml",
        "FSLM_TRACE__PATH": f"{place}/trace.db",
        "FSLM_DATA_DIR": place,
        "FSLM_CACHE_DIR": f"{place}/cache",
        "FSLM_PLUGINS": "echo",
        "FSLM_OFFLINE": "1",
        "COLUMNS": "100",
    }
    before = os.getcwd()
    os.chdir(home)
    try:
        with (
            mock.patch.dict(os.environ, variables),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped))),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            yield out, err
    finally:
        os.chdir(before)


def _command_seeds() -> list[bytes]:
    return [
        bytes([1, verb, 3, *arguments]) + b"\0" * 8
        for verb in range(9)
        for arguments in ((0, 1, 2, 3), (7, 9, 30, 5), (8, 31))
    ]


def _trace_seeds() -> list[bytes]:
    cells = len(_cells())
    return [
        *(bytes([2, 0, cell, 5, value]) for cell in range(cells) for value in (0, 3, 4, 9, 14, 19)),
        *(bytes([2, 0, cell, 4, value]) for cell in range(cells - 6, cells) for value in range(len(_BLOBS))),
        *(bytes([2, 0, cell, 2]) + struct.pack("<d", float("inf")) for cell in range(cells)),
        *(bytes([1, change]) for change in range(len(_CHANGES))),
        b"\0\0\x10\x08\xff\xff\xff\xff",
        b"\3",
        b"\2",
    ]


TARGETS = (
    Target("trace", trace, _trace_seeds, (b"\x1b[31m", b"{}", b"last"), slow=True),
    Target("command", command, _command_seeds, (b"\x1b[31m", b"--json", b"\xff", b'{"text": 1}'), slow=True),
)

__all__ = ["RUN", "TARGETS", "look", "whole_trace"]

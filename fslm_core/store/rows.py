"""A stored run as typed values, and how rows become them. No plugin is needed to read one."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from ..message import CANDIDATE, Problem, TokenTrace, Usage
from ..prompt import Prompt, Role, Span
from .encode import from_database, unpack
from .keep import ContentMode
from .labels import Label, read_labels
from .owner import is_gone

_NODE = "SELECT * FROM nodes WHERE id = ? AND run = ?"


@dataclass(frozen=True, slots=True)
class RunRow:
    """One line about a run.

    Attributes:
        status: ``running``, ``succeeded``, ``failed``, ``cancelled``, ``review`` or ``interrupted``.
        started: Unix seconds; so is ``ended``, which is None while a run goes on and where it was interrupted.
        content: what was kept of it: ``full``, ``redacted`` or ``none``.
        error: the error's code and texts, or None.
        engine: the version of fslm-core that ran it.
        parent: the id of the run that it replays, or None.
    """

    id: str
    stack: str
    status: str
    started: float
    ended: float | None
    seconds: float | None
    seed: int
    content: ContentMode
    backend: str
    engine: str
    error: dict[str, Any] | None
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class StoredContent:
    """A message as it was kept.

    Attributes:
        kind: ``full``: ``data`` is the message; ``redacted``: with ``[redacted]`` in places; ``none``: ``data``
            is its shape, types and lengths in place of values.
        model: the name of its pydantic model, which need not be installed any more.
        json: the text of ``data``; canonical where ``kind`` is ``full``.
    """

    id: str
    schema_id: str
    model: str
    kind: ContentMode
    json: str

    @property
    def data(self) -> Any:
        """The JSON data."""
        return json.loads(self.json)


@dataclass(frozen=True, slots=True)
class StoredSpan:
    """A piece of a prompt; ``text`` is None where no text was kept, ``chars`` is its length all the same."""

    text: str | None
    role: Role
    static: bool
    field: str | None
    chars: int


@dataclass(frozen=True, slots=True)
class StoredAttempt:
    """One try. ``spans`` is None for a tool; ``raw`` is None where no text was kept, ``raw_chars`` its length.

    Where token texts were not kept, ``tokens`` still has its scores and its forced mask. ``runners_up`` has for each
    token the text of the second likeliest (None where it was not kept) and its log-probability, None where there was no
    choice; it is empty where the backend does not tell, and in what was recorded before fslm kept it.
    """

    index: int
    spans: tuple[StoredSpan, ...] | None
    raw: str | None
    raw_chars: int
    problems: tuple[Problem, ...]
    usage: Usage
    finish_reason: str
    truncated: int
    tokens: TokenTrace | None
    runners_up: tuple[tuple[str | None, float] | None, ...] = ()

    @property
    def prompt(self) -> Prompt | None:
        """The prompt, or None for a tool and where its text was not kept."""
        if self.spans is None:
            return None
        spans = [Span(s.text, s.role, s.static, s.field) for s in self.spans if s.text is not None]
        return Prompt(tuple(spans)) if len(spans) == len(self.spans) else None


@dataclass(frozen=True, slots=True)
class StoredNode:
    """One step of a run: ``ok``, ``failed``, or ``skipped`` by the expression in ``when``.

    Or a candidate beside one, ``step`` being the step's name: ``ok``, ``failed``, ``cancelled``, or ``skipped`` because
    there was no room for it.

    Attributes:
        same: of a candidate: whether it said what the step said; None where one of them gave no message.
        agreed: of a candidate: the same field by field.
        abstained: the fields the message was not sure enough of.
        alternatives: for those, and for other fields of labels with a confidence below 0.99, labels and probability.
        reused: the node of an earlier run that the message was taken from; empty where it was made.
        edited: the fields that somebody changed in it.
    """

    id: str
    run: str
    step: str
    index: int
    attempt: int
    status: str
    when: str | None
    parents: tuple[str, ...]
    stage: str | None
    plugin: str | None
    version: str | None
    model: str | None
    backend: str | None
    tuned: bool
    fingerprint: str
    work_key: str
    content: StoredContent | None
    usage: Usage
    confidence: dict[str, float] | None
    narrowed: dict[str, Any] | None
    started: float | None
    seconds: float | None
    attempts: tuple[StoredAttempt, ...]
    same: bool | None = None
    agreed: dict[str, bool] | None = None
    abstained: tuple[str, ...] = ()
    alternatives: dict[str, tuple[tuple[Any, float], ...]] = field(default_factory=dict)
    reused: str = ""
    edited: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredRun:
    """All that is kept of a run.

    Attributes:
        nodes: in the order they ended.
        shadows: the candidates that ran beside them.
        labels: what people say of its messages, by step.
    """

    row: RunRow
    input: StoredContent | None
    output: StoredContent | None
    output_parents: tuple[str, ...]
    fingerprints: dict[str, str]
    nodes: tuple[StoredNode, ...]
    shadows: tuple[StoredNode, ...] = ()
    labels: dict[str, Label] = field(default_factory=dict)


def read_row(row: sqlite3.Row) -> RunRow:
    """A row of ``runs``; one whose process is gone is ``interrupted``, whatever the file still says."""
    lost = row["status"] == "running" and is_gone(row["owner"])
    return RunRow(
        id=row["id"],
        stack=row["stack"],
        status="interrupted" if lost else row["status"],
        started=float(row["started"]),
        ended=_number(row["ended"]),
        seconds=_number(row["seconds"]),
        seed=int(row["seed"] or 0),
        content=_kind(row["content"]),
        backend=row["backend"],
        engine=row["engine"],
        error=_json(row["error"]),
        parent=_column(row, "parent"),
    )


def read_run(connection: sqlite3.Connection, row: sqlite3.Row, nodes: Collection[str] | None = None) -> StoredRun:
    """Everything that belongs to a row of ``runs``, or of its nodes only those named. Call it inside a transaction."""
    if nodes is None:
        rows = connection.execute("SELECT * FROM nodes WHERE run = ? ORDER BY seq", (row["id"],)).fetchall()
    else:
        named = (connection.execute(_NODE, (node, row["id"])).fetchone() for node in nodes)
        rows = sorted((node for node in named if node is not None), key=lambda node: int(node["seq"]))
    return StoredRun(
        row=read_row(row),
        input=read_content(connection, row["input"]),
        output=read_content(connection, row["output"]),
        output_parents=tuple(_json(row["output_parents"]) or ()),
        fingerprints=_json(row["fingerprints"]) or {},
        nodes=tuple(_node(connection, node) for node in rows if not node["step"].endswith(CANDIDATE)),
        shadows=tuple(_shadow(connection, node) for node in rows if node["step"].endswith(CANDIDATE)),
        labels={label.step: label for label in read_labels(connection, row["id"])},
    )


def read_content(connection: sqlite3.Connection, content_id: str | None) -> StoredContent | None:
    """The content of that id, or None."""
    row = connection.execute("SELECT * FROM contents WHERE id = ?", (content_id,)).fetchone()
    if row is None:
        return None
    content = StoredContent(
        row["id"], row["schema_id"], row["model"], _kind(row["kind"]), from_database(row["json"]) or "null"
    )
    json.loads(content.json)  # damage is told here, where it is known what was read
    return content


def _node(connection: sqlite3.Connection, row: sqlite3.Row) -> StoredNode:
    attempts = connection.execute(
        "SELECT a.*, b.data FROM attempts a LEFT JOIN blobs b ON b.node = a.node AND b.idx = a.idx"
        " WHERE a.node = ? ORDER BY a.idx",
        (row["id"],),
    )
    tries = tuple(map(_attempt, attempts))
    usage = _usage(row["usage"])
    doubt, past = _later(row, "doubt"), _later(row, "past")
    if row["status"] == "failed":  # its tries were told one by one, and no message ever summed them up
        usage = sum((t.usage for t in tries), Usage())
    return StoredNode(
        id=row["id"],
        run=row["run"],
        step=row["step"],
        index=row["idx"],
        attempt=row["attempt"],
        status=row["status"],
        when=from_database(row["skipped_by"]),
        parents=tuple(_json(row["parents"])),
        stage=row["stage"],
        plugin=row["plugin"],
        version=row["version"],
        model=row["model"],
        backend=row["backend"],
        tuned=row["tuned"] != 0,
        fingerprint=row["fingerprint"] or "",
        work_key=row["work_key"] or "",
        content=read_content(connection, row["content_id"]),
        usage=usage,
        confidence=_json(row["confidence"]),
        narrowed=_json(row["narrowed"]),
        started=_number(row["started"]),
        seconds=usage.seconds if row["status"] == "failed" else _number(row["seconds"]),
        attempts=tries,
        abstained=tuple(doubt.get("fields", ())),
        alternatives={name: tuple(map(tuple, pairs)) for name, pairs in doubt.get("alternatives", {}).items()},
        reused=past.get("reused", ""),
        edited=tuple(past.get("edited", ())),
    )


def _shadow(connection: sqlite3.Connection, row: sqlite3.Row) -> StoredNode:
    compared = _later(row, "compared")
    return replace(
        _node(connection, row),
        step=row["step"].removesuffix(CANDIDATE),
        same=compared.get("same"),
        agreed=compared.get("fields"),
    )


def _later(row: sqlite3.Row, column: str) -> dict[str, Any]:
    """What stands in a column that a database of before does not have."""
    return dict(_json(_column(row, column)) or {})


def _column(row: sqlite3.Row, column: str) -> str | None:
    """The text in a column, None where a database of before does not have it."""
    return from_database(row[column]) if column in row.keys() else None  # noqa: SIM118 (a row's keys)


def _attempt(row: sqlite3.Row) -> StoredAttempt:
    spans = _json(row["prompt"])
    arrays = None if row["data"] is None else unpack(row["data"])
    return StoredAttempt(
        index=row["idx"],
        spans=None if spans is None else tuple(StoredSpan(t, r, s, f, n) for r, s, f, t, n in spans),
        raw=from_database(row["raw"]),
        raw_chars=row["raw_chars"],
        problems=tuple(Problem(**p) for p in _json(row["problems"])),
        usage=_usage(row["usage"]),
        finish_reason=row["finish_reason"],
        truncated=row["truncated"],
        tokens=None if arrays is None else _tokens(arrays),
        runners_up=() if arrays is None else _runners(arrays),
    )


def _tokens(data: dict[str, Any]) -> TokenTrace:
    logprobs = data["logprobs"]
    return TokenTrace(
        tokens=tuple(data["tokens"]),
        texts=tuple(data["texts"]),
        logprobs=None if logprobs is None else tuple(logprobs),
        forced=tuple(mark == "1" for mark in data["forced"]),
    )


def _runners(data: dict[str, Any]) -> tuple[tuple[str | None, float] | None, ...]:
    """For each token what would have stood in its place; nothing in a blob of before."""
    if not (found := {place: (text, chance) for place, text, chance in data.get("runners", ())}):
        return ()
    if not found.keys() <= set(range(len(data["forced"]))):
        raise ValueError("a runner-up of no token")
    return tuple(found.get(place) for place in range(len(data["forced"])))


def _kind(value: Any) -> ContentMode:
    if value not in get_args(ContentMode):
        raise ValueError(f"no such kind of content: {value!r}")
    return value  # type: ignore[no-any-return]


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _usage(text: str | None) -> Usage:
    return Usage(**(_json(text) or {}))


def _json(text: str | bytes | None) -> Any:
    plain = from_database(text)
    return None if plain is None else json.loads(plain)


__all__ = [
    "RunRow",
    "StoredAttempt",
    "StoredContent",
    "StoredNode",
    "StoredRun",
    "StoredSpan",
    "read_content",
    "read_row",
    "read_run",
]

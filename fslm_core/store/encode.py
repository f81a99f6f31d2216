"""From events to statements: what each event writes, in the words of the tables."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeAlias

from ..events import (
    AttemptFailed,
    Event,
    MessageEmitted,
    RunFinished,
    RunStarted,
    ShadowDrawn,
    ShadowFinished,
    StepSkipped,
)
from ..message import CANDIDATE, Attempt, Message, Origin, Skipped, Usage
from ..shapes import alternatives_of
from .keep import ContentMode, Keeper, KeptContent, keeper
from .privacy import Key

Value: TypeAlias = str | bytes | int | float | None
Statement: TypeAlias = tuple[str, tuple[Value, ...]]

_LARGEST = 2**63 - 1
_WINDOW = 12
_MAX_UNPACKED = 64 << 20
"""Bytes of one attempt's arrays."""
_SURE, _OTHERS, _LEAST = 0.99, 5, 0.001
"""Below this confidence a field's other labels are kept: so many at most, each at least that likely."""
_BARE = Origin(stage="")
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class Encoder:
    """Turns the events of many runs into statements. Safe to call from any thread.

    Args:
        mode: what is kept.
        key: the store's own, for every mode but ``full``.
        engine: the version that stands in ``runs.engine``.
        owner: the process that stands in ``runs.owner``.
    """

    def __init__(self, mode: ContentMode, key: Key | None, *, engine: str, owner: str) -> None:
        self.mode: ContentMode = mode
        self._key = key
        self._engine = engine
        self._owner = owner
        self._keepers: dict[str, Keeper] = {}
        self._beside: dict[str, set[str]] = {}
        """Candidates that are to be told yet, by run: what is sensitive in a run is known as long as there are any."""
        self._failing: set[str] = set()
        """Runs that have told of a failed try."""
        self._lock = threading.Lock()

    def encode(self, event: Event) -> list[Statement]:
        """The statements that record ``event``, in order; none for an event that is not kept.

        Raises:
            SchemaError: a content that cannot be written as JSON.
        """
        match event:
            case RunStarted():
                with self._lock:
                    kept = self._keepers[event.run] = keeper(self.mode, self._key)
                return self._started(event, kept)
            case MessageEmitted():
                return self._emitted(event, self._keeper(event.run))
            case AttemptFailed():
                return self._failed(event, self._keeper(event.run))
            case StepSkipped():
                return [_skipped(event.run, event.skipped)]
            case RunFinished():
                statements = self._finished(event, self._keeper(event.run))
                with self._lock:
                    self._failing.discard(event.run)
                    if event.run not in self._beside:
                        self._keepers.pop(event.run, None)
                return statements
            case ShadowDrawn():
                with self._lock:
                    self._beside.setdefault(event.run, set()).add(event.node_id)
                return []
            case ShadowFinished():
                return self._shadowed(event)
            case _:
                return []

    def _keeper(self, run: str) -> Keeper:
        with self._lock:
            return self._keepers.get(run) or keeper(self.mode, self._key)

    def _started(self, event: RunStarted, kept: Keeper) -> list[Statement]:
        kept.begin(event.input, event.marks)
        content = kept.content(event.input)
        row: dict[str, Value] = {
            "id": event.run,
            "stack": event.stack,
            "status": "running",
            "started": event.at,
            "seed": event.seed if abs(event.seed) <= _LARGEST else str(event.seed),
            "input": content.id,
            "engine": self._engine,
            "backend": event.backend,
            "fingerprints": to_json(event.fingerprints),
            "content": self.mode,
            "owner": self._owner,
            "parent": event.parent or None,
        }
        return [_content(content), _insert("INSERT", "runs", row)]

    def _emitted(self, event: MessageEmitted, kept: Keeper) -> list[Statement]:
        message = event.message
        kept.see(message.origin, failed=False)
        content = kept.content(message)
        row = {
            **_node(event.run, message.node_id, message.step, message.parents, message.started),
            **_made_by(message.origin),
            "status": "ok",
            "work_key": kept.name(message.work_key),
            "content_id": content.id,
            "usage": _usage(message.usage),
            "confidence": _or_none(kept.confidence(message)),
            "narrowed": _or_none(kept.narrowed(message)),
            "doubt": _or_none(_doubt(message, kept)),
            "past": _or_none(_past(message)),
            "seconds": message.usage.seconds,
        }
        tries = _attempts(message, kept, content)
        failures = _forget_failures(row) if event.run in self._failing else ()
        return [*failures, _content(content), _insert("INSERT OR REPLACE", "nodes", row), *tries]

    def _failed(self, event: AttemptFailed, kept: Keeper) -> list[Statement]:
        kept.see(event.origin, failed=True)
        self._failing.add(event.run)
        row = {
            **_node(event.run, event.node_id, event.step, event.parents, event.started),
            **_made_by(event.origin),
            "status": "failed",
            "usage": _usage(event.attempt.usage),
            "seconds": event.attempt.usage.seconds,
        }
        return [_insert("INSERT OR REPLACE", "nodes", row), *_attempt(event, event.attempt, kept, None)]

    def _shadowed(self, event: ShadowFinished) -> list[Statement]:
        kept = self._keeper(event.run)
        try:
            return [_if_there(event.run, statement) for statement in self._candidate(event, kept)]
        finally:
            with self._lock:
                left = self._beside.get(event.run, set())
                left.discard(event.node_id)
                if not left and self._beside.pop(event.run, None) is not None:
                    self._keepers.pop(event.run, None)

    def _candidate(self, event: ShadowFinished, kept: Keeper) -> list[Statement]:
        """Its content is kept as the step's would be: a message's marks are those of its step."""
        usage = sum((attempt.usage for attempt in event.attempts), Usage())
        kept.see(event.origin, failed=event.message is None)
        row: dict[str, Value] = {
            **_node(event.run, event.node_id, f"{event.step}{CANDIDATE}", event.parents, event.started),
            **_made_by(event.origin),
            "status": event.status,
            "usage": _usage(usage),
            "seconds": usage.seconds,
            "compared": to_json({"same": event.same, "fields": event.fields}),
        }
        if event.message is None:
            source = AttemptFailed(event.run, event.step, event.node_id, Attempt(0, None, ""), event.origin)
            tries = [part for attempt in event.attempts for part in _attempt(source, attempt, kept, None)]
            return [_insert("INSERT OR REPLACE", "nodes", row), *tries]
        content = kept.content(event.message)
        row |= {
            "content_id": content.id,
            "confidence": _or_none(kept.confidence(event.message)),
            "narrowed": _or_none(kept.narrowed(event.message)),
            "doubt": _or_none(_doubt(event.message, kept)),
        }
        tries = _attempts(event.message, kept, content)
        return [_content(content), _insert("INSERT OR REPLACE", "nodes", row), *tries]

    def _finished(self, event: RunFinished, kept: Keeper) -> list[Statement]:
        statements = []
        changes: dict[str, Value] = {
            "stack": event.stack,
            "status": event.status,
            "ended": event.at,
            "seconds": event.seconds,
            "error": None if event.error is None else to_json(kept.error(event.error)),
            "said": None,  # what it said is to be indexed, again too where it went on after an end
        }
        if event.output is not None:
            content = kept.content(event.output)
            statements.append(_content(content))
            changes |= {"output": content.id, "output_parents": to_json(event.output.parents)}
        start: dict[str, Value] = {  # for a run whose beginning was lost
            "id": event.run,
            "started": event.at - event.seconds,
            "engine": self._engine,
            "backend": "",
            "fingerprints": "{}",
            "content": self.mode,
            "owner": self._owner,
        }
        sql, values = _insert("INSERT", "runs", {**start, **changes})
        kept_columns = ", ".join(f"{name} = excluded.{name}" for name in changes)
        return [*statements, (f"{sql} ON CONFLICT (id) DO UPDATE SET {kept_columns}", values)]


def _node(run: str, node: str, step: str, parents: tuple[str, ...], started: float) -> dict[str, Value]:
    index, attempt = _place(node)
    return {
        "id": node,
        "run": run,
        "step": step,
        "idx": index,
        "attempt": attempt,
        "parents": to_json(parents),
        "started": started,
    }


def _place(node: str) -> tuple[int, int]:
    """The index and attempt that a node's name ends in; zeros for a name that is made otherwise."""
    parts = node.rsplit("/", 2)[1:]
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 and all(p.isdecimal() for p in parts) else (0, 0)


def _made_by(origin: Origin | None) -> dict[str, Value]:
    made = origin or _BARE
    return {
        "stage": made.stage or None,
        "plugin": made.plugin,
        "version": made.version,
        "model": made.model,
        "backend": made.backend,
        "tuned": int(made.tuned),
        "fingerprint": made.fingerprint,
    }


def _skipped(run: str, skipped: Skipped) -> Statement:
    row = _node(run, skipped.node_id, skipped.step, skipped.parents, 0.0)
    row |= {"started": None, "status": "skipped", "skipped_by": skipped.when}
    return _insert("INSERT OR REPLACE", "nodes", row)


def _forget_failures(row: Mapping[str, Value]) -> list[Statement]:
    """A step that got there after all tells of its failed tries itself.

    They are looked for by their names alone, which differ in the last part: a run may have thousands of nodes.
    """
    place = str(row["id"]).rpartition("/")[0]
    those = "id > ? AND id < ? AND +run = ? AND step = ? AND idx = ? AND status = 'failed'"
    values = (f"{place}/", f"{place}0", row["run"], row["step"], row["idx"])  # in ASCII, 0 follows the stroke
    failed = f"SELECT id FROM nodes WHERE {those}"
    return [
        (f"DELETE FROM blobs WHERE node IN ({failed})", values),
        (f"DELETE FROM attempts WHERE node IN ({failed})", values),
        (f"DELETE FROM nodes WHERE {those}", values),
    ]


def _content(content: KeptContent) -> Statement:
    return _insert("INSERT OR IGNORE", "contents", {name: getattr(content, name) for name in KeptContent.__slots__})


def _doubt(message: Message[Any], kept: Keeper) -> dict[str, Any] | None:
    """What a message abstained on, and what else its labels might have been.

    That is worked out here, while the labels are known: a trace is read without the plugin that has them.
    """
    others = dict(message.alternatives)
    for name, sure in (message.confidence or {}).items():
        if sure < _SURE and name not in others:
            likely = [pair for pair in alternatives_of(message, name)[:_OTHERS] if pair[1] >= _LEAST]
            others |= {name: tuple(likely)} if likely else {}
    told = kept.alternatives(replace(message, alternatives=others)) if others else {}
    if not message.abstained and not told:
        return None
    pairs = {name: [list(pair) for pair in found] for name, found in told.items()}
    return {"fields": list(message.abstained), "alternatives": pairs}


def _past(message: Message[Any]) -> dict[str, Any] | None:
    """Which message of an earlier run it was taken from, and the fields that were edited; names alone."""
    if not message.reused and not message.edited:
        return None
    return {"reused": message.reused, "edited": list(message.edited)}


def _attempts(message: Message[Any], kept: Keeper, content: KeptContent) -> list[Statement]:
    """Every try at a message, the last of which gave it."""
    last = len(message.attempts) - 1
    return [
        statement
        for place, attempt in enumerate(message.attempts)
        for statement in _attempt(message, attempt, kept, content if place == last else None)
    ]


def _attempt(
    source: Message[Any] | AttemptFailed, attempt: Attempt, keeper: Keeper, content: KeptContent | None
) -> list[Statement]:
    kept = keeper.attempt(attempt, source, content)
    row: dict[str, Value] = {
        "node": source.node_id,
        "idx": attempt.index,
        "prompt": _or_none(kept.prompt),
        "raw": kept.raw,
        "raw_chars": len(attempt.raw),
        "problems": to_json(kept.problems),
        "usage": _usage(attempt.usage),
        "finish_reason": attempt.finish_reason,
        "truncated": attempt.truncated,
    }
    statements = [_insert("INSERT OR REPLACE", "attempts", row)]
    if kept.tokens is not None:
        blob: dict[str, Value] = {"node": source.node_id, "idx": attempt.index, "data": pack(kept.tokens)}
        statements.append(_insert("INSERT OR REPLACE", "blobs", blob))
    return statements


def _usage(usage: Usage) -> str:
    return to_json({name: getattr(usage, name) for name in Usage.__slots__})


def _insert(verb: str, table: str, row: Mapping[str, Value]) -> Statement:
    values = tuple([to_database(v) if isinstance(v, str) else v for v in row.values()])
    return _insertion(verb, table, tuple(row)), values


@lru_cache(maxsize=64)
def _insertion(verb: str, table: str, columns: tuple[str, ...]) -> str:
    marks = ", ".join("?" * len(columns))
    return f"{verb} INTO {table} ({', '.join(columns)}) VALUES ({marks})"


def _if_there(run: str, statement: Statement) -> Statement:
    """An insertion that is done only while the run is in the database: it may have been forgotten meanwhile."""
    sql, values = statement
    head, _, marks = sql.rpartition(" VALUES ")
    return f"{head} SELECT {marks.strip('()')} WHERE EXISTS (SELECT 1 FROM runs WHERE id = ?)", (*values, run)


def to_database(text: str) -> str | bytes:
    """Text as sqlite takes it: a lone surrogate is no UTF-8, and such text goes in as bytes."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def from_database(value: Any) -> Any:
    """What :func:`to_database` was given; anything that is no text as it is."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def to_json(data: object) -> str:
    """Compact JSON."""
    return _COMPACT.encode(data)


def _or_none(data: object) -> str | None:
    return None if data is None else to_json(data)


def pack(data: Mapping[str, Any]) -> bytes:
    """JSON data as a blob: compressed, and readable by anything that knows zlib and JSON."""
    small = zlib.compressobj(
        level=1, wbits=_WINDOW, memLevel=5
    )  # the usual buffers cost more than the few bytes in them
    return small.compress(json.dumps(data, separators=(",", ":")).encode("ascii")) + small.flush()


def unpack(blob: bytes) -> dict[str, Any]:
    """What :func:`pack` packed.

    Raises:
        ValueError: it was not packed so, or is larger than any attempt's arrays.
        zlib.error: it was not packed at all.
    """
    unpacking = zlib.decompressobj()
    raw = unpacking.decompress(blob, _MAX_UNPACKED)
    if unpacking.unconsumed_tail:
        raise ValueError(f"a blob of more than {_MAX_UNPACKED >> 20} MiB")
    data: dict[str, Any] = json.loads(raw)
    return data


__all__ = ["Encoder", "Statement", "from_database", "pack", "to_database", "to_json", "unpack"]

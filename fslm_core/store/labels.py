"""What people say of messages: right, wrong, or what would have been right.

A message has one label, the newest; what was said of it before is gone. Labels go where their run goes: they are
exported and imported with it, and forgotten with it. Of a run that was not kept in full no words are kept here either.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from ..errors import FslmError, InputError, UnknownNameError, UsageError
from ..message import CANDIDATE, plain_path
from ..schema import Schema, dumps, plain_data
from ..stack import Stack, places
from ..stage import Stage
from .edits import read, require_writable, unknown_step
from .encode import from_database, to_database
from .tables import has_labels

_COLUMNS = ("run", "step", "stage", "node", "content_id", "good", "correction", "note", "at")
_SELECT = "SELECT labels.*, runs.stack AS stack FROM labels CROSS JOIN runs ON runs.id = labels.run"
_PUT = f"INSERT OR REPLACE INTO labels ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)})"
_STANDS_FOR = (
    "SELECT * FROM nodes WHERE run = ? AND step = ? ORDER BY status = 'ok' DESC, status = 'skipped', seq DESC LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class Label:
    """What somebody said of a message.

    Attributes:
        step: the path of the step that said it, or that should have said something and failed.
        stage: what stands at the step; None where it was not recorded.
        node: the message's, or the failed try's.
        content_id: of the message; None where the step failed.
        right: whether the message is right.
        correction: what would have been right, whole; None where nobody wrote it.
        note: anything else that was said.
        when: Unix seconds.
    """

    run: str
    stack: str
    step: str
    stage: str | None
    node: str
    content_id: str | None
    right: bool
    correction: dict[str, Any] | None
    note: str
    when: float


_LABEL = TypeAdapter(Label)
_LATEST = 253_370_764_800.0
"""Unix seconds, with the year 9999."""


def read_labels(
    connection: sqlite3.Connection,
    run: str | None = None,
    *,
    stage: str | None = None,
    stack: str | None = None,
    limit: int | None = None,
) -> list[Label]:
    """The labels of a run, a stage or a stack, the newest first. Call it inside a transaction."""
    if not has_labels(connection):
        return []
    asked = {"labels.run": run, "labels.stage": stage, "runs.stack": stack}
    given = {column: value for column, value in asked.items() if value is not None}
    wanted = " AND ".join(f"{column} = ?" for column in given) or "TRUE"
    sql = f"{_SELECT} WHERE {wanted} ORDER BY labels.at DESC, labels.run DESC, labels.step LIMIT ?"
    return [_label(row) for row in connection.execute(sql, (*given.values(), -1 if limit is None else limit))]


def put_label(
    connection: sqlite3.Connection,
    run: sqlite3.Row,
    step: str,
    *,
    right: bool | None,
    correction: Mapping[str, Any] | None,
    note: str,
    stack: Stack[Any, Any] | None,
) -> Label:
    """Label what a step said, within the caller's transaction; see :meth:`~.store.TraceStore.label`.

    Args:
        run: its row.
    """
    where = f"run {run['id']}, step {step}"
    if (right is None) == (correction is None):
        raise UsageError(
            "a label says right, wrong, or what would have been right, and one of them only",
            where=where,
            hint="label(run, step, right=True), right=False, or correction={…}",
        )
    if run["content"] != "full" and (correction is not None or note):
        raise UsageError(
            "the run was not kept in full, so no words are kept of what was right either",
            where=where,
            found=f"kept as {run['content']}",
            expected="right or wrong, without a correction and without a note",
            hint="correct a run that is kept with trace.content = 'full'",
        )
    node = _node(connection, run["id"], step)
    if node["status"] != "ok":
        _require_fixable(node, run, correction, where)
    label = Label(
        run=node["run"],
        stack=run["stack"],
        step=node["step"],
        stage=node["stage"],
        node=node["id"],
        content_id=node["content_id"],
        right=bool(right),
        correction=None if correction is None else _checked(connection, node, correction, stack, where),
        note=note,
        when=time.time(),
    )
    connection.execute(_PUT, _row(label))
    return label


def take_back(connection: sqlite3.Connection, run: str, step: str) -> Label:
    """Take back the label of a step, within the caller's transaction.

    Raises:
        UnknownNameError: it has none.
    """
    there = {label.step: label for label in read_labels(connection, run)}
    if step not in there:
        raise UnknownNameError(
            f"no label is on step {step!r}",
            where=f"run {run}",
            expected="one of " + ", ".join(there) if there else "a step with a label; the run has none",
            hint="see `fslm trace labels`",
        )
    connection.execute("DELETE FROM labels WHERE run = ? AND step = ?", (run, step))
    return there[step]


def portable(connection: sqlite3.Connection, run: str) -> list[dict[str, Any]]:
    """The labels of a run as they leave the store, by step."""
    labels = sorted(read_labels(connection, run), key=lambda label: label.step)
    return [{name: value for name, value in asdict(label).items() if name not in ("run", "stack")} for label in labels]


def checked_portable(labels: Any, run: Mapping[str, Any], nodes: Iterable[Mapping[str, Any]]) -> list[Label]:
    """Labels as they come in.

    Raises:
        ValueError, TypeError, AttributeError: they are none, or are of no node of the run, or hold more than is kept.
    """
    steps = {node["id"]: node["step"] for node in nodes}
    found = [_LABEL.validate_python({**label, "run": run["id"], "stack": run["stack"]}) for label in labels]
    for label in found:
        if steps.get(label.node) != label.step:
            raise ValueError(f"a label of no step of the run: {label.step!r}")
        if run["content"] != "full" and (label.correction is not None or label.note):
            raise ValueError(f"a label with words, of a run kept as {run['content']}")
        try:
            dumps(_sound(label).correction)
        except (FslmError, RecursionError) as error:
            raise ValueError(f"a label that cannot be kept: {label.step!r}") from error
    return found


def merge(connection: sqlite3.Connection, labels: Iterable[Label]) -> int:
    """Put labels that came in where there is none or an older one, in the caller's transaction; return how many."""
    taken = 0
    for label in labels:
        there = connection.execute(
            "SELECT at FROM labels WHERE run = ? AND step = ?", (label.run, label.step)
        ).fetchone()
        if there is None or there[0] < label.when:
            connection.execute(_PUT, _row(label))
            taken += 1
    return taken


def _node(connection: sqlite3.Connection, run: str, step: str) -> sqlite3.Row:
    """The node that stands for a step: what it said last, else its last failure, else that it was passed over.

    Raises:
        UnknownNameError: the run has no such step.
    """
    rows = (
        connection.execute(_STANDS_FOR, (run, step)).fetchall()
        if step.isprintable() and not step.endswith(CANDIDATE)
        else []
    )
    if not rows:
        names = connection.execute("SELECT step FROM nodes WHERE run = ? ORDER BY seq", (run,))
        raise unknown_step(step, (name for (name,) in names if not name.endswith(CANDIDATE)), f"run {run}")
    row: sqlite3.Row = rows[0]
    return row


def _require_fixable(node: sqlite3.Row, run: sqlite3.Row, correction: object, where: str) -> None:
    """See that a step without a message failed for good, and is given a correction."""
    if node["status"] == "failed" and correction is not None and run["status"] != "running":
        return
    if node["status"] == "skipped":
        what, hint = "was passed over", "see `fslm trace show RUN`"
    elif run["status"] == "running":
        what, hint = "failed so far", "wait until the run has ended: it may try again"
    else:
        what, hint = "failed", "write what it should have said: `fslm trace fix RUN STEP --value JSON`"
    raise UsageError(
        f"the step {what}: there is no message to label",
        where=where,
        expected="a step that said something, or one that failed and a correction for it",
        hint=hint,
    )


def _checked(
    connection: sqlite3.Connection, node: sqlite3.Row, correction: Any, stack: Stack[Any, Any] | None, where: str
) -> Any:
    """A correction as it is kept: what the step could have said, as far as can be told."""
    if not isinstance(correction, Mapping):
        raise InputError(
            "a message is an object with fields",
            where=where,
            found=type(correction).__name__,
            expected="a JSON object",
            hint='write the whole message: {"field": "value", …}',
        )
    data: Any = dict(correction)
    try:
        dumps(data)
    except RecursionError:
        raise InputError("the correction is nested too deep", where=where, hint="write it flatter") from None
    if stack is None:
        _require_known(connection, node, data, where)
    else:
        by_path = dict(places(stack))
        if plain_path(node["step"]) not in by_path:
            raise unknown_step(plain_path(node["step"]), by_path, f"stack {stack.name}")
        at = by_path[plain_path(node["step"])].node
        data = plain_data(read(at.output, data, where))
        if isinstance(at, Stage) and at.tool is None:
            require_writable(at.schema, data, where)
    narrowed = None if node["narrowed"] is None else json.loads(node["narrowed"])
    if narrowed is not None:
        require_writable(Schema("the output as its input narrowed it", narrowed), data, where)
    return data


def _require_known(connection: sqlite3.Connection, node: sqlite3.Row, data: Mapping[str, Any], where: str) -> None:
    """See that a correction has the fields of what was said, where that is all there is to go by."""
    said = connection.execute("SELECT json FROM contents WHERE id = ?", (node["content_id"],)).fetchone()
    fields = None if said is None else list(json.loads(said[0]))
    if fields is not None and set(fields) != set(data):
        raise InputError(
            "the correction has other fields than the message",
            where=where,
            found=", ".join(data),
            expected=", ".join(fields),
            hint="write the whole message, with every field it had",
        )


def _label(row: sqlite3.Row) -> Label:
    return _sound(
        _LABEL.validate_python(
            {
                **{name: row[name] for name in ("run", "stack", "step", "stage", "node", "content_id")},
                "right": row["good"],
                "correction": None if row["correction"] is None else json.loads(row["correction"]),
                "note": from_database(row["note"]),
                "when": row["at"],
            }
        )
    )


def _sound(label: Label) -> Label:
    """The label, if somebody can have given it.

    Raises:
        ValueError: nobody can.
    """
    if not 0 <= label.when < _LATEST or (label.right and label.correction is not None):
        raise ValueError(f"a label that nobody gave: {label.step!r}")
    return label


def _row(label: Label) -> dict[str, Any]:
    return {
        **{name: getattr(label, name) for name in ("run", "step", "stage", "node", "content_id")},
        "good": int(label.right),
        "correction": None if label.correction is None else dumps(label.correction),
        "note": to_database(label.note),
        "at": label.when,
    }


__all__ = ["Label", "checked_portable", "merge", "portable", "put_label", "read_labels", "take_back"]

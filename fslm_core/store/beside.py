"""What many runs say together: the candidates that ran beside a stage, and what a stack was given."""

from __future__ import annotations

import json
import math
import sqlite3
from dataclasses import dataclass
from typing import Any

from ..message import CANDIDATE, Usage
from .rows import StoredContent, read_content

_SHADOWS = f"""
SELECT n.run, n.step, n.status, n.model, n.fingerprint, n.usage, n.compared, runs.fingerprints,
       own.status AS own_status, own.model AS own_model, own.usage AS own_usage
FROM nodes n LEFT JOIN runs ON runs.id = n.run LEFT JOIN nodes own
    ON own.run = n.run AND own.idx = n.idx AND own.step || '{CANDIDATE}' = n.step
    AND own.seq = (SELECT max(seq) FROM nodes last WHERE last.run = n.run AND last.step = own.step)
WHERE n.stage = ? AND n.step LIKE '%{CANDIDATE}' ORDER BY n.seq
"""
_STAGES = f"SELECT DISTINCT stage FROM nodes WHERE step LIKE '%{CANDIDATE}' AND stage IS NOT NULL ORDER BY stage"
_INPUTS = """
SELECT max(r.id) AS run, r.input FROM runs r JOIN contents c ON c.id = r.input
WHERE r.stack = ? AND c.kind = 'full' GROUP BY r.input ORDER BY max(r.started) DESC, run DESC LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Side:
    """What a step or its candidate cost, and how it ended.

    Attributes:
        status: as of a stored node.
        model: for people.
    """

    status: str
    model: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Shadowed:
    """A candidate that ran beside a step.

    Attributes:
        own: the step itself; None where it did not end, for its run did before.
        fingerprints: of the stage with its own model, and with the candidate.
        same: whether they said the same; None where one of them gave no message.
        fields: the same field by field.
    """

    run: str
    step: str
    candidate: Side
    own: Side | None
    fingerprints: tuple[str, str]
    same: bool | None
    fields: dict[str, bool]


def read_shadows(connection: sqlite3.Connection, stage: str) -> list[Shadowed]:
    """Every candidate that ran beside a step of this stage, newest last."""
    if not _has_compared(connection):
        return []
    return [_shadowed(row) for row in connection.execute(_SHADOWS, (stage,))]


def read_shadowed_stages(connection: sqlite3.Connection) -> tuple[str, ...]:
    """The stages that candidates ran beside."""
    return tuple(str(row["stage"]) for row in connection.execute(_STAGES))


def read_inputs(connection: sqlite3.Connection, stack: str, limit: int) -> list[tuple[str, StoredContent]]:
    """What runs of a stack were given and was kept in full: equal inputs once, the newest first."""
    rows = connection.execute(_INPUTS, (stack, limit)).fetchall()
    found = ((str(row["run"]), read_content(connection, row["input"])) for row in rows)
    return [(run, content) for run, content in found if content is not None]


def _has_compared(connection: sqlite3.Connection) -> bool:
    """Whether the database was written by an fslm that knows candidates."""
    return any(row["name"] == "compared" for row in connection.execute("PRAGMA table_info(nodes)"))


def _shadowed(row: sqlite3.Row) -> Shadowed:
    compared: dict[str, Any] = json.loads(row["compared"] or "{}")
    same, fields = compared.get("same"), compared.get("fields", {})
    if not (same is None or isinstance(same, bool)) or not all(isinstance(value, bool) for value in fields.values()):
        raise ValueError("a comparison that compares nothing")
    step = str(row["step"]).removesuffix(CANDIDATE)
    of_run: dict[str, Any] = json.loads(row["fingerprints"] or "{}")
    return Shadowed(
        run=str(row["run"]),
        step=step,
        candidate=_side(row["status"], row["model"], row["usage"]),
        own=None if row["own_status"] is None else _side(row["own_status"], row["own_model"], row["own_usage"]),
        fingerprints=(str(of_run.get(step, "")), str(row["fingerprint"] or "")),
        same=same,
        fields=fields,
    )


def _side(status: Any, model: Any, usage: str | None) -> Side:
    spent = Usage(**json.loads(usage or "{}"))
    if not all(math.isfinite(getattr(spent, name)) for name in Usage.__slots__):
        raise ValueError("a cost that is no number")
    return Side(str(status), str(model or "?"), spent)


__all__ = ["Shadowed", "Side", "read_inputs", "read_shadowed_stages", "read_shadows"]

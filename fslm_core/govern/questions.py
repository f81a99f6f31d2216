"""What two versions of a plugin are asked: labelled rows of a file, or what runs in the trace were given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..data import read_rows
from ..errors import DataError
from ..store import TraceStore


@dataclass(frozen=True, slots=True)
class Question:
    """One input.

    Attributes:
        row: where it is from, for people: a line of the file, or the id of a run.
        gold: the output that would be right; None where nobody knows.
    """

    row: str
    input: Mapping[str, Any]
    gold: Mapping[str, Any] | None = None


def of_file(path: Path, limit: int | None = None) -> list[Question]:
    """The rows of a labelled file, ``{"input": {…}, "output": {…}}`` each; they need not fit any model.

    Raises:
        DataError: it is no such file, or holds no row.
    """
    rows = islice(read_rows(path), limit)
    found = [Question(f"line {row.line}", row.input, row.output) for row in rows]
    if not found:
        raise DataError("the file holds no row", where=str(path), hint="write one labelled row a line")
    return found


def of_trace(path: Path, stack: str, limit: int) -> list[Question]:
    """What the newest runs of a stack were given, equal inputs once, oldest first.

    Raises:
        DataError: there is no such run whose input was kept as it was.
        StoreError: there is no trace, or it cannot be read.
    """
    with TraceStore.open(path, readonly=True) as store:
        kept = store.inputs(stack, limit)
    found = [Question(f"run {run}", content.data) for run, content in reversed(kept) if isinstance(content.data, dict)]
    if not found:
        raise DataError(
            f"no run of the stack {stack} is in the trace with its input as it was",
            where=str(path),
            expected="runs that were made under trace.content = 'full'",
            hint="pass labelled rows with --data, or run the stack with the trace kept in full for a while",
        )
    return found


__all__ = ["Question", "of_file", "of_trace"]

"""Stored rows are taken at their word only once every value is of the type it should be.

SQLite keeps whatever it is given in any column, so a database from elsewhere, or a damaged one, may hold a text where
a number belongs. What can be read as the right type is; the rest is damage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from .rows import RunRow, StoredRun

_LONGEST = 1e12
"""Seconds."""
_ROW = TypeAdapter(RunRow)
_RUN = TypeAdapter(StoredRun)


def typed_row(row: RunRow) -> RunRow:
    """The same line about a run, every value of its type.

    Raises:
        ValueError: one is not, or is a number or a time that cannot be.
    """
    return _dated(_ROW.validate_python(_plain(row)))


def typed_run(run: StoredRun) -> StoredRun:
    """The same run, every value of its type; raises as :func:`typed_row` does."""
    made = _RUN.validate_python(_plain(run))
    _dated(made.row)
    for node in made.nodes:
        _require_times(node.started, seconds=node.seconds)
        for tokens in (attempt.tokens for attempt in node.attempts):
            arrays = (tokens.tokens, tokens.texts, tokens.forced) if tokens is not None else ()
            if len({len(array) for array in arrays if array}) > 1:  # what was not kept is empty
                raise ValueError("the arrays of an attempt differ in length")
    return made


def _dated(row: RunRow) -> RunRow:
    _require_times(row.started, row.ended, seconds=row.seconds)
    return row


def _require_times(*moments: float | None, seconds: float | None) -> None:
    for moment in moments:
        if moment is not None:
            try:
                datetime.fromtimestamp(moment)
            except (OverflowError, OSError):
                raise ValueError(f"{moment} is no time") from None
    if seconds is not None and not abs(seconds) < _LONGEST:
        raise ValueError(f"{seconds} seconds")


def _plain(value: Any) -> Any:
    """Dataclasses as mappings, all the way down; what is no number where one should be is refused on the way."""
    kind: Any = type(value)
    if kind in _SIMPLE:
        return value
    if kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{value} where a number should be")
        return value
    if kind is list or kind is tuple:
        return [_plain(part) for part in value]
    parts = value if isinstance(value, Mapping) else {name: getattr(value, name) for name in _names(kind)}
    # of log-probabilities some may be minus infinity
    return {name: part if name == "logprobs" else _plain(part) for name, part in parts.items()}


_SIMPLE = frozenset({type(None), bool, int, str, bytes})


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


__all__ = ["typed_row", "typed_run"]

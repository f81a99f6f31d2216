"""Writing a folder whole or not at all, and rows as lines of JSON."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..folders import put_whole
from .cells import date_text
from .table import Broken

REPORT = "report.json"


def json_line(data: object) -> str:
    """Compact JSON with letters as they are.

    Raises:
        ValueError: a number that JSON does not have.

    >>> json_line({"a": "é", "b": None})
    '{"a":"é","b":null}'
    """
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def cells_line(data: Mapping[str, Any]) -> str:
    """JSON of what was read as it was read: dates as text, cells without a value as null, lone surrogates escaped."""
    return json.dumps(data, ensure_ascii=True, separators=(",", ":"), default=_as_text)


def _as_text(value: object) -> Any:
    if isinstance(value, datetime.date | datetime.time):
        return date_text(value)
    return None if isinstance(value, Broken) else str(value)


def require_free(out: Path, *, force: bool) -> None:
    """Make sure that a folder may be written: nothing is there, or it is empty, or an earlier one with ``force``.

    Raises:
        DataError: something else is there.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    ours = (out / REPORT).is_file()
    if ours and force:
        return
    raise DataError(
        "the folder holds prepared rows already" if ours else "the place for the rows is taken by something else",
        where=str(out),
        hint="choose another --out" + (", or pass --force to replace it" if ours else ""),
    )


def write_folder(out: Path, files: Mapping[str, str], *, force: bool) -> None:
    """Write files into a folder, all of them or none.

    Raises:
        DataError: something else is there, or it cannot be written; what was there stays.
    """
    require_free(out, force=force)
    try:
        put_whole(out, files)
    except OSError as error:
        raise DataError(
            f"the rows cannot be written: {error.strerror or error}",
            where=str(out),
            hint="choose another --out, or make room there",
        ) from None


__all__ = ["REPORT", "cells_line", "json_line", "require_free", "write_folder"]

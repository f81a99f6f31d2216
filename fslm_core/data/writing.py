"""Writing a folder whole or not at all, and rows as lines of JSON."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import DataError
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
    """Write files into a new folder beside its place, and put it there in one move.

    Raises:
        DataError: it cannot be written; nothing is left then, and what was there stays.
    """
    made: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        made.chmod(0o755)
        for name, text in files.items():
            with (made / name).open("w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        require_free(out, force=force)
        _put(made, out)
    except OSError as error:
        raise DataError(
            f"the rows cannot be written: {error.strerror or error}",
            where=str(out),
            hint="choose another --out, or make room there",
        ) from None
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def _put(made: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}-old-{os.getpid()}")
    with suppress(FileNotFoundError):
        out.rename(old)
    try:
        made.rename(out)
    except OSError:
        with suppress(FileNotFoundError):
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


__all__ = ["REPORT", "cells_line", "json_line", "require_free", "write_folder"]

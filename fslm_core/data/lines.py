"""JSON Lines: one object a line, flat or as ``{"input": {…}, "output": {…}}``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unicodedata import normalize

from ..errors import DataError
from ..schema import loads
from .table import Reading, Record, Table


def open_lines(path: Path, reading: Reading) -> Table:
    """Open a JSON Lines file; it is UTF-8, with or without a byte order mark, as JSON always is.

    Raises:
        DataError: the file holds no row, or ``reading`` asks for what such a file does not have.
    """
    if reading.sheet or reading.delimiter:
        raise DataError(
            "a JSON Lines file has neither sheets nor delimiters", where=str(path), hint="leave the option out"
        )
    first = next((r for r in _records(path) if r.problem is None and not r.blank), None)
    if first is None:
        first = next(_records(path), None)
        raise DataError(
            "the file holds no row" if first is None else "no line of the file is a JSON object",
            where=str(path),
            found=first.problem if first is not None else None,
            expected='a JSON object on each line, as {"text": "…", "label": "…"}',
            hint="write one object a line, in UTF-8",
        )
    nested = all(isinstance(first.cells.get(part), dict) for part in ("input", "output"))
    # A name may be missing where it has no value, so all rows are asked.
    rows = [first] if nested else _records(path)
    columns = tuple(dict.fromkeys(name for record in rows for name in record.cells))
    return Table(path, columns, _records(path), nested, {"kind": "jsonl", "encoding": "utf-8"})


def _records(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            raw = raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
            if not raw.strip():
                yield Record(line, {})
                continue
            try:
                value = loads(raw.decode("utf-8"))
            except UnicodeDecodeError as error:
                yield Record(line, {}, f"not UTF-8: byte {error.start} of the line is {raw[error.start]:#04x}")
            except RecursionError:
                yield Record(line, {}, "nested too deep")
            except ValueError as error:
                yield Record(line, {}, f"not JSON: {error}")
            else:
                if isinstance(value, dict):
                    yield Record(line, nfc(value))
                else:
                    yield Record(line, {}, "not a JSON object")


def nfc(value: Any) -> Any:
    """JSON data with every text in Unicode's form NFC.

    >>> nfc({"a": ["e\\u0301"]}) == {"a": ["\\u00e9"]}
    True
    """
    if isinstance(value, str):
        return normalize("NFC", value)
    if isinstance(value, dict):
        return {normalize("NFC", name): nfc(part) for name, part in value.items()}
    return [nfc(part) for part in value] if isinstance(value, list) else value


__all__ = ["nfc", "open_lines"]

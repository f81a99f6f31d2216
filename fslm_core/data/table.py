"""A table as records: what a CSV, TSV, Excel or JSON Lines file holds, cell by cell, before anything is made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError

ERRORS = frozenset({"#N/A", "#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!", "#GETTING_DATA", "#SPILL!"})
"""What a spreadsheet shows in a cell whose formula failed; a CSV export keeps it as text."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A cell that holds no value: why not."""

    why: str


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a table.

    Attributes:
        line: where it begins: the line of a text file, the row of a sheet, both counted from 1.
        cells: column to value: text, number, boolean, date, null for an empty cell, or :class:`Broken`.
        problem: why the row as a whole cannot be read, or None.
    """

    line: int
    cells: Mapping[str, Any]
    problem: str | None = None

    @property
    def blank(self) -> bool:
        """True where no cell holds anything."""
        return self.problem is None and all(value is None for value in self.cells.values())


@dataclass
class Table:
    """An open table.

    Attributes:
        columns: as the header writes them, in order; of a JSON Lines file the names that any of its rows has.
        records: the rows, read as they are asked for, once.
        nested: the rows are ``{"input": {…}, "output": {…}}`` already.
        about: how it was read (encoding, delimiter, sheet), for the report.
        warnings: what the reader had to assume or change; it grows while records are read.
    """

    path: Path
    columns: tuple[str, ...]
    records: Iterator[Record]
    nested: bool = False
    about: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Reading:
    """How a table is to be read, where the file itself does not say.

    Attributes:
        sheet: the sheet of a workbook; None for the only one that holds anything.
        encoding: of a text file; None to find out.
        delimiter: of a CSV file; None to find out.
        wanted: columns that must be there; they help to tell the delimiter.
    """

    sheet: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    wanted: tuple[str, ...] = ()


AS_FOUND = Reading()
"""Whatever the file itself says."""


def open_table(path: Path, reading: Reading = AS_FOUND) -> Table:
    """Open a table by its file's ending: ``.csv``, ``.tsv``, ``.xlsx`` or ``.jsonl``.

    Raises:
        DataError: another ending, no such file, or what it holds is no table.
        MissingExtraError: a workbook, and the extra ``data`` is not installed.
    """
    openers: dict[str, Callable[[Path, Reading], Table]] = {
        ".csv": _csv,
        ".tsv": _csv,
        ".xlsx": _xlsx,
        ".xlsm": _xlsx,
        ".jsonl": _jsonl,
        ".ndjson": _jsonl,
    }
    opener = openers.get(path.suffix.lower())
    if opener is None:
        raise DataError(
            "the file's ending does not say that it is a table",
            where=str(path),
            found=path.suffix or "no ending",
            expected=".csv, .tsv, .xlsx or .jsonl",
            hint="save the table as .xlsx or as .csv in UTF-8",
        )
    if not path.is_file():
        raise DataError("there is no such file", where=str(path), hint="name a file that is there")
    try:
        return opener(path, reading)
    except OSError as error:
        raise DataError(
            f"the file cannot be read: {error.strerror or error}",
            where=str(path),
            hint="make it readable, or name another file",
        ) from None


def _csv(path: Path, reading: Reading) -> Table:
    from .delimited import open_delimited

    return open_delimited(path, reading)


def _xlsx(path: Path, reading: Reading) -> Table:
    from .workbook import open_workbook

    return open_workbook(path, reading)


def _jsonl(path: Path, reading: Reading) -> Table:
    from .lines import open_lines

    return open_lines(path, reading)


__all__ = ["AS_FOUND", "ERRORS", "Broken", "Reading", "Record", "Table", "open_table"]

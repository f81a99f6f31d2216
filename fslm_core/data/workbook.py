"""Excel workbooks: one sheet, read row by row; stored values of formulas, numbers and dates as they are typed.

A workbook is a zip archive of XML: its size unpacked is bounded before it is read, what a sheet claims of its own size
is not believed, and nothing of it is run.
"""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice, repeat
from pathlib import Path
from typing import Any
from unicodedata import normalize

from ..errors import DataError, MissingExtraError
from .delimited import cell_of
from .table import Broken, Reading, Record, Table

MOST_BYTES = 1 << 30
"""Unpacked, a workbook larger than this is refused."""
_ZEROS = re.compile(r"0{2,}")
_EXACT = 10**15
"""Excel keeps 15 digits of a number; the rest are zeros."""
_CHUNK = 1 << 20
_AT_ONCE = 500
"""Rows read at once."""


def open_workbook(path: Path, reading: Reading) -> Table:
    """Open one sheet of a workbook.

    Raises:
        DataError: no workbook, too large, no such sheet, several to choose from, or an empty one.
        MissingExtraError: the extra ``data`` is not installed.
    """
    if reading.delimiter or reading.encoding:
        raise DataError(
            "a workbook has neither a delimiter nor an encoding", where=str(path), hint="leave the option out"
        )
    formulas = _inspected(path)
    book = _opened(path, values=True)
    name = _sheet(book, reading.sheet, path)
    table = Table(path, (), iter(()), about={"kind": "xlsx", "sheet": name})
    rows = _guarded(_rows(book[name]), path)
    header = next(((line, cells) for line, cells in rows if any(cell.value is not None for cell in cells)), None)
    if header is None:
        raise DataError(
            "the sheet is empty",
            where=f"{path.name}, sheet {name}",
            expected="a header that names the columns, and rows below it",
            hint="name another with --sheet",
        )
    columns = tuple("" if cell.value is None else normalize("NFC", str(cell.value).strip()) for cell in header[1])
    while columns and not columns[-1]:
        columns = columns[:-1]
    table.columns = columns
    twins: Iterator[tuple[int, tuple[Any, ...]]] = repeat((0, ()))
    if formulas:
        table.about["formulas"] = "their stored values were read"
        twins = _guarded(_rows(_opened(path, values=False)[name]), path)
        for line, _ in twins:
            if line == header[0]:
                break
    table.records = _records(rows, twins, table)
    return table


def _records(
    rows: Iterator[tuple[int, tuple[Any, ...]]], twins: Iterator[tuple[int, tuple[Any, ...]]], table: Table
) -> Iterator[Record]:
    """Records of a sheet; ``twins`` are the same rows with formulas in place of their values."""
    columns, width, rounded = table.columns, len(table.columns), Counter[str]()
    for (line, cells), (_, originals) in zip(rows, twins, strict=False):
        values = [_value(cell) for cell in cells]
        for place, original in enumerate(originals[: len(values)]):
            if values[place] is None and original.data_type == "f":
                values[place] = Broken(
                    "its formula has no stored value: open the workbook, let it compute, and save it"
                )
        for column, value in zip(columns, values, strict=False):
            if isinstance(value, int | float) and abs(value) >= _EXACT:
                rounded[column] += 1
        beyond = [value for value in values[width:] if value is not None]
        values += [None] * (width - len(values))
        why = "the row has cells beyond the header's last column" if beyond else None
        yield Record(line, dict(zip(columns, values, strict=False)), why)
    table.warnings.extend(
        f"column {column!r}: {count} numbers of more than 15 digits, which Excel rounds; format such a column as text"
        for column, count in rounded.items()
    )


def _value(cell: Any) -> Any:
    """A cell's value: text without the white space around it, zeros that its format puts before a number kept."""
    value = cell.value
    if cell.data_type == "e":
        return Broken(f"it holds the error {value}")
    if isinstance(value, str):
        return cell_of(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        shown = cell.number_format
        if isinstance(value, int) and isinstance(shown, str) and _ZEROS.fullmatch(shown):
            return str(value).zfill(len(shown))
    return value


def _rows(sheet: Any) -> Iterator[tuple[int, tuple[Any, ...]]]:
    sheet.reset_dimensions()
    yield from enumerate(sheet.rows, start=1)


def _sheet(book: Any, wanted: str | None, path: Path) -> str:
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    if wanted is not None:
        if wanted not in sheets:
            raise DataError(
                f"there is no sheet {wanted!r}",
                where=str(path),
                expected="one of " + ", ".join(sheets),
                hint="name one with --sheet",
            )
        return wanted
    filled = [name for name, sheet in sheets.items() if _is_filled(sheet, path)]
    if len(filled) != 1:
        raise DataError(
            "several sheets hold something" if filled else "no sheet holds anything",
            where=str(path),
            found=", ".join(filled or sheets),
            hint=f'name one, as with --sheet "{filled[0]}"' if filled else "name another file",
        )
    return str(filled[0])


def _is_filled(sheet: Any, path: Path) -> bool:
    rows = _guarded(_rows(sheet), path)
    return any(cell.value is not None for _, cells in rows for cell in cells)


def _opened(path: Path, *, values: bool) -> Any:
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise MissingExtraError(
            "workbooks are read by openpyxl, which is not installed",
            where=str(path),
            hint="run `python -m pip install 'fslm-core[data]'`, or save the table as CSV in UTF-8",
        ) from None
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and extensions that do not concern values
            return load_workbook(path, read_only=True, data_only=values, keep_links=False)
    except Exception as error:  # whatever a damaged archive makes it raise
        raise _damaged(path, error) from None


def _guarded(rows: Iterator[tuple[int, tuple[Any, ...]]], path: Path) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """The same rows; what a damaged sheet raises becomes an error of ours."""
    import warnings

    more = True
    while more:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                some = list(islice(rows, _AT_ONCE))
        except Exception as error:
            raise _damaged(path, error) from None
        yield from some
        more = len(some) == _AT_ONCE


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        "the workbook cannot be read",
        where=str(path),
        found=f"{type(error).__name__}: {error}",
        hint="open it in a spreadsheet programme and save it again as .xlsx",
    )


def _inspected(path: Path) -> bool:
    """Look at the archive before anything is made of it; returns whether a sheet holds formulas.

    Raises:
        DataError: no zip archive, or one that is too large unpacked.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > MOST_BYTES:
                raise DataError(
                    "the workbook is too large",
                    where=str(path),
                    found=f"{size / 1e6:,.0f} MB unpacked",
                    expected=f"at most {MOST_BYTES / 1e6:,.0f} MB",
                    hint="save the sheet as CSV in UTF-8",
                )
            sheets = [name for name in archive.namelist() if name.startswith("xl/worksheets/")]
            return any(_holds_formula(archive, name) for name in sheets)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        with path.open("rb") as file:
            old = file.read(4) == b"\xd0\xcf\x11\xe0"
        raise DataError(
            "the file is no .xlsx workbook",
            where=str(path),
            found="an old .xls workbook or one with a password" if old else str(error),
            hint="open it in a spreadsheet programme and save it as .xlsx, without a password",
        ) from None


def _holds_formula(archive: zipfile.ZipFile, name: str) -> bool:
    kept = b""
    with archive.open(name) as member:
        while chunk := member.read(_CHUNK):
            if re.search(rb"<(?:\w+:)?f[ >]", kept + chunk):
                return True
            kept = chunk[-16:]
    return False


__all__ = ["MOST_BYTES", "open_workbook"]

"""Reading a whole table: the rows that fit, those that do not, and what the user should know of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError
from .columns import Columns, look_up
from .rows import Rejected, Row, fitted
from .table import Broken, Reading, Record, Table, open_table
from .target import Target
from .writing import json_line


@dataclass
class Gathered:
    """A table that was read.

    Attributes:
        rows: those that fit, in the table's order.
        groups: of each row that fits its value in every group column; None for an empty cell.
        rejected: those that do not fit.
        read: how many rows the table has, ``blank`` how many of them hold nothing.
    """

    table: Table
    columns: Columns
    rows: list[Row] = field(default_factory=list)
    groups: list[tuple[str | None, ...]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    read: int = 0
    blank: int = 0
    warnings: list[str] = field(default_factory=list)


def gather(
    source: Path, target: Target, mapping: Mapping[str, str], groups: Sequence[str], reading: Reading
) -> Gathered:
    """Read every row of a table.

    Raises:
        DataError: no table, a column that is missing, no row.
        MissingExtraError: a workbook, and the extra ``data`` is not installed.
    """
    table = open_table(source, reading)
    columns = Columns(table, target, mapping)
    found = Gathered(table, columns)
    named = [columns.named(name, "--group") for name in groups]
    numbers: Counter[str] = Counter()
    for record in table.records:
        found.read += 1
        if record.blank:
            found.blank += 1
            continue
        row = _row(record, columns, target, named)
        if isinstance(row, Rejected):
            found.rejected.append(row)
            continue
        found.rows.append(row)
        found.groups.append(tuple(_key(look_up(record.cells, column)) for column in named))
        for column in columns.texts if table.about["kind"] == "xlsx" else ():
            numbers[column] += isinstance(record.cells.get(column), int | float)
    if not found.rows and not found.rejected:
        raise DataError("the table has a header but no row", where=str(source), hint="export it again, with its rows")
    found.warnings += table.warnings
    found.warnings += [
        f"column {column!r}: {count} numbers were taken as text; zeros that stood before them were lost in the workbook"
        " if the column is not formatted as text"
        for column, count in sorted(numbers.items())
        if count
    ]
    return found


def _row(record: Record, columns: Columns, target: Target, groups: Sequence[str]) -> Row | Rejected:
    row = fitted(record, columns, target)
    if isinstance(row, Rejected):
        return row
    for column in groups:
        if isinstance(value := look_up(record.cells, column), Broken):
            return Rejected(record.line, "group", column, value.why, record.cells)
    try:
        json_line({"input": row.input, "output": row.output}).encode()
    except ValueError:
        return Rejected(record.line, "row", None, "it holds a number or a text that JSON cannot", record.cells)
    return row


def _key(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


__all__ = ["Gathered", "gather"]

"""Labelled rows out of any table: what ``fslm eval`` reads, and what ``fslm data prepare`` makes files of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError
from .columns import Columns
from .table import AS_FOUND, Reading, Record, open_table
from .target import Json, Misfit, Target


@dataclass(frozen=True, slots=True)
class Row:
    """A labelled row.

    Attributes:
        line: where it begins in its file, counted from 1 (of a workbook, the row of the sheet).
        input: the input as JSON data.
        output: the output that would be right, as JSON data.
        extra: everything else the row holds: of a JSON Lines file, its other names; of a table, its other columns as
            read. Rows that ``fslm data prepare`` wrote have ``row``, their line in the source, and ``cluster``, the
            line of the first row of the duplicates and group they belong to.
    """

    line: int
    input: Json
    output: Json
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that does not fit.

    Attributes:
        field: what does not fit: ``input.text``, ``output.category``, or ``row`` for the row as a whole.
        column: the column that fills the field, or None.
        text: what is wrong; it may quote a little of the value, unless that is marked sensitive.
        cells: the row as it was read.
    """

    line: int
    field: str
    column: str | None
    text: str
    cells: Mapping[str, Any]

    def __str__(self) -> str:
        column = f" (column {self.column!r})" if self.column and self.column != self.field.rpartition(".")[2] else ""
        return f"line {self.line}: {self.field}{column}: {self.text}"


def read_rows(
    path: Path,
    target: Target | None = None,
    *,
    mapping: Mapping[str, str] | None = None,
    reading: Reading = AS_FOUND,
    rejected: Callable[[Rejected], None] | None = None,
) -> Iterator[Row]:
    """Read labelled rows one by one from a ``.jsonl``, ``.csv``, ``.tsv`` or ``.xlsx`` file; blank ones are left out.

    Args:
        target: what rows must fit, ``Target.of(stack)``; None takes rows ``{"input": {…}, "output": {…}}`` as they are.
        mapping: field to column, where their names differ.
        rejected: takes the rows that do not fit; without it the first one raises.

    Raises:
        DataError: no such table, a column that is missing, a row that does not fit.
    """
    aim = target or Target.plain()
    table = open_table(path, reading)
    columns = Columns(table, aim, mapping or {})
    for record in table.records:
        if record.blank:
            continue
        found = fitted(record, columns, aim)
        if isinstance(found, Row):
            yield found
        elif rejected is not None:
            rejected(found)
        else:
            raise DataError(
                f"a row does not fit: {found.field}: {found.text}",
                where=f"{path.name}, line {found.line}",
                expected=f"rows that fit {aim.name}",
                hint="mend the row, or let `fslm data prepare` set aside what does not fit",
            )


def fitted(record: Record, columns: Columns, target: Target) -> Row | Rejected:
    """Make a row of a record, or say why it is none."""
    try:
        made = target.checked(columns.row(record))
    except Misfit as misfit:
        return Rejected(record.line, misfit.field, columns.column_of(misfit.field), misfit.text, record.cells)
    extra = {name: value for name, value in record.cells.items() if name not in columns.taken}
    return Row(record.line, made["input"], made["output"], extra)


__all__ = ["Rejected", "Row", "fitted", "read_rows"]

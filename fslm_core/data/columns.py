"""From the columns of a table to the fields of a row: which column fills which field, and what a cell becomes.

>>> fold("Customer  Message"), fold("customer_message")
('customer_message', 'customer_message')
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unicodedata import normalize

from pydantic.fields import FieldInfo

from ..errors import DataError, shorten
from ..stack.fitting import model_of
from .cells import CellType
from .table import Broken, Record, Table
from .target import PARTS, Json, Misfit, Target

_MISSING = object()
_SPACES = re.compile(r"[\s_-]+")


def fold(name: str) -> str:
    """A column's or field's name with its case and its spaces, hyphens and underscores made alike."""
    return _SPACES.sub("_", normalize("NFKC", name).strip().casefold())


def parse_mapping(pairs: Iterable[str]) -> dict[str, str]:
    """Read ``FIELD=COLUMN`` pairs.

    Raises:
        DataError: a pair without ``=``, or a field twice.

    >>> parse_mapping(["text=Customer message"])
    {'text': 'Customer message'}
    """
    made: dict[str, str] = {}
    for pair in pairs:
        name, sign, column = (part.strip() for part in pair.partition("="))
        if not (name and sign and column) or name in made:
            raise DataError(
                "a field is mapped twice" if name in made else "this is no mapping",
                where="--map",
                found=pair,
                expected="FIELD=COLUMN, each field once",
                hint='write it as --map text="Customer message"',
            )
        made[name] = normalize("NFC", column)
    return made


@dataclass(frozen=True, slots=True)
class _Node:
    """A field: filled from a column, or made of the fields below it."""

    name: str
    kind: CellType
    required: bool
    column: str | None = None
    below: tuple[_Node, ...] = ()

    def filled(self, record: Record, place: str, nested: bool) -> Any:
        """The field's value, or ``_MISSING`` where its cells are empty and it need not be there."""
        if self.below:
            return self._made(record, place, nested)
        if self.column is None:
            return _MISSING
        value = look_up(record.cells, self.column)
        if isinstance(value, Broken):
            raise Misfit(place, value.why)
        if value is None or (value == "" and not nested):
            return self._empty(place)
        return self.kind.converted(value, place)

    def _made(self, record: Record, place: str, nested: bool) -> Any:
        optional = not self.required or self.kind.nullable
        columns = list(self.columns())
        if optional and columns and all(look_up(record.cells, column) in (None, "") for column in columns):
            return None if self.kind.nullable else _MISSING
        values = {node.name: node.filled(record, f"{place}.{node.name}", nested) for node in self.below}
        return {name: value for name, value in values.items() if value is not _MISSING}

    def _empty(self, place: str) -> Any:
        if self.kind.nullable:
            return None
        if not self.required:
            return _MISSING
        if self.kind.is_list:
            return []
        raise Misfit(place, "the cell is empty")

    def columns(self) -> Iterator[str]:
        """The columns that fill this field."""
        if self.column is not None:
            yield self.column
        for node in self.below:
            yield from node.columns()


class Columns:
    """Which column of a table fills which field of a target.

    Args:
        mapping: field (``text``, ``address.city``, or ``input.text`` where both sides have it) to column. A field that
            is not named is filled by the column of its own name, case and spaces aside.

    Raises:
        DataError: a column or field that is not there or is there twice, a required field that nothing fills.
    """

    def __init__(self, table: Table, target: Target, mapping: Mapping[str, str]) -> None:
        self._table, self._mapping = table, dict(mapping)
        self._used: set[str] = set()
        self._whole = table.nested and not mapping and not any(target.fields)
        self._roots: dict[str, tuple[_Node, ...]] = {}
        if target.models is None and not any(target.fields) and not self._whole:
            raise DataError(
                "nothing says which columns are the input and which the output",
                where=str(table.path),
                found=f"columns {shorten(', '.join(table.columns), 200)}",
                expected='a stage or stack, or rows that are {"input": {…}, "output": {…}}',
                hint="name a --stage or --stack, or the fields, as with --input text --output category",
            )
        if not self._whole:
            self._resolve(target)

    @cached_property
    def used(self) -> dict[str, str]:
        """Field to column, in the order of the models; empty where rows are taken as they are."""
        return {
            f"{part}.{path}": column for part, roots in self._roots.items() for path, column in _paths(roots) if column
        }

    @cached_property
    def taken(self) -> frozenset[str]:
        """The columns that go into input and output."""
        return frozenset(self.used.values()) or frozenset(PARTS)

    @cached_property
    def texts(self) -> frozenset[str]:
        """The columns that fill fields where only text fits."""
        return frozenset(n.column for r in self._roots.values() for n in _leaves(r) if n.column and n.kind.only_text)

    def row(self, record: Record) -> Json:
        """Return the record as ``{"input": {…}, "output": {…}}``.

        Raises:
            Misfit: a cell cannot be what its field needs.
        """
        if record.problem is not None:
            raise Misfit("row", record.problem)
        made: Json = {}
        if self._whole:
            for part in PARTS:
                made[part] = record.cells.get(part)
                if not isinstance(made[part], dict):
                    raise Misfit(part, "it is no object" if part in record.cells else "it is missing")
            return made
        for part, roots in self._roots.items():
            values = {node.name: node.filled(record, f"{part}.{node.name}", self._table.nested) for node in roots}
            made[part] = {name: value for name, value in values.items() if value is not _MISSING}
        return made

    def column_of(self, field: str) -> str | None:
        """The column that fills a field, or None."""
        return self.used.get(field)

    # -- resolving ---------------------------------------------------------------------------------------------------

    def _resolve(self, target: Target) -> None:
        absent: list[str] = []
        for place, part in enumerate(PARTS):
            if target.models is not None:
                nodes = tuple(
                    self._node(part, (name,), info, absent) for name, info in target.models[place].model_fields.items()
                )
            else:
                nodes = tuple(self._plain(part, name, absent) for name in target.fields[place])
            self._roots[part] = nodes
        if unknown := set(self._mapping) - self._used:
            names = [path for roots in self._roots.values() for path, _ in _paths(roots)]
            near = difflib.get_close_matches(min(unknown), names, n=1)
            raise DataError(
                f"--map names a field that {target.name} does not have",
                where=str(self._table.path),
                found=", ".join(sorted(unknown)),
                expected="one of " + ", ".join(dict.fromkeys(names)),
                hint=f"did you mean {near[0]!r}?" if near else "the field stands before the =, the column after it",
            )
        if absent:
            raise DataError(
                "no column fills " + ", ".join(absent),
                where=str(self._table.path),
                found=f"columns {shorten(', '.join(self._table.columns), 230)}",
                expected=f"a column for each field of {target.name} that has no default",
                hint=f'name it, as with --map {absent[0].partition(".")[2]}="NAME OF THE COLUMN"',
            )

    def _plain(self, part: str, name: str, absent: list[str]) -> _Node:
        column = self._column(part, (name,))
        if column is None:
            absent.append(f"{part}.{name}")
        return _Node(name, CellType.plain(nullable=part == "output"), part == "input", column)

    def _node(self, part: str, path: tuple[str, ...], info: FieldInfo, absent: list[str]) -> _Node:
        kind, required = CellType.of(info.annotation), info.is_required()
        column = self._column(part, path)
        inner = model_of(info.annotation)
        if column is None and inner is not None and len(path) < 8:
            deeper: list[str] = []
            below = tuple(self._node(part, (*path, n), i, deeper) for n, i in inner.model_fields.items())
            filled = any(True for node in below for _ in node.columns())
            if filled or required:
                absent.extend(deeper)
                return _Node(path[-1], kind, required, None, below)
        elif column is None and required:
            absent.append(".".join((part, *path)))
        return _Node(path[-1], kind, required, column)

    def _column(self, part: str, path: tuple[str, ...]) -> str | None:
        """The column of a field, as the table writes it; None if there is none."""
        name = ".".join(path)
        for key in (f"{part}.{name}", name):
            if key in self._mapping:
                self._used.add(key)
                return self._found(self._mapping[key], named=True)
        return self._found(f"{part}.{name}" if self._table.nested else name, named=False)

    def _found(self, wanted: str, *, named: bool) -> str | None:
        columns = self._table.columns
        counts = Counter(columns)
        exact = [wanted] if counts[wanted] else []
        alike = exact or [column for column in counts if fold(column) == fold(wanted)]
        if len(alike) > 1 or any(counts[column] > 1 for column in alike):
            raise DataError(
                f"two columns are called {alike[0]!r}",
                where=str(self._table.path),
                found=", ".join(column for column in columns if column in alike),
                expected="a name for each column that is used",
                hint="rename one of them in the table's header",
            )
        if not alike and named:
            near = difflib.get_close_matches(wanted, columns, n=1, cutoff=0.5)
            raise DataError(
                f"there is no column {wanted!r}",
                where=str(self._table.path),
                expected="one of " + shorten(", ".join(filter(None, columns)), 400),
                hint=f"did you mean {near[0]!r}?" if near else "see the header of the table",
            )
        return alike[0] if alike else None

    def named(self, wanted: str, option: str) -> str:
        """A column by the name a user gave it.

        Raises:
            DataError: there is none, or two.
        """
        try:
            found = self._found(wanted, named=True)
        except DataError as error:
            error.add_note(f"{option} named it")
            raise
        assert found is not None
        return found


def _leaves(nodes: Sequence[_Node]) -> Iterator[_Node]:
    for node in nodes:
        yield from _leaves(node.below) if node.below else (node,)


def _paths(nodes: Sequence[_Node], above: str = "") -> Iterator[tuple[str, str | None]]:
    for node in nodes:
        if node.below:
            yield from _paths(node.below, f"{above}{node.name}.")
        else:
            yield f"{above}{node.name}", node.column


def look_up(cells: Mapping[str, Any], column: str) -> Any:
    """A cell by its column, which in a JSON Lines file may be a dotted path; None where there is none."""
    if column in cells:
        return cells[column]
    value: Any = cells
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


__all__ = ["Columns", "fold", "look_up", "parse_mapping"]

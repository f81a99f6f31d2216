"""From a table of examples to a draft of the models of input and output: fields, kinds, bounds, and why.

Every row that can be read fits the models that were drafted from it. A draft is a guess, so it says what it rests on;
it never copies rows.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ..data import Reading, Target
from ..data.columns import fold, look_up
from ..data.table import Broken, Record, Table, open_table
from ..errors import DataError, UsageError, shorten
from . import kinds
from .guessing import Guess, Setting, Undraftable, guess, slots_of
from .text import field_name, is_claimed, quoted

Part = Literal["input", "output"]


@dataclass(frozen=True, slots=True)
class Drafted:
    """A field as it was guessed.

    Attributes:
        column: the column that fills it; its own name where rows are ``{"input": …, "output": …}`` already.
        why: the counts the guess rests on.
        mapped: rows need ``--map`` to find the column.
    """

    part: Part
    slot: kinds.Slot
    column: str
    why: str
    mapped: bool = False


@dataclass(frozen=True)
class Draft:
    """What was made of a table.

    Attributes:
        rows: how many were looked at.
        aside: lines that could not be read, and why.
        left_out: column to why it is in neither model.
        longest: bytes of the longest output as compact JSON.
        records: the rows that were looked at, as field to value.
    """

    path: Path
    rows: int
    input: tuple[Drafted, ...]
    output: tuple[Drafted, ...]
    aside: tuple[tuple[int, str], ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    longest: int = 0
    records: Sequence[Mapping[str, Any]] = ()
    warnings: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[Drafted, ...]:
        """Input and output."""
        return self.input + self.output

    @property
    def mapping(self) -> dict[str, str]:
        """Field to column, where rows do not tell it themselves."""
        return {one.slot.name: one.column for one in self.fields if one.mapped}

    @cached_property
    def target(self) -> Target:
        """What rows must fit: the drafted models."""
        sides = (("Input", self.input), ("Output", self.output))
        models = [kinds.model_of(kinds.Record(name, tuple(one.slot for one in side))) for name, side in sides]
        return Target("the draft", (models[0], models[1]))


def draft(
    path: Path,
    *,
    input: Sequence[str] = (),
    output: Sequence[str] = (),
    mapping: Mapping[str, str] | None = None,
    reading: Reading | None = None,
) -> Draft:
    """Draft models from a ``.jsonl``, ``.csv``, ``.tsv`` or ``.xlsx`` file.

    Args:
        input: the columns that go in; none for the one with the longest texts.
        output: the columns that come out; none for all others that can be predicted.
        mapping: field to column, where the field shall have a name of its own.
        reading: how to read the table; what the file itself says where None.

    Raises:
        DataError: no such table or column, no row, no text to be the input, nothing left to be the output, or values
            that no model with bounds takes.
        UsageError: a name that no field can have, a column on both sides.
        MissingExtraError: a workbook, and the extra ``data`` is not installed.
    """
    names = dict(mapping or {})
    table = open_table(path, reading or Reading(wanted=(*input, *output, *names.values())))
    records, aside = _readable(table)
    if table.nested:
        if input or output or names:
            raise UsageError(
                "the rows say themselves what is input and what is output",
                where=str(path),
                hint="leave --input, --output and --map out",
            )
        return _of_nested(table, records, aside)
    return _Flat(table, records, aside, names).draft(input, output)


# -- rows ------------------------------------------------------------------------------------------------------------


def _readable(table: Table) -> tuple[list[Record], tuple[tuple[int, str], ...]]:
    """The rows that can be looked at, and the lines of those that cannot."""
    good: list[Record] = []
    aside: list[tuple[int, str]] = []
    for record in table.records:
        if record.blank:
            continue
        why = record.problem or _unreadable(record, table.nested)
        if why is None:
            good.append(record)
        else:
            aside.append((record.line, why))
    if not good:
        raise DataError(
            "no row of the table can be read" if aside else "the table holds no row",
            where=str(table.path),
            found="; ".join(f"line {line}: {why}" for line, why in aside[:3]) or None,
            expected="a header that names the columns, and rows below it",
            hint="see what is wrong with `fslm data prepare FILE --dry-run`, or give a table with rows",
        )
    return good, tuple(aside)


def _unreadable(record: Record, nested: bool) -> str | None:
    if nested and not all(isinstance(record.cells.get(part), dict) for part in ("input", "output")):
        return "it is no object with an input and an output"
    for column, value in record.cells.items():
        if isinstance(value, Broken):
            return f"column {column!r}: {value.why}"
    try:
        json.dumps(record.cells, ensure_ascii=False, default=str).encode()
    except (UnicodeEncodeError, ValueError):
        return "it holds half of a surrogate pair, or a number that cannot be written"
    return None


# -- rows that are {"input": …, "output": …} -------------------------------------------------------------------------


def _of_nested(table: Table, records: Sequence[Record], aside: tuple[tuple[int, str], ...]) -> Draft:
    sides: dict[Part, list[Mapping[str, Any]]] = {
        "input": [record.cells["input"] for record in records],
        "output": [record.cells["output"] for record in records],
    }
    texts = [" ".join(value for value in row.values() if isinstance(value, str)) for row in sides["input"]]
    found: dict[Part, tuple[Drafted, ...]] = {}
    classes: set[str] = set()
    for part, rows in sides.items():
        out = part == "output"
        setting = Setting(
            part, part, typed=True, nested=True, bounded=out, beside=texts if out else (), classes=classes
        )
        try:
            slots = slots_of(rows, setting)
        except Undraftable as error:
            raise DataError(
                f"no model can be drafted of the rows' {part}: {error}",
                where=str(table.path),
                hint="change it in the rows, or write the model yourself: see the page Writing a stage",
            ) from None
        found[part] = tuple(Drafted(part, slot, slot.name, slot.comment) for slot in slots)
    return Draft(
        table.path,
        len(records),
        found["input"],
        found["output"],
        aside,
        longest=max(_length(row) for row in sides["output"]),
        records=[{**row, **sides["output"][place]} for place, row in enumerate(sides["input"])],
        warnings=tuple(table.warnings),
    )


def _length(output: Mapping[str, Any]) -> int:
    return len(json.dumps(output, ensure_ascii=False, separators=(",", ":"), default=str).encode())


# -- rows of columns -------------------------------------------------------------------------------------------------


class _Flat:
    """Drafts from a table whose columns are the fields."""

    def __init__(
        self, table: Table, records: Sequence[Record], aside: tuple[tuple[int, str], ...], names: Mapping[str, str]
    ) -> None:
        self._table, self._records, self._aside = table, records, aside
        self._counts = Counter(table.columns)
        self._columns = list(dict.fromkeys(column for column in table.columns if column))
        self._values = {column: [_value(record, column) for record in records] for column in self._columns}
        self._typed = table.about.get("kind") != "csv"
        self._field_of = {self._named(column): _checked(name) for name, column in names.items()}
        self._left_out: dict[str, str] = {}
        self._classes: set[str] = set()
        self._warnings: list[str] = []

    def draft(self, input: Sequence[str], output: Sequence[str]) -> Draft:
        """Choose the columns of each side, and guess what each holds."""
        asked_in, asked_out = [self._named(c) for c in input], [self._named(c) for c in output]
        if twice := [c for c, n in Counter(asked_in + asked_out).items() if n > 1]:
            raise UsageError(
                "a column is named twice",
                where="--input and --output",
                found=", ".join(twice),
                hint="name each column once, as input or as output",
            )
        inputs = asked_in or [self._main(asked_out)]
        taken: set[str] = set(self._field_of.values())
        beside = self._texts(max(inputs, key=self._mean_length))
        made_in = [self._drafted("input", column, taken, ()) for column in inputs]
        made_out: list[Drafted] = []
        for column in asked_out or [c for c in self._columns if c not in inputs]:
            if asked_out or self._can_be_predicted(column, beside):
                made_out.append(self._drafted("output", column, taken, beside))
        if asked_out:
            self._left_out |= {
                c: "neither --input nor --output names it" for c in self._columns if c not in (*inputs, *asked_out)
            }
        if not made_out:
            raise DataError(
                "no column is left to be the output",
                where=str(self._table.path),
                found="; ".join(f"{column}: {why}" for column, why in self._left_out.items()) or "one column",
                expected="a column of what the model shall say, beside the text it reads",
                hint="name one with --output COLUMN" if self._left_out else "add a column with the right answers",
            )
        self._warn_of_long(made_out, inputs, bool(input))
        return Draft(
            self._table.path,
            len(self._records),
            tuple(made_in),
            tuple(made_out),
            self._aside,
            self._left_out,
            max(
                _length({one.slot.name: self._values[one.column][place] for one in made_out})
                for place in range(len(self._records))
            ),
            [
                {one.slot.name: self._values[one.column][place] for one in (*made_in, *made_out)}
                for place in range(len(self._records))
            ],
            tuple(self._warnings + self._table.warnings),
        )

    def _warn_of_long(self, outputs: Sequence[Drafted], inputs: Sequence[str], chosen: bool) -> None:
        longest = max(self._mean_length(column) for column in inputs)
        for one in outputs:
            if not chosen and self._mean_length(one.column) > longest / 2 and isinstance(one.slot.kind, kinds.Text):
                self._warnings.append(
                    f"column {one.column!r} holds texts about as long; if the model shall read it, pass --input"
                )

    # -- columns -----------------------------------------------------------------------------------------------------

    def _named(self, wanted: str) -> str:
        """A column by the name a user gave it."""
        alike = [c for c in self._columns if c == wanted] or [c for c in self._columns if fold(c) == fold(wanted)]
        if len(alike) == 1 and self._counts[alike[0]] == 1:
            return alike[0]
        if alike:
            raise DataError(
                f"two columns are called {alike[0]!r}",
                where=str(self._table.path),
                expected="a name for each column that is used",
                hint="rename one of them in the table's header",
            )
        near = difflib.get_close_matches(wanted, self._columns, n=1, cutoff=0.5)
        raise DataError(
            f"there is no column {wanted!r}",
            where=str(self._table.path),
            expected="one of " + shorten(", ".join(self._columns), 400),
            hint=f"did you mean {near[0]!r}?" if near else "see the header of the table",
        )

    def _texts(self, column: str) -> list[str | None]:
        return [value if isinstance(value, str) else None for value in self._values[column]]

    def _mean_length(self, column: str) -> float:
        return sum(len(text) for text in self._texts(column) if text) / len(self._records)

    def _main(self, outputs: Sequence[str]) -> str:
        """The column with the longest texts."""
        able = [c for c in self._columns if c not in outputs and self._counts[c] == 1 and self._mean_length(c) > 0]
        if not able:
            raise DataError(
                "no column holds text that a model could read",
                where=str(self._table.path),
                found=f"columns {shorten(', '.join(self._columns), 200)}",
                hint="name the input with --input COLUMN",
            )
        return max(able, key=self._mean_length)

    def _can_be_predicted(self, column: str, beside: Sequence[str | None]) -> bool:
        """Whether a column that nobody named goes into the output; if not, why is noted."""
        try:
            if self._counts[column] > 1:
                raise Undraftable("two columns are called so")
            found = self._guessed(column, column, "output", beside, set())
            if found.lone:
                raise Undraftable(f"nothing in the text could tell it: {found.why}")
        except Undraftable as error:
            self._left_out[column] = str(error)
            return False
        return True

    def _drafted(self, part: Part, column: str, taken: set[str], beside: Sequence[str | None]) -> Drafted:
        name = self._field_of.get(column) or field_name(column, taken)
        taken.add(name)
        try:
            found = self._guessed(column, name, part, beside, self._classes)
        except Undraftable as error:
            raise DataError(
                f"column {column!r} cannot be drafted: {error}",
                where=str(self._table.path),
                hint="leave the column out, or write its field yourself: see the page Writing a stage",
            ) from None
        empty = sum(value is None for value in self._values[column])
        why = found.why + (f"; empty in {empty:,} of {len(self._records):,}" if empty else "")
        source = f"column {quoted(column)}: " if column != name else ""
        slot = kinds.Slot(name, found.kind, nullable=empty > 0, comment=source + why)
        return Drafted(part, slot, column, why, mapped=not self._is_found(name, column))

    def _guessed(self, column: str, name: str, part: Part, beside: Sequence[str | None], classes: set[str]) -> Guess:
        pairs = zip(self._values[column], beside or self._values[column], strict=True)
        there = [(value, text) for value, text in pairs if value is not None]
        if not there:
            raise Undraftable("it is empty in every row")
        texts = [text for _, text in there] if beside else []
        setting = Setting(
            name, column, self._typed, nested=False, bounded=part == "output", beside=texts, classes=classes
        )
        return guess([value for value, _ in there], setting)

    def _is_found(self, name: str, column: str) -> bool:
        """Whether rows are read right without a ``--map``."""
        if name in self._columns:
            return name == column
        return [c for c in self._columns if fold(c) == fold(name)] == [column]


def _value(record: Record, column: str) -> Any:
    """A cell's value; an empty text is none."""
    value = look_up(record.cells, column)
    return None if value == "" else value


def _checked(name: str) -> str:
    if not (name.isascii() and name.isidentifier() and name == name.lower()) or is_claimed(name):
        raise UsageError(
            "no field can be called so",
            where="--map",
            found=name,
            expected="a lower-case word of letters, digits and '_', that means nothing to Python or pydantic",
            hint=f"write --map {field_name(name)}=COLUMN",
        )
    return name


__all__ = ["Draft", "Drafted", "Part", "draft"]

"""What a field can hold, as far as a table's cells tell: each kind as Python source, as a type, and as an example.

The source is what an author reads and changes; the type is the same thing at hand, for checking rows and schemas. A
test holds one against the other.
"""

from __future__ import annotations

import datetime
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import reduce
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, Field, create_model

from .text import quoted


@dataclass(frozen=True)
class Text:
    """Free text of ``least`` to ``most`` characters; without a ``most`` it is for inputs only."""

    least: int = 1
    most: int | None = None


@dataclass(frozen=True)
class Labels:
    """One of a few texts. ``alias`` is what the source calls their type."""

    values: tuple[str, ...]
    alias: str


@dataclass(frozen=True)
class Whole:
    """A whole number within bounds; None where the input's numbers are too large to be bounded exactly."""

    low: int | None
    high: int | None


@dataclass(frozen=True)
class Number:
    """A number within whole bounds, with so many ``decimals``; without bounds it is for inputs only."""

    low: int | None
    high: int | None
    decimals: int = 0


@dataclass(frozen=True)
class YesNo:
    """True or false."""


@dataclass(frozen=True)
class Day:
    """A date."""


@dataclass(frozen=True)
class Moment:
    """A date with its time."""


@dataclass(frozen=True)
class Many:
    """A list of at most ``most`` things of one kind."""

    of: Kind
    most: int


@dataclass(frozen=True)
class OneOf:
    """Values of several kinds."""

    kinds: tuple[Kind, ...]


@dataclass(frozen=True)
class Record:
    """An object with fields: a model of its own."""

    name: str
    slots: tuple[Slot, ...]
    doc: str = "Part of a message."


Kind = Text | Labels | Whole | Number | YesNo | Day | Moment | Many | OneOf | Record


@dataclass(frozen=True)
class Slot:
    """A field of a model.

    Attributes:
        nullable: null has a place in it.
        optional: it may be left out, and is null then.
        comment: what the guess rests on, for people.
    """

    name: str
    kind: Kind
    nullable: bool = False
    optional: bool = False
    comment: str = ""


def source_of(kind: Kind) -> str:
    """The kind as an annotation in Python source.

    >>> source_of(Number(0, 100, 2)), source_of(Many(YesNo(), 5))
    ('Annotated[float, Field(ge=0, le=100, multiple_of=0.01)]', 'Annotated[list[bool], Field(max_length=5)]')
    """
    match kind:
        case Text(least, most):
            bounds = [f"min_length={least}"] * bool(least) + [f"max_length={most}"] * (most is not None)
            return _constrained("str", bounds)
        case Labels(_, alias):
            return alias
        case Whole(low, high):
            return _constrained("int", _bounds(low, high))
        case Number(low, high, decimals):
            step = [f"multiple_of={Decimal(1).scaleb(-decimals):f}"] if low is not None else []
            return _constrained("float", _bounds(low, high) + step)
        case YesNo():
            return "bool"
        case Day():
            return "datetime.date"
        case Moment():
            return "datetime.datetime"
        case Many(of, most):
            return _constrained(f"list[{source_of(of)}]", [f"max_length={most}"])
        case OneOf(kinds):
            return " | ".join(map(source_of, kinds))
        case Record(name):
            return name


def slot_source(slot: Slot) -> str:
    """A field's annotation and default in Python source.

    >>> slot_source(Slot("n", Whole(0, 9), nullable=True, optional=True))
    'n: Annotated[int, Field(ge=0, le=9)] | None = None'
    """
    return f"{slot.name}: {source_of(slot.kind)}{' | None' * slot.nullable}{' = None' * slot.optional}"


def _bounds(low: int | None, high: int | None) -> list[str]:
    return [f"{name}={end}" for name, end in (("ge", low), ("le", high)) if end is not None]


def _constrained(base: str, bounds: list[str]) -> str:
    return f"Annotated[{base}, Field({', '.join(bounds)})]" if bounds else base


def type_of(kind: Kind) -> Any:
    """The kind as a type, equal to what its source says."""
    match kind:
        case Text(least, most):
            return Annotated[str, Field(min_length=least or None, max_length=most)]
        case Labels(values):
            return Literal.__getitem__(values)
        case Whole(low, high):
            return Annotated[int, Field(ge=low, le=high)]
        case Number(low, high, decimals):
            step = float(Decimal(1).scaleb(-decimals)) if low is not None else None
            return Annotated[float, Field(ge=low, le=high, multiple_of=step)]
        case YesNo():
            return bool
        case Day():
            return datetime.date
        case Moment():
            return datetime.datetime
        case Many(of, most):
            return Annotated[list[type_of(of)], Field(max_length=most)]  # type: ignore[misc]
        case OneOf(kinds):
            return reduce(operator.or_, map(type_of, kinds))
        case Record():
            return model_of(kind)


def model_of(record: Record) -> type[BaseModel]:
    """The record as a pydantic model."""
    fields = {slot.name: _field_of(slot) for slot in record.slots}
    return cast("type[BaseModel]", cast(Any, create_model)(record.name, **fields))


def _field_of(slot: Slot) -> tuple[Any, Any]:
    kind = type_of(slot.kind)
    return (kind | None if slot.nullable else kind, None if slot.optional else ...)


def example_of(kind: Kind) -> Any:
    """A value that fits, made up: no row's.

    >>> example_of(Labels(("bad", "good"), "Mood")), example_of(Whole(5, 9))
    ('bad', 5)
    """
    match kind:
        case Text(least, most):
            words = "Some words."
            return (words if most is None else words[:most]).ljust(least, "x")
        case Labels(values):
            return values[0]
        case Whole(low, _) | Number(low, _):
            return low or 0
        case YesNo():
            return True
        case Day():
            return "2024-05-01"
        case Moment():
            return "2024-05-01T09:30:00"
        case Many(of, most):
            return [example_of(of)][:most]
        case OneOf(kinds):
            return example_of(kinds[0])
        case Record(_, slots):
            return {slot.name: example_of(slot.kind) for slot in slots}


def said(kind: Kind) -> str:
    """The kind in a few words, for a table.

    >>> said(Labels(("a", "b"), "X")), said(Whole(0, 9)), said(Many(Day(), 3))
    ('one of 2 labels', 'whole number, 0 to 9', 'at most 3 of: date')
    """
    match kind:
        case Text(_, most):
            return "text" if most is None else f"text, at most {most:,} characters"
        case Labels(values):
            return f"one of {len(values):,} labels" if len(values) > 1 else f"always {quoted(values[0])}"
        case Whole(low, high):
            return "whole number" if low is None else f"whole number, {low:,} to {high:,}"
        case Number(low, high, decimals):
            return "number" if low is None else f"number, {low:,} to {high:,}, {decimals} decimals"
        case YesNo():
            return "true or false"
        case Day():
            return "date"
        case Moment():
            return "date and time"
        case Many(of, most):
            return f"at most {most:,} of: {said(of)}"
        case OneOf(kinds):
            return " or ".join(map(said, kinds))
        case Record(_, slots):
            return f"object of {', '.join(slot.name for slot in slots)}"


def parts_of(kind: Kind) -> Iterator[Kind]:
    """The kind's parts, however deep, innermost first, and the kind itself."""
    match kind:
        case Many(of):
            yield from parts_of(of)
        case OneOf(kinds):
            for one in kinds:
                yield from parts_of(one)
        case Record(_, slots):
            for slot in slots:
                yield from parts_of(slot.kind)
    yield kind


__all__ = [
    "Day",
    "Kind",
    "Labels",
    "Many",
    "Moment",
    "Number",
    "OneOf",
    "Record",
    "Slot",
    "Text",
    "Whole",
    "YesNo",
    "example_of",
    "model_of",
    "parts_of",
    "said",
    "slot_source",
    "source_of",
    "type_of",
]

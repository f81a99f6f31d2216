"""Labels: which output fields have them, and inputs that are equal although their labels differ."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from ..errors import DataError
from ..stack.fitting import model_of
from .cells import CellType
from .columns import look_up
from .near import same_form
from .rows import Row
from .target import Target
from .writing import json_line

Handling = Literal["fail", "keep", "drop", "majority"]
HANDLINGS: tuple[Handling, ...] = ("fail", "keep", "drop", "majority")
_MOST = 200
"""A plain field with more values than this is no label."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Rows whose inputs are equal and whose labels are not.

    Attributes:
        places: of the rows, in order.
        lost: those of them that are to be dropped.
    """

    places: tuple[int, ...]
    lost: tuple[int, ...]


def choose_targets(target: Target, wanted: Sequence[str], rows: Sequence[Row]) -> tuple[str, ...]:
    """The output fields to stratify by: those wanted, or else all whose type is a choice or a boolean.

    Of plain rows those with few values: at most 200, and each twice on average.

    Raises:
        DataError: a field that the output does not have.
    """
    names = [name.removeprefix("output.") for name in wanted]
    if target.models is not None:
        known = dict(_fields(target.models[1]))
        labels = [name for name, is_label in known.items() if is_label]
    else:
        known = {name: True for row in rows for name in row.output}
        labels = [name for name in known if _few(rows, name)]
    for name in names:
        if name not in known:
            raise DataError(
                f"the output of {target.name} has no field {name!r}",
                where="--target",
                expected="one of " + ", ".join(known),
                hint="name an output field, not a column",
            )
    return tuple(dict.fromkeys(names)) if names else tuple(labels)


def label_of(row: Row, name: str) -> str:
    """A row's label as text: a string as it is, everything else as JSON (``null``, ``true``).

    >>> label_of(Row(1, {}, {"a": {"b": None}}), "a.b")
    'null'
    """
    value = look_up(row.output, name)
    return value if isinstance(value, str) else json_line(value)


def text_of(row: Row) -> str:
    """All texts of a row's input, a line each; other values as JSON."""
    return "\n".join(texts_in(row.input))


def conflicts_among(
    rows: Sequence[Row], labels: Sequence[Hashable], targets: Sequence[str], handling: Handling
) -> list[Conflict]:
    """Find equal inputs with different labels; without targets, with different outputs.

    Labels do not hang on case and white space, so inputs that differ in these alone are equal. Free outputs may, so
    there inputs are equal only if they are so to the letter.
    """
    same: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        same[same_form(text_of(row)) if targets else json_line(row.input)].append(place)
    answers = labels if targets else [json_line(row.output) for row in rows]
    found = []
    for places in same.values():
        counts = Counter(answers[place] for place in places)
        if len(counts) > 1:
            (first, most), (_, second) = counts.most_common(2)
            kept = {first} if handling == "majority" and most > second else set()
            drops = handling in ("drop", "majority")
            lost = tuple(place for place in places if drops and answers[place] not in kept)
            found.append(Conflict(tuple(places), lost))
    return found


def _fields(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, bool]]:
    """The dotted path of every field, and whether it is a label."""
    for name, info in model.model_fields.items():
        inner = model_of(info.annotation)
        if inner is not None and inner is not model and above.count(".") < 8:
            yield from _fields(inner, f"{above}{name}.")
        else:
            kind = CellType.of(info.annotation)
            yield f"{above}{name}", bool(kind.choices) or kind.takes == {bool}


def _few(rows: Sequence[Row], name: str) -> bool:
    values = {json_line(row.output.get(name)) for row in rows}
    scalar = all(not isinstance(row.output.get(name), dict | list) for row in rows)
    return scalar and len(values) <= min(_MOST, len(rows) // 2)


def texts_in(value: Any) -> Iterator[str]:
    """All texts in JSON data, from top to bottom; other values but null as JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from texts_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts_in(part)
    elif value is not None:
        yield json_line(value)


__all__ = ["HANDLINGS", "Conflict", "Handling", "choose_targets", "conflicts_among", "label_of", "text_of", "texts_in"]

"""What a cell becomes in a field: text stays text, numbers and dates become what the field's type asks for."""

from __future__ import annotations

import datetime
import enum
import json
import typing
from dataclasses import dataclass
from typing import Any

from ..stack.fitting import accepts_null, fits, model_of
from .target import Misfit


@dataclass(frozen=True, slots=True)
class CellType:
    """A field's type as far as cells are concerned; worked out once a field.

    Attributes:
        takes: the plain Python types that fit the field.
        choices: what each choice of a Literal or an enum looks like in a cell; empty for other types.
        holds_json: a list or a model, written in its cell as JSON.
        is_list: an empty cell is an empty list.
    """

    nullable: bool
    takes: frozenset[type]
    choices: typing.Mapping[str, Any]
    holds_json: bool = False
    is_list: bool = False

    @classmethod
    def of(cls, annotation: Any) -> CellType:
        """The type of a model's field.

        >>> CellType.of(typing.Literal["a", 1] | None).choices
        {'a': 'a', '1': 1}
        """
        is_list = any(typing.get_origin(part) is list for part in (annotation, *typing.get_args(annotation)))
        return cls(
            accepts_null(annotation),
            frozenset(kind for kind in (str, int, float, bool) if fits(kind, annotation)),
            {plain_text(choice): choice for choice in _choices(annotation) if choice is not None},
            is_list or model_of(annotation) is not None,
            is_list,
        )

    @property
    def only_text(self) -> bool:
        """Free text and nothing else fits."""
        return self.takes == {str} and not self.choices

    @classmethod
    def plain(cls, *, nullable: bool) -> CellType:
        """The type of a field that takes whatever its cell holds."""
        return cls(nullable, frozenset({str, int, float, bool}), {})

    def converted(self, value: Any, place: str) -> Any:
        """A cell's value, not an empty one, as JSON data for the field.

        Raises:
            Misfit: it should be JSON and is not.
        """
        if isinstance(value, datetime.date | datetime.time):
            return date_text(value)
        if isinstance(value, datetime.timedelta):
            return value.total_seconds()
        if isinstance(value, str):
            return self._of_text(value, place)
        if not isinstance(value, bool | int | float):
            return value
        if self.choices:
            return self.choices.get(plain_text(value), value)
        return value if type(value) in self.takes or str not in self.takes else plain_text(value)

    def _of_text(self, value: str, place: str) -> Any:
        if str in self.takes:
            return value
        if self.choices:
            return self.choices.get(value, value)
        if not self.holds_json:
            return value
        if value[:1] not in "[{":
            raise Misfit(place, 'a list or an object is written as JSON in its cell, as ["a", "b"]')
        try:
            return json.loads(value)
        except ValueError:
            raise Misfit(place, "the cell looks like JSON but is not") from None


def plain_text(value: Any) -> str:
    """A cell's value as a spreadsheet shows it.

    >>> plain_text(12.0), plain_text(True), plain_text(0.5)
    ('12', 'TRUE', '0.5')
    """
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def date_text(value: datetime.date | datetime.time) -> str:
    """A date or time as ISO 8601; midnight is left out, for a spreadsheet's date is a day at midnight.

    >>> date_text(datetime.datetime(2024, 5, 1)), date_text(datetime.datetime(2024, 5, 1, 9, 30))
    ('2024-05-01', '2024-05-01T09:30:00')
    """
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        value = value.date()
    return value.isoformat()


def _choices(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is typing.Literal:
        return [c.value if isinstance(c, enum.Enum) else c for c in typing.get_args(annotation)]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return [member.value for member in annotation]
    if typing.get_origin(annotation) is list:
        return []
    return [choice for part in typing.get_args(annotation) for choice in _choices(part)]


__all__ = ["CellType", "date_text", "plain_text"]

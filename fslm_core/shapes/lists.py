"""What shapes that work on the items of a list have in common."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, create_model

from ..errors import StackError, StageFailedError
from ..schema import plain_data
from ..stack import Place

MOST = 10_000
"""Items of a list, unless a shape says otherwise."""


def element_of(model: type[BaseModel], field: str, where: str, argument: str) -> Any:
    """The type of the items of a list field.

    Args:
        argument: how the author names the field, for error texts.

    Raises:
        StackError: there is no such field, or it is no list.
    """
    if field not in model.model_fields:
        raise StackError(
            f"{argument} names no field of {model.__name__}",
            where=where,
            found=field,
            expected=", ".join(model.model_fields) or None,
            hint=f"pass {argument}= with the name of a list field",
        )
    annotation = model.model_fields[field].annotation
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (list, tuple):
        return Any
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return arguments[0]
    if origin in (list, Sequence):
        return arguments[0]
    raise StackError(
        f"{argument} names a field that is no list",
        where=where,
        found=f"{model.__name__}.{field}: {annotation}",
        expected="list[…]",
        hint="make it a list; where it may be null, let the step before give an empty list",
    )


def field_of(model: type[BaseModel], field: str, where: str, argument: str) -> Any:
    """The type of a field.

    Raises:
        StackError: there is none of that name.
    """
    if field not in model.model_fields:
        raise StackError(
            f"{argument} names no field of {model.__name__}",
            where=where,
            found=field,
            expected=", ".join(model.model_fields) or None,
            hint=f"pass {argument}= with the name of a field, or leave it out",
        )
    return model.model_fields[field].annotation


def holder(name: str, fields: Mapping[str, Any]) -> type[BaseModel]:
    """A model of what a shape itself hands on, its fields by name and type."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that pydantic's own attributes have: whose they are was told before
        definitions: dict[str, Any] = {field: (kind, ...) for field, kind in fields.items()}
        return create_model(name, **definitions)


def held(model: type[BaseModel], values: Mapping[str, Any]) -> BaseModel:
    """An instance of a :func:`holder` of JSON data."""
    construct: Any = model.model_construct
    made: BaseModel = construct(**values)
    return made


def items_at(place: Place, field: str, most: int) -> list[Any]:
    """The items of the input's list, as JSON data.

    Raises:
        StageFailedError: there are more than ``most``.
    """
    items: list[Any] = plain_data(place.input, field)[field]
    if len(items) > most:
        raise StageFailedError(
            f"{field} has {len(items)} items, and at most {most} are let in",
            where=place.where(),
            hint="allow more with most=…, or cut the list before",
        )
    return items


def names(fields: Iterable[str]) -> dict[str, Any]:
    """The fields of a :func:`holder` of JSON data."""
    return dict.fromkeys(fields, Any)


__all__ = ["MOST", "element_of", "field_of", "held", "holder", "items_at", "names"]

"""Which fields are sensitive: those whose model says ``Field(json_schema_extra={"sensitive": True})``.

>>> from pydantic import BaseModel, Field
>>> class Caller(BaseModel):
...     name: str
...     phone: str = Field(json_schema_extra={"sensitive": True})
>>> sorted(sensitive_fields(Caller))
['phone']
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


@lru_cache(maxsize=1024)
def sensitive_fields(model: type[BaseModel]) -> frozenset[str]:
    """The dotted paths of a model's sensitive fields; lists are passed through without an index.

    A field is sensitive as a whole if it is marked, or if a mark lies where no path can reach (in the values of a
    dict, or on the items of a list). A model that contains itself is followed once.
    """
    return frozenset(_paths(model, (model,)))


def _paths(model: type[BaseModel], above: tuple[type[BaseModel], ...]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if _is_marked(field) or _marked_inside(field.annotation, above):
            yield name
            continue
        for inner in _models_in(field.annotation):
            if inner not in above:
                yield from (f"{name}.{path}" for path in _paths(inner, (*above, inner)))


def _mark_of(field: FieldInfo) -> Any:
    extra = field.json_schema_extra
    if callable(extra):
        made: dict[str, Any] = {}
        extra(made)
        extra = made
    return extra.get("sensitive") if extra else None


def _is_marked(field: FieldInfo) -> bool:
    return bool(_mark_of(field))


def is_denied(field: FieldInfo) -> bool:
    """Whether the author says outright that no sensitive value can stand in the field."""
    return _mark_of(field) is False


def _marked_inside(annotation: Any, above: tuple[type[BaseModel], ...]) -> bool:
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated and any(isinstance(a, FieldInfo) and _is_marked(a) for a in arguments[1:]):
        return True
    if isinstance(get_origin(annotation), type) and issubclass(get_origin(annotation), dict):
        return any(any(_paths(m, (*above, m))) for m in _models_in(annotation) if m not in above) or any(
            _marked_inside(a, above) for a in arguments
        )
    return any(_marked_inside(a, above) for a in arguments)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not get_args(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


__all__ = ["is_denied", "sensitive_fields"]

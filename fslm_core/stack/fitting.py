"""Whether what one step gives has a place in what another wants."""

from __future__ import annotations

import enum
import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

_SEQUENCES = (list, tuple, set, frozenset, Sequence)


def fits(given: Any, wanted: Any) -> bool:
    """Say whether every value of type ``given``, written as JSON, has a place in type ``wanted``.

    Constraints in ``Annotated`` are left to validation.

    >>> fits(int, float), fits(str | None, str), fits(Literal["a"], str)
    (True, False, True)
    """
    given, wanted = _bare(given), _bare(wanted)
    if wanted is Any or given == wanted:
        return True
    if _is_union(given):
        return all(fits(part, wanted) for part in get_args(given))
    if (choices := _choices(given)) is not None:
        return all(_takes(wanted, value) for value in choices)
    if _is_union(wanted):
        return any(fits(given, part) for part in get_args(wanted))
    if get_origin(given) in _SEQUENCES and get_origin(wanted) in (list, Sequence):
        (item,) = get_args(wanted)
        return all(fits(part, item) for part in get_args(given) if part is not Ellipsis)
    if not (isinstance(given, type) and isinstance(wanted, type)):
        return False
    return issubclass(given, wanted) or (given is int and wanted is float)


def _takes(wanted: Any, value: object) -> bool:
    """Whether one value, written as JSON, has a place in a type."""
    if _is_union(wanted):
        return any(_takes(_bare(part), value) for part in get_args(wanted))
    if wanted is Any:
        return True
    if (allowed := _choices(wanted)) is not None:
        return any(value == other and type(value) is type(other) for other in allowed)
    return isinstance(wanted, type) and (isinstance(value, wanted) or (type(value) is int and wanted is float))


def _bare(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return type(None) if annotation is None else annotation


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _choices(annotation: Any) -> list[Any] | None:
    """The values a type is made of, where it is made of values."""
    if annotation is type(None):
        return [None]
    if get_origin(annotation) is Literal:
        return [a.value if isinstance(a, enum.Enum) else a for a in get_args(annotation)]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return [member.value for member in annotation]
    return None


def labels(annotation: Any) -> list[Any] | None:
    """The values a type is made of, as JSON data; None for a type that has others."""
    bare = _bare(annotation)
    if bare is bool:
        return [False, True]
    if not _is_union(bare):
        return _choices(bare)
    parts = [labels(part) for part in get_args(bare)]
    return None if any(part is None for part in parts) else [value for part in parts for value in part or ()]


def accepts_null(annotation: Any) -> bool:
    """Say whether null has a place in a type."""
    return fits(type(None), annotation)


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The one pydantic model an annotation means, null left aside."""
    bare = _bare(annotation)
    parts = [_bare(p) for p in get_args(bare) if p is not type(None)] if _is_union(bare) else [bare]
    only = parts[0] if len(parts) == 1 else None
    return only if isinstance(only, type) and issubclass(only, BaseModel) else None


def show(annotation: Any) -> str:
    """A type as an error text writes it."""
    bare = _bare(annotation)
    return bare.__name__ if isinstance(bare, type) and not get_args(bare) else str(bare).replace("typing.", "")


__all__ = ["accepts_null", "fits", "labels", "model_of", "show"]

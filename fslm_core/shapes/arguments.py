"""What authors of shapes are held to: bounds, temperatures, constants."""

from __future__ import annotations

import math

from pydantic import BaseModel, ValidationError

from ..errors import FslmError, StackError
from ..schema import canonical, problems_of


def whole(value: object, name: str, where: str, *, least: int = 1, most: int | None = None, hint: str = "") -> int:
    """A whole number within its bounds; without ``most``, of any size.

    Raises:
        StackError: it is none, or outside.

    >>> whole(3, "n", "vote v", most=100)
    3
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or value < least
        or value > (value if most is None else most)
    ):
        raise StackError(
            f"{name} is out of range",
            where=where,
            found=value,
            expected=f"a whole number, at least {least}" if most is None else f"a whole number from {least} to {most}",
            hint=hint or f"pass {name}={least} or more",
        )
    return value


def positive(value: float | None, name: str, where: str, hint: str) -> float | None:
    """A finite number above 0, or None.

    Raises:
        StackError: it is neither.
    """
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not value > 0 or not math.isfinite(value):
        raise StackError(
            f"{name} is out of range", where=where, found=value, expected="a finite number above 0", hint=hint
        )
    return value


def constant(value: BaseModel | None, model: type[BaseModel], where: str) -> str | None:
    """A declared answer as canonical text, so that no run can change it for the next.

    Raises:
        StackError: it is no valid instance of the shape's output model.
    """
    if value is None:
        return None
    hint = f"pass value={model.__name__}(…)"
    if not isinstance(value, model):
        raise StackError(
            "value is not of the shape's output model",
            where=where,
            found=type(value).__name__,
            expected=model.__name__,
            hint=hint,
        )
    try:
        text = canonical(value)
        model.model_validate_json(text, by_name=True)
    except ValidationError as error:
        raise StackError(
            "value is not valid", where=where, found="; ".join(map(str, problems_of(error))), hint=hint
        ) from None
    except FslmError as error:
        raise StackError(f"value is not valid: {error.what}", where=where, found=error.found, hint=hint) from None
    return text


__all__ = ["constant", "positive", "whole"]

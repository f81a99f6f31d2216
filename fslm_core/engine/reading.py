"""What a run is given: read, validated, and told plainly where it does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from ..errors import FslmError, InputError
from ..message import Problem
from ..schema import canonical, plain_data, problems_of
from ..stack import Stack
from ..store import spelt


def read_input(stack: Stack[Any, Any], value: object, *, quotes: bool = True) -> Any:
    """Validate what a run is given: an instance of the input model, or a mapping of its fields.

    Args:
        quotes: False keeps what was given out of the error's text.

    Raises:
        InputError: it does not fit; the text names every field that is wrong.
    """
    model = stack.input
    where = f"input of stack {stack.name}"
    shape = ", ".join(
        f"{n}: {f.annotation.__name__ if isinstance(f.annotation, type) else f.annotation}"
        for n, f in model.model_fields.items()
    )
    if isinstance(value, BaseModel) and not isinstance(value, model):
        raise InputError(
            "the input is another model",
            where=where,
            found=type(value).__name__,
            expected=model.__name__,
            hint=f"pass {model.__name__}(…), or a mapping of its fields",
        )
    if not isinstance(value, BaseModel | Mapping):
        raise InputError(
            "the input is neither a model nor a mapping",
            where=where,
            found=type(value).__name__,
            expected=f"{model.__name__}({shape})",
            hint=f"pass {model.__name__}(…), or a mapping of its fields",
        )
    try:
        plain = _fields(value, model) if isinstance(value, BaseModel) else dict(value)
        unknown = sorted(set(map(str, plain)) - set(model.model_fields))
        if unknown:
            raise InputError(
                "the input has a field the model does not",
                where=where,
                found=", ".join(unknown) if quotes else f"{len(unknown)} of unknown name",
                expected=shape,
                hint="leave it out, or correct its name",
            )
        checked = model.model_validate(plain, by_name=True)
        canonical(checked)
    except ValidationError as error:
        found = "; ".join(map(str, problems_of(error) if quotes else _kinds_of(error, model)))
        raise InputError(
            "the input does not fit", where=where, found=found, expected=shape, hint="correct what was found"
        ) from None
    except InputError:
        raise
    except FslmError as error:
        raise InputError(error.what, where=where, found=error.found, expected=error.expected, hint=error.hint) from None
    return checked


def _kinds_of(error: ValidationError, model: type[BaseModel]) -> Iterator[Problem]:
    """Pydantic's findings without its sentences, which may quote the value."""
    for found in error.errors(include_url=False, include_context=False, include_input=False):
        yield Problem("validator", found["type"], spelt(".".join(map(str, found["loc"])), model))


def _fields(value: BaseModel, model: type[BaseModel]) -> dict[str, Any]:
    """The data of an instance of ``model`` or of a class derived from it, without what the derived class adds."""
    return {name: part for name, part in plain_data(value).items() if name in model.model_fields}


__all__ = ["read_input"]

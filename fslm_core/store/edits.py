"""Messages that somebody writes in place of what a step said: the edits of a replay, the corrections of labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from ..errors import InputError, UnknownNameError, UsageError
from ..message import Problem
from ..schema import Schema, dumps, problems_of

_PART = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


def apply(data: Any, edits: Mapping[str, Any], where: str) -> Any:
    """JSON data with new values at some paths.

    >>> apply({"a": [{"b": 1}], "c": 2}, {"a[0].b": 3}, "here")
    {'a': [{'b': 3}], 'c': 2}

    Raises:
        UsageError: there is no such place in it.
    """
    made = json.loads(json.dumps(data))
    for path, value in edits.items():
        *inner, last = [name or int(index) for name, index in _PART.findall(path)] or [""]
        place = made
        try:
            for part in inner:
                place = place[part]
            if not isinstance(place, dict if isinstance(last, str) else list):
                raise KeyError(last)
            place[last] = value
        except (LookupError, TypeError):
            raise UsageError(
                "there is no such place in the message",
                where=where,
                found=path,
                expected=", ".join(place) if isinstance(place, dict) else None,
                hint="name a field as `fslm trace show --json` does: field, field.inner or field[0].inner",
            ) from None
    return made


def read(model: type[BaseModel], data: Any, where: str) -> BaseModel:
    """An edited message as its model has it.

    Raises:
        InputError: it does not fit.
    """
    if isinstance(data, dict) and (unknown := data.keys() - model.model_fields.keys()):
        raise InputError(
            "the edit names a field that the step's output does not have",
            where=where,
            found=", ".join(sorted(unknown)),
            expected=", ".join(model.model_fields),
            hint="correct its name",
        )
    try:
        return model.model_validate_json(dumps(data), by_name=True)
    except ValidationError as error:
        raise InputError(
            "the edited message does not fit the step's output",
            where=where,
            found=told(problems_of(error)),
            expected=f"{model.__name__}({', '.join(model.model_fields)})",
            hint="give a value of the field's type; where the step said nothing before, give all its fields",
        ) from None


def require_writable(schema: Schema, data: Any, where: str) -> None:
    """See that a step could have written an edited message.

    Args:
        schema: of the step's output, as its input narrows it.

    Raises:
        InputError: it could not.
    """
    if problems := schema.problems(data):
        raise InputError(
            "the edited message is nothing that the step could write",
            where=where,
            found=told(problems),
            hint="choose a value that its output model and its narrowing allow",
        )


def told(problems: Sequence[Problem]) -> str:
    """The first problems, each with its field."""
    return "; ".join(f"{p.field or 'all'}: {p.text}" for p in problems[:3])


def unknown_step(name: str, known: Iterable[str], where: str) -> UnknownNameError:
    """The error for a step that is not there."""
    return UnknownNameError.of(
        "step", name, list(dict.fromkeys(known)), where=where, hint="see `fslm trace show RUN` for the steps' paths"
    )


__all__ = ["apply", "read", "require_writable", "told", "unknown_step"]

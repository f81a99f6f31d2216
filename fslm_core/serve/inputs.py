"""From a line of JSON to the fields of a stack's input."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from pydantic import BaseModel

from ..errors import InputError
from ..schema import loads

MAX_INPUT = 16 << 20
"""Bytes of one input, or of one row."""
MAX_VALUES = 500_000
"""Values that the JSON of one input may hold: what is wrong with each would be told one by one."""


def bare_field(model: type[BaseModel]) -> str | None:
    """The field that bare text fills: the only required one, if it is a string; else None.

    >>> class Enquiry(BaseModel):
    ...     text: str
    ...     language: str = "en"
    >>> bare_field(Enquiry)
    'text'
    """
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    if len(required) == 1 and model.model_fields[required[0]].annotation is str:
        return required[0]
    return None


def read_line(line: bytes, model: type[BaseModel], *, where: str) -> dict[str, Any]:
    """Return the fields of one line of a JSONL file: an object, or a bare string where the model takes bare text.

    Raises:
        InputError: it is not UTF-8, or not what the model can be read from.
    """
    text = decode(line, where=where).strip()
    name = bare_field(model)
    if name is not None and text.startswith('"'):
        with suppress(InputError):
            return parse(f'{{"{name}":{text}}}', model, where=where)
    return parse(text, model, where=where)


def parse(text: str, model: type[BaseModel], *, where: str) -> dict[str, Any]:
    """Parse one JSON object.

    Raises:
        InputError: malformed, not an object, a name twice, ``NaN``, nested too deep, or more than 500,000 values.
    """
    try:
        value = loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        found = text[max(0, error.pos - 30) : error.pos + 30] or "nothing"
        raise InputError(
            f"the input is not JSON: {error.msg} ({place})",
            where=where,
            found=found,
            expected=describe(model),
            hint="write one JSON object, its names and texts in double quotes",
        ) from None
    except RecursionError:
        raise InputError(
            "the input is nested too deep", where=where, expected=describe(model), hint="write one flat JSON object"
        ) from None
    except ValueError as error:
        raise InputError(
            f"the input is not JSON: {error}",
            where=where,
            expected=describe(model),
            hint="correct it; every name stands once, and numbers are finite",
        ) from None
    if not isinstance(value, dict):
        raise InputError(
            "the input is not a JSON object",
            where=where,
            found=text,
            expected=describe(model),
            hint="write the fields between { and }",
        )
    if _are_more(value, MAX_VALUES):
        raise InputError(
            "the input holds too many values",
            where=where,
            expected=f"at most {MAX_VALUES:,}",
            hint="cut it up, and pass the parts as rows to `fslm batch`",
        )
    return value


def _are_more(value: Any, most: int) -> bool:
    """Whether JSON data holds more than ``most`` values."""
    waiting, count = [value], 0
    while waiting and count <= most:
        part = waiting.pop()
        if isinstance(part, dict | list):
            count += len(part)
            waiting += part.values() if isinstance(part, dict) else part
    return count > most


def describe(model: type[BaseModel]) -> str:
    """Say in words what a model takes.

    >>> class Order(BaseModel):
    ...     number: str
    ...     count: int = 1
    >>> describe(Order)
    'a JSON object with number (string), count (integer, optional)'
    """
    schema = model.model_json_schema()
    required = set(schema.get("required", ()))
    fields = (
        f"{name} ({_kind(node)}{'' if name in required else ', optional'})"
        for name, node in schema.get("properties", {}).items()
    )
    return "a JSON object with " + ", ".join(fields)


def _kind(node: dict[str, Any]) -> str:
    if "anyOf" in node:
        return " or ".join(_kind(part) for part in node["anyOf"])
    if "enum" in node:
        return "one of " + ", ".join(map(str, node["enum"]))
    return str(node.get("type", "see the model"))


def decode(raw: bytes, *, where: str) -> str:
    """Decode UTF-8, with or without a byte order mark.

    Raises:
        InputError: it is not UTF-8, or larger than 16 MiB.
    """
    if len(raw) > MAX_INPUT:
        raise InputError(
            "the input is too large",
            where=where,
            expected=f"at most {MAX_INPUT >> 20} MiB",
            hint="cut it up, and pass the parts as rows to `fslm batch`",
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"the input is not UTF-8: byte {error.start} is {raw[error.start]:#04x}",
            where=where,
            found=raw[max(0, error.start - 20) : error.start + 20],
            hint="convert it first, as with `iconv -f LATIN1 -t UTF-8`",
        ) from None


__all__ = ["MAX_INPUT", "MAX_VALUES", "bare_field", "decode", "describe", "parse", "read_line"]

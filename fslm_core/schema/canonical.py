"""JSON data in its one canonical form: the form that training targets are written in and that the grammar allows."""

from __future__ import annotations

import json
import math
from collections import Counter
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from ..errors import SchemaError, shorten

_VALUE = "a value"
_WORDS = {True: "true", False: "false", None: "null"}


def loads(text: str | bytes) -> Any:
    """Read JSON to the letter of its standard: no ``NaN``, and every name in an object once.

    Raises:
        ValueError: it is not that.
        RecursionError: it is nested deeper than Python goes.

    >>> loads('{"a": [1, null]}')
    {'a': [1, None]}
    """
    return json.loads(text, object_pairs_hook=_no_twins, parse_constant=_no_constant)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        ((twin, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {shorten(repr(twin), 60)} stands twice in one object")
    return made


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def dumps(value: object) -> str:
    """Write JSON data in the one canonical form: compact, UTF-8 unescaped, numbers without exponent or needless zeros.

    Control characters, DEL among them, are escaped: the grammar knows no other way to write them.

    Raises:
        SchemaError: a number or half of a surrogate pair, for which JSON has no text.

    >>> dumps({"a": [1, 2.50, 1e-7, 3.0, -0.0, "é\\n\\x7f"]})
    '{"a":[1,2.5,0.0000001,3,0,"é\\\\n\\\\u007f"]}'
    """
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool) or value is None:
        return _WORDS[value]
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return _decimal(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_string(str(k))}:{dumps(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(dumps, value)) + "]"
    raise SchemaError(
        "JSON has no such value", where=_VALUE, found=value, hint="use text, numbers, booleans, lists and dicts"
    )


def _string(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SchemaError(
            "the text holds half of a surrogate pair, which is no text",
            where=_VALUE,
            hint="decode it properly before you pass it",
        ) from None
    return encode_basestring(text).replace("\x7f", "\\u007f")


def _integer(value: int) -> str:
    try:
        return int.__repr__(value)
    except ValueError:  # Python refuses to write thousands of digits
        raise SchemaError(
            "an integer has more digits than can be written", where=_VALUE, hint="bound the field with le=…"
        ) from None


def _decimal(value: float) -> str:
    if not math.isfinite(value):
        raise SchemaError(
            "JSON has no such number", where=_VALUE, found=value, hint="use None where there is no finite number"
        )
    text = format(Decimal(repr(float(value))), "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def plain_data(instance: BaseModel, only: str | None = None) -> dict[str, Any]:
    """The instance as JSON data: declared fields only, in declared order, by their names.

    Args:
        only: this field alone.

    Raises:
        SchemaError: a value that JSON cannot hold.
    """
    names = set(type(instance).model_fields) if only is None else {only}
    try:
        # What does not fit its field is for validation to tell; a warning of pydantic would quote the value.
        return instance.model_dump(mode="json", include=names, by_alias=False, warnings=False)
    except (PydanticSerializationError, UnicodeError) as error:
        raise SchemaError(
            f"a value cannot be written as JSON: {error}",
            where=type(instance).__name__,
            hint="give the field a type that JSON can hold",
        ) from None


def canonical(instance: BaseModel) -> str:
    """The one canonical compact JSON text of an instance.

    Raises:
        SchemaError: a value that JSON cannot hold.
    """
    try:
        return dumps(plain_data(instance))
    except SchemaError as error:
        error.where = type(instance).__name__
        raise


def field_spans(text: str) -> dict[str, tuple[int, int]]:
    """Where each top-level field's value stands in the canonical text of an object.

    Returns:
        Field name to (start, end) in characters, the end excluded; empty if the text is no canonical object.

    >>> field_spans('{"a":"x","b":12}')
    {'a': (5, 8), 'b': (13, 15)}
    """
    decoder = json.JSONDecoder()
    spans: dict[str, tuple[int, int]] = {}
    place = 1
    try:
        while text[place] != "}":
            name, place = decoder.raw_decode(text, place)
            if not isinstance(name, str):
                return {}
            start = place + 1
            _, place = decoder.raw_decode(text, start)
            spans[name] = (start, place)
            place += text[place] == ","
    except (ValueError, IndexError, RecursionError):
        return {}
    return spans


__all__ = ["canonical", "dumps", "field_spans", "plain_data"]

"""What a normalised schema says of a value: whether it fits, how long it can be, what narrowing leaves of it.

Normalised schemas use few words of JSON Schema, so this is short; and it is exact where common validators are not:
``multipleOf`` is reckoned in decimals, ``True`` is not ``1``, and patterns know ASCII digits and letters only, as the
grammar does; and they are matched in linear time, for Python's own matcher can take for ever over a short text.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

from pydantic_core import SchemaError as PatternError
from pydantic_core import SchemaValidator, core_schema

from ..errors import SchemaError, shorten
from .canonical import dumps

Json = dict[str, Any]
Fault = tuple[str, tuple[str | int, ...]]

FORMATS = {"date": 10, "uuid": 36, "ipv4": 15, "ipv6": 45}
"""The string formats whose grammar and canonical text agree, and the longest text of each."""
_WORST_CHARACTER = 6
"""Bytes: a control character is written ``\\u001f``; no other character needs more than four."""
_OUTSIDE: dict[str, Callable[[Any, Any], bool]] = {
    "minimum": operator.lt,
    "exclusiveMinimum": operator.le,
    "maximum": operator.gt,
    "exclusiveMaximum": operator.ge,
}
_KINDS: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def faults(value: object, node: Json, path: tuple[str | int, ...] = ()) -> Iterator[Fault]:
    """Say what of ``value`` (JSON data) does not fit a node, each with the path to it."""
    if "anyOf" in node:
        found = [list(faults(value, branch, path)) for branch in node["anyOf"]]
        if all(found):
            alike = [f for f, branch in zip(found, node["anyOf"], strict=True) if _kind_fits(value, branch)]
            yield from alike[0] if len(alike) == 1 else [(f"{_shown(value)} fits none of the types allowed", path)]
    elif "enum" in node:
        if not is_among(value, node["enum"]):
            yield f"{_shown(value)} is not one of {shorten(dumps(node['enum']), 120)}", path
    elif not _kind_fits(value, node):
        yield f"{_shown(value)} is not of type {node['type']!r}", path
    else:
        yield from _CHECKS.get(node["type"], _nothing)(value, node, path)


def is_among(value: object, values: Sequence[object]) -> bool:
    """``value in values``, for JSON: ``true`` is not ``1``.

    >>> is_among(True, [1]), is_among(1.0, [1])
    (False, True)
    """
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in values)


def longest(node: Json) -> int:
    """Bytes of the longest canonical text that fits a node."""
    if "anyOf" in node:
        return max(map(longest, node["anyOf"]))
    if "enum" in node:
        return max(len(dumps(v).encode()) for v in node["enum"])
    match node["type"]:
        case "object":
            names = [len(dumps(name).encode()) + 1 for name in node["properties"]]
            return 2 + sum(names) + sum(map(longest, node["properties"].values())) + max(0, len(names) - 1)
        case "array":
            if "prefixItems" in node:
                items = node["prefixItems"]
                return 2 + sum(map(longest, items)) + max(0, len(items) - 1)
            most = int(node["maxItems"])
            return 2 + most * longest(node["items"]) + max(0, most - 1)
        case "string" if "format" in node:
            return 2 + FORMATS[node["format"]]
        case "string":
            return 2 + _WORST_CHARACTER * int(node["maxLength"])
        case "integer":
            return max(len(str(node["minimum"])), len(str(node["maximum"])))
        case "number":
            whole = max(len(str(int(node[k]))) for k in _OUTSIDE if k in node)
            return whole + 2 + decimals(node["multipleOf"])
        case "boolean":
            return 5
        case _:
            return 4


def decimals(step: float) -> int:
    """Digits after the point that multiples of ``step`` need.

    >>> decimals(0.25), decimals(10)
    (2, 0)
    """
    return max(0, -int(Decimal(repr(step)).normalize().as_tuple().exponent))


def narrowed(node: Json, values: Sequence[Any], place: str) -> Json:
    """Return the node with only ``values`` left of what it allowed; null stays if it was there.

    Raises:
        SchemaError: no value is left, a value lies outside the node, or the node cannot be narrowed.
    """
    if "anyOf" in node:
        kept = [n for n in node["anyOf"] if n == {"type": "null"}]
        rest = [n for n in node["anyOf"] if n not in kept]
        if len(rest) != 1:
            raise SchemaError(
                "a union of several types cannot be narrowed",
                where=place,
                hint="give the field one type, or that and None",
            )
        present = [v for v in values if v is not None] if kept else values
        return {"anyOf": [narrowed(rest[0], present, place), *kept]} if present or not kept else {"enum": [None]}
    if node.get("type") == "array" and "items" in node:
        if not values and node["minItems"] == 0:
            return {**node, "maxItems": 0}
        return {**node, "items": narrowed(node["items"], values, place)}
    if "enum" in node:
        _refuse_wider(node, values, place)
        left = [v for v in node["enum"] if v is None or is_among(v, values)]
    elif node.get("type") == "string":
        _refuse_wider(node, values, place)
        left = list(values)
    else:
        raise SchemaError(
            "only enums, strings and lists of them can be narrowed",
            where=place,
            found=dumps(node),
            hint="leave the field out of narrow=…",
        )
    if not left:
        raise SchemaError(
            "narrowing leaves no value to choose", where=place, hint="give the field a nullable type, or skip the step"
        )
    return {"enum": left}


def _refuse_wider(node: Json, values: Sequence[object], place: str) -> None:
    for value in values:
        for text, _ in faults(value, node):
            raise SchemaError(
                f"narrowing may only narrow: {text}",
                where=place,
                found=value,
                expected=dumps(node),
                hint="offer only values that the output model allows",
            )


def _kind_fits(value: object, node: Json) -> bool:
    if "enum" in node:
        return is_among(value, node["enum"])
    kind = node.get("type", "")
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _KINDS.get(kind, ())) and isinstance(value, bool) == (kind == "boolean")


def _object(value: Any, node: Json, path: tuple[str | int, ...]) -> Iterator[Fault]:
    for name in node["required"]:
        if name not in value:
            yield f"{name!r} is missing", path
    for name, part in value.items():
        if name not in node["properties"]:
            yield f"{shorten(name, 60)!r} is not a field", path
        else:
            yield from faults(part, node["properties"][name], (*path, name))


def _array(value: Any, node: Json, path: tuple[str | int, ...]) -> Iterator[Fault]:
    if not node["minItems"] <= len(value) <= node["maxItems"]:
        yield f"it has {len(value)} items, not {node['minItems']} to {node['maxItems']}", path
        return
    for place, item in enumerate(value):
        yield from faults(item, node["prefixItems"][place] if "prefixItems" in node else node["items"], (*path, place))


def _string(value: Any, node: Json, path: tuple[str | int, ...]) -> Iterator[Fault]:
    if len(value) > node.get("maxLength", len(value)):
        yield f"{_shown(value)} is longer than {node['maxLength']} characters", path
    elif len(value) < node.get("minLength", 0):
        yield f"{_shown(value)} is shorter than {node['minLength']} characters", path
    elif "pattern" in node and (pattern := _pattern(node["pattern"])) and not pattern.isinstance_python(value):
        yield f"{_shown(value)} does not match {node['pattern']!r}", path


def _number(value: Any, node: Json, path: tuple[str | int, ...]) -> Iterator[Fault]:
    for key, is_outside in _OUTSIDE.items():
        if key in node and is_outside(value, node[key]):
            yield f"{_shown(value)} is beyond its {key} of {dumps(node[key])}", path
            return
    if "multipleOf" in node and Decimal(repr(value)) % Decimal(repr(node["multipleOf"])):
        yield f"{_shown(value)} is not a multiple of {dumps(node['multipleOf'])}", path


def _nothing(value: Any, node: Json, path: tuple[str | int, ...]) -> Iterator[Fault]:
    return iter(())


_CHECKS = {"object": _object, "array": _array, "string": _string, "integer": _number, "number": _number}


_ASCII = {"d": "[0-9]", "D": "[^0-9]", "w": "[0-9A-Za-z_]", "W": "[^0-9A-Za-z_]", "s": r"[\t-\r ]", "S": r"[^\t-\r ]"}
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


@lru_cache(maxsize=512)
def _pattern(source: str) -> SchemaValidator | None:
    """A judge of texts by the pattern, or None where Python alone knows it (pydantic then judges alone)."""
    ascii_only = _ESCAPE.sub(lambda found: _ASCII.get(found[1], found[0]), source)
    try:
        return SchemaValidator(core_schema.str_schema(pattern=ascii_only, regex_engine="rust-regex"))
    except PatternError:
        return None


def _shown(value: object) -> str:
    return shorten(value if isinstance(value, int | float) else repr(value), 80)


__all__ = ["FORMATS", "decimals", "faults", "is_among", "longest", "narrowed"]

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
_NULL: Json = {"type": "null"}
_PLACE = re.compile(r"\[(\d{1,9})\]", re.ASCII)
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
        if isinstance(value, dict) and (told := tagged(node["anyOf"])) is not None and told[0] in value:
            yield from _tagged_faults(value, told[1], told[0], path)
            return
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
            own = list(map(longest, node.get("prefixItems", ())))[: (most := int(node["maxItems"]))]
            rest = (most - len(own)) * longest(node["items"]) if most > len(own) else 0
            return 2 + sum(own) + rest + max(0, most - 1)
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


def tagged(branches: Sequence[Json]) -> tuple[str, list[tuple[Any, Json]]] | None:
    """The field that tells the objects of a union apart, and each object with its value: one in each, its own.

    Null among the branches is left aside. None where there is no such field.

    >>> cases = [{"type": "object", "properties": {"kind": {"enum": [kind]}}} for kind in ("a", "b")]
    >>> tagged([*cases, {"type": "null"}]) == ("kind", [("a", cases[0]), ("b", cases[1])])
    True
    """
    objects = [branch for branch in branches if branch != _NULL]
    if not objects or any(branch.get("type") != "object" for branch in objects):
        return None
    for name in objects[0]["properties"]:
        values = [branch["properties"].get(name, {}).get("enum", []) for branch in objects]
        texts = {dumps(value[0]) for value in values if len(value) == 1}
        if len(texts) == len(objects):
            return str(name), [(value[0], branch) for value, branch in zip(values, objects, strict=True)]
    return None


def _tagged_faults(
    value: Json, cases: list[tuple[Any, Json]], name: str, path: tuple[str | int, ...]
) -> Iterator[Fault]:
    """What does not fit the one object of a union that the value says it is."""
    meant = next((branch for tag, branch in cases if is_among(value[name], [tag])), None)
    if meant is not None:
        yield from faults(value, meant, path)
    else:
        yield from faults(value[name], {"enum": [tag for tag, _ in cases]}, (*path, name))


def narrowed(node: Json, values: Sequence[Any], place: str) -> Json:
    """Return the node with only ``values`` left of what it allowed; null stays if it was there.

    Of a union of objects that a field tells apart (``tool: Literal["weather"]`` in one, ``tool: Literal["finish"]`` in
    another), values are that field's.

    Raises:
        SchemaError: no value is left, a value lies outside the node, or the node cannot be narrowed.
    """
    if "anyOf" in node or tagged([node]) is not None:
        return _narrowed_union(node.get("anyOf", [node]), values, place)
    if node.get("type") == "array":
        return _each_item(node, lambda item: narrowed(item, values, place), empty=not values)
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


def narrowed_at(node: Json, path: Sequence[str], values: Sequence[Any], place: str) -> Json:
    """As :func:`narrowed`, of the field at a path below the node, in its parts: those of ``slots.name`` lead to
    the names in a list of slots, those of ``slots[0].name`` to that of the first.

    A list of objects none of whose values is left may only be empty, and ends before the one of which none is left. Of
    a union, the objects that have the field are narrowed.

    Raises:
        SchemaError: as for :func:`narrowed`, or there is no such field.
    """
    if not path:
        return narrowed(node, values, place)
    if not has_field(node, path):
        raise SchemaError(
            "narrow follows a path that the output does not have",
            where=place,
            hint="name a field of the output, or dotted fields below it; lists are passed through",
        )
    if "anyOf" in node:
        branches = node["anyOf"]
        return {"anyOf": [narrowed_at(b, path, values, place) if has_field(b, path) else b for b in branches]}
    head, *rest = path
    if node["type"] == "array" and (index := _index(head)) is not None:
        return _one_item(node, index, lambda item: narrowed_at(item, rest, values, place), empty=not values)
    if node["type"] == "array":
        return _each_item(node, lambda item: narrowed_at(item, path, values, place), empty=not values)
    inner = narrowed_at(node["properties"][head], rest, values, place)
    return {**node, "properties": {**node["properties"], head: inner}}


def _each_item(node: Json, change: Callable[[Json], Json], *, empty: bool) -> Json:
    """The list with all its items changed; with none where nothing is left for them."""
    if empty and node["minItems"] == 0:
        return {**node, "maxItems": 0}
    if "prefixItems" in node:
        node = {**node, "prefixItems": list(map(change, node["prefixItems"]))}
    return {**node, "items": change(node["items"])} if node["items"] else node


def _one_item(node: Json, index: int, change: Callable[[Json], Json], *, empty: bool) -> Json:
    """The list with one item changed, those before it set apart as they are."""
    if empty and node["minItems"] <= index:
        return {**node, "maxItems": min(index, node["maxItems"])}
    own = list(node.get("prefixItems", ()))
    own += [node["items"]] * (index + 1 - len(own))
    return {**node, "prefixItems": [*own[:index], change(own[index]), *own[index + 1 :]]}


def has_field(node: Json, path: Sequence[str]) -> bool:
    """Whether there is a field at a path below the node, through lists and in any object of a union."""
    if "anyOf" in node:
        return any(has_field(branch, path) for branch in node["anyOf"])
    if path and node.get("type") == "array":
        own = node.get("prefixItems", [])
        if (index := _index(path[0])) is not None:
            return index < node["maxItems"] and has_field([*own[index:], node["items"]][0], path[1:])
        return all(has_field(item, path) for item in [*own, *([node["items"]] if node["items"] else [])])
    return not path or (path[0] in node.get("properties", {}) and has_field(node["properties"][path[0]], path[1:]))


def parts_of(path: str) -> list[str]:
    """A path in its parts.

    >>> parts_of("slots[0].name")
    ['slots', '[0]', 'name']
    """
    return path.replace("[", ".[").split(".")


def _index(part: str) -> int | None:
    """The place that a part of a path names: 0 of ``[0]``; None of a field."""
    match = _PLACE.fullmatch(part)
    return match and int(match[1])


def _narrowed_union(branches: Sequence[Json], values: Sequence[Any], place: str) -> Json:
    kept = [branch for branch in branches if branch == _NULL]
    rest = [branch for branch in branches if branch != _NULL]
    present = [v for v in values if v is not None] if kept else values
    if kept and not present:
        return {"enum": [None]}
    if (told := tagged(rest)) is not None:
        name, cases = told
        left = narrowed({"enum": [tag for tag, _ in cases]}, present, f"{place}.{name}")["enum"]
        return {"anyOf": [*(branch for tag, branch in cases if is_among(tag, left)), *kept]}
    if len(rest) != 1:
        raise SchemaError(
            "a union of several types cannot be narrowed",
            where=place,
            hint="give the field one type, or that and None; or give each type in it a field with one value of its own,"
            " as `kind: Literal['a']`, and narrow by that",
        )
    return {"anyOf": [narrowed(rest[0], present, place), *kept]}


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
    own = node.get("prefixItems", ())
    for place, item in enumerate(value):
        yield from faults(item, own[place] if place < len(own) else node["items"], (*path, place))


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


__all__ = [
    "FORMATS",
    "decimals",
    "faults",
    "has_field",
    "is_among",
    "longest",
    "narrowed",
    "narrowed_at",
    "parts_of",
    "tagged",
]

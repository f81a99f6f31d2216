"""What is said of a step, in plain words: for a terminal and for the page alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..message import LEFT_OUT, failed_with
from ..store import StoredNode
from .drawing import DEEP, compact, probability

_CHOICES = 12
"""Values that a step was held to, of each field, that are listed."""


def because(when: str) -> tuple[str, str, str]:
    """Why a step was passed over: what comes before its reason, the reason, and what comes after.

    >>> "".join(because("kind.urgent"))
    'when kind.urgent was false'
    """
    if when == LEFT_OUT:
        return "somebody left it out", "", ""
    if code := failed_with(when):
        return "it failed with ", code, ", and says on_error='skip'"
    return "when ", when, " was false"


def doubts(node: StoredNode) -> Iterator[str]:
    """Each field that was abstained on, and what else it might have been."""
    for name in node.abstained:
        others = [f"{compact(label)} {probability(chance)}" for label, chance in node.alternatives.get(name, ())]
        yield f"{name}, or {', '.join(others)}" if others else name


def maker(node: StoredNode) -> str:
    """Who made a message: stage, plugin, model, backend."""
    stage = node.stage or "?"
    owner = f" ({node.plugin} {node.version or ''})".replace(" )", ")") if node.plugin else ""
    model = f", model {node.model}" if node.model else ""
    backend = f", backend {node.backend}" if node.backend else ""
    return f"{stage}{owner}{model}{backend}"


def step_of(run: str, node: str) -> str:
    """``input`` from ``01H…/input/0/0``."""
    parts = node.removeprefix(run + "/").rsplit("/", 2)
    return parts[0] if len(parts) == 3 else node


def narrowed(schema: Mapping[str, Any], full: bool = False) -> str:
    """What a step's output was held to by its input, field by field; the first dozen values, unless in full.

    >>> narrowed({"properties": {"seats": {"enum": list(range(15))}}})
    'seats to [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11] and 3 more'
    """
    if set(schema) == {"hash"}:
        return "not kept"
    properties = schema.get("properties")
    choices = (
        (name, _choices(part, DEEP)) for name, part in (properties if isinstance(properties, dict) else {}).items()
    )
    told = (f"{name} to {_some(values, full)}" for name, values in choices if values)
    return "; ".join(told) or compact(schema)


def _some(values: list[Any], full: bool) -> str:
    more = 0 if full else len(values) - _CHOICES
    return f"{compact(values[:_CHOICES])} and {more} more" if more > 0 else compact(values)


def _choices(node: Any, levels: int) -> list[Any]:
    if not isinstance(node, dict) or levels == 0:
        return []
    parts = node.get("properties")
    fields = parts.values() if isinstance(parts, dict) and not _tag(node) else ()
    inner = [*_listed(node, "anyOf"), *_listed(node, "prefixItems"), node.get("items"), *fields]
    return [*_listed(node, "enum"), *_tag(node), *(choice for part in inner for choice in _choices(part, levels - 1))]


def _tag(node: Mapping[str, Any]) -> list[Any]:
    """The value by which one object of a union is told apart: that of the first field that has one only."""
    parts = node.get("properties")
    listed = (
        _listed(part, "enum") for part in (parts.values() if isinstance(parts, dict) else ()) if isinstance(part, dict)
    )
    return next((values for values in listed if len(values) == 1), [])


def _listed(node: Mapping[str, Any], key: str) -> list[Any]:
    value = node.get(key)
    return value if isinstance(value, list) else []


__all__ = ["because", "doubts", "maker", "narrowed", "step_of"]

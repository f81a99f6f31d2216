"""Hypothesis strategies for what a schema allows and a model accepts, the ends of every range among them.

:func:`from_schema` knows the closed subset that :func:`fslm_core.schema.normalise` makes. An input model may be looser
(a text without a bound, an optional field, a model that contains itself): :func:`instances` reads its plain JSON Schema
then, and keeps sizes small.

>>> from pydantic import BaseModel
>>> from fslm_core.schema import normalise
>>> class Answer(BaseModel):
...     polite: bool
>>> from hypothesis import find
>>> find(instances(Answer), lambda answer: answer.polite)
Answer(polite=True)
>>> find(from_schema(normalise(Answer)), lambda data: not data["polite"])
{'polite': False}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, time, timedelta, timezone
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import BaseModel, ValidationError

from ..errors import SchemaError
from ..schema import Schema, dumps, normalise

M = TypeVar("M", bound=BaseModel)
Json = Mapping[str, Any]

_TEXT = 120
"""Characters of a text without a bound, or with a greater one; a bound of up to ten times that is tried as well."""
_ITEMS = 6
"""Items of a list without a bound, or with a greater one; a bound of up to five times that is tried as well."""
_INTEGER = 2**53 - 1
_CHARACTERS = st.characters(codec="utf-8")
_ZONES = st.none() | st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
_TIMES = st.times(timezones=_ZONES).map(lambda t: t.isoformat())
_MOMENTS = st.datetimes(timezones=_ZONES).map(lambda t: t.isoformat())
_FORMATS: dict[str, SearchStrategy[str]] = {
    "date": st.dates().map(lambda d: d.isoformat()),
    "time": _TIMES,
    "date-time": _MOMENTS,
    "uuid": st.uuids().map(str),
    "ipv4": st.ip_addresses(v=4).map(str),
    "ipv6": st.ip_addresses(v=6).map(str),
    "duration": st.integers(0, 10_000).map("PT{}S".format),
    "email": st.from_regex(r"\A[a-z]{1,9}@[a-z]{1,9}\.org\Z"),
    "uri": st.from_regex(r"\Ahttps://[a-z]{1,9}\.org/[a-z]{0,9}\Z"),
}


class _Clock(BaseModel):
    at: time
    when: datetime


_CLOCK = normalise(_Clock).tree["properties"]
_PATTERNS: dict[str, SearchStrategy[str]] = {_CLOCK["at"]["pattern"]: _TIMES, _CLOCK["when"]["pattern"]: _MOMENTS}
"""A normalised schema spells times as patterns, which know nothing of February."""


def from_schema(schema: Schema) -> SearchStrategy[Any]:
    """JSON data that fits a normalised schema.

    Raises:
        SchemaError: a pattern that Python's ``re`` does not know; give a strategy of your own there.
    """
    return _Reader({}).strategy(schema.tree, schema.name).filter(lambda data: not schema.problems(data))


def instances(model: type[M]) -> SearchStrategy[M]:
    """Instances of a model: of data that its schema allows, those that its validators accept.

    Where validators refuse nearly everything, hypothesis says so; build a strategy of your own then,
    ``st.builds(Model, …)``.

    Raises:
        SchemaError: pydantic has no JSON Schema for the model, or a pattern that Python's ``re`` does not know.
    """
    return data_for(model).map(lambda data: _accepted(model, data)).filter(lambda made: made is not None).map(_sure)


def data_for(model: type[BaseModel]) -> SearchStrategy[Any]:
    """JSON data of a model's schema, whether or not its validators would accept it.

    Raises:
        SchemaError: as :func:`instances`.
    """
    try:
        schema = normalise(model)
    except SchemaError:
        raw = _plain_schema(model)
        return _Reader(raw.get("$defs", {})).strategy(raw, model.__name__)
    return from_schema(schema)


def _plain_schema(model: type[BaseModel]) -> dict[str, Any]:
    try:
        return model.model_json_schema(by_alias=False)
    except Exception as error:  # pydantic raises several kinds here
        raise SchemaError(
            f"pydantic cannot express the model as JSON Schema: {error}",
            where=model.__name__,
            hint="give a strategy of your own: inputs = st.builds(…)",
        ) from None


def _accepted(model: type[M], data: object) -> M | None:
    try:
        return model.model_validate_json(dumps(data), by_name=True)
    except (ValidationError, SchemaError):
        return None


def _sure(made: M | None) -> M:
    assert made is not None
    return made


class _Reader:
    """Reads a JSON Schema as strategies; ``defs`` are the models that it refers to."""

    def __init__(self, defs: Json) -> None:
        self._defs = defs
        self._known: dict[str, SearchStrategy[Any]] = {}

    def strategy(self, node: Json, where: str) -> SearchStrategy[Any]:
        """The strategy of one node; ``where`` names it in errors."""
        if "$ref" in node:
            return self._reference(str(node["$ref"]).rpartition("/")[2])
        for key in ("anyOf", "oneOf", "allOf"):
            if key in node:
                return st.one_of([self.strategy(part, where) for part in node[key]])
        if "const" in node:
            return st.just(node["const"])
        if "enum" in node:
            return st.sampled_from(list(node["enum"]))
        match node.get("type"):
            case "object":
                return self._object(node, where)
            case "array":
                return self._array(node, where)
            case "string":
                return _string(node, where)
            case "integer":
                return _integer(node)
            case "number":
                return _number(node)
            case "boolean":
                return st.booleans()
            case "null":
                return st.none()
            case _:
                return st.none() | st.booleans() | st.integers(-9, 9) | st.text(_CHARACTERS, max_size=9)

    def _reference(self, name: str) -> SearchStrategy[Any]:
        if name not in self._known:
            self._known[name] = st.deferred(lambda: self._known[name])
            self._known[name] = self.strategy(self._defs[name], name)
        return self._known[name]

    def _object(self, node: Json, where: str) -> SearchStrategy[Any]:
        parts = {name: self.strategy(part, f"{where}.{name}") for name, part in node.get("properties", {}).items()}
        if not parts and isinstance(inner := node.get("additionalProperties"), dict):
            return st.dictionaries(st.text(_CHARACTERS, max_size=9), self.strategy(inner, where), max_size=_ITEMS)
        needed = node.get("required", [])
        return st.fixed_dictionaries(
            {name: part for name, part in parts.items() if name in needed},
            optional={name: part for name, part in parts.items() if name not in needed},
        )

    def _array(self, node: Json, where: str) -> SearchStrategy[Any]:
        own = [self.strategy(part, where) for part in node.get("prefixItems", ())]
        if own and not node.get("items"):
            return st.tuples(*own).map(list)
        item = self.strategy(node.get("items", {}), f"{where}[]")
        low, high = node.get("minItems", 0), node.get("maxItems")
        if own:
            sizes = st.integers(low, _within(low, high, max(len(own), _ITEMS)))
            return sizes.flatmap(lambda n: st.tuples(*own[:n], *[item] * (n - len(own))).map(list))
        if node.get("uniqueItems"):
            return st.lists(item, min_size=low, max_size=high or low + _ITEMS, unique_by=dumps)
        usual = st.lists(item, min_size=low, max_size=_within(low, high, _ITEMS))
        return usual if high is None or high > 5 * _ITEMS else usual | st.lists(item, min_size=high, max_size=high)


def _within(low: int, high: int | None, usual: int) -> int:
    return max(low, usual) if high is None else max(low, min(high, usual))


def _string(node: Json, where: str) -> SearchStrategy[str]:
    low, high = node.get("minLength", 0), node.get("maxLength")
    if node.get("pattern") in _PATTERNS:
        return _PATTERNS[node["pattern"]]
    if "pattern" in node:
        found = st.from_regex(_pattern(node["pattern"], where))
        return found.filter(lambda text: low <= len(text) <= (len(text) if high is None else high))
    if node.get("format") in _FORMATS:
        return _FORMATS[node["format"]]
    usual = st.text(_CHARACTERS, min_size=low, max_size=_within(low, high, _TEXT))
    if high is None or high > 10 * _TEXT:
        return usual
    return usual | st.text(st.sampled_from("aé🙂"), min_size=high, max_size=high)


def _pattern(pattern: str, where: str) -> re.Pattern[str]:
    ended = re.sub(r"(?<!\\)\$$", r"\\Z", pattern)  # to Python, a line break may follow what `$` ends
    try:
        return re.compile(ended, re.ASCII)
    except re.error as error:
        raise SchemaError(
            f"no text can be made for the pattern: {error}",
            where=where,
            found=pattern,
            hint="give a strategy of your own: inputs = st.builds(…), or outputs",
        ) from None


def _integer(node: Json) -> SearchStrategy[int]:
    step = int(node.get("multipleOf", 1))
    low, high = _multiples(node, Decimal(step), -_INTEGER, _INTEGER)
    ends = st.sampled_from([low, high])
    return (st.integers(low, high) | ends).map(lambda times: times * step)


def _number(node: Json) -> SearchStrategy[float]:
    if "multipleOf" not in node:
        return st.floats(
            node.get("minimum", node.get("exclusiveMinimum")),
            node.get("maximum", node.get("exclusiveMaximum")),
            exclude_min="exclusiveMinimum" in node,
            exclude_max="exclusiveMaximum" in node,
            allow_nan=False,
            allow_infinity=False,
        )
    step = Decimal(repr(node["multipleOf"]))
    low, high = _multiples(node, step, -_INTEGER, _INTEGER)
    return (st.integers(low, high) | st.sampled_from([low, high])).map(lambda times: float(times * step))


def _multiples(node: Json, step: Decimal, low: int, high: int) -> tuple[int, int]:
    """The least and the greatest number of steps within a node's bounds."""
    lows = [int((Decimal(repr(node["minimum"])) / step).to_integral_value(ROUND_CEILING))] if "minimum" in node else []
    highs = [int((Decimal(repr(node["maximum"])) / step).to_integral_value(ROUND_FLOOR))] if "maximum" in node else []
    if "exclusiveMinimum" in node:
        lows.append(int((Decimal(repr(node["exclusiveMinimum"])) / step).to_integral_value(ROUND_FLOOR)) + 1)
    if "exclusiveMaximum" in node:
        highs.append(int((Decimal(repr(node["exclusiveMaximum"])) / step).to_integral_value(ROUND_CEILING)) - 1)
    return max(lows, default=low), min(highs, default=high)


__all__ = ["data_for", "from_schema", "instances"]

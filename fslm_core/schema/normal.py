"""From a pydantic model to its one normalised JSON Schema, and from a text back to the model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from itertools import islice
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from ..errors import SchemaError, shorten
from ..lazy import lazy
from ..message import Problem, digest
from .canonical import canonical, dumps, loads
from .fit import FORMATS, decimals, faults, has_field, longest, narrowed_at, parts_of

M = TypeVar("M", bound=BaseModel)

Json = dict[str, Any]
_LARGEST_INT = 2**53 - 1
_DIGITS = 15
"""A float keeps every decimal number of so many digits."""
_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
_LISTED = 1000
"""So many numbers can be listed one by one."""
_NODES = 10_000
"""So many nodes may a schema have, a model that stands in two places counted twice."""
_TOLD = 1000
"""So many of pydantic's findings are looked at one by one."""
_PROBLEMS = 20
"""How many problems of one text are listed."""
_NOTES = frozenset({"title", "description", "default", "examples", "deprecated", "sensitive"})
"""Words of a plain JSON Schema that say nothing of what fits it."""

_DATE = r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
_TIME = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)?"
_WRITTEN: dict[str, Json] = {
    "time": {"type": "string", "maxLength": 21, "pattern": f"^{_TIME}$"},
    "date-time": {"type": "string", "maxLength": 32, "pattern": f"^{_DATE}T{_TIME}$"},
}
"""Formats as pydantic writes them; a JSON Schema's own insist on a time zone."""


@dataclass(frozen=True)
class Schema:
    """A normalised JSON Schema.

    Attributes:
        name: the model it was made of, for error texts.
        tree: the schema as JSON data, without titles, descriptions and defaults.
    """

    name: str
    tree: Json

    @lazy
    def text(self) -> str:
        """The schema as compact JSON, the form a grammar compiler takes."""
        return dumps(self.tree)

    @lazy
    def id(self) -> str:
        """SHA-256 (hex) of ``text``."""
        return digest(self.text)

    @lazy
    def max_bytes(self) -> int:
        """Length in bytes of the longest canonical text; no tokenizer needs more tokens than that."""
        return longest(self.tree)

    def narrow(self, allowed: Mapping[str, Iterable[object]], *, where: str | None = None) -> Schema:
        """Return a copy in which each named field takes only the values given; null stays if it was there.

        Args:
            allowed: by field; a dotted path leads into objects, through lists and unions: ``slots.name``, of one item
                of a list ``slots[0].name``. Of a union of objects that one field tells apart, the values are that
                field's.

        Raises:
            SchemaError: no value is left, a value lies outside the static type, or the field cannot be narrowed.

        >>> from typing import Literal
        >>> from pydantic import create_model
        >>> Slot = create_model("Slot", name=Literal["date", "time", "town"])
        >>> Heard = create_model("Heard", slot=Slot)
        >>> print(normalise(Heard).narrow({"slot.name": ["date"]}).problems({"slot": {"name": "town"}})[0].text)
        'town' is not one of ["date"]
        """
        tree = self.tree
        for field, values in sorted(allowed.items(), key=lambda each: "[" in each[0]):  # all items before one of them
            plain = list({(type(v), v): v for v in map(_plain, values)}.values())
            tree = narrowed_at(tree, parts_of(field), plain, f"{where or self.name}.{field}")
        return Schema(self.name, tree) if allowed else self

    def has(self, path: str) -> bool:
        """Whether there is a field at a dotted path, through lists and unions."""
        return has_field(self.tree, parts_of(path))

    def problems(self, value: object) -> list[Problem]:
        """Say what of ``value`` (JSON data) does not fit the schema: the first 20 problems."""
        return [
            Problem("schema", text, ".".join(map(str, path)) or None)
            for text, path in islice(faults(value, self.tree), _PROBLEMS)
        ]

    def grammar_error(self) -> str | None:
        """Compile the schema with llguidance and return its complaint, or None; None too if it is not installed."""
        try:
            from llguidance import LLMatcher
        except ImportError:
            return None
        grammar = LLMatcher.grammar_from_json_schema(self.text, defaults={"whitespace_flexible": False})
        return LLMatcher.validate_grammar(grammar) or None


@lru_cache(maxsize=512)
def normalise(model: type[BaseModel]) -> Schema:
    """Make the one closed, bounded schema of a model.

    Plain ``int`` fields are bounded to what JSON readers keep exact, ±(2^53 - 1).

    Raises:
        SchemaError: an alias, a dict, a set, ``Any``, a recursive model, anything without a bound, or a field that is
            written otherwise than it is read; the text names the field and the line to write.
    """
    aliased = [name for name, field in model.model_fields.items() if field.alias or field.validation_alias]
    if aliased:
        raise SchemaError(
            "a field has an alias", where=f"{model.__name__}.{aliased[0]}", hint="give the field the name itself"
        )
    tree = _tree(_raw(model, "validation"), model)
    if tree.get("type") != "object":
        raise SchemaError(
            "the model is not an object with fields", where=model.__name__, hint="derive it from BaseModel"
        )
    if (place := _otherwise(tree, model)) is not None:
        raise SchemaError(
            "the field is written otherwise than it is read",
            where=place,
            hint="remove what changes it: an alias, exclude=True, a serialiser, or a computed field of a nested model",
        )
    return Schema(model.__name__, tree)


@lru_cache(maxsize=512)
def schema_id_of(model: type[BaseModel]) -> str:
    """The id of a model's normalised schema, or of its plain one where it has no bounded form (an input model may).

    Raises:
        SchemaError: pydantic cannot express the model as JSON Schema at all.
    """
    return digest(dumps(tree_of(model)))


def tree_of(model: type[BaseModel]) -> Json:
    """A model's normalised schema, or its plain one where it has no bounded form, without notes for people.

    Raises:
        SchemaError: pydantic cannot express the model as JSON Schema at all.
    """
    try:
        return normalise(model).tree
    except SchemaError:
        plain: Json = _without_notes(_raw(model, "validation"))
        return plain


def content_id(instance: BaseModel) -> str:
    """Says "the same content": the hash of ``schema_id`` and canonical JSON."""
    return digest(schema_id_of(type(instance)), canonical(instance))


def parse(text: str, model: type[M], schema: Schema) -> M | list[Problem]:
    """Read an output: JSON, then the (narrowed) schema, then the model's own validators.

    Returns:
        The instance, or what is wrong with the text.
    """
    try:
        value = loads(text)
    except (ValueError, RecursionError) as error:
        return [Problem("json", f"not JSON: {error}")]
    if problems := schema.problems(value):
        return problems
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        return problems_of(error)


def problems_of(error: ValidationError) -> list[Problem]:
    """Turn pydantic's findings into problems, or one that counts them where they are more than a thousand."""
    if error.error_count() > _TOLD:
        return [Problem("validator", f"{error.error_count():,} values do not fit {error.title}")]
    return [
        Problem("validator", shorten(e["msg"], 200), ".".join(map(str, e["loc"])) or None)
        for e in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def _plain(value: object) -> Any:
    return value.value if isinstance(value, Enum) else value


def _raw(model: type[BaseModel], mode: Literal["validation", "serialization"]) -> Json:
    """Pydantic's own schema: by alias as it reads, by name as we have it write."""
    try:
        return model.model_json_schema(mode=mode, by_alias=mode == "validation")
    except Exception as error:  # pydantic raises several kinds here
        raise SchemaError(
            f"pydantic cannot express the model as JSON Schema: {shorten(str(error))}",
            where=model.__name__,
            hint="use types that have a JSON form",
        ) from None


def _tree(raw: Json, model: type[BaseModel]) -> Json:
    size = _size(raw, raw.get("$defs", {}), {})
    if size > _NODES:
        raise SchemaError(
            "the model holds too many fields, those of its parts counted wherever they stand",
            where=model.__name__,
            found=f"{size:,}" if size < 10**15 else "more than can be told",
            expected=f"at most {_NODES:,}",
            hint="take the job apart into stages with smaller outputs",
        )
    return _normal(raw, raw.get("$defs", {}), model.__name__, ())


def _size(node: Any, defs: Json, known: dict[str, int]) -> int:
    """How many nodes a schema has once every reference is written out; each definition is counted once."""
    if isinstance(node, list):
        return sum(_size(part, defs, known) for part in node)
    if not isinstance(node, dict):
        return 0
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        if name not in known:
            known[name] = 1  # for a model that contains itself, which is refused later
            known[name] = _size(defs[name], defs, known)
        return known[name]
    return 1 + sum(_size(part, defs, known) for key, part in node.items() if key != "$defs")


def _otherwise(tree: Json, model: type[BaseModel]) -> str | None:
    """The place of a field that is written otherwise than ``tree`` reads it, or None."""
    raw = _raw(model, "serialization")
    raw["properties"] = {k: v for k, v in raw.get("properties", {}).items() if k in model.model_fields}
    try:
        written = _tree(raw, model)
    except SchemaError as error:
        return error.where
    return _difference(tree, written, model.__name__)


def _difference(read: Any, written: Any, where: str) -> str | None:
    """The place of the first difference between two trees, or None."""
    if read == written:
        return None
    if isinstance(read, dict) and isinstance(written, dict):
        one, other = read.get("properties", read), written.get("properties", written)
        for key in one:
            inner = _difference(one[key], other.get(key), f"{where}.{key}" if one is not read else where)
            if inner is not None:
                return inner
    return where


def _without_notes(node: Any, *, names: bool = False) -> Any:
    """The schema without its notes; ``names`` says that the keys here are names of fields, not words."""
    if isinstance(node, dict):
        kept = {k: v for k, v in node.items() if names or k not in _NOTES}
        return {k: _without_notes(v, names=not names and k in ("properties", "$defs")) for k, v in kept.items()}
    if isinstance(node, list):
        return [_without_notes(v) for v in node]
    return node


def _normal(node: Json, defs: Json, where: str, above: tuple[str, ...]) -> Json:
    """One node of pydantic's schema in normal form; ``above`` are the references it stands in."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        if name in above:
            raise SchemaError(
                "the model contains itself, so its output has no bound", where=where, found=name, hint="flatten it"
            )
        return _normal(defs[name], defs, where, (*above, name))
    for key in ("anyOf", "oneOf"):
        if key in node:
            return {"anyOf": [_normal(n, defs, where, above) for n in node[key]]}
    if "allOf" in node:
        if len(node["allOf"]) != 1:
            raise SchemaError(
                "an intersection of schemas cannot be expressed",
                where=where,
                hint="write one model with all the fields",
            )
        return _normal(node["allOf"][0], defs, where, above)
    if "const" in node:
        return {"enum": [node["const"]]}
    if "enum" in node:
        if not node["enum"]:
            raise SchemaError("an enum without members", where=where, hint="give it the values to choose from")
        return {"enum": list(node["enum"])}
    make = _MAKERS.get(node.get("type", ""))
    if make is None:
        raise SchemaError(
            "the field can hold anything", where=where, found=shorten(dumps(node), 80), hint="give it a type"
        )
    return make(node, defs, where, above)


def _object(node: Json, defs: Json, where: str, above: tuple[str, ...]) -> Json:
    if "properties" not in node and node.get("additionalProperties", True) is not False:
        raise SchemaError(
            "a dict has no bound on its keys",
            where=where,
            hint="use a model with named fields, or a list of pairs with max_length",
        )
    properties = {name: _normal(n, defs, f"{where}.{name}", above) for name, n in node.get("properties", {}).items()}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _string(node: Json, defs: Json, where: str, above: tuple[str, ...]) -> Json:
    known = node.get("format")
    if known in FORMATS:
        return {"type": "string", "format": known}
    if known in _WRITTEN:
        return dict(_WRITTEN[known])
    if known is not None:
        raise SchemaError(
            f"the string format {known!r} cannot be bounded",
            where=where,
            hint="use str with max_length and a validator (for a duration, a number of seconds)",
        )
    if "maxLength" not in node:
        name = where.rpartition(".")[2]
        raise SchemaError(
            "the string has no bound", where=where, hint=f"write `{name}: Annotated[str, Field(max_length=…)]`"
        )
    kept: Json = {key: node[key] for key in ("minLength", "maxLength", "pattern") if key in node}
    return {"type": "string", **kept}


def _integer(node: Json, defs: Json, where: str, above: tuple[str, ...]) -> Json:
    low, high = _whole({key: node[key] for key in _BOUNDS if key in node})
    if not -_LARGEST_INT <= low <= high <= _LARGEST_INT:
        raise SchemaError(
            "the integer's bounds leave nothing, or more than JSON readers keep exact",
            where=where,
            found=f"{low} to {high}",
            expected=f"bounds within ±{_LARGEST_INT}",
            hint="bound it more tightly, or use a string of digits",
        )
    kept = {"multipleOf": node["multipleOf"]} if "multipleOf" in node else {}
    return {"type": "integer", "minimum": low, "maximum": high, **kept}


def _whole(bounds: Json) -> tuple[int, int]:
    """The least and the greatest whole number within bounds."""
    lows = [math.ceil(bounds["minimum"])] if "minimum" in bounds else []
    lows += [math.floor(bounds["exclusiveMinimum"]) + 1] if "exclusiveMinimum" in bounds else []
    highs = [math.floor(bounds["maximum"])] if "maximum" in bounds else []
    highs += [math.ceil(bounds["exclusiveMaximum"]) - 1] if "exclusiveMaximum" in bounds else []
    return max(lows, default=-_LARGEST_INT), min(highs, default=_LARGEST_INT)


def _number(node: Json, defs: Json, where: str, above: tuple[str, ...]) -> Json:
    bounds: Json = {k: node[k] for k in _BOUNDS if k in node}
    low = any(k in bounds for k in ("minimum", "exclusiveMinimum"))
    high = any(k in bounds for k in ("maximum", "exclusiveMaximum"))
    if not (low and high and "multipleOf" in node):
        name = where.rpartition(".")[2]
        raise SchemaError(
            "the number has no bound on its digits",
            where=where,
            hint=f"write `{name}: Annotated[float, Field(ge=…, le=…, multiple_of=0.01)]`",
        )
    digits = max(len(str(abs(int(end)))) for end in bounds.values()) + decimals(node["multipleOf"])
    if digits > _DIGITS:
        raise SchemaError(
            "the number can have more digits than a float keeps",
            where=where,
            found=f"{digits} digits",
            expected=f"at most {_DIGITS}",
            hint="bound it more tightly, or choose a coarser multiple_of",
        )
    step = Decimal(repr(node["multipleOf"]))
    tens = step % 1 == 0 or step.normalize().as_tuple().digits == (1,)
    if tens and all(float(end).is_integer() for end in bounds.values()):
        return {"type": "number", **bounds, "multipleOf": node["multipleOf"]}
    return {"enum": _multiples(bounds, step, where)}


def _multiples(bounds: Json, step: Decimal, where: str) -> list[float]:
    """The multiples of ``step`` within bounds, one by one: llguidance loses some of them where steps are not tenths,
    hundredths and so on, or the bounds not whole."""
    low, high = _whole({key: Decimal(repr(end)) / step for key, end in bounds.items()})
    places = range(low, high + 1)
    if not 1 <= len(places) <= _LISTED:
        raise SchemaError(
            "the number's bounds and step cannot be expressed",
            where=where,
            found=f"{len(places)} multiples of {step}",
            expected=f"whole bounds and a step of 1, 0.1, 0.01, …, or 1 to {_LISTED} multiples",
            hint="change ge, le or multiple_of of the field",
        )
    return [float(place * step) for place in places]


def _array(node: Json, defs: Json, where: str, above: tuple[str, ...]) -> Json:
    if node.get("uniqueItems"):
        raise SchemaError("a set cannot be expressed by the grammar", where=where, hint="use a list with max_length")
    if "prefixItems" in node:
        parts = [_normal(n, defs, f"{where}[{i}]", above) for i, n in enumerate(node["prefixItems"])]
        return {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts), "maxItems": len(parts)}
    if "maxItems" not in node:
        name = where.rpartition(".")[2]
        raise SchemaError(
            "the list has no bound", where=where, hint=f"write `{name}: Annotated[list[…], Field(max_length=…)]`"
        )
    items = _normal(node.get("items", {}), defs, f"{where}[]", above)
    return {"type": "array", "items": items, "minItems": node.get("minItems", 0), "maxItems": node["maxItems"]}


def _boolean(node: Json, defs: Json, where: str, above: tuple[str, ...]) -> Json:
    return {"type": "boolean"}


def _null(node: Json, defs: Json, where: str, above: tuple[str, ...]) -> Json:
    return {"type": "null"}


_MAKERS = {
    "object": _object,
    "string": _string,
    "integer": _integer,
    "number": _number,
    "array": _array,
    "boolean": _boolean,
    "null": _null,
}


__all__ = ["Schema", "content_id", "normalise", "parse", "problems_of", "schema_id_of", "tree_of"]

"""A pydantic model, its normalised JSON Schema, and one canonical text for each of its values.

Grammar and training targets both come from here: the schema is closed, every field is required and in declared
order, and every string, array and number is bounded, so that the longest output is known before anything is written.

>>> class Answer(BaseModel):
...     polite: bool
>>> canonical(Answer(polite=True)), normalise(Answer).max_bytes
('{"polite":true}', 16)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from functools import cached_property, lru_cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from .errors import SchemaError, shorten
from .message import Problem, digest

M = TypeVar("M", bound=BaseModel)

Json = dict[str, Any]
_LARGEST_INT = 2**53 - 1
_WORST_CHARACTER = 6
"""Bytes: a control character is written ``\\u001f``; no other character needs more than four."""
_FORMATS = {"date": 10, "time": 21, "date-time": 36, "uuid": 36, "duration": 64, "ipv4": 15, "ipv6": 45}


@dataclass(frozen=True)
class Schema:
    """A normalised JSON Schema.

    Attributes:
        name: the model it was made of, for error texts.
        tree: the schema as JSON data, without titles, descriptions and defaults.
    """

    name: str
    tree: Json

    @cached_property
    def text(self) -> str:
        """The schema as compact JSON, the form a grammar compiler takes."""
        return dumps(self.tree)

    @cached_property
    def id(self) -> str:
        """SHA-256 (hex) of ``text``."""
        return digest(self.text)

    @cached_property
    def max_bytes(self) -> int:
        """Length in bytes of the longest canonical text; no tokenizer needs more tokens than that."""
        return _longest(self.tree)

    @cached_property
    def _validator(self) -> Any:
        from jsonschema import Draft202012Validator

        return Draft202012Validator(_without_multiples(self.tree))

    def narrow(self, allowed: Mapping[str, Iterable[object]], *, where: str | None = None) -> Schema:
        """Return a copy in which each named field takes only the values given; null stays if it was there.

        Raises:
            SchemaError: no value is left, a value lies outside the static type, or the field cannot be narrowed.
        """
        if not allowed:
            return self
        properties = dict(self.tree["properties"])
        for field, values in allowed.items():
            plain = list(dict.fromkeys(_plain(v) for v in values))
            properties[field] = _narrowed(properties[field], plain, field, where or self.name)
        return Schema(self.name, {**self.tree, "properties": properties})

    def problems(self, value: object) -> list[Problem]:
        """Say what of ``value`` (JSON data) does not fit the schema."""
        return [
            Problem("schema", shorten(error.message, 200), ".".join(map(str, error.absolute_path)) or None)
            for error in self._validator.iter_errors(value)
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

    Raises:
        SchemaError: an alias, a dict, a set, ``Any``, a recursive model, or anything without a bound; the text names
            the field and the line to write.
    """
    aliased = [name for name, field in model.model_fields.items() if field.alias or field.validation_alias]
    if aliased:
        raise SchemaError(
            "a field has an alias", where=f"{model.__name__}.{aliased[0]}", hint="give the field the name itself"
        )
    try:
        raw = model.model_json_schema(mode="validation")
    except Exception as error:  # pydantic raises several kinds here
        raise SchemaError(f"pydantic cannot express the model as JSON Schema: {error}", where=model.__name__) from None
    return Schema(model.__name__, _normal(raw, raw.get("$defs", {}), model.__name__, ()))


def schema_id_of(model: type[BaseModel]) -> str:
    """The id of a model's normalised schema; of its plain JSON Schema where it has no bounded form (an input model may)."""
    try:
        return normalise(model).id
    except SchemaError:
        return digest(dumps(model.model_json_schema()))


def dumps(value: object) -> str:
    """Write JSON data in the one canonical form: compact, UTF-8 unescaped, floats without exponents.

    >>> dumps({"a": [1, 2.50, 1e-7, "é\\n"]})
    '{"a":[1,2.5,0.0000001,"é\\\\n"]}'
    """
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f")
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k, ensure_ascii=False)}:{dumps(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(dumps, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def plain_data(instance: BaseModel) -> Json:
    """The instance as JSON data: declared fields only, in declared order."""
    names = set(type(instance).model_fields)
    try:
        return instance.model_dump(mode="json", include=names)
    except (PydanticSerializationError, UnicodeError) as error:
        raise SchemaError(f"a value cannot be written as JSON: {error}", where=type(instance).__name__) from None


def canonical(instance: BaseModel) -> str:
    """The one canonical compact JSON text of an instance."""
    return dumps(plain_data(instance))


def content_id(instance: BaseModel) -> str:
    """Says "the same content": the hash of ``schema_id`` and canonical JSON."""
    return digest(schema_id_of(type(instance)), canonical(instance))


def parse(text: str, model: type[M], schema: Schema) -> M | list[Problem]:
    """Read an output: JSON, then the (narrowed) schema, then the model's own validators.

    Returns:
        The instance, or everything that is wrong with the text.
    """
    try:
        value = json.loads(text, object_pairs_hook=_no_twins, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return [Problem("json", f"not JSON: {error}")]
    if problems := schema.problems(value):
        return problems
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        return problems_of(error)


def problems_of(error: ValidationError) -> list[Problem]:
    """Turn pydantic's findings into problems."""
    return [
        Problem("validator", shorten(e["msg"], 200), ".".join(map(str, e["loc"])) or None)
        for e in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def field_spans(text: str) -> dict[str, tuple[int, int]]:
    """Where each top-level field's value stands in the canonical text of an object.

    Returns:
        Field name to (start, end) in characters, the end excluded; empty if the text is no object.

    >>> field_spans('{"a":"x","b":12}')
    {'a': (5, 8), 'b': (13, 15)}
    """
    decoder = json.JSONDecoder()
    spans: dict[str, tuple[int, int]] = {}
    place = 1
    try:
        while text[place] != "}":
            name, place = decoder.raw_decode(text, place)
            start = place + 1
            _, place = decoder.raw_decode(text, start)
            spans[name] = (start, place)
            place += text[place] == ","
    except (ValueError, IndexError):
        return {}
    return spans


def _no_twins(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _plain(value: object) -> Any:
    return value.value if isinstance(value, Enum) else value


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
            raise SchemaError("an intersection of schemas cannot be expressed", where=where)
        return _normal(node["allOf"][0], defs, where, above)
    if "const" in node:
        return {"enum": [node["const"]]}
    if "enum" in node:
        if not node["enum"]:
            raise SchemaError("an enum without members", where=where)
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
    if known in _FORMATS:
        return {"type": "string", "format": known}
    if known is not None:
        raise SchemaError(
            f"the string format {known!r} cannot be bounded",
            where=where,
            hint="use str with max_length and a validator",
        )
    if "maxLength" not in node:
        name = where.rpartition(".")[2]
        raise SchemaError(
            "the string has no bound", where=where, hint=f"write `{name}: Annotated[str, Field(max_length=…)]`"
        )
    kept = {key: node[key] for key in ("minLength", "maxLength", "pattern") if key in node}
    return {"type": "string", **kept}


def _integer(node: Json, defs: Json, where: str, above: tuple[str, ...]) -> Json:
    low = max(node.get("minimum", -_LARGEST_INT), node.get("exclusiveMinimum", -_LARGEST_INT - 1) + 1)
    high = min(node.get("maximum", _LARGEST_INT), node.get("exclusiveMaximum", _LARGEST_INT + 1) - 1)
    kept = {"multipleOf": node["multipleOf"]} if "multipleOf" in node else {}
    return {"type": "integer", "minimum": low, "maximum": high, **kept}


def _number(node: Json, defs: Json, where: str, above: tuple[str, ...]) -> Json:
    bounds = {k: node[k] for k in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum") if k in node}
    low = any(k in bounds for k in ("minimum", "exclusiveMinimum"))
    high = any(k in bounds for k in ("maximum", "exclusiveMaximum"))
    if not (low and high and "multipleOf" in node):
        name = where.rpartition(".")[2]
        raise SchemaError(
            "the number has no bound on its digits",
            where=where,
            hint=f"write `{name}: Annotated[float, Field(ge=…, le=…, multiple_of=0.01)]`",
        )
    return {"type": "number", **bounds, "multipleOf": node["multipleOf"]}


def _array(node: Json, defs: Json, where: str, above: tuple[str, ...]) -> Json:
    if node.get("uniqueItems"):
        raise SchemaError("a set cannot be expressed by the grammar", where=where, hint="use a list with max_length")
    if "prefixItems" in node:
        items = [_normal(n, defs, f"{where}[{i}]", above) for i, n in enumerate(node["prefixItems"])]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items), "maxItems": len(items)}
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


def _longest(node: Json) -> int:
    if "anyOf" in node:
        return max(_longest(n) for n in node["anyOf"])
    if "enum" in node:
        return max(len(dumps(v).encode()) for v in node["enum"])
    match node["type"]:
        case "object":
            names = [len(dumps(name).encode()) + 1 for name in node["properties"]]
            return 2 + sum(names) + sum(map(_longest, node["properties"].values())) + max(0, len(names) - 1)
        case "array":
            items = node["prefixItems"] if "prefixItems" in node else [node["items"]] * node["maxItems"]
            return 2 + sum(map(_longest, items)) + max(0, len(items) - 1)
        case "string" if "format" in node:
            return 2 + _FORMATS[node["format"]]
        case "string":
            return 2 + _WORST_CHARACTER * int(node["maxLength"])
        case "integer":
            return max(len(str(node["minimum"])), len(str(node["maximum"])))
        case "number":
            ends = [node[k] for k in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum") if k in node]
            digits = max(0, -int(Decimal(repr(node["multipleOf"])).normalize().as_tuple().exponent))
            return max(len(str(int(end))) for end in ends) + 2 + digits
        case "boolean":
            return 5
        case _:
            return 4


def _without_multiples(node: Any) -> Any:
    """Floats make a poor job of ``multipleOf``; pydantic checks it with a tolerance."""
    if isinstance(node, dict):
        return {k: _without_multiples(v) for k, v in node.items() if k != "multipleOf" or isinstance(v, dict)}
    if isinstance(node, list):
        return [_without_multiples(v) for v in node]
    return node


def _narrowed(node: Json, values: list[Any], field: str, where: str) -> Json:
    place = f"{where}.{field}"
    if "anyOf" in node:
        kept = [n for n in node["anyOf"] if n == {"type": "null"}]
        rest = [n for n in node["anyOf"] if n not in kept]
        if len(rest) != 1:
            raise SchemaError("a union of several types cannot be narrowed", where=place)
        present = [v for v in values if v is not None]
        return {"anyOf": [_narrowed(rest[0], present, field, where), *kept]} if present else {"enum": [None]}
    if node.get("type") == "array" and "items" in node:
        return {**node, "items": _narrowed(node["items"], values, field, where)}
    if not values:
        raise SchemaError(
            "narrowing leaves no value to choose", where=place, hint="give the field a nullable type, or skip the step"
        )
    if "enum" in node:
        outside = [v for v in values if v not in node["enum"]]
        if outside:
            raise SchemaError(
                "narrowing may only narrow", where=place, found=outside[0], expected=f"one of {node['enum']}"
            )
        return {"enum": [v for v in node["enum"] if v in values]}
    if node.get("type") == "string":
        for value in values:
            if not isinstance(value, str) or len(value) > node.get("maxLength", len(value)):
                raise SchemaError(
                    "narrowing may only narrow", where=place, found=value, expected=f"text that fits {dumps(node)}"
                )
        return {"enum": values}
    raise SchemaError("only enums, strings and lists of them can be narrowed", where=place, found=dumps(node))


__all__ = [
    "Schema",
    "canonical",
    "content_id",
    "dumps",
    "field_spans",
    "normalise",
    "parse",
    "plain_data",
    "problems_of",
    "schema_id_of",
]

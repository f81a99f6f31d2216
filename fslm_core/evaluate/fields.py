"""Which fields a message has and how each is compared: as a label, a text, a number, a list, or whole.

>>> class Order(BaseModel):
...     kind: Literal["new", "old"] | None
...     city: str
>>> [(field.name, field.kind, field.labels) for field in fields_of(Order)]
[('kind', 'label', ('new', 'old', 'null')), ('city', 'text', ())]
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel

from ..schema import dumps

Kind = Literal["label", "text", "number", "list", "other"]
Json = dict[str, Any]


class Mark(Enum):
    """What stands in the place of a message that is not there."""

    SKIPPED = "(skipped)"
    FAILED = "(failed)"
    UNKNOWN = "(unknown)"


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One field that is compared.

    Attributes:
        name: its dotted path; the fields of a model inside a model are compared one by one.
        labels: every value a label may have, as :func:`label_of` writes it, in the model's order.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...] = ()

    def of(self, message: Mapping[str, Any] | Mark) -> Any:
        """The field's value; null below a null; ``Mark.UNKNOWN`` where the message does not have the field."""
        if isinstance(message, Mark):
            return message
        value: Any = message
        for part in self.name.split("."):
            if value is None:
                return None
            if part not in value:
                return Mark.UNKNOWN
            value = value[part]
        return value


def fields_of(model: type[BaseModel]) -> tuple[FieldSpec, ...]:
    """The fields of a model in declared order, read off its JSON Schema."""
    return _fields_of(model)


@lru_cache(maxsize=256)
def _fields_of(model: type[BaseModel]) -> tuple[FieldSpec, ...]:
    schema = model.model_json_schema(mode="serialization", by_alias=False)
    definitions = schema.get("$defs", {})
    (whole,) = _branches(schema, definitions)
    declared = {name: node for name, node in whole["properties"].items() if name in model.model_fields}
    return tuple(_specs(declared, definitions, "", (whole.get("title", ""),)))


def _specs(properties: Json, definitions: Json, prefix: str, above: tuple[str, ...]) -> Iterator[FieldSpec]:
    for name, node in properties.items():
        path = f"{prefix}{name}"
        branches = list(_branches(node, definitions))
        real = [branch for branch in branches if branch.get("type") != "null"]
        inner = real[0] if len(real) == 1 else {}
        reference = inner.get("title", "")
        if inner.get("type") == "object" and inner.get("properties") and reference not in above and len(above) < 8:
            yield from _specs(inner["properties"], definitions, f"{path}.", (*above, reference))
        elif real and all(_choices(branch) is not None for branch in real):
            labels = [label_of(value) for branch in branches for value in _choices(branch) or (None,)]
            yield FieldSpec(path, "label", tuple(dict.fromkeys(labels)))
        else:
            yield FieldSpec(path, _KINDS.get(inner.get("type", ""), "other"))


_KINDS: dict[str, Kind] = {"string": "text", "integer": "number", "number": "number", "array": "list"}


def _branches(node: Json, definitions: Json) -> Iterator[Json]:
    """The alternatives of a node, references followed."""
    if "$ref" in node:
        yield from _branches(definitions[node["$ref"].rpartition("/")[2]], definitions)
    elif len(node.get("allOf", ())) == 1:
        yield from _branches(node["allOf"][0], definitions)
    elif "anyOf" in node:
        for branch in node["anyOf"]:
            yield from _branches(branch, definitions)
    else:
        yield node


def _choices(node: Json) -> list[Any] | None:
    if "enum" in node:
        return list(node["enum"])
    if "const" in node:
        return [node["const"]]
    return [False, True] if node.get("type") == "boolean" else None


def label_of(value: Any) -> str:
    """A label as text: strings as they are, anything else as JSON; a string that looks like JSON's words is quoted.

    >>> label_of("ORDER"), label_of(None), label_of("null"), label_of(Mark.SKIPPED)
    ('ORDER', 'null', '"null"', '(skipped)')
    """
    if isinstance(value, Mark):
        return value.value
    plain = isinstance(value, str) and value not in ("null", "true", "false", *(mark.value for mark in Mark))
    return value if plain else dumps(value)


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = set(string.punctuation)


def normal_text(text: str) -> str:
    """Lower case, without punctuation, English articles and extra white space.

    Source: ``normalize_answer`` of the SQuAD evaluation script (Rajpurkar et al., 2016, arXiv 1606.05250; version 1.1
    of the script, https://rajpurkar.github.io/SQuAD-explorer/).

    >>> normal_text("The  Order, #12.")
    'order 12'
    """
    bare = "".join(c for c in text.lower() if c not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def token_f1(gold: str | None, predicted: str | None) -> float:
    """F1 of the tokens two texts share, 0 to 1; null, or a text that normalises to nothing, equals only its like.

    Source: ``compute_f1`` of the SQuAD 2.0 evaluation script (Rajpurkar, Jia, Liang, 2018, arXiv 1806.03822).

    >>> token_f1("the order 12", "order 13"), token_f1(None, None), token_f1("x", None)
    (0.5, 1.0, 0.0)
    """
    if gold is None or predicted is None:
        return float(gold is predicted)
    ours, theirs = normal_text(gold).split(), normal_text(predicted).split()
    if not ours or not theirs:
        return float(ours == theirs)
    same = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * same / (len(ours) + len(theirs))


def set_f1(gold: list[Any] | None, predicted: list[Any] | None) -> float:
    """F1 of two lists as sets, ``2|A∩B| / (|A|+|B|)``; two empty lists are equal, null equals null alone.

    >>> set_f1(["a", "b"], ["b"]), set_f1([], []), set_f1(None, [])
    (0.6666666666666666, 1.0, 0.0)
    """
    if gold is None or predicted is None:
        return float(gold is predicted)
    ours, theirs = ({dumps(item) for item in items} for items in (gold, predicted))
    return 2 * len(ours & theirs) / (len(ours) + len(theirs)) if ours or theirs else 1.0


def same(gold: Any, predicted: Any) -> bool:
    """Equality of JSON data, in which ``true`` is not ``1``.

    >>> same(True, 1), same(1, 1.0), same({"a": [1]}, {"a": [1]})
    (False, True, True)
    """
    if isinstance(gold, Mark) or isinstance(predicted, Mark):
        return gold is predicted
    return dumps(gold) == dumps(predicted)


__all__ = ["FieldSpec", "Json", "Kind", "Mark", "fields_of", "label_of", "normal_text", "same", "set_f1", "token_f1"]

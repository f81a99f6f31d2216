"""A JSON Schema as the leanest grammar in GBNF: compact JSON, properties in their order, no blanks.

llama.cpp reads GBNF, and xgrammar (OpenVINO GenAI, vLLM) an EBNF of the same form. Only what fslm's normalised
schemas hold is known here, and of that no patterns, formats, or bounds of fractions.

>>> print(grammar('{"type":"object","properties":{"a":{"enum":["x","y"]}},"required":["a"]}'))
root ::= "{\\"a\\":" ("\\"x\\"" | "\\"y\\"") "}"
>>> print(grammar('{"type":"string","minLength":1,"maxLength":360}', counted=100).splitlines()[0])
root ::= "\\"" char{1,} "\\""
"""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import Any

COUNTED_BY_XGRAMMAR = 100
"""Of longer strings xgrammar is not told the bound: one of 360 characters makes each of its tokens 0.2 s dearer."""

_CHAR = r"""char ::= [^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F])"""


def grammar(schema: str, counted: int = sys.maxsize) -> str:
    """Return the grammar of a compact schema text.

    Args:
        counted: the longest bound of a string that the grammar keeps, in characters. A string that may be longer goes
            on as long as it likes: where counting costs more than it is worth, the request's tokens bound it.

    Raises:
        ValueError: it holds something that has no lean form here.
    """
    body = _rule(json.loads(schema), counted)
    return f"root ::= {body}" + (f"\n{_CHAR}" if "char" in body.replace('"', " ").split() or "char{" in body else "")


@cache
def for_xgrammar(schema: str) -> str:
    """Return the grammar that costs xgrammar least."""
    return grammar(schema, COUNTED_BY_XGRAMMAR)


def _rule(node: dict[str, Any], counted: int) -> str:
    if "enum" in node:
        words = [_quoted(_compact(value)) for value in node["enum"]]
        return words[0] if len(words) == 1 else f"({' | '.join(words)})"
    if "anyOf" in node:
        return f"({' | '.join(_rule(n, counted) for n in node['anyOf'])})"
    kind = node.get("type")
    if kind == "object":
        return _object(node["properties"], counted)
    if kind == "array":
        return _array(node, counted)
    if kind == "string":
        return _string(node, counted)
    if kind == "boolean":
        return '("true" | "false")'
    if kind == "null":
        return '"null"'
    if kind == "integer":
        return _integer(node)
    raise ValueError(f"no lean grammar for {node}")


def _object(properties: dict[str, Any], counted: int) -> str:
    text, rules = "{", []
    for place, (name, node) in enumerate(properties.items()):
        text += ("," if place else "") + _compact(name) + ":"
        rules += [_quoted(text), _rule(node, counted)]
        text = ""
    return " ".join([*rules, _quoted(text + "}")])


def _array(node: dict[str, Any], counted: int) -> str:
    if "items" not in node or not isinstance(node["items"], dict):
        raise ValueError(f"no lean grammar for {node}")
    item, low, high = _rule(node["items"], counted), node.get("minItems", 0), node["maxItems"]
    if high == 0:
        return '"[]"'
    some = f'{item} ("," {item}){{{max(low - 1, 0)},{high - 1}}}'
    return f'"[" {some} "]"' if low else f'"[" ({some})? "]"'


def _string(node: dict[str, Any], counted: int) -> str:
    if {"pattern", "format"} & node.keys():
        raise ValueError(f"no lean grammar for {node}")
    low, high = node.get("minLength", 0), node["maxLength"]
    times = f"{low},{high}" if high <= counted else f"{low},"
    return rf'"\"" char{{{times}}} "\""'


def _integer(node: dict[str, Any]) -> str:
    low, high = node["minimum"], node["maximum"]
    if high - low > 1000:
        raise ValueError(f"no lean grammar for {node}")
    return f"({' | '.join(_quoted(str(n)) for n in range(low, high + 1))})"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


__all__ = ["for_xgrammar", "grammar"]

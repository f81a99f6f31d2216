"""A JSON Schema as the leanest grammar in GBNF: compact JSON, properties in their order, no blanks.

llama.cpp reads GBNF, and xgrammar (OpenVINO GenAI, vLLM) an EBNF of the same form. Only what fslm's normalised
schemas hold is known here, and of that no patterns, formats, or bounds of fractions.

>>> print(grammar('{"type":"object","properties":{"a":{"enum":["x","y"]}},"required":["a"]}'))
root ::= "{\\"a\\":" ("\\"x\\"" | "\\"y\\"") "}"
"""

from __future__ import annotations

import json
from typing import Any

_CHAR = r"""char ::= [^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F])"""


def grammar(schema: str) -> str:
    """Return the grammar of a compact schema text.

    Raises:
        ValueError: it holds something that has no lean form here.
    """
    body = _rule(json.loads(schema))
    return f"root ::= {body}" + (f"\n{_CHAR}" if "char" in body.replace('"', " ").split() or "char{" in body else "")


def _rule(node: dict[str, Any]) -> str:
    if "enum" in node:
        words = [_quoted(_compact(value)) for value in node["enum"]]
        return words[0] if len(words) == 1 else f"({' | '.join(words)})"
    if "anyOf" in node:
        return f"({' | '.join(_rule(n) for n in node['anyOf'])})"
    kind = node.get("type")
    if kind == "object":
        return _object(node["properties"])
    if kind == "array":
        return _array(node)
    if kind == "string":
        return _string(node)
    if kind == "boolean":
        return '("true" | "false")'
    if kind == "null":
        return '"null"'
    if kind == "integer":
        return _integer(node)
    raise ValueError(f"no lean grammar for {node}")


def _object(properties: dict[str, Any]) -> str:
    text, rules = "{", []
    for place, (name, node) in enumerate(properties.items()):
        text += ("," if place else "") + _compact(name) + ":"
        rules += [_quoted(text), _rule(node)]
        text = ""
    return " ".join([*rules, _quoted(text + "}")])


def _array(node: dict[str, Any]) -> str:
    if "items" not in node or not isinstance(node["items"], dict):
        raise ValueError(f"no lean grammar for {node}")
    item, low, high = _rule(node["items"]), node.get("minItems", 0), node["maxItems"]
    if high == 0:
        return '"[]"'
    some = f'{item} ("," {item}){{{max(low - 1, 0)},{high - 1}}}'
    return f'"[" {some} "]"' if low else f'"[" ({some})? "]"'


def _string(node: dict[str, Any]) -> str:
    if {"pattern", "format"} & node.keys():
        raise ValueError(f"no lean grammar for {node}")
    return rf'"\"" char{{{node.get("minLength", 0)},{node["maxLength"]}}} "\""'


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


__all__ = ["grammar"]

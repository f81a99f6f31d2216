"""How sure a message is, after scaling; which of its fields are too unsure; and what else it might have said."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from ..errors import SchemaError
from ..message import Attempt, Message
from ..schema import dumps, field_spans, plain_data, tree_of


def scaled(probability: float, temperature: float) -> float:
    """A confidence after temperature scaling: the sigmoid of its logit divided by ``temperature``.

    Source: Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, 2017, arXiv 1706.04599, section 4,
    for the two cases right and wrong.

    >>> scaled(0.9, 1.0), round(scaled(0.9, 2.0), 3), scaled(1.0, 2.0), scaled(0.0, 2.0)
    (0.9, 0.75, 1.0, 0.0)
    """
    if temperature == 1.0 or not 0 < probability < 1:
        return probability
    logit = (math.log(probability) - math.log1p(-probability)) / temperature
    small = math.exp(-abs(logit))
    return 1 / (1 + small) if logit >= 0 else small / (1 + small)


def doubts(
    message: Message[Any], thresholds: Mapping[str, float], temperatures: Mapping[str, float] | None = None
) -> tuple[str, ...]:
    """The fields of a message whose confidence is below their threshold, or is not known.

    Args:
        thresholds: by field, 0 to 1.
        temperatures: by field; 1 where not given.
    """
    known, heat = message.confidence or {}, temperatures or {}
    return tuple(
        field
        for field, least in thresholds.items()
        if field not in known or not scaled(known[field], heat.get(field, 1.0)) >= least
    )


def marked(message: Message[Any], fields: tuple[str, ...]) -> Message[Any]:
    """The message, with these fields abstained on and what else they might have been."""
    if not fields:
        return message
    others = {field: found for field in fields if (found := alternatives_of(message, field))}
    abstained = tuple(dict.fromkeys((*message.abstained, *fields)))
    return replace(message, abstained=abstained, alternatives={**message.alternatives, **others})


def alternatives_of(message: Message[Any], field: str) -> tuple[tuple[Any, float], ...]:
    """Other labels that a field of labels might have had, and their probability, the likeliest first.

    Wherever its stage chose between tokens, the second likeliest token would have led to other labels. Where that is
    one label only, its probability is that of the way there: the tokens chosen before, then this one. Labels that
    several such ways lead to, or whose token was third or less, are not among them, so the probabilities are true ones
    and rarely sum up to 1.

    Returns:
        Nothing for a field of no labels, a tool's message, and a backend that tells no second likeliest tokens.
    """
    attempt = message.attempts[-1] if message.attempts else None
    if attempt is None or attempt.tokens is None or attempt.tokens.logprobs is None or not attempt.runners_up:
        return ()
    span = field_spans(attempt.raw).get(field)
    labels = _labels(message, field)
    if span is None or len(labels) < 2:
        return ()
    chosen = plain_data(message.content).get(field)
    found = _forks(attempt, span, {dumps(label): label for label in labels})
    others = [(label, p) for text, (label, p) in found.items() if text != dumps(chosen)]
    return tuple(sorted(others, key=lambda pair: -pair[1]))


def _labels(message: Message[Any], field: str) -> list[Any]:
    """The values that the field could have in this message, as JSON data; none where they cannot be listed."""
    model: type[BaseModel] = type(message.content)
    try:
        tree = message.narrowed or tree_of(model)
    except SchemaError:
        return []
    node = tree.get("properties", {}).get(field, {})
    return _listed(node)


def _listed(node: Mapping[str, Any]) -> list[Any]:
    if "enum" in node:
        return list(node["enum"])
    if "const" in node:
        return [node["const"]]
    if node.get("type") in ("boolean", "null"):
        return [False, True] if node["type"] == "boolean" else [None]
    parts = [_listed(part) for part in node.get("anyOf", ())]
    return [label for part in parts for label in part] if all(parts) else []


def _forks(attempt: Attempt, span: tuple[int, int], labels: Mapping[str, Any]) -> dict[str, tuple[Any, float]]:
    """By its JSON text, each label that a second likeliest token alone led to, and the probability of the way there."""
    tokens = attempt.tokens
    assert tokens is not None and tokens.logprobs is not None
    low, high = span
    weights: dict[str, float] = defaultdict(float)
    place, before = 0, 0.0
    rows = zip(tokens.texts, tokens.logprobs, tokens.forced, attempt.runners_up, strict=False)
    for text, logprob, forced, runner in rows:
        start, place = place, place + len(text)
        if forced or place <= low or start >= high:
            continue
        if runner is not None and runner[0]:
            way = (attempt.raw[:start] + runner[0])[low:]
            ends = [label for label in labels if label.startswith(way) or way.startswith(label)]
            if len(ends) == 1:
                weights[ends[0]] += math.exp(before + runner[1])
        before += logprob
    return {text: (labels[text], weight) for text, weight in weights.items()}


__all__ = ["alternatives_of", "doubts", "marked", "scaled"]

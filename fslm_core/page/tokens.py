"""What a model wrote, token by token: how probable each was, and which were forced."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..explain.drawing import chance_of, probability, visible
from ..explain.instead import Fork, forks
from ..message import TokenTrace
from ..store import StoredAttempt

MOST = 1000
"""Tokens of one text that are shown one by one; a longer text is shown as text."""
_SHADES = ((0.99, 0), (0.9, 1), (0.6, 2), (0.3, 3))
"""From which probability on a token has which shade; below the last it has the fourth."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token as the page shows it.

    Attributes:
        told: a sentence about it.
        shade: 0, sure, to 4; of a forced token, which had no choice, 0.
    """

    text: str
    told: str
    forced: bool
    shade: int


def tokens_of(attempt: StoredAttempt) -> list[Token] | None:
    """The tokens of what was written; None where they were not kept or do not make the text up."""
    trace = attempt.tokens
    if trace is None or attempt.raw is None or "".join(trace.texts) != attempt.raw or len(trace.texts) > MOST:
        return None
    if len(trace.forced) != len(trace.texts):
        return None
    others = {fork.place: fork for fork in forks(attempt)}
    return [_token(trace, place, others.get(place)) for place in range(len(trace.texts))]


def _token(trace: TokenTrace, place: int, fork: Fork | None) -> Token:
    text, forced = trace.texts[place], trace.forced[place]
    name = f"token {place + 1:,}, “{visible(text)}”"
    if forced:
        return Token(visible(text), f"{name}: forced by the grammar", True, 0)
    logprob = None if trace.logprobs is None else trace.logprobs[place]
    if logprob is None or math.isnan(logprob):
        return Token(visible(text), f"{name}: chosen", False, 0)
    chance = chance_of(logprob)
    shade = next((shade for least, shade in _SHADES if chance >= least), 4)
    other = f"; next “{visible(fork.other)}”, {probability(fork.other_chance)}" if fork is not None else ""
    return Token(visible(text), f"{name}: probability {probability(chance)}{other}", False, shade)


__all__ = ["MOST", "Token", "tokens_of"]

"""What a step might have said instead: other labels, and in texts the tokens it was least sure of.

A runner-up is the second likeliest token at a place that the grammar left open. What would have followed it nobody
knows, but for labels: which ones it leads to is worked out when a message is recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..schema import field_spans
from ..store import StoredAttempt, StoredNode
from .drawing import chance_of, clip, compact, one_line, probability

LEAST = 0.05
"""A runner-up of this probability is worth a line, unless all are asked for."""
_MOST = 3
_BEFORE = 24
"""Characters before a token that are shown with it."""


@dataclass(frozen=True, slots=True)
class Fork:
    """A place where another token was nearly written.

    Attributes:
        place: of the token; ``start``: of its first character.
        field: the top-level field it stands in, or None between fields.
        chosen: what was written, and ``chance``, its probability among what the grammar allowed.
        other: the runner-up's text, and ``other_chance``.
    """

    place: int
    start: int
    field: str | None
    chosen: str
    chance: float
    other: str
    other_chance: float


def forks(attempt: StoredAttempt) -> list[Fork]:
    """The places of an attempt that have a runner-up, in order; none where texts were not kept."""
    tokens = attempt.tokens
    if attempt.raw is None or tokens is None or not tokens.texts or tokens.logprobs is None:
        return []
    spans = field_spans(attempt.raw)
    found, start = [], 0
    for place, (text, logprob, runner) in enumerate(
        zip(tokens.texts, tokens.logprobs, attempt.runners_up, strict=False)
    ):
        if runner is not None and runner[0] is not None:
            inside = (name for name, (low, high) in spans.items() if start < high and start + len(text) > low)
            chances = chance_of(logprob), chance_of(runner[1])
            found.append(Fork(place, start, next(inside, None), text, chances[0], runner[0], chances[1]))
        start += len(text)
    return found


def instead(node: StoredNode) -> Iterator[Text]:
    """A line for each field of labels that might have been another, and for the likeliest runners-up in others."""
    for field, pairs in node.alternatives.items():
        if field not in node.abstained:  # those are told as such
            others = ", ".join(f"{compact(label)} {probability(chance)}" for label, chance in pairs)
            yield Text(clip(f"{field}  {others}", False))
    attempt = node.attempts[-1] if node.attempts else None
    if attempt is None or attempt.raw is None:
        return
    near = [fork for fork in forks(attempt) if fork.other_chance >= LEAST and fork.field not in node.alternatives]
    for fork in sorted(sorted(near, key=lambda fork: -fork.other_chance)[:_MOST], key=lambda fork: fork.place):
        yield Text.assemble(
            one_line(f"{fork.field}  " if fork.field else ""),
            (_before(attempt.raw, fork.start), "dim"),
            (one_line(fork.other), "bold"),
            f" {probability(fork.other_chance)}, not ",
            (one_line(fork.chosen), "bold"),
            f" {probability(fork.chance)}",
        )


def by_token(attempt: StoredAttempt) -> RenderableType | None:
    """Every token that was decided, with its runner-up; what the grammar dictated between them stands apart, dim."""
    tokens = attempt.tokens
    if tokens is None or not tokens.texts or not len(tokens.texts) == len(tokens.forced) == len(tokens.logprobs or ()):
        return None
    others = {fork.place: fork for fork in forks(attempt)}
    told = zip(tokens.texts, tokens.logprobs or (), tokens.forced, strict=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for place, head in enumerate(("token", "p", "instead", "p")):
        table.add_column(head, justify="right" if place % 2 else "left", overflow="fold")
    dictated = ""
    for place, (text, logprob, forced) in enumerate(told):
        if forced:
            dictated += text
            continue
        if dictated:
            table.add_row(Text(one_line(dictated), style="dim"), Text("forced", style="dim"), "", "")
            dictated = ""
        fork = others.get(place)
        other = (Text(one_line(fork.other)), probability(fork.other_chance)) if fork else ("", "")
        table.add_row(Text(one_line(text), style="bold"), probability(chance_of(logprob)), *other)
    if dictated:
        table.add_row(Text(one_line(dictated), style="dim"), Text("forced", style="dim"), "", "")
    return table


def _before(raw: str, start: int) -> str:
    """The end of what stood before a token."""
    cut = max(0, start - _BEFORE)
    return ("…" if cut else "") + one_line(raw[cut:start])


__all__ = ["LEAST", "Fork", "by_token", "forks", "instead"]

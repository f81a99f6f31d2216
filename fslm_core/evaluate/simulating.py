"""What a cascade would have done to rows on which all its steps were tried: who answers, how rightly, at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..shapes import scaled

_POINTS = 50
"""Thresholds that are drawn at most."""

Row = Mapping[str, "Tried"]
"""What each step of the cascade said to a row, in order."""


@dataclass(frozen=True)
class Tried:
    """What a step said: how sure of each field, whether all that is known of those asked is right, and what it cost."""

    confidence: Mapping[str, float]
    right: bool | None
    tokens: int


@dataclass(frozen=True)
class Rules:
    """By step and field: the temperature, and the least confidence that is accepted; None accepts nothing."""

    fields: Mapping[str, Mapping[str, tuple[float, float | None]]]

    def accepts(self, step: str, tried: Tried) -> bool:
        """Whether the step is sure enough of every field."""
        return all(
            least is not None and name in tried.confidence and scaled(tried.confidence[name], heat) >= least
            for name, (heat, least) in self.fields[step].items()
        )

    def sureness(self, step: str, tried: Tried) -> float:
        """How sure the step is of the field it is least sure of."""
        rules = self.fields[step].items()
        known = [scaled(tried.confidence.get(name, 0.0), heat) for name, (heat, _) in rules]
        return min(known, default=1.0)

    def told(self, part: int) -> dict[str, float]:
        """The thresholds (0) or temperatures (1), as a cascade takes them: ``step.field``; where none holds, 1."""
        found = {}
        for step, fields in self.fields.items():
            for name, (heat, least) in fields.items():
                found[f"{step}.{name}"] = (1.0 if least is None else least) if part == 0 else heat
        return found


@dataclass(frozen=True)
class End:
    """How a row would end: who was tried, who answered (None: nobody was sure), whether right, and the tokens spent."""

    tried: tuple[str, ...]
    answered: str | None
    right: bool | None
    tokens: int


def passages(rows: Sequence[Row], rules: Rules, first: float | None = None) -> list[End]:
    """How each row would end.

    Args:
        first: in place of the first step's thresholds: how sure it has to be of the field it is least sure of.
    """
    return [_passage(row, rules, first) for row in rows]


def _passage(row: Row, rules: Rules, first: float | None) -> End:
    tokens, tried = 0, []
    opening = next(iter(rules.fields), None)
    for step, said in row.items():
        tokens += said.tokens
        tried.append(step)
        by_rule = first is None or step != opening
        if rules.accepts(step, said) if by_rule else rules.sureness(step, said) >= (first or 0.0):
            return End(tuple(tried), step, said.right, tokens)
    right = row[tried[-1]].right if tried else None
    return End(tuple(tried), None, right, tokens)


def sweep(rows: Sequence[Row], rules: Rules, step: str) -> tuple[tuple[float, float, float], ...]:
    """Coverage, error and mean tokens a row, as the first step's threshold moves from accepting all to nothing."""
    sure = sorted({rules.sureness(step, row[step]) for row in rows if step in row})
    every = max(1, len(sure) // _POINTS)
    points = []
    for least in (*sure[::every], 1.1):
        ends = [end for end in passages(rows, rules, least) if end.right is not None]
        taken = [end for end in ends if end.answered is not None]
        if taken:
            wrong = sum(not end.right for end in taken)
            points.append((len(taken) / len(ends), wrong / len(taken), sum(e.tokens for e in ends) / len(ends)))
    return tuple(points)


__all__ = ["End", "Row", "Rules", "Tried", "passages", "sweep"]

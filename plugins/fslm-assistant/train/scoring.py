"""Figures of a run over dialogues, each with an interval over dialogues drawn anew."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from turns import TODAY, GoldTurn

from fslm_assistant.backend import same
from fslm_assistant.messages import Call, Filled, Row
from fslm_assistant.values import alike

RESAMPLES = 1000


@dataclass(frozen=True)
class Hit:
    """Whether one turn of a dialogue was right in one respect."""

    figure: str
    dialogue: str
    right: bool
    run: str = ""
    """Where there was one: its id, under which the trace has it."""


@dataclass(frozen=True)
class Figure:
    """A share, its 95 % interval, and the turns and dialogues it is about."""

    value: float
    low: float
    high: float
    turns: int
    dialogues: int

    def __str__(self) -> str:
        return f".{round(self.value * 1000):03} ({self.low:.3f} to {self.high:.3f})" if self.value < 1 else "1.000"


def figures(hits: Iterable[Hit], seed: int = 0) -> dict[str, Figure]:
    """Each figure's share; its interval is the percentile bootstrap over whole dialogues.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    told: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for hit in hits:
        told[hit.figure][hit.dialogue].append(hit.right)
    return {name: _figure([(sum(rights), len(rights)) for rights in by.values()], seed) for name, by in told.items()}


def _figure(counts: Sequence[tuple[int, int]], seed: int) -> Figure:
    rng = Random(seed)
    drawn = sorted(_share(rng.choices(counts, k=len(counts))) for _ in range(RESAMPLES))
    low, high = drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES) - 1]
    return Figure(_share(counts), low, high, sum(n for _, n in counts), len(counts))


def _share(counts: Sequence[tuple[int, int]]) -> float:
    return sum(right for right, _ in counts) / sum(n for _, n in counts)


def same_state(one: Row, other: Row) -> bool:
    """Whether all slots are the same, their values in any form: the joint goal."""
    return one.keys() == other.keys() and all(alike(one[name], other[name], TODAY) for name in one)


def same_told(told: Sequence[Filled], gold: Sequence[Mapping[str, str]]) -> bool:
    """Whether the same slots got the same values, in any order."""
    return same_state({f.slot: f.value for f in told}, {f["slot"]: f["value"] for f in gold})


def same_call(made: Call | None, gold: Call | None) -> bool:
    """Whether the call was made that should have been, with these very values; or none where none should."""
    if made is None or gold is None:
        return made is gold
    return made.intent == gold.intent and same(gold.parameters, made, TODAY)


def call_hits(prefix: str, turn: GoldTurn, made: Call | None) -> list[Hit]:
    """The call among turns that have one, and how often one is made where none should be."""
    if turn.call is None:
        return [Hit(f"{prefix} no call where none is due", turn.dialogue, made is None)]
    return [Hit(f"{prefix} exact call", turn.dialogue, same_call(made, turn.call))]


__all__ = ["Figure", "Hit", "call_hits", "figures", "same_call", "same_state", "same_told"]

"""What a training run tells while it works. The library prints nothing; the command line draws these.

``run_recipe(…, progress=f)`` calls ``f`` with one of these values, on the thread that trains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Noted:
    """Something a person should know: duplicates, rows left out, a resumed run."""

    text: str


@dataclass(frozen=True, slots=True)
class Working:
    """A part of the preparation or of an evaluation: ``what``, and how much of it is done."""

    what: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Estimated:
    """How long it will take, from a few timed steps; ``seconds`` is everything that is still to do.

    Attributes:
        rows: rows an epoch trains on.
        steps: optimiser steps of the whole run.
    """

    seconds: float
    rows: int
    steps: int
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Stepped:
    """One optimiser step. ``epoch`` counts from 1; ``seconds_left`` is for the steps alone.

    ``tokens_per_second`` counts the tokens of the rows (prompt, answer and end) trained on since the start; ``figures``
    are what else there is to tell of the step, such as its ``divergence`` from a teacher.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    lr: float
    tokens_per_second: float
    seconds_left: float
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judged:
    """An epoch was scored on the selection rows under the constrained decoder."""

    epoch: int
    scores: Mapping[str, float]
    best: bool


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint from which ``--resume`` goes on."""

    step: int
    path: Path


Event = Noted | Working | Estimated | Stepped | Judged | Saved
Progress = Callable[[Event], None]


def silent(event: Event) -> None:
    """Say nothing."""


__all__ = ["Estimated", "Event", "Judged", "Noted", "Progress", "Saved", "Stepped", "Working", "silent"]

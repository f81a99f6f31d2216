"""What a tuning tells while it works: what training tells, and which part of the whole it is about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..train import Event as TrainEvent

if TYPE_CHECKING:
    from .plan import TunePlan


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the tuning begins: the ``number``-th of ``total``."""

    what: str
    number: int
    total: int


@dataclass(frozen=True, slots=True)
class Planned:
    """What it will take is known."""

    plan: TunePlan


Event = TrainEvent | Part | Planned
Progress = Callable[[Event], None]


def silent(event: Event) -> None:
    """Say nothing."""


__all__ = ["Event", "Part", "Planned", "Progress", "silent"]

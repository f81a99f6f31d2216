"""Where the lines of small charts go; the templates draw them as SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..explain.drawing import seconds_text
from ..explain.stats import Stats, StepStats

WIDTH, HEIGHT = 180.0, 44.0
_EDGE = 4.0


@dataclass(frozen=True, slots=True)
class Spark:
    """A value as time went by: lines between neighbours that are known, dots for those that stand alone.

    Attributes:
        lines: each the ``points`` of a polyline.
        told: the first, the last, the least and the largest value in words.
    """

    lines: tuple[str, ...]
    dots: tuple[tuple[float, float], ...]
    told: str


Measure = Callable[[StepStats], float | None]
MEASURES: tuple[tuple[str, Measure, bool], ...] = (
    ("valid at the first attempt", lambda step: step.valid.value, True),
    ("confidence, least sure field", lambda step: step.least_sure, True),
    ("time, median", lambda step: step.seconds.median, False),
)
"""What is drawn of each step: its name, and whether it is a share, drawn from 0 to 1."""


def sparks(found: Stats, step: str) -> list[tuple[str, Spark]]:
    """The small charts of a step, one a measure."""
    rows = [bucket.step(step) for bucket in found.buckets]
    values = {name: [None if row is None else measure(row) for row in rows] for name, measure, _ in MEASURES}
    return [(name, spark(values[name], share)) for name, _, share in MEASURES]


def spark(values: Sequence[float | None], share: bool) -> Spark:
    """One small chart; a share is drawn between 0 and 1, anything else from 0 to the largest.

    >>> spark([0.5, None, 1.0], True).told
    'from 0.500 to 1.000; least 0.500, most 1.000'
    """
    known = [value for value in values if value is not None]
    if not known:
        return Spark((), (), "nothing is known")
    top = 1.0 if share else max([*known, 1e-9])
    wide = (WIDTH - 2 * _EDGE) / max(1, len(values) - 1)
    groups: list[list[tuple[float, float]]] = [[]]
    for place, value in enumerate(values):
        if value is None:
            groups.append([])
        else:
            up = HEIGHT - _EDGE - (HEIGHT - 2 * _EDGE) * min(1.0, max(0.0, value / top))
            groups[-1].append((_EDGE + wide * place, up))
    lines = tuple(" ".join(f"{x:.1f},{y:.1f}" for x, y in group) for group in groups if len(group) > 1)
    dots = tuple(group[0] for group in groups if len(group) == 1)
    first, last, least, most = (
        f"{value:.3f}" if share else seconds_text(value) for value in (known[0], known[-1], min(known), max(known))
    )
    told = f"from {first} to {last}; least {least}, most {most}" if len(known) > 1 else first
    return Spark(lines, dots, told)


__all__ = ["HEIGHT", "MEASURES", "WIDTH", "Spark", "spark", "sparks"]

"""What runs come to over time, as a picture: validity, abstention, confidence, latency and tokens, a line a step."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from ..explain.drawing import visible
from ..explain.stats import Stats, StepStats
from ..extras import require
from .pictures import SETTINGS, png

_PANELS: tuple[tuple[str, Callable[[StepStats], float | None], bool], ...] = (
    ("valid at the first attempt", lambda step: step.valid.value, True),
    ("messages that abstained", lambda step: step.abstained.value, True),
    ("confidence of the least sure field, median", lambda step: step.least_sure, True),
    ("seconds, median and 95th percentile", lambda step: step.seconds.median, False),
    ("output tokens, median", lambda step: step.spent["output"], False),
)
"""What each panel shows, of what, and whether it is a share."""
_SECONDS = 3
"""The panel that has the 95th percentile too."""
_STEPS = 10
"""Steps that are told apart by colour."""


def draw(found: Stats) -> bytes:
    """The picture as PNG; a step that says nothing of a panel's figure is not in it.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require(["matplotlib"], extra="eval", what="drawing a plot")
    from matplotlib import colormaps, dates, rc_context
    from matplotlib.figure import Figure

    untyped: Any = dates

    colours = [colormaps["tab10"](place) for place in range(_STEPS)]
    with rc_context(SETTINGS):
        figure = Figure(figsize=(7.2, 9.0), layout="constrained", dpi=150)
        panels = figure.subplots(len(_PANELS) + 1, sharex=True)
        moments = [datetime.fromtimestamp(bucket.start) for bucket in found.buckets]
        panels[0].plot(
            moments, [sum(bucket.runs.values()) for bucket in found.buckets], "o-", color="#444", markersize=3
        )
        panels[0].set_title(f"runs by the {found.by}", loc="left", fontsize=9)
        panels[0].set_ylim(bottom=0)
        for place, (title, value, share) in enumerate(_PANELS):
            axes = panels[place + 1]
            for number, step in enumerate(found.steps):
                colour = colours[number % _STEPS]
                _line(axes, found, step.step, value, moments, colour=colour, style="o-")
                if place == _SECONDS:
                    _line(axes, found, step.step, lambda one: one.seconds.p95, moments, colour=colour, style=":")
            axes.set_title(title, loc="left", fontsize=9)
            axes.set_ylim(*((-0.02, 1.02) if share else (0, None)))
        for number, step in enumerate(found.steps):
            panels[0].plot([], [], "o-", color=colours[number % _STEPS], markersize=3, label=visible(step.step))
        locator = untyped.AutoDateLocator()
        panels[-1].xaxis.set_major_locator(locator)
        panels[-1].xaxis.set_major_formatter(untyped.ConciseDateFormatter(locator))
        if found.steps:
            figure.legend(loc="outside lower center", ncols=4)
        figure.suptitle(f"{visible(found.stack)}: {sum(found.runs.values()):,} runs", fontsize=10)
        return png(figure)


def _line(
    axes: Any,
    found: Stats,
    step: str,
    value: Callable[[StepStats], float | None],
    moments: list[datetime],
    *,
    colour: Any,
    style: str,
) -> None:
    """One figure of one step; where nothing is known there is a gap."""
    rows = [bucket.step(step) for bucket in found.buckets]
    values = [None if row is None else value(row) for row in rows]
    if any(one is not None for one in values):
        nan = float("nan")
        axes.plot(
            moments, [nan if one is None else one for one in values], style, color=colour, markersize=3, linewidth=1
        )


__all__ = ["draw"]

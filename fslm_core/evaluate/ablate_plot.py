"""What each message is worth, as a picture: the share of right answers without it, beside the whole stack's."""

from __future__ import annotations

from typing import Any

from ..explain.drawing import visible
from .ablating import WAYS, Ablation
from .pictures import SETTINGS, png
from .results import Interval

_COLOURS = dict(zip(WAYS, ("#4c78a8", "#f58518", "#54a24b", "#b279a2"), strict=True))


def draw(found: Ablation) -> bytes:
    """The picture as PNG: for each step and way a dot with its interval; lines for the stack and those beside it."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    steps = list(dict.fromkeys(one.step for one in found.ablated))
    with rc_context(SETTINGS):
        figure = Figure(figsize=(6.8, 1.2 + 0.7 * max(1, len(steps))), layout="constrained", dpi=150)
        axes = figure.subplots()
        for one in found.ablated:
            place = steps.index(one.step) + 0.16 * (WAYS.index(one.way) - 1.5)
            _dot(axes, place, one.right, _COLOURS[one.way])
        for way in dict.fromkeys(one.way for one in found.ablated):
            axes.plot([], [], "o", color=_COLOURS[way], label=way)
        _line(axes, found.right, f"{visible(found.stack)} as it is", "-")
        for name, share in found.beside.items():
            _line(axes, share, visible(name), "--")
        axes.set_yticks(range(len(steps)), [visible(step) for step in steps])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.02)
        axes.set_xlabel(f"share of {found.rows:,} rows right without the step's message, with 95 % intervals")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=3)
        return png(figure)


def _dot(axes: Any, place: float, share: Interval, colour: str) -> None:
    if share.value is None:
        return
    if share.low is not None and share.high is not None:
        axes.plot([share.low, share.high], [place, place], color=colour, linewidth=1.2)
    axes.plot(share.value, place, "o", color=colour, markersize=4.5)


def _line(axes: Any, share: Interval, label: str, style: str) -> None:
    if share.value is not None:
        axes.axvline(share.value, color="#666", linewidth=0.9, linestyle=style, label=label)


__all__ = ["draw"]

"""Which steps are to blame, as a picture: a bar a step, with its interval."""

from __future__ import annotations

from typing import Any

from ..explain.drawing import visible
from .blaming import ELSEWHERE, SEVERAL, Blame, Share
from .pictures import SETTINGS, png


def draw(found: Blame) -> bytes:
    """The picture as PNG: for each step, the share of the wrong answers that it is to blame for."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    bars = [(step.step, step.blamed) for step in found.steps]
    bars += [(SEVERAL, found.several), (ELSEWHERE, found.elsewhere)]
    with rc_context(SETTINGS):
        figure = Figure(figsize=(6.4, 0.8 + 0.42 * len(bars)), layout="constrained", dpi=150)
        axes = figure.subplots()
        for place, (_, share) in enumerate(bars):
            _bar(axes, place, share)
        axes.set_yticks(range(len(bars)), [visible(name) for name, _ in bars])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.02)
        axes.set_xlabel(f"share of the {len(found.wrong):,} wrong answers, with 95 % intervals")
        right = f"{found.right.rows:,} of {found.rows:,} right"
        axes.set_title(f"{visible(found.stack)}: where wrong answers come from ({right})", fontsize=10)
        return png(figure)


def _bar(axes: Any, place: int, share: Share) -> None:
    if share.value is None or share.low is None or share.high is None:
        return
    axes.barh(place, share.value, height=0.6, color="#4c78a8")
    axes.plot([share.low, share.high], [place, place], color="#222", linewidth=1.2)
    axes.text(min(share.high + 0.01, 0.97), place, f"{share.rows:,}", va="center")


__all__ = ["draw"]

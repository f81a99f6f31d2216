"""A calibration as a picture: error against coverage, and, of cascades, against cost."""

from __future__ import annotations

from typing import Any

from ..explain.drawing import visible
from .calibration import Calibration, CascadeCalibration, FieldCalibration
from .pictures import SETTINGS, png

_MOST = 12
"""Curves in one picture; the fields with the most rows are drawn."""


def draw(found: Calibration) -> bytes:
    """The picture as PNG: on the left each field, on the right each cascade, where there is one."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):
        columns = 2 if any(cascade.curve for cascade in found.cascades) else 1
        figure = Figure(figsize=(5.4 * columns, 4.2), layout="constrained", dpi=150)
        axes = figure.subplots(1, columns, squeeze=False)[0]
        _coverage(axes[0], found)
        if columns == 2:
            _cost(axes[1], found)
        figure.suptitle(f"{visible(found.stack)}: {found.reported_on:,} rows that nothing was fitted on", fontsize=10)
        return png(figure)


def _coverage(axes: Any, found: Calibration) -> None:
    for one in sorted(found.fields, key=lambda field: -field.rows)[:_MOST]:
        _curve(axes, one)
    axes.axhline(found.max_error, color="#888", linewidth=0.8, linestyle="--")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("coverage: share of rows accepted")
    axes.set_ylabel("error among rows accepted")
    axes.legend(loc="best")


def _curve(axes: Any, one: FieldCalibration) -> None:
    if not one.curve:
        return
    coverage, error = zip(*one.curve, strict=True)
    (line,) = axes.plot(coverage, error, linewidth=1.2, label=visible(f"{one.step}.{one.field}"))
    if one.held_out.error is not None:
        axes.plot(one.held_out.coverage, one.held_out.error, "o", color=line.get_color(), markersize=5)


def _cost(axes: Any, found: Calibration) -> None:
    for one in found.cascades:
        _spent(axes, one)
    axes.axhline(found.max_error, color="#888", linewidth=0.8, linestyle="--")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens a row, read and written")
    axes.set_ylabel("error among rows answered")
    axes.legend(loc="best")


def _spent(axes: Any, one: CascadeCalibration) -> None:
    if not one.curve:
        return
    _, error, tokens = zip(*one.curve, strict=True)
    (line,) = axes.plot(tokens, error, linewidth=1.2, label=visible(one.step))
    if one.error is not None:
        axes.plot(one.tokens, one.error, "o", color=line.get_color(), markersize=5)


__all__ = ["draw"]

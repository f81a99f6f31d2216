"""Drift in words, the same on the command line and on the page. What runs said stands in them as it is: escape it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ..explain.moments import minute
from ..explain.stats import Spread
from .drifting import Drift, FieldDrift, Shift

HEADS = ("step", "field", "compared", "effect", "adjusted p", "from", "to", "what changed")


def title(found: Drift) -> str:
    """Which windows are compared, and how many runs there are in each."""
    now, then = (
        f"{runs:,} runs from {minute(since)} to {minute(until)}"
        for runs, (since, until) in zip(reversed(found.runs), (found.window, found.reference), strict=True)
    )
    return f"Drift: {now} beside {then}"


def verdict(found: Drift) -> str:
    """What came of it, in a sentence."""
    empty = [name for name, runs in zip(("the reference", "the window since"), found.runs, strict=True) if not runs]
    if empty:
        return f"There is nothing to compare: no run is in {' nor in '.join(empty)}."
    if not found.tests:
        return "There is nothing to compare."
    if not found.drifting:
        return f"Of {len(found.tests):,} comparisons none differs by more than chance would have it."
    return f"Of {len(found.tests):,} comparisons {len(found.drifting):,} differ, the largest effects first:"


def left_out(found: Drift) -> Iterator[str]:
    """What could not be compared, and why."""
    if found.untold:
        yield f"{found.untold:,} messages were kept without text; of these only confidence and outcome are compared"
    if found.blanked:
        yield f"{found.blanked:,} values were redacted, and are not compared"
    if found.few:
        yield f"{found.few:,} fields stand in one of the windows only, and are not compared"


def row(test: FieldDrift) -> list[str]:
    """A comparison, by :data:`HEADS`."""
    p = "< 0.001" if test.adjusted < 0.001 else f"{test.adjusted:.3f}"
    counts = [f"{n:,}" for n in test.n]
    return [test.step, test.field or "-", test.what, f"{test.effect:.3f}", p, *counts, "; ".join(_changes(test))]


def _changes(test: FieldDrift) -> Iterator[str]:
    yield from (_shift(shift) for shift in test.shifts)
    if test.spreads is not None:
        yield " → ".join(_spread(spread) for spread in test.spreads)


def _shift(shift: Shift) -> str:
    sign = "▲" if shift.now > shift.before else "▼"
    value = shift.value if isinstance(shift.value, str) else json.dumps(shift.value, ensure_ascii=False)
    return f"{sign} {value.replace(chr(10), ' ')} {shift.before:.3f} → {shift.now:.3f}"


def _spread(spread: Spread) -> str:
    return f"median {spread.median:,.4g} (10 %: {spread.p10:,.4g}, 95 %: {spread.p95:,.4g})"


__all__ = ["HEADS", "left_out", "row", "title", "verdict"]

"""From figures with their draws to the figures of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping

from .bootstrap import Stat
from .results import FieldReport, Figure, Interval, LabelReport, ViewReport
from .scores import FieldScores, ViewScores


def interval(stat: Stat) -> Interval:
    """A figure and its interval; null where it is not defined."""
    low, high = stat.interval()
    return Interval(value=_number(stat.value), low=_number(low), high=_number(high), n=stat.n)


def figure(stat: Stat, control: Stat | None = None) -> Figure:
    """A figure, and beside it the control's and the difference of the two, drawn together."""
    own = interval(stat)
    beside = {} if control is None else {"control": interval(control), "difference": interval(stat - control)}
    return Figure(value=own.value, low=own.low, high=own.high, n=own.n, **beside)


def view_report(ours: ViewScores, theirs: ViewScores | None, failures: Mapping[str, int]) -> ViewReport:
    """A view as it is reported."""
    other = theirs.stats if theirs is not None else {}
    return ViewReport(
        rows=ours.rows,
        exact=figure(ours.stats["exact"], other.get("exact")),
        valid=figure(ours.stats["valid"]),
        fields=tuple(_field(field, theirs.fields[name] if theirs else None) for name, field in ours.fields.items()),
        failures=dict(failures),
    )


def _field(ours: FieldScores, theirs: FieldScores | None) -> FieldReport:
    other = theirs.stats if theirs is not None else {}
    return FieldReport(
        name=ours.spec.name,
        kind=ours.spec.kind,
        figures={name: figure(stat, other.get(name)) for name, stat in ours.stats.items()},
        labels=tuple(_label(name, ours, theirs) for name in ours.labels),
        confusion=ours.confusion,
        bins=ours.bins,
    )


def _label(name: str, ours: FieldScores, theirs: FieldScores | None) -> LabelReport:
    label = ours.labels[name]
    other = theirs.labels[name].stats if theirs is not None and name in theirs.labels else {}
    return LabelReport(
        label=name,
        support=label.support,
        predicted=label.predicted,
        **{kind: figure(stat, other.get(kind)) for kind, stat in label.stats.items()},
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


__all__ = ["figure", "interval", "view_report"]

"""What the runs of a stack come to: how valid, sure and quick each step is, on the whole and as time went by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from math import inf
from typing import Any, Literal

from ..errors import UnknownNameError
from ..store import TraceStore
from ..store.counting import SPENT, Counts, Tally
from .paired import Share, percentile

By = Literal["hour", "day", "week"]
_LENGTHS: dict[By, timedelta] = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}
_HOURS, _DAYS = timedelta(days=2), timedelta(days=60)
"""Windows up to these are told by the hour, and by the day."""
_QUARTER = 900
"""Seconds; every time zone is so many of them away from any other."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Where values lie: ``median``, ``p10`` and ``p95`` of ``n`` values; None of none."""

    n: int
    median: float | None
    p10: float | None
    p95: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of these values, between neighbours by linear interpolation."""
        if not values:
            return cls(0, None, None, None)
        ordered = sorted(values)  # once; sorting what is sorted costs little
        return cls(len(ordered), *(percentile(ordered, share) for share in (0.5, 0.1, 0.95)))


@dataclass(frozen=True, slots=True)
class StepStats:
    """One step. A step that runs several times in a run counts each time.

    Attributes:
        step: its path without indices.
        times: how often it ran; ``skipped``: how often its condition was false.
        valid: of the times it ran, those with a valid message at the first attempt.
        repaired: those that took another attempt; ``failed``: those without any valid message.
        abstained: of its messages, those that were not sure enough of a field.
        seconds: what a message took.
        confidence: by field.
        spent: tokens and forwards of a message, by :data:`~fslm_core.store.counting.SPENT`, the median.
    """

    step: str
    times: int
    skipped: int
    valid: Share
    repaired: Share
    failed: Share
    abstained: Share
    seconds: Spread
    confidence: Mapping[str, Spread]
    spent: Mapping[str, float | None]

    @property
    def least_sure(self) -> float | None:
        """The median confidence of the field that is least sure by it."""
        return min((spread.median for spread in self.confidence.values() if spread.median is not None), default=None)

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        shares = {name: getattr(self, name).to_dict() for name in ("valid", "repaired", "failed", "abstained")}
        fields = {name: asdict(spread) for name, spread in self.confidence.items()}
        rest = {"seconds": asdict(self.seconds), "confidence": fields, "spent": dict(self.spent)}
        return {"step": self.step, "times": self.times, "skipped": self.skipped, **shares, **rest}


@dataclass(frozen=True, slots=True)
class Bucket:
    """The runs that began in one hour, day or week, local time.

    Attributes:
        start: when it began, Unix seconds.
        runs: how many ended how.
        steps: as for the whole.
    """

    start: float
    runs: Mapping[str, int]
    steps: tuple[StepStats, ...]

    def step(self, name: str) -> StepStats | None:
        """One step's, or None where it did not run."""
        return next((one for one in self.steps if one.step == name), None)

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {"start": self.start, "runs": dict(self.runs), "steps": [step.to_dict() for step in self.steps]}


@dataclass(frozen=True, slots=True)
class Stats:
    """The runs of a stack that began in a window of time.

    Attributes:
        since: the window asked for, Unix seconds, None where it is open; so is ``until``, which is not in it.
        span: when the first and the last run in it began; None where there is none.
        runs: how many ended how.
        running: runs under way, which are not counted; ``replays``: runs that replay another, which are not either.
        kept: how many runs were kept in which mode.
        by: what a bucket is long.
        buckets: those with a run, in order.
    """

    stack: str
    since: float | None
    until: float | None
    span: tuple[float, float] | None
    runs: Mapping[str, int]
    running: int
    replays: int
    kept: Mapping[str, int]
    steps: tuple[StepStats, ...]
    by: By
    buckets: tuple[Bucket, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        plain = {name: getattr(self, name) for name in ("stack", "since", "until", "span", "running", "replays", "by")}
        return {
            **plain,
            "runs": dict(self.runs),
            "kept": dict(self.kept),
            "steps": [step.to_dict() for step in self.steps],
            "buckets": [bucket.to_dict() for bucket in self.buckets],
        }


def stacks_of(store: TraceStore, stack: str | None = None) -> tuple[str, ...]:
    """The stacks in the trace; the one that is named, if it is there.

    Raises:
        UnknownNameError: no run of that stack is kept.
        StoreError: the database cannot be read.
    """
    known = store.stacks()
    if stack is not None and stack not in known:
        raise UnknownNameError.of(
            "stack in the trace", stack, known, where="the trace", hint="see `fslm trace list` for what has run"
        )
    return known if stack is None else (stack,)


def stats(
    store: TraceStore,
    stack: str,
    *,
    since: float | None = None,
    until: float | None = None,
    by: By | None = None,
) -> Stats:
    """Count what the runs of a stack come to. Replays, and runs under way, are not among them.

    Args:
        since: only runs that began since, in Unix seconds; all if left out.
        until: only runs that began before.
        by: what is counted by itself; left out, hours of up to two days, days of up to sixty, else weeks.

    Raises:
        UnknownNameError: no run of this stack is kept.
        StoreError: the database cannot be read.
    """
    stacks_of(store, stack)
    low, high = -inf if since is None else since, inf if until is None else until
    span = store.spans(since=low, until=high).get(stack)
    unit = by or _suited(span)
    counted = store.counts(stack, since=low, until=high, span=_spans(unit))
    return Stats(
        stack=stack,
        since=since,
        until=until,
        span=span,
        runs=sum(counted.runs.values(), Counter()),
        running=counted.running,
        replays=counted.replays,
        kept=counted.kept,
        steps=_whole(counted),
        by=unit,
        buckets=tuple(
            Bucket(start, counted.runs.get(start, {}), _steps(counted.steps.get(start, {})))
            for start in sorted(counted.runs.keys() | counted.steps.keys())
        ),
    )


def start_of(moment: float, by: By) -> float:
    """When the hour, day or week (from Monday) began that a moment lies in, local time; all in Unix seconds."""
    here = datetime.fromtimestamp(moment).replace(minute=0, second=0, microsecond=0)
    if by != "hour":
        here = here.replace(hour=0)
    if by == "week":
        here -= timedelta(days=here.weekday())
    return here.timestamp()


def before(start: float, by: By) -> float:
    """When the hour, day or week began that lies before the one that began then."""
    return start_of(start - _LENGTHS[by].total_seconds() / 2, by)


def _suited(span: tuple[float, float] | None) -> By:
    length = 0.0 if span is None else span[1] - span[0]
    return "hour" if length <= _HOURS.total_seconds() else "day" if length <= _DAYS.total_seconds() else "week"


def _spans(by: By) -> Callable[[float], float]:
    """:func:`start_of`, of which each quarter of an hour is asked once."""
    known: dict[int, float] = {}

    def span(moment: float) -> float:
        quarter = int(moment // _QUARTER)
        if quarter not in known:
            known[quarter] = start_of(moment, by)
        return known[quarter]

    return span


def _whole(counted: Counts) -> tuple[StepStats, ...]:
    """All spans together."""
    whole: dict[str, Tally] = {}
    for start in sorted(counted.steps):
        for step, tally in counted.steps[start].items():
            whole.setdefault(step, Tally()).add(tally)
    return _steps(whole)


def _steps(tallies: Mapping[str, Tally]) -> tuple[StepStats, ...]:
    return tuple(_step(step, tally) for step, tally in tallies.items())


def _step(step: str, tally: Tally) -> StepStats:
    said = tally.valid + tally.repaired
    times = said + tally.failed
    return StepStats(
        step=step,
        times=times,
        skipped=tally.skipped,
        valid=Share(tally.valid, times),
        repaired=Share(tally.repaired, times),
        failed=Share(tally.failed, times),
        abstained=Share(tally.abstained, said),
        seconds=Spread.of(tally.seconds),
        confidence={name: Spread.of(values) for name, values in tally.confidence.items()},
        spent={name: percentile(tally.spent[name], 0.5) if tally.spent[name] else None for name in SPENT},
    )


__all__ = ["Bucket", "By", "Spread", "Stats", "StepStats", "before", "stacks_of", "start_of", "stats"]

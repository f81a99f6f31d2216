"""What runs come to, for a person: a table of steps, and how they went over time as small bars."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..wording import counted
from .drawing import one_line, plain, probability, seconds_text, status_text
from .paired import Share
from .stats import Bucket, By, Stats, StepStats, before

_BARS = "▁▂▃▄▅▆▇█"
_MOST = 48
"""Hours, days or weeks that are drawn, the newest."""
_STATUSES = ("succeeded", "review", "failed", "cancelled", "interrupted")
_MOMENTS: dict[By, str] = {"hour": "%m-%d %H:%M", "day": "%Y-%m-%d", "week": "%Y-%m-%d"}


def drawn(found: Stats) -> RenderableType:
    """Stats as something Rich can print."""
    parts: list[RenderableType] = [_title(found)]
    if not found.runs:
        return Group(*parts)
    parts += ["", _table_of(found.steps), "", _costs_of(found.steps)]
    if any(step.confidence for step in found.steps):
        parts += ["", _confidence_of(found.steps)]
    if len(found.buckets) > 1:
        parts += ["", *_over_time(found)]
    return Group(*parts)


def _title(found: Stats) -> RenderableType:
    count = sum(found.runs.values())
    title = Text.assemble((one_line(found.stack), "bold"), f"  {counted(count, 'run')}")
    if found.span is not None and count:
        title.append(f" from {_moment(found.span[0])} to {_moment(found.span[1])}")
    known = [status for status in _STATUSES if status in found.runs]
    for status in [*known, *(other for other in found.runs if other not in _STATUSES)]:
        title.append(f"  {found.runs[status]:,} ").append_text(status_text(status))
    lines = [title]
    left = [f"{found.running:,} under way"] * bool(found.running)
    left += [f"{found.replays:,} that replay another"] * bool(found.replays)
    if left:
        lines.append(Text(f"Not counted: {', '.join(left)}.", style="dim"))
    return Group(*lines)


def _table_of(steps: Iterable[StepStats]) -> Table:
    table = _table("step", "ran", "valid at once", "repaired", "failed", "skipped", "abstained", "p50", "p95")
    for step in steps:
        table.add_row(
            plain(step.step),
            f"{step.times:,}",
            _share(step.valid),
            *(f"{count:,}" if count else "" for count in (step.repaired.hits, step.failed.hits, step.skipped)),
            _share(step.abstained) if step.abstained.hits else "",
            seconds_text(step.seconds.median),
            seconds_text(step.seconds.p95),
        )
    return table


def _costs_of(steps: Iterable[StepStats]) -> RenderableType:
    rows = [(step, step.spent) for step in steps if any(step.spent.values())]
    if not rows:
        return Text("No step asked a model.", style="dim")
    table = _table("tokens, median", *rows[0][1])
    for step, spent in rows:
        table.add_row(plain(step.step), *("" if value is None else f"{value:,.10g}" for value in spent.values()))
    return table


def _confidence_of(steps: Iterable[StepStats]) -> Table:
    table = _table("confidence", "messages", "median", "10th percentile")
    for step in steps:
        for field, spread in step.confidence.items():
            if spread.median is not None and spread.p10 is not None:
                name = plain(f"{step.step}.{field}")
                table.add_row(name, f"{spread.n:,}", probability(spread.median), probability(spread.p10))
    return table


def _over_time(found: Stats) -> Iterator[RenderableType]:
    buckets = _in_a_row(found)
    left = f", the newest {_MOST}" if len(buckets) == _MOST else ""
    yield Text(f"By the {found.by}{left}, from {_named(buckets[0], found.by)} to {_named(buckets[-1], found.by)}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("", "", "", "lowest", "highest"):
        table.add_column(head, no_wrap=bool(head), justify="right" if head else "left")
    runs: list[float | None] = [None if b is None else float(sum(b.runs.values())) for _, b in buckets]
    table.add_row("runs", "", _bars(runs, 0.0, max(filter(None, runs))), *_ends(runs, lambda value: f"{value:,.0f}"))
    for step in found.steps:
        beside = [None if b is None else b.step(step.step) for _, b in buckets]
        name: RenderableType = plain(step.step)
        for what, value, shown, low, high in _TRENDS:
            values = [None if one is None else value(one) for one in beside]
            known = [one for one in values if one is not None]
            if known and any(known):
                top = max(known) if high is None else high
                table.add_row(name, Text(what, style="dim"), _bars(values, low, top), *_ends(values, shown))
                name = ""
    yield table


_Value = Callable[[StepStats], float | None]
_TRENDS: tuple[tuple[str, _Value, Callable[[float], str], float, float | None], ...] = (
    ("valid at once", lambda step: step.valid.value, probability, 0.0, 1.0),
    ("abstained", lambda step: step.abstained.value, probability, 0.0, 1.0),
    ("least sure field", lambda step: step.least_sure, probability, 0.0, 1.0),
    ("p50", lambda step: step.seconds.median, seconds_text, 0.0, None),
    ("p95", lambda step: step.seconds.p95, seconds_text, 0.0, None),
    ("output tokens", lambda step: step.spent["output"], lambda value: f"{value:,.10g}", 0.0, None),
)
"""What is drawn of each step over time: how it is told, and between which ends; None for the highest there is."""


def _in_a_row(found: Stats) -> list[tuple[float, Bucket | None]]:
    """The newest hours, days or weeks, those without a run among them."""
    known = {bucket.start: bucket for bucket in found.buckets}
    first, start = found.buckets[0].start, found.buckets[-1].start
    made: list[tuple[float, Bucket | None]] = []
    while start >= first and len(made) < _MOST:
        made.append((start, known.get(start)))
        start = before(start, found.by)
    return made[::-1]


def _bars(values: Sequence[float | None], low: float, high: float) -> Text:
    """One bar a value, a dot where there is none."""
    text = Text()
    for value in values:
        if value is None:
            text.append("·", style="dim")
        else:
            share = (value - low) / (high - low) if high > low else 0.0
            text.append(_BARS[min(len(_BARS) - 1, max(0, int(share * len(_BARS))))])
    return text


def _ends(values: Iterable[float | None], shown: Callable[[float], str]) -> tuple[str, str]:
    known = [value for value in values if value is not None]
    return shown(min(known)), shown(max(known))


def _share(share: Share) -> str:
    if share.value is None or share.interval is None:
        return ""
    low, high = share.interval
    return f"{probability(share.value)} ({low:.3f} to {high:.3f})"


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left", no_wrap=bool(place), overflow="fold")
    return table


def _moment(moment: float) -> str:
    return datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M")


def _named(bucket: tuple[float, Bucket | None], by: By) -> str:
    return datetime.fromtimestamp(bucket[0]).strftime(_MOMENTS[by])


__all__ = ["drawn"]

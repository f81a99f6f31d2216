"""``fslm trace stats``: what the runs of a stack come to, over time and beside a reference."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..explain.moments import minute, moment_of
from ..explain.stats import By, Stats, stacks_of
from ..explain.stats import stats as counted
from ..explain.stats_drawn import drawn
from ..store import TraceStore
from . import screen
from .session import session_of

if TYPE_CHECKING:
    from ..evaluate.drifting import Drift, Window

_MOST = 20
"""Fields that drift and are shown."""


def stats(
    ctx: typer.Context,
    stack: Annotated[str | None, typer.Argument(metavar="[STACK]", help="The stack's name; all if left out.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Only runs that began since: an age (2d, 12h), a day or a time.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="WHEN", help="Only runs that began before.")] = None,
    by: Annotated[
        By | None, typer.Option(help="How finely time is told; left out, as it suits the length of the window.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="FROM..UNTIL",
            help="Tell what drifted since this window (14d..7d): inputs, messages, confidence. What is compared with"
            " it begins where it ends, if --since does not say otherwise.",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="OUT.png", help="Draw how it went over time; of one stack.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Count what runs come to, step by step and over time: validity, confidence, abstention, times, tokens; and drift.

    Replays, and runs under way, are not counted.
    """
    now = time.time()
    before = None if reference is None else _window(reference, now)
    begin = None if since is None else moment_of(since, "--since", now)
    if before is not None and begin is None:
        begin = before[1]
    end = None if until is None else moment_of(until, "--until", now)
    if begin is not None and end is not None and not begin < end:
        raise UsageError(
            "the window ends before it begins",
            where="fslm trace stats",
            found=f"--since {since or reference}, --until {until}",
            expected="an earlier moment for --since",
            hint="fslm trace stats --since 7d --until 1d",
        )
    told: list[dict[str, Any]] = []
    with TraceStore.open(session_of(ctx).settings.trace_path, readonly=True) as store:
        names = stacks_of(store, stack)
        _require_one(names, plot)
        for place, name in enumerate(names):
            found = counted(store, name, since=begin, until=end, by=by)
            drifted = None if before is None else _drift(store, name, before, begin, now if end is None else end)
            if plot is not None:
                _plot(found, plot)
            if as_json:
                told.append({**found.to_dict(), "drift": None if drifted is None else drifted.to_dict()})
                continue
            if place:
                screen.result("")
            screen.render(drawn(found))
            if not found.runs:
                first, last = store.spans()[name]
                screen.say(f"no run of it is in that window; they began from {minute(first)} to {minute(last)}")
            if drifted is not None:
                _tell(drifted)
    if as_json:
        screen.result(screen.as_json({"stacks": told}))
    elif not names:
        screen.say("no run is in the trace yet")


def _window(text: str, now: float) -> Window:
    """The two moments of ``FROM..UNTIL``."""
    begin, dots, end = text.partition("..")
    if not dots or not begin.strip() or not end.strip():
        raise UsageError(
            "that is no window of time",
            where="--reference",
            found=text,
            expected="two moments: FROM..UNTIL, as 14d..7d or 2026-11-01..2026-11-08",
            hint="write --reference 14d..7d for the week before the last seven days",
        )
    return moment_of(begin, "--reference", now), moment_of(end, "--reference", now)


def _drift(store: TraceStore, name: str, before: Window, begin: float | None, end: float) -> Drift:
    from ..evaluate.drifting import drift

    return drift(store, name, reference=before, window=(before[1] if begin is None else begin, end))


def _require_one(names: tuple[str, ...], plot: Path | None) -> None:
    if plot is not None and len(names) != 1:
        raise UsageError(
            "a plot shows one stack",
            where="--plot",
            found=f"{len(names)} stacks",
            expected=f"one of {', '.join(names)}" if names else None,
            hint="name it: fslm trace stats STACK --plot OUT.png",
        )


def _plot(found: Stats, path: Path) -> None:
    from ..evaluate import pictures
    from ..evaluate.stats_plot import draw

    pictures.write(lambda: draw(found), path)
    screen.say(f"plot: {path}")


def _tell(found: Drift) -> None:
    from ..evaluate.drift_told import HEADS, left_out, row, title, verdict

    drifting = found.drifting
    screen.result("")
    screen.result(title(found))
    screen.result(verdict(found))
    if drifting:
        screen.table(HEADS, [row(test) for test in drifting[:_MOST]])
    if len(drifting) > _MOST:
        screen.say(f"… and {len(drifting) - _MOST:,} more; --json has all")
    for line in left_out(found):
        screen.say(line)


__all__ = ["stats"]

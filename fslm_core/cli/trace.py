"""``fslm trace``: what was kept of earlier runs, and how it is forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal

import typer

from ..errors import UnknownNameError, UsageError
from ..explain.difference import compare_runs, compare_sets
from ..explain.difference_drawn import drawn as runs_drawn
from ..explain.difference_drawn import set_drawn, set_to_json
from ..explain.difference_drawn import to_json as diff_json
from ..explain.profile import drawn as profiled
from ..explain.profile import of_stored
from ..explain.shadow import compare
from ..explain.shadow import drawn as shadows_drawn
from ..explain.show import runs_table, to_json
from ..explain.show import show as drawn
from ..store import Forgotten, TraceStore
from . import screen
from .confirm import confirm_forgetting
from .replay import replay
from .session import session_of

RunStatus = Literal["running", "succeeded", "failed", "cancelled", "review", "interrupted"]

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Look at what was kept of earlier runs, or forget it."
)

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed where nobody can be asked.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("list")
def list_(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many, the newest first.")] = 20,
    stack: Annotated[str | None, typer.Option(help="Only runs of this stack.")] = None,
    status: Annotated[RunStatus | None, typer.Option(help="Only runs that ended so, or still run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """List the newest runs."""
    with _store(ctx) as store:
        rows = store.runs(limit, stack=stack, status=status)
    if as_json:
        screen.result(screen.as_json([asdict(row) for row in rows]))
    elif rows:
        screen.render(runs_table(rows))
    else:
        screen.say("no such run is in the trace")


@app.command()
def show(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="[ID|last]", help="A run's id, its beginning, or 'last'.")] = "last",
    full: Annotated[bool, typer.Option("--full", help="Show long texts whole, and every time of a step.")] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show where the time went; with --json, add it as `profile`.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a run: each step, its prompt, what the model wrote, what was validated, confidence and time."""
    with _store(ctx) as store:
        stored = store.run(run)
    if as_json:
        found = to_json(stored)
        screen.result(screen.as_json({**found, "profile": of_stored(stored).to_dict()} if profile else found))
    elif profile:
        screen.render(profiled(of_stored(stored)))
    else:
        screen.render(drawn(stored, full=full))


@app.command()
def diff(
    ctx: typer.Context,
    before: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run's id, its beginning, or 'last'.")] = None,
    after: Annotated[str | None, typer.Argument(metavar="[RUN]", help="The run to compare it with.")] = None,
    stack: Annotated[
        str | None, typer.Option(help="In place of two runs: all inputs of this stack that ran before and after.")
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"],
            help="With --stack: the moment that parts before from after; left out, when its makers last changed.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="With --stack: at most so many pairs.")] = 1000,
    full: Annotated[bool, typer.Option("--full", help="Show long values whole.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show where two runs part, step by step and field by field, and why; or count it over many pairs.

    With --stack, runs that were given the same are paired: the last one before and the newest after the moment.
    """
    if (before is None) != (after is None) or (before is None) == (stack is None) or (since and stack is None):
        raise UsageError(
            "a comparison needs two runs, or --stack",
            where="fslm trace diff",
            hint="fslm trace diff RUN RUN, or fslm trace diff --stack STACK [--since WHEN]",
        )
    with _store(ctx) as store:
        if stack is not None:
            pairs = store.pairs(stack, since=since.timestamp() if since else None, limit=limit)
            counted = compare_sets((store.run(old), store.run(new)) for old, new in pairs)
            if as_json:
                screen.result(screen.as_json(set_to_json(counted)))
            else:
                screen.render(set_drawn(counted))
            return
        assert before is not None and after is not None
        found = compare_runs(store.run(before), store.run(after))
    if as_json:
        screen.result(screen.as_json(diff_json(found)))
    else:
        screen.render(runs_drawn(found, full=full))


app.command()(replay)


@app.command()
def shadow(
    ctx: typer.Context,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="The stage's name, as in the settings.")],
    as_json: AsJson = False,
) -> None:
    """Show what the candidates of a stage said beside it, over all runs that are kept.

    How often they said the same, field by field, how often each gave a valid message, and how long each took: what
    there is to know before a candidate takes the adapter's place.
    """
    with _store(ctx) as store:
        found = compare(store.shadows(stage))
        known = store.shadowed_stages()
    if not found:
        raise UnknownNameError.of(
            "stage with a candidate in the trace",
            stage,
            known,
            where="the trace",
            hint=f'set candidate and shadow below [stages."{stage}"] in fslm.toml, and run its stack',
        )
    if as_json:
        screen.result(screen.as_json({"stage": stage, "candidates": [one.to_dict() for one in found]}))
    else:
        screen.render(shadows_drawn(stage, found))


@app.command()
def forget(
    ctx: typer.Context,
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN…", help="Ids of runs, their beginnings, or 'last'.")
    ] = None,
    stack: Annotated[str | None, typer.Option(help="Every run of this stack.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every run.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Forget runs for good: nothing of them stays in the trace database, its log or its unused pages.

    A run that is under way cannot be forgotten: one that is named is an error, others stay. If the command is cut
    short, a run is wholly there or wholly gone; give it again, and it completes what was left.
    """
    names = runs or []
    if bool(names) + bool(stack) + every != 1:
        raise UsageError(
            "forgetting needs runs, --stack or --all, and one of them only",
            where="fslm trace forget",
            hint="name runs as `fslm trace list` shows them: fslm trace forget RUN",
        )
    with _writing(ctx) as store:
        chosen = Forgotten(store.named(names)) if names else store.prune(keep=0, stack=stack, dry_run=True)
        _forget(store, chosen, yes=yes, as_json=as_json)


@app.command()
def prune(
    ctx: typer.Context,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Forget runs that began longer ago: 30d, 12h, 90m, 2w.")
    ] = None,
    keep: Annotated[int | None, typer.Option(min=0, help="Forget all but the newest so many.")] = None,
    stack: Annotated[str | None, typer.Option(help="Look at runs of this stack only.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which runs it would be, and forget none.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Forget old runs, as `fslm trace forget` does.

    With both limits, a run that either spares is kept. Runs that are under way stay.
    """
    if older_than is None and keep is None:
        raise UsageError(
            "pruning needs a limit",
            where="fslm trace prune",
            expected="--older-than AGE, --keep N, or both",
            hint="fslm trace prune --older-than 30d --dry-run",
        )
    age = None if older_than is None else _seconds(older_than)
    with _writing(ctx) as store:
        chosen = store.prune(older_than=age, keep=keep, stack=stack, dry_run=True)
        if not dry_run:
            _forget(store, chosen, yes=yes, as_json=as_json)
        elif as_json:
            screen.result(screen.as_json({"runs": chosen.runs, "dry_run": True}))
        else:
            for run in chosen.runs:
                screen.result(run)
            screen.say(f"{_count(len(chosen.runs))} would be forgotten")


@app.command()
def interrupt(
    ctx: typer.Context,
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help="Ids of runs, or their beginnings.")],
) -> None:
    """Mark runs as interrupted that say `running` though you know that their process is gone.

    A process that ended on this machine is seen, and its runs are marked by themselves; one of another host or
    container cannot be. A run that goes on after all is recorded as ever when it ends.
    """
    with _writing(ctx) as store:
        marked = store.interrupt(runs)
    screen.say(f"{_count(len(marked))} marked as interrupted")


def _forget(store: TraceStore, chosen: Forgotten, *, yes: bool, as_json: bool) -> None:
    if chosen.runs and not yes:
        confirm_forgetting(chosen.runs, _count(len(chosen.runs)), where="fslm trace")
    left = store.pending()
    done = store.forget(chosen.runs) if chosen.runs or left else chosen
    if as_json:
        screen.result(screen.as_json(asdict(done)))
        return
    if left:
        screen.say(f"{_count(left)} forgotten earlier: their bytes are overwritten now too")
    freed = max(0, done.bytes_before - done.bytes_after)
    screen.say(f"{_count(len(done.runs))} forgotten, {freed:,} bytes given back")


def _seconds(age: str) -> float:
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhdw])", age.strip())
    if found is None:
        raise UsageError(
            "the age is not a number with a unit",
            where="--older-than",
            found=age,
            expected="a number and s, m, h, d or w",
            hint="write 30d for thirty days",
        )
    return float(found[1]) * _SECONDS[found[2]]


def _count(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs:,} runs"


def _store(ctx: typer.Context) -> TraceStore:
    return TraceStore.open(session_of(ctx).settings.trace_path, readonly=True)


@contextmanager
def _writing(ctx: typer.Context) -> Iterator[TraceStore]:
    _store(ctx).close()  # there must be one: none is made here
    with TraceStore.open(session_of(ctx).settings.trace_path) as store:
        yield store


__all__ = ["app"]

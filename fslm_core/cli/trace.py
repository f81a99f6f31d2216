"""``fslm trace``: what was kept of earlier runs, and how it is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from typing import Annotated, Literal

import typer

from ..errors import StoreError, UnknownNameError, UsageError
from ..explain.found import drawn as found_drawn
from ..explain.moments import moment_of, seconds_of
from ..explain.profile import drawn as profiled
from ..explain.profile import of_stored
from ..explain.shadow import compare
from ..explain.shadow import drawn as shadows_drawn
from ..explain.show import runs_table, to_json
from ..explain.show import show as drawn
from ..store import Forgotten, TraceStore
from ..wording import counted
from . import screen
from .amounts import bytes_of
from .confirm import confirm_forgetting
from .diff import diff
from .exchange import export, import_
from .label import fix, label, labels, unlabel
from .replay import replay
from .session import session_of
from .stats import stats
from .training import export_training

RunStatus = Literal["running", "succeeded", "failed", "cancelled", "review", "interrupted"]

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Look at what was kept of earlier runs, or forget it."
)

Since = Annotated[
    str | None, typer.Option(metavar="WHEN", help="Only what began since: an age (2d, 12h), a day or a time of it.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed where nobody can be asked.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("list")
def list_(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many, the newest first.")] = 20,
    stack: Annotated[str | None, typer.Option(help="Only runs of this stack.")] = None,
    status: Annotated[RunStatus | None, typer.Option(help="Only runs that ended so, or still run.")] = None,
    since: Since = None,
    labelled: Annotated[bool, typer.Option("--labelled", help="Only runs of which a message is labelled.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """List the newest runs."""
    moment = _moment(since)
    with _store(ctx) as store:
        rows = store.runs(limit, stack=stack, status=status, since=moment, labelled=labelled)
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
    full: Annotated[
        bool, typer.Option("--full", help="Show long texts whole, each token, and every time of a step.")
    ] = False,
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


app.command()(diff)
app.command()(replay)
app.command()(label)
app.command()(fix)
app.command()(labels)
app.command()(unlabel)
app.command("export-training")(export_training)
app.command()(stats)


@app.command()
def search(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(metavar="WORDS…", help='Words, and "phrases" in quotation marks, all to be found.'),
    ],
    stack: Annotated[str | None, typer.Option(help="Only in runs of this stack.")] = None,
    step: Annotated[
        str | None, typer.Option(help="Only what this step said, by its path; 'input' and 'output' are the run's.")
    ] = None,
    status: Annotated[RunStatus | None, typer.Option(help="Only in runs that ended so.")] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many, the newest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Search the messages of runs that have ended, the newest first.

    What is found is what was kept of them: in a redacted trace no sensitive field is found, and without texts nothing.
    """
    moment = _moment(since)
    with _store(ctx) as store:
        indexed = store.is_indexed()
    if not indexed:
        with suppress(StoreError):  # one that cannot be written is searched as it is
            TraceStore.open(session_of(ctx).settings.trace_path).close()
    query = words[0] if len(words) == 1 else " ".join(f'"{word}"' if " " in word else word for word in words)
    with _store(ctx) as store:
        found = store.search(query, stack=stack, step=step, status=status, since=moment, limit=limit)
    if as_json:
        screen.result(screen.as_json([asdict(one) for one in found]))
    elif found:
        screen.render(found_drawn(found))
    else:
        screen.say("nothing of that is in the trace")


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
    larger_than: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Forget the oldest until the file is no larger: 2GB, 500MB.")
    ] = None,
    stack: Annotated[str | None, typer.Option(help="Look at runs of this stack only.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which runs it would be, and forget none.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Forget old runs, as `fslm trace forget` does.

    With several limits, a run that one of them spares is kept. Runs that are under way stay.
    """
    if older_than is None and keep is None and larger_than is None:
        raise UsageError(
            "pruning needs a limit",
            where="fslm trace prune",
            expected="--older-than AGE, --keep N, --larger-than SIZE, or several",
            hint="fslm trace prune --older-than 30d --dry-run",
        )
    age = None if older_than is None else seconds_of(older_than, "--older-than")
    size = None if larger_than is None else bytes_of(larger_than, "--larger-than")
    with _writing(ctx) as store:
        limits = partial(store.prune, older_than=age, keep=keep, larger_than=size, stack=stack)
        chosen = limits(dry_run=True)
        if not dry_run:
            _forget(store, chosen, yes=yes, as_json=as_json, more=None if size is None else limits)
        elif as_json:
            screen.result(screen.as_json({"runs": chosen.runs, "dry_run": True}))
        else:
            for run in chosen.runs:
                screen.result(run)
            screen.say(f"{counted(len(chosen.runs), 'run')} would be forgotten")


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
    screen.say(f"{counted(len(marked), 'run')} marked as interrupted")


app.command("export")(export)
app.command("import")(import_)


def _forget(
    store: TraceStore,
    chosen: Forgotten,
    *,
    yes: bool,
    as_json: bool,
    more: Callable[[], Forgotten] | None = None,
) -> None:
    """Ask, forget, and tell; ``more`` forgets what the size of the file shows only then to be too much."""
    if chosen.runs and not yes:
        confirm_forgetting(chosen.runs, counted(len(chosen.runs), "run"), where="fslm trace")
    left = store.pending()
    done = store.forget(chosen.runs) if chosen.runs or left else chosen
    if more is not None and (rest := more()).runs:
        done = done.and_then(rest)
    if as_json:
        screen.result(screen.as_json(asdict(done)))
        return
    if left:
        screen.say(f"{counted(left, 'run')} forgotten earlier: their bytes are overwritten now too")
    freed = max(0, done.bytes_before - done.bytes_after)
    screen.say(f"{counted(len(done.runs), 'run')} forgotten, {freed:,} bytes given back")


def _moment(since: str | None) -> float | None:
    return None if since is None else moment_of(since, "--since")


def _store(ctx: typer.Context) -> TraceStore:
    return TraceStore.open(session_of(ctx).settings.trace_path, readonly=True)


@contextmanager
def _writing(ctx: typer.Context) -> Iterator[TraceStore]:
    _store(ctx).close()  # there must be one: none is made here
    with TraceStore.open(session_of(ctx).settings.trace_path) as store:
        yield store


__all__ = ["app"]

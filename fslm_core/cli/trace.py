"""``fslm trace``: what was kept of earlier runs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from ..store import RunRow, TraceStore
from . import screen
from .session import session_of

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Look at what was kept of earlier runs.")


@app.command("list")
def list_(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many, the newest first.")] = 20,
    stack: Annotated[str | None, typer.Option(help="Only runs of this stack.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Only running, succeeded, failed, cancelled or interrupted ones.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """List the newest runs."""
    with _store(ctx) as store:
        rows = store.runs(limit, stack=stack, status=status)
    if as_json:
        screen.result(screen.as_json([_row(row) for row in rows]))
    elif rows:
        screen.table(["run", "stack", "status", "started", "seconds", "error"], map(_cells, rows))
    else:
        screen.say("no such run is in the trace")


@app.command()
def show(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="[ID|last]", help="A run's id, its beginning, or 'last'.")] = "last",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a run: each step, its prompt, what the model wrote, what was validated, confidence and time."""
    from ..explain import show as explain

    with _store(ctx) as store:
        stored = store.run(run)
    screen.result(screen.as_json(explain.to_dict(stored)) if as_json else screen.clean(explain.render(stored)))


def _store(ctx: typer.Context) -> TraceStore:
    return TraceStore.open(session_of(ctx).settings.trace_path, readonly=True)


def _row(row: RunRow) -> dict[str, Any]:
    keys = ("id", "stack", "status", "started", "ended", "seconds", "seed", "content", "backend", "engine", "error")
    return {key: getattr(row, key) for key in keys}


def _cells(row: RunRow) -> list[str]:
    started = datetime.fromtimestamp(row.started).strftime("%Y-%m-%d %H:%M:%S")
    took = "" if row.seconds is None else f"{row.seconds:.2f}"
    error = f"{row.error['code']}: {row.error['what']}" if row.error else ""
    return [row.id, row.stack, row.status, started, took, error]


__all__ = ["app"]

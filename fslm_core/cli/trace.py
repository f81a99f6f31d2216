"""``fslm trace``: what was kept of earlier runs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ..explain.show import runs_table, to_json
from ..explain.show import show as drawn
from ..store import TraceStore
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
        screen.result(screen.as_json([asdict(row) for row in rows]))
    elif rows:
        screen.render(runs_table(rows))
    else:
        screen.say("no such run is in the trace")


@app.command()
def show(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="[ID|last]", help="A run's id, its beginning, or 'last'.")] = "last",
    full: Annotated[bool, typer.Option("--full", help="Show long texts whole.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a run: each step, its prompt, what the model wrote, what was validated, confidence and time."""
    with _store(ctx) as store:
        stored = store.run(run)
    if as_json:
        screen.result(screen.as_json(to_json(stored)))
    else:
        screen.render(drawn(stored, full=full))


def _store(ctx: typer.Context) -> TraceStore:
    return TraceStore.open(session_of(ctx).settings.trace_path, readonly=True)


__all__ = ["app"]

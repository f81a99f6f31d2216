"""``fslm trace diff``: where two runs part."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import UsageError
from ..explain.difference import compare_runs, compare_sets
from ..explain.difference_drawn import drawn, set_drawn, set_to_json, to_json
from ..explain.moments import moment_of
from ..store import TraceStore
from . import screen
from .session import session_of


def diff(
    ctx: typer.Context,
    before: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run's id, its beginning, or 'last'.")] = None,
    after: Annotated[str | None, typer.Argument(metavar="[RUN]", help="The run to compare it with.")] = None,
    stack: Annotated[
        str | None, typer.Option(help="In place of two runs: all inputs of this stack that ran before and after.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="With --stack: what parts before from after: an age (2d, 12h), a day or a time of it; left out, when"
            " the stack's makers last changed.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="With --stack: at most so many pairs.")] = 1000,
    full: Annotated[bool, typer.Option("--full", help="Show long values whole.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
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
    moment = None if since is None else moment_of(since, "--since")
    with TraceStore.open(session_of(ctx).settings.trace_path, readonly=True) as store:
        if stack is not None:
            pairs = store.pairs(stack, since=moment, limit=limit)
            counted = compare_sets((store.run(old), store.run(new)) for old, new in pairs)
            if as_json:
                screen.result(screen.as_json(set_to_json(counted)))
            else:
                screen.render(set_drawn(counted))
            return
        assert before is not None and after is not None
        found = compare_runs(store.run(before), store.run(after))
    if as_json:
        screen.result(screen.as_json(to_json(found)))
    else:
        screen.render(drawn(found, full=full))


__all__ = ["diff"]

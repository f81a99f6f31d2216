"""``fslm trace export`` and ``fslm trace import``: runs go from store to store, and to other programs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..explain.moments import moment_of
from ..store import TraceStore
from ..wording import counted
from . import screen
from .session import session_of

_DIFFERENT = 1
"""The exit code where a run was left out of an import."""


def export(
    ctx: typer.Context,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="Ends in .jsonl or .parquet; what is there goes."),
    ],
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN…]", help="Ids of runs, their beginnings, or 'last'.")
    ] = None,
    stack: Annotated[str | None, typer.Option(help="Every run of this stack.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Every run since: an age (2d, 12h), a day or a time of it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write runs to a file, whole, one a line of JSON, for `fslm trace import` or any other program.

    Where the name ends in .parquet, tables for analysis: one of messages, and beside it, in FILE-runs.parquet, of runs.

    Without runs it is all that --stack and --since leave. A run that is under way is left out. The file is there whole
    or not at all, readable for its owner alone; what a run's mode did not keep is not in it either.
    """
    if runs and (stack or since):
        raise UsageError(
            "runs are exported by name, or by --stack and --since",
            where="fslm trace export",
            hint="leave out the names, or the options",
        )
    if out.suffix not in (".jsonl", ".parquet"):
        raise UsageError(
            "the export's name does not say its format",
            where="--out",
            found=out.name,
            expected="a name that ends in .jsonl or .parquet",
            hint="fslm trace export --out runs.jsonl",
        )
    moment = None if since is None else moment_of(since, "--since")
    with TraceStore.open(session_of(ctx).settings.trace_path, readonly=True) as store:
        done = store.export_runs(out, runs or (), stack=stack, since=moment)
    if as_json:
        screen.result(screen.as_json({**asdict(done), "file": str(out)}))
    else:
        screen.say(f"{counted(len(done.runs), 'run')} in {out}, {done.bytes:,} bytes")


def import_(
    ctx: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="Exports (JSON lines), or trace databases of other servers.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Take runs in from exports, or from the trace databases of other servers.

    The same id is the same run: one that is here already is passed over, so the same command completes an import that
    was cut short. One that is here with other contents is left out and named, and the exit code is 1. Labels come with
    their runs; of two of one message the newer stands.
    """
    new: list[str] = []
    different: list[str] = []
    same = labels = 0
    with TraceStore.open(session_of(ctx).settings.trace_path) as store:
        for file in files:
            done = store.import_runs(file)
            new += done.runs
            different += done.different
            same += done.same
            labels += done.labels
    if as_json:
        screen.result(screen.as_json({"runs": new, "same": same, "different": different, "labels": labels}))
    else:
        said = f", {labels:,} label{'s' * (labels != 1)} taken in" if labels else ""
        screen.say(f"{counted(len(new), 'run')} imported, {counted(same, 'run')} here already{said}")
        for run in different:
            screen.warn(f"left out: something of that id is here, and differs: {run}")
    if different:
        raise typer.Exit(_DIFFERENT)


__all__ = ["export", "import_"]

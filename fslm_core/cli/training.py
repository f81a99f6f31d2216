"""``fslm trace export-training``: a stage's labels become rows that ``fslm train`` reads."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..store import TraceStore
from ..wording import counted
from . import screen
from .session import session_of


def export_training(
    ctx: typer.Context,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="The stage's name, as `fslm list` has it.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="ROWS.jsonl", help="What is there goes.")],
    join: Annotated[
        Path | None, typer.Option("--join", metavar="OLD_ROWS.jsonl", help="Rows of before, which come first.")
    ] = None,
    preferences: Annotated[
        Path | None,
        typer.Option("--preferences", metavar="PAIRS.jsonl", help="Write pairs too: a correction, and what was said."),
    ] = None,
    stack: Annotated[str | None, typer.Option(help="Only labels in runs of this stack.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a stage's labelled messages as rows to train on, and beside them where each row comes from.

    A message that is right gives a row, and so does a correction; what is wrong and not corrected gives none. What the
    step was given is worked out from the run's messages, so the run must be kept in full and its stack be installed.
    With --join, where a label and an old row answer the same input otherwise, the old row is left out.
    """
    from ..train.labelled import export_training as exported  # the engine comes with it

    session = session_of(ctx)
    with TraceStore.open(session.settings.trace_path, readonly=True) as store:
        made = exported(store, stage, out, join=join, preferences=preferences, stack=stack, host=session.host)
    if as_json:
        screen.result(screen.as_json({**asdict(made), "files": [str(file) for file in made.files]}))
        return
    new = made.right + made.corrected
    old = f"{made.old:,} old, {new:,} new: " if join is not None else ""
    screen.say(f"{counted(made.rows, 'row')} in {out} ({old}{made.right:,} right, {made.corrected:,} corrected)")
    if made.replaced:
        lines = ", ".join(map(str, made.replaced[:20])) + (", …" if len(made.replaced) > 20 else "")
        screen.warn(f"{counted(len(made.replaced), 'old row')} left out, for a label says otherwise: line {lines}")
    if preferences is not None:
        screen.say(f"{counted(made.pairs, 'pair')} in {preferences}")
    for why, count in made.skipped.items():
        screen.say(f"{counted(count, 'label')} gave no row: {why}")
    screen.say(f"where each row comes from: {made.files[1]}")


__all__ = ["export_training"]

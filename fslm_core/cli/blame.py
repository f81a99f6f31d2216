"""``fslm blame``: which step's errors cost the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..data import Reading
from ..data.columns import parse_mapping
from ..evaluate import pictures
from ..evaluate.blaming import ELSEWHERE, SEVERAL, Blame, blame
from ..evaluate.render import number, ranged
from . import labelled, screen
from .session import opened, session_of

app = typer.Typer(add_completion=False)


@app.command("blame")
def blame_(
    ctx: typer.Context,
    stack: labelled.StackName,
    data: labelled.Data,
    mapping: labelled.Columns = None,
    sheet: labelled.Sheet = None,
    step_gold: labelled.StepGold = None,
    limit: labelled.Limit = None,
    seed: Annotated[int, typer.Option(help="Draws the rows of --limit, and decides every sampled token.")] = 0,
    concurrency: labelled.Concurrency = 32,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="OUT.png", help="Draw what is to blame.")] = None,
    as_json: labelled.AsJson = False,
) -> None:
    """Find out which step's errors cost a stack its answers.

    Every row that comes out wrong is replayed with its steps put right in turn, from the first on. Of those that erred
    though all before them was right, the first with which alone the answer comes out right is to blame. The trace has
    every run and replay; `fslm trace diff` compares two.
    """
    session = session_of(ctx)
    found = session.stack(stack)
    steps = labelled.step_columns(found, step_gold or [])
    read = labelled.cases(found, data, parse_mapping(mapping or []), Reading(sheet=sheet), steps)
    labelled.limit(read, limit, seed)
    labelled.tell(read, data)
    with labelled.Bars() as bars, opened(session, found, max_in_flight=max(64, concurrency)) as engine:
        report = blame(found, read, engine=engine, seed=seed, concurrency=concurrency, progress=bars)
    if plot is not None:
        from ..evaluate.blame_plot import draw

        pictures.write(lambda: draw(report), plot)
        screen.say(f"plot: {plot}")
    if as_json:
        screen.result(screen.as_json(report.model_dump(mode="json")))
    else:
        _summary(report)


def _summary(report: Blame) -> None:
    """What is to blame as a table, and the first wrong rows."""
    screen.result(f"{report.right.rows:,} of {report.rows:,} rows are right: {ranged(report.right)}")
    if not report.wrong:
        return
    screen.result("")
    rows = [
        [
            step.step,
            ranged(step.wrong),
            f"{step.own.rows:,}",
            f"{step.blamed.rows:,}",
            ranged(step.blamed),
            number(step.right_then.value),
        ]
        for step in report.steps
    ]
    rows += [
        [name, "", "", f"{share.rows:,}", ranged(share), ""]
        for name, share in ((SEVERAL, report.several), (ELSEWHERE, report.elsewhere))
    ]
    heads = ["step", "says something wrong", "errs on its own", "to blame", "of the wrong", "right without its errors"]
    screen.table(heads, rows)
    for step in report.steps:
        if step.fields:
            fields = ", ".join(f"{name} {count:,}" for name, count in step.fields.items())
            screen.result(f"{step.step} is to blame by: {screen.clean(fields)}")
    if report.unknown:
        screen.say(f"nobody knows what these should have said: {', '.join(report.unknown)}")
    first = next((row for row in report.wrong if row.run and row.blamed in row.replays), None)
    if first is not None:
        screen.say(f"for one: fslm trace diff {first.run} {first.replays[first.blamed]}")


__all__ = ["app"]

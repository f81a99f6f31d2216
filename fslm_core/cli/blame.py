"""``fslm blame``: which step's errors cost the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..data import Reading
from ..data.columns import parse_mapping
from ..evaluate import pictures
from ..evaluate.blaming import ELSEWHERE, SEVERAL, Blame, Share, blame
from ..evaluate.render import number
from . import labelled, screen
from .session import opened, session_of

app = typer.Typer(add_completion=False)


@app.command("blame")
def blame_(
    ctx: typer.Context,
    stack: Annotated[str, typer.Argument(metavar="STACK", help="The stack's name; `fslm list` shows them.")],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Labelled rows: .jsonl, .csv, .tsv, .xlsx; see `fslm eval`.")
    ],
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="FIELD=COLUMN", help="The column of DATA that fills a field of another name."),
    ] = None,
    sheet: Annotated[str | None, typer.Option(metavar="NAME", help="The sheet of a workbook.")] = None,
    step_gold: Annotated[
        list[str] | None,
        typer.Option(
            "--step-gold",
            metavar="STEP.FIELD=COLUMN",
            help="The column that says what a step should say, where the output does not.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only N of the rows that fit, drawn by --seed.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the rows of --limit, and decides every sampled token.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="Rows at work at once.")] = 32,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="OUT.png", help="Draw what is to blame.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
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
    screen.result(f"{report.right.rows:,} of {report.rows:,} rows are right: {_share(report.right)}")
    if not report.wrong:
        return
    screen.result("")
    rows = [
        [
            step.step,
            _share(step.wrong),
            f"{step.own.rows:,}",
            f"{step.blamed.rows:,}",
            _share(step.blamed),
            number(step.right_then.value),
        ]
        for step in report.steps
    ]
    rows += [
        [name, "", "", f"{share.rows:,}", _share(share), ""]
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


def _share(share: Share) -> str:
    if share.low is None or share.high is None:
        return "no rows"
    return f"{number(share.value)} ({number(share.low)} to {number(share.high)})"


__all__ = ["app"]

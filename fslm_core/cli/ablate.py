"""``fslm ablate``: what each step's message is worth to the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..data import Reading
from ..data.columns import parse_mapping
from ..evaluate import pictures, require_extra
from ..evaluate.ablating import WAYS, Ablation, ablate
from ..evaluate.render import number, ranged
from . import labelled, screen
from .session import opened, session_of

app = typer.Typer(add_completion=False)


@app.command("ablate")
def ablate_(
    ctx: typer.Context,
    stack: labelled.StackName,
    data: labelled.Data,
    step: Annotated[
        list[str] | None,
        typer.Option("--step", metavar="STEP", help="Only this step; all but the last if not said. Repeatable."),
    ] = None,
    way: Annotated[
        list[str] | None,
        typer.Option("--way", metavar="WAY", help=f"Only this way ({', '.join(WAYS)}); all if not said. Repeatable."),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option("--beside", metavar="STACK", help="A stack to compare with: one model that does it all, say."),
    ] = None,
    mapping: labelled.Columns = None,
    sheet: labelled.Sheet = None,
    group: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Rows of equal value are drawn together for the intervals.")
    ] = None,
    limit: labelled.Limit = None,
    seed: Annotated[int, typer.Option(help="Draws rows and other rows' messages, and decides sampled tokens.")] = 0,
    concurrency: labelled.Concurrency = 32,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="OUT.png", help="Draw it.")] = None,
    as_json: labelled.AsJson = False,
) -> None:
    """Take away each step's message in turn, and see whether anybody used it.

    The rest is run again without it. A message is left out, made the same in every row, exchanged for another row's, or
    replaced by the input's text. Where the answers are as right without it, nobody uses what the step says.
    """
    require_extra()
    session = session_of(ctx)
    found = session.stack(stack)
    others = [session.stack(name) for name in beside or ()]
    read = labelled.cases(found, data, parse_mapping(mapping or []), Reading(sheet=sheet), {})
    labelled.limit(read, limit, seed)
    labelled.tell(read, data)
    with labelled.Bars() as bars, opened(session, found, max_in_flight=max(64, concurrency)) as engine:
        report = ablate(
            found,
            read,
            steps=step or (),
            ways=way or WAYS,
            beside=others,
            group=group,
            engine=engine,
            seed=seed,
            concurrency=concurrency,
            progress=bars,
        )
    if plot is not None:
        from ..evaluate.ablate_plot import draw

        pictures.write(lambda: draw(report), plot)
        screen.say(f"plot: {plot}")
    if as_json:
        screen.result(screen.as_json(report.model_dump(mode="json")))
    else:
        _summary(report)


def _summary(report: Ablation) -> None:
    """The table of messages taken away, and the stacks beside."""
    screen.result(f"{report.stack}: {ranged(report.right)} of {report.rows:,} rows are right")
    screen.result("")
    screen.table(
        ["step", "without its message", "rows", "right", "costs", "other outputs", "heard", "could not be said"],
        [
            [
                one.step,
                one.way,
                f"{one.rows:,}",
                ranged(one.right),
                ranged(one.cost),
                number(one.changed.value),
                number(one.heard.value),
                f"{one.unfit:,}" if one.unfit else "",
            ]
            for one in report.ablated
        ],
    )
    for name, share in report.beside.items():
        difference = ranged(report.difference[name])
        screen.result(f"beside it {screen.clean(name)}: {ranged(share)} right, difference {difference}")


__all__ = ["app"]

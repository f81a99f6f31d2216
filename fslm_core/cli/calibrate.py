"""``fslm calibrate``: below which confidence the steps of a stack should abstain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..data import Reading
from ..data.columns import parse_mapping
from ..evaluate import Calibration, pictures, require_extra
from ..evaluate.calibrating import Calibrating
from ..evaluate.render import number
from ..folders import sha256_of
from . import labelled, screen
from .session import opened, session_of

app = typer.Typer(add_completion=False)


@app.command()
def calibrate(
    ctx: typer.Context,
    stack: labelled.StackName,
    data: labelled.Data,
    max_error: Annotated[
        float, typer.Option("--max-error", help="The greatest share of wrong answers wanted among those accepted.")
    ],
    field: Annotated[
        list[str] | None,
        typer.Option("--field", metavar="FIELD", help="Only this field, or STEP.FIELD. Repeatable."),
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="With which --max-error shall hold, by a one-sided Clopper-Pearson bound.")
    ] = 0.95,
    mapping: labelled.Columns = None,
    sheet: labelled.Sheet = None,
    step_gold: labelled.StepGold = None,
    limit: labelled.Limit = None,
    seed: Annotated[int, typer.Option(help="Divides the rows, and decides every sampled token.")] = 0,
    concurrency: labelled.Concurrency = 32,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="OUT.png", help="Draw error against coverage, and of cascades against cost."),
    ] = None,
    as_json: labelled.AsJson = False,
) -> None:
    """Find out below which confidence a stack's steps should abstain.

    The rows are divided in two: on the one half a temperature is fitted for each step and field, and the lowest
    threshold found whose error, by its upper bound, is at most --max-error; the figures are of the other half. Every
    step of a cascade is tried on every row. The last lines are what to write into the stack. The exit code is 1 if for
    some field no threshold does it.
    """
    require_extra()
    session = session_of(ctx)
    found = session.stack(stack)
    steps = labelled.step_columns(found, step_gold or [])
    read = labelled.cases(found, data, parse_mapping(mapping or []), Reading(sheet=sheet), steps)
    labelled.limit(read, limit, seed)
    labelled.tell(read, data)
    with labelled.Bars() as bars:
        work = Calibrating(
            found,
            read,
            max_error,
            tuple(field or ()),
            confidence,
            seed,
            concurrency,
            bars,
            data=data.name,
            data_sha256=sha256_of(data),
        )
        with opened(session, found, max_in_flight=max(64, concurrency)) as engine:
            report = work.report(engine)
    if plot is not None:
        from ..evaluate.calibration_plot import draw

        pictures.write(lambda: draw(report), plot)
        screen.say(f"plot: {plot}")
    for note in report.notes:
        screen.say(f"note: {note}")
    if as_json:
        screen.result(screen.as_json(report.model_dump(mode="json")))
    else:
        _summary(report)
    if report.missed:
        screen.say(f"no threshold keeps the error at {max_error:g}: {', '.join(report.missed)}")
        raise typer.Exit(1)


def _summary(report: Calibration) -> None:
    """The figures as tables, and the lines to write."""
    screen.table(
        ["field", "rows", "right", "temperature", "ECE before", "after", "threshold", "coverage", "error", "at most"],
        [
            [
                f"{one.step}.{one.field}",
                one.held_out.rows,
                number(one.accuracy),
                f"{one.temperature:g}",
                number(one.ece_before),
                number(one.ece_after),
                "none" if one.threshold is None else f"{one.threshold:g}",
                number(one.held_out.coverage),
                number(one.held_out.error),
                number(one.held_out.bound),
            ]
            for one in report.fields
        ],
    )
    for cascade in report.cascades:
        screen.result("")
        spent = {step: f"{tokens:,.0f} tokens alone" for step, tokens in cascade.tokens_of_each.items()}
        screen.table(
            [f"cascade {cascade.step}", "answers", "cost of a row"],
            [
                *([step, number(share), spent[step]] for step, share in cascade.answered.items()),
                ["nobody is sure", number(cascade.unsure), ""],
                ["all", number(1 - cascade.unsure), f"{cascade.tokens:,.0f} tokens"],
            ],
        )
        error = f"error {number(cascade.error)}, at most {number(cascade.bound)}"
        screen.result(f"of the rows answered: {error}; the first step hands on {number(cascade.passed_on)} of the rows")
    screen.result("")
    for line in report.lines():
        screen.result(screen.clean(line))


__all__ = ["app"]

"""``fslm eval``: a stack's scores on labelled rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..data import Reading
from ..data.columns import parse_mapping
from ..errors import UsageError
from ..evaluate import Figure, Interval, Plan, Report, Work, require_extra, write_report
from ..evaluate.render import ranged, signed
from ..evaluate.writing import may_write
from ..folders import sha256_of
from . import labelled, screen
from .session import content_of, opened, session_of

app = typer.Typer(add_completion=False)

_HOW_TO_CONTROL = "pass --train FILE, the rows its stages were trained on, for a linear control beside it"


@app.command("eval")
def evaluate_stack(
    ctx: typer.Context,
    stack: labelled.StackName,
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Labelled rows: .jsonl, .csv, .tsv, .xlsx; see `fslm data prepare`.")
    ],
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN",
            help="The column of DATA (and of a FILE of the same kind) that fills a field, where their names differ.",
        ),
    ] = None,
    sheet: labelled.Sheet = None,
    train: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Rows of the whole stack, which the linear control is fitted on."),
    ] = None,
    step_gold: labelled.StepGold = None,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", metavar="COLUMN", help="Score the rows of each of its values, too. Repeatable."),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Rows of one value belong together; intervals draw them together."),
    ] = None,
    limit: labelled.Limit = None,
    seed: Annotated[int, typer.Option(help="Decides every draw, and every sampled token.")] = 0,
    resamples: Annotated[int, typer.Option(min=100, help="Draws that the intervals are made from.")] = 1000,
    concurrency: labelled.Concurrency = 32,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where the report goes: Markdown, HTML, JSON, errors.")
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-under",
            metavar="METRIC=VALUE",
            help="Exit with 1 if a figure is below this, as in exact=0.9 or category.f1=0.95. Repeatable.",
        ),
    ] = None,
    no_control: Annotated[bool, typer.Option("--no-control", help="Do not fit a linear control.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the report in DIR.")] = False,
) -> None:
    """Score a stack on labelled rows, step by step, beside a linear control.

    Each step is scored twice: fed with gold, and inside the whole stack, fed with what the steps before it said. What a
    step should say is taken from the row's "steps", from --step-gold, or from the output fields the stack takes over
    from it. --out DIR gets report.md, report.html, report.json, errors.jsonl and plots, whole or not at all. The exit
    code is 1 if a figure is below what --fail-under asks.
    """
    require_extra()
    session = session_of(ctx)
    found = session.stack(stack)
    wanted = _wanted(fail_under or [])
    if out is not None:
        may_write(out, force=force)
    columns, reading = parse_mapping(mapping or []), Reading(sheet=sheet)
    steps = labelled.step_columns(found, step_gold or [])
    read = labelled.cases(found, data, columns, reading, steps)
    labelled.limit(read, limit, seed)
    why = "--no-control was given" if no_control else _HOW_TO_CONTROL if train is None else None
    plan = Plan(found, read, tuple(by or ()), group, wanted, data.name, sha256_of(data), why)
    fitted = None
    if train is not None and not no_control:
        fitted = labelled.cases(found, train, *_as_read(data, train, columns, reading), {})
    labelled.tell(read, data)
    if train is None and not no_control:
        screen.say(f"no linear control: {_HOW_TO_CONTROL}")
    with opened(session, found, max_in_flight=max(64, concurrency)) as engine, labelled.Bars() as bars:
        content = content_of(session.settings)
        report = Work(plan, fitted, resamples, seed, concurrency, content, bars).report(engine)
    if report.control is not None and report.control.seen:
        screen.warn(
            f"{report.control.seen:,} of {len(read.cases):,} rows scored are in {train}, too: "
            "the control has seen their answers, and so has a stack that was trained on them"
        )
    if out is not None:
        write_report(report, out, force=force)
        screen.say(f"report: {out / 'report.html'}")
    if as_json:
        screen.result(screen.as_json(report.model_dump(mode="json")))
    else:
        _summary(report)
    if missed := [asked for asked in report.requirements if not asked.met]:
        for asked in missed:
            value = "not measured: no row is about it" if asked.value is None else f"{asked.value:.4f}"
            screen.say(f"missed: {asked.name} is {value}, wanted at least {asked.wanted}")
        raise typer.Exit(1)


# -- what was asked --------------------------------------------------------------------------------------------------


def _wanted(pairs: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for pair in pairs:
        name, _, value = pair.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not name.strip() or number != number or name.strip() in found:
            raise UsageError(
                "--fail-under takes a metric and a number, each metric once",
                where="--fail-under",
                found=pair,
                expected="METRIC=VALUE, as in exact=0.9",
                hint="write --fail-under exact=0.9, once for each metric",
            )
        found[name.strip()] = number
    return found


def _as_read(
    data: Path, train: Path, mapping: Mapping[str, str], reading: Reading
) -> tuple[Mapping[str, str], Reading]:
    """How TRAIN is read: as DATA is, if it is a file of the same kind; else as it is."""
    return (mapping, reading) if data.suffix.lower() == train.suffix.lower() else ({}, Reading())


# -- what is told ----------------------------------------------------------------------------------------------------


def _summary(report: Report) -> None:
    """The headline figures as tables."""
    figures = [("wholly right", report.output.exact), ("valid", report.output.valid)]
    for field in report.output.fields:
        figures += [(f"{field.name}.{n}", field.figures[n]) for n in ("accuracy", "f1") if n in field.figures]
    beside = report.control is not None
    heads = ["output", "stack", *(["control", "stack - control"] if beside else []), "rows"]
    screen.table(
        heads,
        [[name, ranged(f), *(_beside(f) if beside else []), f.n] for name, f in figures],
    )
    screen.result("")
    screen.table(
        ["step", "fed with gold", "fed with predictions", "lost to earlier steps"],
        [
            [step.name, *(["gold unknown: " + step.unknown, "", ""] if step.unknown else _of_step(step))]
            for step in report.steps
        ],
    )
    for part in [part for part in report.slices if part.rows]:
        screen.result(f"{part.column} = {screen.clean(part.value)}: {ranged(part.exact)} of {part.rows} wholly right")


def _beside(figure: Figure) -> list[str]:
    return ["", ""] if figure.control is None else [ranged(figure.control), signed(figure.difference)]


def _of_step(step: Any) -> list[str]:
    views: list[Interval | None] = [v.exact if v else None for v in (step.gold_fed, step.predicted_fed)]
    return [*map(ranged, views), signed(step.lost)]


__all__ = ["app"]

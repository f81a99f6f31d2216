"""``fslm data``: labelled rows out of a spreadsheet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..data import Cleaned, Options, Prepared, Reading, Rules, Target, clean_file, parse_mapping
from ..data import prepare as prepare_rows
from ..data.cleaning import Duplicates
from ..data.labels import Handling
from ..data.leaks import OVERLAP, WORDS
from ..errors import UsageError
from . import screen
from .session import Session, session_of

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Make rows to train on and to score by, out of a table."
)


@app.callback()
def data() -> None:
    """Make rows to train on and to score by, out of a table."""


@app.command()
def prepare(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A .csv, .tsv, .xlsx or .jsonl file.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where the rows go; written whole or not at all.")
    ] = None,
    stage: Annotated[str | None, typer.Option("--stage", metavar="NAME", help="Rows for this stage.")] = None,
    stack: Annotated[str | None, typer.Option("--stack", metavar="NAME", help="Rows for this whole stack.")] = None,
    input: Annotated[
        list[str] | None, typer.Option("--input", metavar="FIELD", help="Without a stage: a field of the input.")
    ] = None,
    output: Annotated[
        list[str] | None, typer.Option("--output", metavar="FIELD", help="Without a stage: a field of the output.")
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="FIELD=COLUMN", help="Which column fills a field; else the one of its name."),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option("--group", metavar="COLUMN", help="Rows alike in it stay together: a customer, a thread."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", metavar="FIELD", help="Stratify by this output field; else by all that are labels."),
    ] = None,
    split: Annotated[str, typer.Option(help="Shares of train/dev/test, or of train/test.")] = "80/10/10",
    seed: Annotated[int, typer.Option(help="Decides where rows go that could go anywhere.")] = 0,
    near: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="Inputs at least so similar stay together; 1: only equal ones.")
    ] = 0.9,
    conflicts: Annotated[Handling, typer.Option(help="What becomes of equal inputs with different labels.")] = "fail",
    max_rejected: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="The largest share of rows that may not fit.")
    ] = 0.05,
    sheet: Annotated[str | None, typer.Option(metavar="NAME", help="The sheet of a workbook.")] = None,
    encoding: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a text file, as cp1252; else found out.")
    ] = None,
    delimiter: Annotated[str | None, typer.Option(metavar="CHAR", help="Of a CSV file; else found out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that was prepared before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; show the whole report.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Divide a table of labelled rows into train, dev and test.

    Every row is checked against the stage or stack; what does not fit is set aside and listed. Rows that are alike, or
    of one group, never stand on both sides of the split. The folder holds train.jsonl, dev.jsonl, test.jsonl and a
    report, which `fslm train` and `fslm eval` read as they are.
    """
    if out is None and not dry_run:
        raise UsageError("nothing says where the rows go", where="--out", hint="pass --out DIR, or --dry-run")
    pairs = parse_mapping(mapping or ())
    done = prepare_rows(
        source,
        None if dry_run else out,
        target=_target(session_of(ctx), stage, stack, input or [], output or []),
        mapping=pairs,
        options=Options(tuple(group or ()), tuple(target or ()), split, seed, near, conflicts, max_rejected),
        reading=Reading(sheet, encoding, delimiter, (*pairs.values(), *(group or ()))),
        force=force,
    )
    _show(done, as_json)
    if done.problem is not None:
        raise done.problem
    screen.say("nothing was written" if done.out is None else f"rows and report: {done.out}")


@app.command("clean")
def clean_rows(
    rows: Annotated[Path, typer.Argument(metavar="ROWS.jsonl", help="Rows to train on.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where the rows that stay go; else nowhere.")
    ] = None,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option("--evaluation", "-e", metavar="FILE", help="Rows to be scored by, in a table of any kind."),
    ] = None,
    duplicates: Annotated[Duplicates, typer.Option(help="Which rows go for an earlier one.")] = "equal",
    near: Annotated[float, typer.Option(min=0.5, max=1.0, help="Inputs at least so similar are near.")] = 0.9,
    words: Annotated[int, typer.Option(min=2, help="How many words make a run.")] = WORDS,
    overlap: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="The share of an evaluation row's runs that gives it away.")
    ] = OVERLAP,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Leave out rows that repeat others, or give away rows to be scored by.

    Every row that goes is listed with its reason: the earlier row it repeats, or the evaluation row that it holds at
    least --overlap of, measured in runs of --words words.
    """
    made = clean_file(rows, out, Rules(duplicates, near, tuple(evaluation or ()), words, overlap))
    if as_json:
        screen.result(screen.as_json(made.plain()))
    else:
        _show_cleaned(made)
    screen.say("nothing was written" if out is None else f"{len(made.kept):,} rows: {out}")


def _show_cleaned(made: Cleaned) -> None:
    for leak in made.leaks:
        screen.result(screen.clean(f"line {leak.line} gives away {leak.share:.0%} of {leak.path.name}, line {leak.of}"))
    for repeat in made.repeats:
        how = "repeats" if repeat.similarity == 1 else f"is {repeat.similarity:.0%} like"
        screen.result(f"line {repeat.line} {how} line {repeat.of}")
    for name, count in made.given_away.items():
        screen.say(f"rows of {name} that are given away: {count:,}")


def _target(session: Session, stage: str | None, stack: str | None, input: list[str], output: list[str]) -> Target:
    given = [name for name, value in (("--stage", stage), ("--stack", stack), ("--input", input or output)) if value]
    if len(given) > 1:
        raise UsageError(
            f"{' and '.join(given)} contradict each other",
            where="fslm data prepare",
            hint="name a stage, a stack, or the fields of input and output",
        )
    if stage is not None:
        return Target.of(session.host.stage(stage))
    if stack is not None:
        return Target.of(session.host.stack(stack))
    return Target.plain(input, output)


def _show(done: Prepared, as_json: bool) -> None:
    report = done.report
    for warning in report["warnings"]:
        screen.warn(warning)
    if as_json:
        screen.result(screen.as_json(report))
        return
    screen.table(["rows", "count"], [[name, f"{count:,}"] for name, count in report["rows"].items()])
    for target, counts in report["labels"].items():
        screen.result("")
        splits = list(done.splits)
        screen.table(
            [target, *splits, "all"],
            [[label, *(by[name] for name in splits), sum(by.values())] for label, by in counts.items()],
        )
    screen.result("")
    for line in _lines(report, everything=done.out is None):
        screen.result(screen.clean(line))


def _lines(report: dict[str, Any], *, everything: bool) -> list[str]:
    clusters, naive, conflicts = report["clusters"], report["random_split"], report["conflicts"]
    several = clusters["of_several_rows"]
    stay = "1 cluster of several rows stays" if several == 1 else f"{several:,} clusters of several rows stay"
    lines = [
        f"{stay} whole, the largest of {clusters['largest']:,};"
        f" a random split would have put {naive['also_in_train']:,} of {naive['held_out']:,} held-out rows beside"
        " their like in train"
    ]
    shown = None if everything else 5
    for row in report["rejected"][:shown]:
        column = f", column {row['column']!r}" if row["column"] else ""
        where = ", ".join(map(str, row["lines"]))
        lines.append(f"rejected {row['rows']:,}: {row['field']}{column}: {row['why']} (line {where})")
    for conflict in conflicts["listed"][:shown]:
        said = "; ".join(
            f"line {row['line']} " + ", ".join(str(value) for name, value in row.items() if name != "line")
            for row in conflict
        )
        lines.append(f"conflict: {said}")
    return lines


__all__ = ["app"]

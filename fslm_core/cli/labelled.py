"""Labelled rows as the command line takes them: for ``fslm eval``, ``calibrate``, ``blame`` and ``ablate``."""

from __future__ import annotations

import datetime
import random
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Annotated, Any

import typer

from ..data import Reading, Rejected, Row, Target, read_rows
from ..data.cells import date_text
from ..data.columns import look_up, parse_mapping
from ..errors import DataError, UsageError
from ..evaluate import Cases, read_cases
from ..evaluate.gold import RowProblem
from ..stack import Stack
from ..store import marks_of
from . import screen
from .progress import RowBar

_DATES = (datetime.date, datetime.time)

StackName = Annotated[str, typer.Argument(metavar="STACK", help="The stack's name; `fslm list` shows them.")]
Data = Annotated[
    Path, typer.Argument(metavar="DATA", help="Labelled rows: .jsonl, .csv, .tsv, .xlsx; see `fslm eval`.")
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="FIELD=COLUMN", help="The column of DATA that fills a field of another name."),
]
Sheet = Annotated[str | None, typer.Option(metavar="NAME", help="The sheet of a workbook.")]
StepGold = Annotated[
    list[str] | None,
    typer.Option(
        "--step-gold",
        metavar="STEP.FIELD=COLUMN",
        help="The column that says what a step should say, where the output does not.",
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="Only N of the rows that fit, drawn by --seed.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Rows at work at once.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")]


def step_columns(stack: Stack[Any, Any], pairs: Sequence[str]) -> dict[tuple[str, str], str]:
    """(step, field) to column."""
    fields = {(s.name, name) for s in stack.steps for name in s.node.output.model_fields}
    found: dict[tuple[str, str], str] = {}
    for path, column in parse_mapping(pairs).items():
        step, _, name = path.partition(".")
        if (step, name) not in fields:
            raise UsageError(
                "--step-gold names a field that no step has",
                where="--step-gold",
                found=path,
                expected=", ".join(f"{s}.{n}" for s, n in sorted(fields)),
                hint="write --step-gold STEP.FIELD=COLUMN",
            )
        found[step, name] = column
    return found


def cases(
    stack: Stack[Any, Any],
    path: Path,
    mapping: Mapping[str, str],
    reading: Reading,
    steps: Mapping[tuple[str, str], str],
) -> Cases:
    """Read a table, and keep what does not fit with its line."""
    rejected: list[Rejected] = []
    rows = list(read_rows(path, Target.of(stack), mapping=mapping, reading=reading, rejected=rejected.append))
    skippable = {step.name for step in stack.steps if step.may_be_skipped}
    made = [_with_steps(row, steps, path, skippable) for row in rows]
    found = read_cases(stack, made, [row.line for row in rows])
    private = bool(marks_of(stack))  # a text that stands where a label should may be anything
    said = ((row.line, row.field, "it does not fit" if private else row.text) for row in rejected)
    found.misfits += [RowProblem(line, f"{field}: {text}") for line, field, text in said]
    found.misfits.sort(key=lambda problem: problem.line)
    return found


def _with_steps(row: Row, steps: Mapping[tuple[str, str], str], path: Path, skippable: Set[str]) -> dict[str, Any]:
    """The row as evaluation reads it, the columns of ``--step-gold`` among its steps.

    Where all of a step's columns are empty it is skipped, if it can be, else nothing is known of it.
    """
    extra = {name: date_text(cell) if isinstance(cell, _DATES) else cell for name, cell in row.extra.items()}
    made = {**extra, "input": row.input, "output": row.output}
    if not steps:
        return made
    own = row.extra.get("steps")
    given = dict(own) if isinstance(own, Mapping) else {}
    columns: dict[str, dict[str, Any]] = {}
    for (step, field), column in steps.items():
        columns.setdefault(step, {})[field] = _cell(row, column, path)
    for step, message in columns.items():
        if any(value is not None for value in message.values()):
            before = given.get(step)
            given[step] = {**(before if isinstance(before, Mapping) else {}), **message}
        elif step in skippable:
            given[step] = None
    return {**made, "steps": given}


def _cell(row: Row, column: str, path: Path) -> Any:
    """A cell that says what a step should say; null where it is empty.

    Raises:
        DataError: there is no such column.
    """
    value = look_up(row.extra, column)
    if column not in row.extra and value is None:
        raise DataError(
            f"there is no column {column!r} for --step-gold",
            where=f"{path.name}, line {row.line}",
            expected="one of " + ", ".join(row.extra),
            hint="a column that fills a field of input or output cannot be a step's gold, too",
        )
    return date_text(value) if isinstance(value, _DATES) else None if value == "" else value


def limit(read: Cases, limit: int | None, seed: int) -> None:
    """Keep some of the rows, in their order."""
    if limit is not None and limit < len(read.cases):
        kept = sorted(random.Random(seed).sample(range(len(read.cases)), limit))
        read.cases = [read.cases[place] for place in kept]
        lines = {case.line for case in read.cases}
        read.notes = [note for note in read.notes if note.line in lines]


def tell(read: Cases, path: Path) -> None:
    """Say what was wrong with the rows, the first few by line."""
    for what, problems in (("do not fit and are not scored", read.misfits), ("have odd gold", read.notes)):
        if problems:
            screen.warn(f"{len({p.line for p in problems})} rows of {path.name} {what}")
            for problem in problems[:5]:
                screen.say(f"  line {problem.line}: {problem.text}")
            if len(problems) > 5:
                screen.say(f"  … and {len(problems) - 5} more, all in the report")


class Bars:
    """A bar for each thing that is run, a line where there is no terminal."""

    def __init__(self) -> None:
        self._what = ""
        self._bar: RowBar | None = None
        self._done = 0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show how far it is."""
        if what != self._what:
            self.close()
            self._what, self._done = what, 0
            screen.say(what if what == "linear control" else f"{what}: {total} rows")
            self._bar = RowBar(total)
            self._bar.__enter__()
        if self._bar is not None:
            for _ in range(done - self._done):
                self._bar.row(failed=False)
        self._done = done

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


__all__ = [
    "AsJson",
    "Bars",
    "Columns",
    "Concurrency",
    "Data",
    "Limit",
    "Sheet",
    "StackName",
    "StepGold",
    "cases",
    "limit",
    "step_columns",
    "tell",
]

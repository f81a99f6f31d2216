"""What a tuning will take: rows, tokens and minutes of each part, from a few calls of the teacher and a few steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel, ConfigDict

from ..evaluate.fields import Mark
from ..evaluate.gold import Case
from ..plugins import PluginHost
from ..settings import Settings
from ..stack import Stack
from ..train import Noted, Working, probe_stage
from .feeding import whole
from .messages import Writer
from .progress import Progress
from .recipe import TuneRecipe, tunable
from .rows import Item, Rows, cases_of
from .units import Lines, Unit, gold_lines

PROBE = 4
"""Rows whose missing messages are written to see how long the teacher takes."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Teaching(_Part):
    """Messages of a step that rows lack, and what the ``calls`` of the teacher besides those of the probe may take."""

    step: str
    missing: int
    calls: int
    tokens: int
    seconds: float


class Training(_Part):
    """A stage's training. ``rows`` and ``tokens`` are those of an epoch; ``seconds`` are of all epochs.

    ``exposed`` is the most that all rounds of exposure may take. Where rows lack messages, it is assumed that all of
    them will be written, as long as those that there are.
    """

    stage: str
    rows: int
    tokens: int
    seconds: float
    exposed: float


class TunePlan(_Part):
    """What a tuning would take when it was planned, scoring and rounds of preferences left aside."""

    stack: str
    rows: int
    train: int
    select: int
    dev: int
    repeated: int
    teaching: tuple[Teaching, ...]
    training: tuple[Training, ...]

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(part.seconds for part in self.teaching) + sum(p.seconds + p.exposed for p in self.training)


def make_plan(
    recipe: TuneRecipe,
    stack: Stack[Any, Any],
    units: Sequence[Unit],
    rows: Rows,
    writer: Writer,
    settings: Settings,
    host: PluginHost,
    progress: Progress,
) -> TunePlan:
    """Have a few messages written, time a few steps of each stage, and reckon.

    What the teacher writes for it is kept, and not asked for again.

    Raises:
        TrainError: rows that do not fit a stage or its context, or a recipe that cannot be followed.
    """
    teaching = _teaching(recipe, stack, rows, writer)
    cases = {side: cases_of(stack, rows.of(side)) for side in ("train", "select")}
    training = [_training(recipe, stack, unit, cases, settings, host, progress) for unit in units]
    return TunePlan(
        stack=stack.name,
        rows=len(rows.items),
        train=len(rows.of("train")),
        select=len(rows.of("select")),
        dev=len(rows.of("dev")),
        repeated=rows.dropped,
        teaching=tuple(teaching),
        training=tuple(training),
    )


def _teaching(recipe: TuneRecipe, stack: Stack[Any, Any], rows: Rows, writer: Writer) -> list[Teaching]:
    """What the teacher has still to write, step by step.

    Of a step whose predecessors' messages are not written yet nobody knows what it will be given; it is counted as if
    each row were to be asked about.
    """
    if writer.desk is None or recipe.teacher is None:
        writer.fill(rows.items)
        return []
    lacking = _lacking(stack, rows.items)
    lines = {item.place for items in lacking.values() for item in items}
    writer.fill([item for item in (*rows.of("train"), *rows.of("select")) if item.place in lines][:PROBE])
    found = []
    for name, items in _lacking(stack, rows.items).items():
        cost = writer.desk.cost(name)
        if not lacking[name] or not cost.calls:
            continue
        calls = len(items) * recipe.teacher.samples
        at_once = min(recipe.teacher.concurrency, max(calls, 1))
        found.append(
            Teaching(
                step=name,
                missing=len(lacking[name]),
                calls=calls,
                tokens=round(calls * cost.tokens / cost.calls),
                seconds=calls * cost.seconds / cost.calls / at_once,
            )
        )
    return found


def _lacking(stack: Stack[Any, Any], items: Sequence[Item]) -> dict[str, list[Item]]:
    """By step the rows whose message is not known yet, in full or at all."""
    cases = list(zip(items, cases_of(stack, items), strict=True))
    return {
        step.name: [
            item
            for item, case in cases
            if case.steps[step.name] is not Mark.SKIPPED and whole(step, case.steps[step.name]) is None
        ]
        for step in tunable(stack)
    }


def _training(
    recipe: TuneRecipe,
    stack: Stack[Any, Any],
    unit: Unit,
    cases: Mapping[str, Sequence[Case]],
    settings: Settings,
    host: PluginHost,
    progress: Progress,
) -> Training:
    train, select = (gold_lines(stack, unit, cases[side]) for side in ("train", "select"))
    wanted = train.left_out.total() + len(train.lines)
    if not train.lines:
        progress(Noted(f"{unit.name}: no row has its message yet, so nothing can be said of its training"))
        return Training(stage=unit.name, rows=wanted, tokens=0, seconds=0.0, exposed=0.0)
    progress(Working(f"timing {unit.name}", 0, 1))
    with TemporaryDirectory() as folder:
        chosen = unit.recipe(recipe, Path(folder))
        assert chosen.data.select is not None
        train.write(chosen.data.train)
        Lines(select.lines or train.lines[:1]).write(chosen.data.select)
        estimated, tokens = probe_stage(chosen, stage=unit.stage, settings=settings, host=host, progress=_unheard)
    progress(Working(f"timing {unit.name}", 1, 1))
    wanted = min(wanted, chosen.data.max_rows or wanted)
    more = wanted / min(len(train.lines), chosen.data.max_rows or wanted)
    seconds = estimated.seconds * more
    first = unit.steps[0] is stack.steps[0]
    twice = 2.0 if recipe.exposure.rows == "also" else 1.0
    exposed = 0.0 if first else seconds * twice * recipe.exposure.rounds
    return Training(stage=unit.name, rows=wanted, tokens=round(tokens * more), seconds=seconds, exposed=exposed)


def _unheard(event: object) -> None:
    """What a probe tells is not about the tuning."""


__all__ = ["PROBE", "Teaching", "Training", "TunePlan", "make_plan"]

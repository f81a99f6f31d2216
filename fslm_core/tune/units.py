"""The stages of a stack that are tuned, one adapter each, and the rows that each is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..errors import TrainError
from ..evaluate.fields import Json, Mark
from ..evaluate.gold import Case
from ..folders import put_file
from ..schema import canonical, dumps, plain_data
from ..stack import Stack, Step
from ..stage import Stage
from ..train import Recipe
from ..train.rows import checked
from .feeding import fed, whole
from .recipe import TuneRecipe, tunable

Line = dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """A stage, and the steps at which it stands: they share its adapter."""

    stage: Stage[Any, Any]
    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """The stage's name, which is that of its folder."""
        return self.stage.name

    def recipe(self, recipe: TuneRecipe, folder: Path) -> Recipe:
        """How it is trained, with rows and adapter in ``folder``."""
        files = folder / "rows.jsonl", folder / "select.jsonl", folder / "adapter"
        return recipe.training(self.steps[0].name, self.stage.name, *files)


@dataclass
class Lines:
    """Rows of a stage; ``left_out`` says of how many messages there is none, by why."""

    lines: list[Line] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, other: Lines) -> None:
        """Take over others."""
        self.lines += other.lines
        self.left_out += other.left_out

    def write(self, path: Path) -> None:
        """Write them, unless they are there."""
        raw = "".join(dumps(line) + "\n" for line in self.lines).encode()
        if not path.is_file() or path.read_bytes() != raw:
            put_file(path, raw)


def units_of(recipe: TuneRecipe, stack: Stack[Any, Any]) -> list[Unit]:
    """The stages of a stack, in the order in which they first run.

    Raises:
        TrainError: none has a model, or two steps of one stage have settings of their own.
    """
    steps: dict[str, list[Step]] = {}
    for step in tunable(stack):
        steps.setdefault(step.stage.name, []).append(step)
    units = [Unit(found[0].stage, tuple(found)) for found in steps.values()]
    if not units:
        raise TrainError(
            "the stack has no step that can be tuned",
            where=f"stack {stack.name}",
            found=", ".join(f"{step.name}: {getattr(step.node, 'kind', 'tool')}" for step in stack.steps),
            expected="a step at which a stage with a model stands",
            hint="tune a stack of stages; what stands within another shape is not tuned",
        )
    for unit in units:
        if others := [step.name for step in unit.steps[1:] if step.name in recipe.steps]:
            raise TrainError(
                "two steps of one stage share its adapter, so they are trained alike",
                where=f"recipe, steps.{others[0]}",
                hint=f"give the settings under steps.{unit.steps[0].name}",
            )
    return units


def gold_lines(stack: Stack[Any, Any], unit: Unit, cases: Iterable[Case]) -> Lines:
    """What a stage should say, to what it should be given."""
    found = Lines()
    for case in cases:
        for step in unit.steps:
            _add(found, stack, step, case, case.steps)
    return found


def said_lines(
    stack: Stack[Any, Any], unit: Unit, cases: Sequence[Case], said: Sequence[Mapping[str, Json | Mark]], only_new: bool
) -> Lines:
    """What a stage should say, to what the steps before it really give it.

    Args:
        only_new: leave out what is given as it should be; such a row is among those of :func:`gold_lines`.
    """
    found = Lines()
    for case, messages in zip(cases, said, strict=True):
        for step in unit.steps:
            if only_new and _alike(fed(stack, step, case, case.steps), fed(stack, step, case, messages)):
                found.left_out["it is given what it should be"] += 1
            else:
                _add(found, stack, step, case, messages)
    return found


def _alike(one: BaseModel | Mark, other: BaseModel | Mark) -> bool:
    return not isinstance(one, Mark) and not isinstance(other, Mark) and canonical(one) == canonical(other)


def _add(found: Lines, stack: Stack[Any, Any], step: Step, case: Case, messages: Mapping[str, Json | Mark]) -> None:
    """Add a row for one step, or say why there is none."""
    message = case.steps[step.name]
    if message is Mark.SKIPPED:
        return
    output = whole(step, message)
    if output is None:
        found.left_out["it has no message"] += 1
        return
    given = fed(stack, step, case, messages)
    if isinstance(given, Mark):
        found.left_out["it would not be run" if given is Mark.SKIPPED else "a step before it has no message"] += 1
        return
    line = {"input": plain_data(given), "output": output}
    if isinstance(checked(line, case.line, step.stage), str):
        found.left_out["its message is outside what its input allows"] += 1
        return
    found.lines.append(line)


__all__ = ["Line", "Lines", "Unit", "gold_lines", "said_lines", "units_of"]

"""Filling in the messages that rows lack, step by step: by the teacher, by running a tool, and through the filters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel

from ..engine import Engine, Run
from ..errors import RunFailed
from ..evaluate.fields import Json, Mark
from ..evaluate.gold import Case
from ..evaluate.running import alone
from ..message import digest
from ..plugins import PluginHost
from ..schema import dumps, plain_data
from ..settings import Settings
from ..stack import Stack, Step
from ..stage import Stage
from ..train import Working
from .cache import Kept
from .desk import Desk
from .feeding import fed, whole
from .filters import CONTRADICTS, FAILED, REFUSED, STRAYS, UNFED, candidates
from .progress import Progress
from .recipe import TeacherStep, TuneRecipe
from .rows import Item, cases_of, identity
from .teacher import Teacher

_AT_ONCE = 8
"""Replays at once."""


@dataclass
class Tally:
    """What became of a step's messages.

    Attributes:
        given: rows that brought theirs, or whose output says it.
        passed: rows in which the step is passed over.
        written: messages that were written for rows that lacked one.
        lost: rows without a message in the end, by why.
    """

    given: int = 0
    passed: int = 0
    written: int = 0
    lost: Counter[str] = field(default_factory=Counter)


@dataclass
class _Wanted:
    """A message that a row lacks."""

    item: Item
    case: Case
    fed: BaseModel
    known: Json


class Writer:
    """Fills in messages. Open it with ``with``; models are loaded when first needed, and given back at the end.

    Args:
        folder: for what the teacher wrote.
    """

    def __init__(
        self,
        recipe: TuneRecipe,
        stack: Stack[Any, Any],
        folder: Path,
        settings: Settings,
        host: PluginHost,
        progress: Progress,
    ) -> None:
        self.recipe, self.stack, self.host, self.settings = recipe, stack, host, settings
        self._progress = progress
        self._open = ExitStack()
        self._engine: Engine | None = None
        self._runs: dict[str, Run[Any] | None] = {}
        self._followed = Kept(folder / "followed" / "stack.jsonl")
        self.teacher: Teacher | None = None
        self.desk: Desk | None = None
        if recipe.teacher is not None:
            self.teacher = Teacher(recipe.teacher, stack, settings, host, recipe.seed)
            self.desk = Desk(self.teacher, folder, progress)

    def __enter__(self) -> Self:
        if self.desk is not None:
            self._open.enter_context(self.desk)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the models back. Idempotent."""
        self._open.close()

    def fill(self, items: Sequence[Item]) -> dict[str, Tally]:
        """Fill in what rows lack, in the order of the steps: what is written for one is what the next is given.

        Returns:
            What became of each step's messages.

        Raises:
            TrainError: the teacher's budget is spent, or it fails too often.
        """
        return {step.name: self._step(step, items) for step in self.stack.steps}

    def _step(self, step: Step, items: Sequence[Item]) -> Tally:
        tally, wanted = Tally(), []
        for item, case in zip(items, cases_of(self.stack, items), strict=True):
            message = case.steps[step.name]
            if message is Mark.SKIPPED:
                tally.passed += 1
            elif whole(step, message) is not None:
                own = step.name in item.given or step.name not in item.raw["steps"]
                tally.given += own
                tally.written += not own
            else:
                given = fed(self.stack, step, case, case.steps)
                if isinstance(given, Mark):
                    tally.lost[UNFED] += 1
                else:
                    wanted.append(_Wanted(item, case, given, {} if isinstance(message, Mark) else dict(message)))
        if isinstance(step.node, Stage) and step.node.tool is None:
            found = self._taught(step, wanted)
        else:
            found = self._run(step, wanted)
        for want, made in zip(wanted, found, strict=True):
            if isinstance(made, str):
                tally.lost[made] += 1
            else:
                want.item.raw["steps"][step.name] = made
                tally.written += 1
        return tally

    # -- tools and shapes --------------------------------------------------------------------------------------------

    def _run(self, step: Step, wanted: Sequence[_Wanted]) -> list[Json | str]:
        """What a step says that no teacher can write: it is run."""
        if not wanted:
            return []
        found: list[Json | str] = []
        inputs = [plain_data(want.fed) for want in wanted]
        outcomes = self._installed.map(alone(self.stack, step), inputs, seed=self.recipe.seed)
        for want, outcome in zip(wanted, outcomes, strict=True):
            made: Json | str = f"it failed: {outcome.error.code}" if outcome.error else plain_data(outcome.output)
            if not isinstance(made, str) and any(made.get(name) != value for name, value in want.known.items()):
                made = CONTRADICTS
            found.append(made)
            self._progress(Working(f"running {step.name}", len(found), len(wanted)))
        return found

    @property
    def _installed(self) -> Engine:
        """An engine for the stack as it is installed."""
        if self._engine is None:
            self._engine = self._open.enter_context(
                Engine(settings=self.settings, host=self.host, trace=False, max_in_flight=64)
            )
        return self._engine

    # -- the teacher -------------------------------------------------------------------------------------------------

    def _taught(self, step: Step, wanted: Sequence[_Wanted]) -> list[Json | str]:
        """The teacher's message for each row, or why there is none."""
        if self.teacher is None or self.desk is None:
            return ["the row lacks it, and there is no teacher"] * len(wanted)
        calls = [self.teacher.calls(step, want.fed, want.known, want.case.gold) for want in wanted]
        self.desk.ask([call for row in calls for call in row], f"messages of {step.name}")
        chosen: list[tuple[list[Json], str | None]] = []
        way = self.teacher.ways.steps.get(step.name, TeacherStep())
        for want, row in zip(wanted, calls, strict=True):
            if all(map(self.desk.failed, row)):
                chosen.append(([], FAILED))
                continue
            samples = [self.desk.answer(call) for call in row]
            left, why = candidates(samples, want.known, way.agree_on, self.teacher.ways.agree)
            fine = [message for message in left if not self._refused(step, message, want.fed)]
            chosen.append((fine, why or (None if fine else REFUSED)))
        follows = self._following(step, wanted, [left for left, _ in chosen])
        return [why or next(iter(kept), STRAYS) for (_, why), kept in zip(chosen, follows, strict=True)]

    def _refused(self, step: Step, message: Json, given: BaseModel) -> bool:
        """Whether a plugin's check refuses the message; of the teacher's own stage it was not asked."""
        content = step.stage.output.model_validate_json(dumps(message), by_name=True)
        return bool(self.host.check_message(step.stage, content, given))

    def _following(self, step: Step, wanted: Sequence[_Wanted], left: Sequence[Sequence[Json]]) -> list[list[Json]]:
        """Of each row's candidates the first from which the row's output follows, if one does."""
        assert self.teacher is not None and self.desk is not None
        way = self.teacher.ways.follow
        if way == "none":
            return [list(messages) for messages in left]
        distinct = [list({dumps(message): message for message in messages}.values()) for messages in left]
        pairs = [(want, message) for want, row in zip(wanted, distinct, strict=True) for message in row]
        if way == "teacher":
            calls = [self.teacher.answer(step, want.case.input, message) for want, message in pairs]
            self.desk.ask(calls, f"what follows from {step.name}")
            answers: list[Json | None] = [self.desk.answer(call) for call in calls]
        else:
            answers = self._answers(step, pairs)
        right = iter(self._same(want.case.gold, answer) for (want, _), answer in zip(pairs, answers, strict=True))
        return [[message for message in row if next(right)] for row in distinct]

    def _answers(self, step: Step, pairs: Sequence[tuple[_Wanted, Json]]) -> list[Json | None]:
        """What the installed stack answers where a row's messages, up to this one, are what they are now."""
        names = [other.name for other in self.stack.steps]
        before = names[: names.index(step.name)]
        made_by = sorted(origin.fingerprint or "" for origin in self._installed.origins(self.stack).values())
        asked: list[tuple[str, Case, Json]] = []
        for want, message in pairs:
            said = {name: m for name in before if not isinstance(m := want.case.steps[name], Mark)}
            said[step.name] = message
            asked.append((digest(identity(want.case), dumps(said), *made_by), want.case, said))
        waiting = {key: (case, said) for key, case, said in asked if self._followed.get(key) is None}
        self._run_whole([case for case, _ in waiting.values()])
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fslm-follow") as pool:
            made = pool.map(lambda work: self._replayed(*work), waiting.values())
            for done, (key, output) in enumerate(zip(waiting, made, strict=True), start=1):
                self._followed.put({"key": key, "output": output})
                self._progress(Working(f"what follows from {step.name}", done, len(waiting)))
        return [(self._followed.get(key) or {})["output"] for key, _, _ in asked]

    def _run_whole(self, cases: Iterable[Case]) -> None:
        """Run rows through the installed stack: what is replayed with other messages has to have been run."""
        new = list({key: case for case in cases if (key := identity(case)) not in self._runs}.items())
        inputs = [plain_data(case.input) for _, case in new]
        for (key, _), outcome in zip(new, self._installed.map(self.stack, inputs, seed=self.recipe.seed), strict=True):
            self._runs[key] = outcome.run

    def _replayed(self, case: Case, said: Json) -> Json | None:
        run = self._runs[identity(case)]
        if run is None:
            return None
        edits = {f"{step}.{name}": value for step, message in said.items() for name, value in message.items()}
        try:
            made = self._installed.replay(run, edits=edits, stack=self.stack)
        except RunFailed:
            return None
        return None if made.result is None else plain_data(made.result.content)

    def _same(self, gold: Json, answer: Json | None) -> bool:
        assert self.teacher is not None
        names: Iterable[str] = self.teacher.ways.follow_on or gold
        return answer is not None and all(answer.get(name) == gold[name] for name in names)


__all__ = ["Tally", "Writer"]

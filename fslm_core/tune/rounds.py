"""Tuning the stages: on what they should be given, then on what the steps before them really say.

Here, between a round's rows and its training, is where other ways to choose rows or to train belong: a stage's rows
pass through :meth:`Tuning._train` once a round, and nowhere else.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..adapter import inspect
from ..engine import Engine
from ..errors import TrainError
from ..evaluate.fields import Json, Mark
from ..evaluate.gold import Case
from ..evaluate.running import alone
from ..folders import put_file, sha256_of
from ..message import digest
from ..plugins import PluginHost
from ..schema import canonical, plain_data
from ..settings import Settings, StageSettings
from ..stack import Stack, Step
from ..stage import Stage
from ..train import Recipe, Working, train_stage
from ..train.scores import rank
from . import preferring
from .cache import Kept
from .feeding import fed
from .progress import Progress
from .recipe import TuneRecipe
from .units import Lines, Unit, gold_lines, said_lines

_KEY = "key"
_MADE = "made.json"
_RESUME = re.compile(" (with|and) --resume")
"""`fslm train` goes on when it is told to, a tuning whenever it can."""


@dataclass(frozen=True)
class Trained:
    """A stage after a round.

    Attributes:
        adapter: its folder.
        rows, select: rows trained on, and those that chose the epoch.
        fed: of the rows, those that are fed with what the steps before really say.
        pairs: of a better and a worse answer, in a round of preference tuning.
        left_out: messages without a row, by why.
        again: False where its adapter of before stays: the round had nothing new for it, or made it worse.
    """

    stage: str
    adapter: Path
    sha256: str
    rows: int
    select: int
    fed: int
    left_out: Mapping[str, int]
    again: bool
    tokens: int
    seconds: float
    epoch: int
    scores: Mapping[str, float]
    pairs: int = 0


@dataclass
class Tuning:
    """A tuning under way.

    Attributes:
        train, select: the cases of the two sides, their messages filled in.
        adapters: those of the stages that are tuned already, by stage.
    """

    recipe: TuneRecipe
    stack: Stack[Any, Any]
    units: Sequence[Unit]
    work: Path
    settings: Settings
    host: PluginHost
    progress: Progress
    train: Sequence[Case]
    select: Sequence[Case]
    adapters: dict[str, Path] = field(default_factory=dict)

    def supervised(self, unit: Unit) -> Trained:
        """Train a stage on what it should say to what it should be given."""
        rows, select = (gold_lines(self.stack, unit, side) for side in (self.train, self.select))
        return self._train(unit, 1, rows, select, 0)

    def exposed(self, unit: Unit, number: int, before: Trained) -> Trained:
        """Train a stage on what the tuned steps before it really say, too or instead.

        Args:
            number: of the round, from 2.
            before: what came of it in the round before.
        """
        rows, select, new = Lines(), Lines(), 0
        for side, cases in ((rows, self.train), (select, self.select)):
            said = self._said(unit, cases, f"round {number}")
            fresh = said_lines(self.stack, unit, cases, said, only_new=True)
            if side is rows and not (new := len(fresh.lines)):
                return _unchanged(before, fresh)
            if self.recipe.exposure.rows == "instead":
                side.add(said_lines(self.stack, unit, cases, said, only_new=False))
            else:
                side.add(gold_lines(self.stack, unit, cases))
                side.add(fresh)
        if not select.lines:
            select.add(gold_lines(self.stack, unit, self.select))
        return self._train(unit, number, rows, select, new)

    def preferred(self, unit: Unit, number: int, before: Trained) -> Trained:
        """Train a stage further on pairs of its own answers; arguments as of :meth:`exposed`."""
        way, seed = self.recipe.preference, self.recipe.seed + number
        folder = self.work / f"round-{number}" / unit.name
        recipe = preferring.recipe_of(unit.recipe(self.recipe, before.adapter.parent), way, folder, before.adapter)
        assert recipe.preference is not None and recipe.data.select is not None
        files = [sha256_of(recipe.data.train), sha256_of(recipe.data.select)]
        self._fresh(folder, preferring.key_of(unit, recipe, way, before.sha256, [*files, str(seed)]))
        pairs = recipe.preference.pairs
        if not pairs.is_file():
            preferring.draw(
                unit,
                recipe,
                way,
                adapter=before.adapter,
                seed=seed,
                settings=self.settings,
                host=self.host,
                progress=self.progress,
            )
        count = pairs.read_bytes().count(b"\n")
        if not count:
            return _unchanged(before, Lines())
        found = self._made(unit, folder, recipe)
        if rank(found["scores"]) < rank(before.scores):
            return replace(before, again=False, pairs=count, fed=0, left_out={}, **_cost(found))
        adapter = self.adapters[unit.stage.name] = folder / "adapter"
        for file in (recipe.data.train, recipe.data.select):
            put_file(folder / file.name, file.read_bytes())
        sha256 = inspect(adapter).sha256
        return replace(before, adapter=adapter, sha256=sha256, again=True, pairs=count, fed=0, left_out={}, **found)

    def tuned_settings(self) -> Settings:
        """The settings with the adapters that there are so far."""
        chosen = dict(self.settings.stages)
        for stage, path in self.adapters.items():
            own = chosen.get(stage, StageSettings())
            more = {"variant": None, "candidate": None, "candidate_sha256": None, "shadow": 0.0}
            chosen[stage] = own.model_copy(update={**more, "adapter": path, "sha256": inspect(path).sha256})
        return self.settings.model_copy(update={"stages": chosen, "profile": None, "locked": False})

    # -- training ----------------------------------------------------------------------------------------------------

    def _train(self, unit: Unit, number: int, rows: Lines, select: Lines, new: int) -> Trained:
        folder = self.work / f"round-{number}" / unit.name
        recipe = unit.recipe(self.recipe, folder)
        for side, file in ((rows, recipe.data.train), (select, recipe.data.select)):
            assert file is not None
            if not side.lines:
                raise _no_rows(unit, side, file.stem)
            side.write(file)
        self._fresh(folder, _key(unit, recipe))
        found = self._made(unit, folder, recipe)
        adapter = self.adapters[unit.stage.name] = folder / "adapter"
        return Trained(
            stage=unit.stage.name,
            adapter=adapter,
            sha256=inspect(adapter).sha256,
            rows=len(rows.lines),
            select=len(select.lines),
            fed=new,
            left_out=dict(rows.left_out),
            again=True,
            **found,
        )

    def _fresh(self, folder: Path, key: str) -> None:
        """Clear away what was made by another key, if anything was."""
        if not (folder / _KEY).is_file() or (folder / _KEY).read_text("utf-8") != key:
            for old in ("adapter", "steps", "steps.preference"):
                shutil.rmtree(folder / old, ignore_errors=True)
            for old in (_MADE, "pairs.jsonl"):
                (folder / old).unlink(missing_ok=True)
            put_file(folder / _KEY, key)

    def _made(self, unit: Unit, folder: Path, recipe: Recipe) -> dict[str, Any]:
        """Train, unless that is done; what came of it besides the adapter."""
        if not (folder / _MADE).is_file() or not (folder / "adapter" / "fslm.json").is_file():
            put_file(folder / _MADE, json.dumps(self._trained(unit, folder, recipe)))
        found: dict[str, Any] = json.loads((folder / _MADE).read_text("utf-8"))
        return found

    def _trained(self, unit: Unit, folder: Path, recipe: Recipe) -> dict[str, Any]:
        try:
            made = train_stage(
                recipe,
                root=folder,
                work=folder / "steps",
                stage=unit.stage,
                resume=any(folder.glob("steps*/")),
                settings=self.settings,
                host=self.host,
                progress=self.progress,
            )
        except TrainError as error:
            error.hint = _RESUME.sub("", error.hint or "").replace("leave out --resume", f"remove {folder}")
            raise
        tokens = round(made.tokens_per_second * made.seconds)
        return {"tokens": tokens, "seconds": made.seconds, "epoch": made.epoch, "scores": dict(made.scores)}

    # -- what tuned steps say ----------------------------------------------------------------------------------------

    def _said(self, unit: Unit, cases: Sequence[Case], what: str) -> list[dict[str, Json | Mark]]:
        """What the steps before a stage's last one say to each row, each fed with what those before it said."""
        said: list[dict[str, Json | Mark]] = [{} for _ in cases]
        last = max(self.stack.steps.index(step) for step in unit.steps)
        with Engine(settings=self.tuned_settings(), host=self.host, trace=False) as engine:
            for step in self.stack.steps[:last]:
                self._step_says(engine, step, cases, said, what)
        return said

    def _step_says(
        self, engine: Engine, step: Step, cases: Sequence[Case], said: list[dict[str, Json | Mark]], what: str
    ) -> None:
        given = [fed(self.stack, step, case, messages) for case, messages in zip(cases, said, strict=True)]
        written = isinstance(step.node, Stage) and step.node.tool is None  # by a model, from what it is given alone
        kept = Kept(self.work / "said" / f"{step.name}.jsonl") if written else None
        lone = alone(self.stack, step)
        waiting: list[int] = []
        keys: dict[int, str] = {}
        for place, value in enumerate(given):
            if isinstance(value, Mark):
                said[place][step.name] = Mark.SKIPPED if value is Mark.SKIPPED else Mark.FAILED
                continue
            keys[place] = digest(self._maker(engine, lone), canonical(value), str(self.recipe.seed))
            entry = None if kept is None else kept.get(keys[place])
            if entry is None:
                waiting.append(place)
            else:
                said[place][step.name] = Mark.FAILED if entry["message"] is None else entry["message"]
        inputs = [plain_data(given[place]) for place in waiting]  # type: ignore[arg-type]
        for done, outcome in enumerate(engine.map(lone, inputs, seed=self.recipe.seed), start=1):
            place = waiting[outcome.index]
            message = None if outcome.error is not None else plain_data(outcome.output)
            said[place][step.name] = Mark.FAILED if message is None else message
            if kept is not None:
                kept.put({"key": keys[place], "message": message})
            self.progress(Working(f"{what}: what {step.name} says", done, len(waiting)))

    def _maker(self, engine: Engine, lone: Stack[Any, Any]) -> str:
        return "".join(origin.fingerprint or "" for origin in engine.origins(lone).values())


def _key(unit: Unit, recipe: Recipe) -> str:
    """Names all that a stage's training depends on; paths are not of it."""
    assert recipe.data.select is not None and unit.stage.model is not None
    distill: Any = True if recipe.distill is None else {"adapter"}
    plain = recipe.model_dump_json(exclude={"output": True, "data": {"train", "select"}, "distill": distill})
    files = [sha256_of(recipe.data.train), sha256_of(recipe.data.select)]
    if recipe.distill is not None and recipe.distill.adapter is not None:
        files.append(inspect(recipe.distill.adapter).identity)
    return digest(plain, *files, unit.stage.template.source, unit.stage.schema.id, unit.stage.model.base)


def _unchanged(before: Trained, said: Lines) -> Trained:
    return replace(before, again=False, fed=0, pairs=0, left_out=dict(said.left_out), seconds=0.0, tokens=0)


def _cost(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in ("tokens", "seconds")}


def _no_rows(unit: Unit, side: Lines, what: str) -> TrainError:
    counts = ", ".join(f"{why}: {count}" for why, count in side.left_out.most_common())
    return TrainError(
        f"a stage has nothing to be trained on (its {what}.jsonl would be empty)",
        where=f"stage {unit.name}",
        found=counts or "its step is passed over in every row",
        expected=f"a message of {' or '.join(step.name for step in unit.steps)} in some rows of either side",
        hint="give its messages in the rows' steps, or a [teacher] who writes them; see why others were rejected",
    )


__all__ = ["Trained", "Tuning"]

"""``fslm tune``: from a stack, a recipe and rows to an adapter for each stage, and a report."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__
from ..checkpoints import Progress as Transferred
from ..checkpoints import resolve
from ..errors import TrainError
from ..evaluate import require_extra as require_evaluation
from ..folders import put_file, put_files, swap
from ..message import digest
from ..plugins import PluginHost
from ..schema import dumps
from ..settings import Settings, default
from ..stack import Stack
from ..train import Noted, Working
from ..train.processes import refuse_several
from ..train.run import alone, require_extra
from .desk import Cost
from .messages import Tally, Writer
from .plan import TunePlan, make_plan
from .preferring import require_extra as require_preferences
from .progress import Part, Planned, Progress, silent
from .recipe import TuneRecipe, load_tuning, refuse_strange, tunable
from .report import MessagesReport, Scores, StageReport, TuneReport, scores_of
from .rounds import Trained, Tuning
from .rows import Rows, cases_of, gather
from .scores import scored
from .units import Unit, units_of


@dataclass(frozen=True)
class TuneResult:
    """What came of a tuning.

    Attributes:
        work: the folder with everything that was made.
        adapters: by stage, its folder in ``work``.
        report: the same as ``report.json`` there.
    """

    work: Path
    adapters: Mapping[str, Path]
    report: TuneReport


def plan_stack(
    stack: Stack[Any, Any] | str,
    path: Path,
    *,
    overrides: Iterable[str] = (),
    settings: Settings | None = None,
    host: PluginHost | None = None,
    progress: Progress = silent,
) -> TunePlan:
    """Say what :func:`tune_stack` would take, from a short probe; arguments and errors are the same.

    What the teacher writes for the probe is kept for the tuning itself.
    """
    with _opened(stack, path, overrides, settings, host, progress) as work:
        return work.plan()


def tune_stack(
    stack: Stack[Any, Any] | str,
    path: Path,
    *,
    overrides: Iterable[str] = (),
    settings: Settings | None = None,
    host: PluginHost | None = None,
    progress: Progress = silent,
) -> TuneResult:
    """Tune every stage of a stack by a recipe. What an earlier call has done, whole or killed, is not done again.

    Args:
        stack: a stack, or the name of an installed one.
        path: the recipe.
        overrides: ``key=value`` for any of its keys.
        host: where stack and stages are found; by default the installed plugins.
        progress: told what happens.

    Raises:
        TrainError: the recipe or its rows are wrong, the teacher's budget is spent, another process is at work there.
        TrainInterrupted: Ctrl-C; the same call goes on.
        UnknownNameError: no such stack, base or backend.
        CheckError: the stack is refused, or the teacher.
        CheckpointError, AdapterError: a base or an adapter cannot be had.
        MissingExtraError: ``fslm-core[train,eval]`` is not installed, or for rounds of preferences ``[prefer]``.
    """
    with _opened(stack, path, overrides, settings, host, progress) as work:
        return work.tuned()


@contextmanager
def _opened(
    stack: Stack[Any, Any] | str,
    path: Path,
    overrides: Iterable[str],
    settings: Settings | None,
    host: PluginHost | None,
    progress: Progress,
) -> Iterator[_Work]:
    """Check all that can be checked before anything is made, and keep others out of the folder."""
    settings = settings or default()
    host = host or PluginHost(settings)
    refuse_several("the tuning of a stack")
    recipe = load_tuning(path, overrides)
    found = host.stack(stack) if isinstance(stack, str) else stack
    refuse_strange(recipe, found)
    require_extra()
    require_evaluation()
    if recipe.preference.rounds:
        require_preferences()
    assert found.wiring  # or it says what keeps the stack from being wired
    units = units_of(recipe, found)
    folder = recipe.work or path.resolve().parent / "runs" / path.stem
    for unit in units:
        unit.recipe(recipe, folder)  # its keys are looked at
    rows = gather(found, recipe.data, recipe.seed)
    for base in dict.fromkeys(unit.stage.model.base for unit in units if unit.stage.model is not None):
        resolve(base, settings, extra=host.checkpoints, progress=_transfer(base, progress))
    with alone(folder):
        folder.mkdir(parents=True, exist_ok=True)
        put_file(folder / ".gitignore", "*\n")
        with Writer(recipe, found, folder / "messages", settings, host, progress) as writer:
            yield _Work(recipe, found, units, rows, folder, settings, host, progress, writer)


def _transfer(base: str, progress: Progress) -> Transferred:
    return lambda what, done, total: progress(Working(f"{what} {base}", done, total or 0))


@dataclass
class _Work:
    """One tuning under way."""

    recipe: TuneRecipe
    stack: Stack[Any, Any]
    units: Sequence[Unit]
    rows: Rows
    folder: Path
    settings: Settings
    host: PluginHost
    progress: Progress
    writer: Writer
    scores: list[Scores] = field(default_factory=list)
    _parts: int = 0

    def plan(self) -> TunePlan:
        """What it will take; a plan of the same recipe and rows is read."""
        file = self.folder / "plan.json"
        key = digest(self.recipe.model_dump_json(exclude=_PLACES), self.rows.sha256, *self.stack.plan())
        try:
            kept = json.loads(file.read_text("utf-8"))
            if kept["key"] == key:
                return TunePlan.model_validate(kept["plan"])
        except (OSError, ValueError, LookupError):
            pass
        made = make_plan(
            self.recipe, self.stack, self.units, self.rows, self.writer, self.settings, self.host, self.progress
        )
        put_file(file, dumps({"key": key, "plan": made.model_dump(mode="json")}) + "\n")
        return made

    def tuned(self) -> TuneResult:
        """All of it."""
        self._part("plan")
        if self.rows.dropped:
            self.progress(Noted(f"{self.rows.dropped} rows repeat another word for word and are left out"))
        plan = self.plan()
        self.progress(Planned(plan))
        self._part("messages")
        tallies = self.writer.fill(self.rows.items)
        self.writer.close()
        tuning = Tuning(
            self.recipe,
            self.stack,
            self.units,
            self.folder,
            self.settings,
            self.host,
            self.progress,
            train=cases_of(self.stack, self.rows.of("train")),
            select=cases_of(self.stack, self.rows.of("select")),
        )
        self._score("before", self.settings)
        rounds: list[list[Trained]] = [[]]
        for unit in self.units:
            self._part(f"training {unit.name}")
            rounds[0].append(tuning.supervised(unit))
        self._score("after round 1", tuning.tuned_settings())
        for number in range(2, 2 + self.recipe.exposure.rounds):
            made = []
            for unit, before in zip(self.units, rounds[-1], strict=True):
                self._part(f"round {number}, {unit.name}")
                made.append(tuning.exposed(unit, number, before))
            rounds.append(made)
            self._score(f"after round {number}", tuning.tuned_settings())
        for number in range(1 + len(rounds), 1 + len(rounds) + self.recipe.preference.rounds):
            made = []
            for unit, before in zip(self.units, rounds[-1], strict=True):
                self._part(f"round {number}, preferences of {unit.name}")
                made.append(tuning.preferred(unit, number, before))
            rounds.append(made)
            self._score(f"after round {number}", tuning.tuned_settings())
        adapters = {name: _published(self.folder, name, path) for name, path in tuning.adapters.items()}
        report = self._report(plan, tallies, rounds, adapters)
        put_files({self.folder / "report.json": report.to_json(), self.folder / "report.md": report.to_markdown()})
        return TuneResult(self.folder, adapters, report)

    def _part(self, what: str) -> None:
        self._parts += 1
        rounds = 1 + self.recipe.exposure.rounds + self.recipe.preference.rounds
        self.progress(Part(what, self._parts, 3 + rounds * (len(self.units) + 1)))

    def _score(self, when: str, settings: Settings) -> None:
        self._part(f"scores {when}")
        file = self.folder / "scores" / f"{when.replace(' ', '-')}.json"
        report = scored(
            self.stack,
            self.rows.of("dev"),
            settings=settings,
            host=self.host,
            seed=self.recipe.seed,
            file=file,
            progress=self.progress,
        )
        if report is not None:
            self.scores.append(scores_of(when, report))

    def _report(
        self,
        plan: TunePlan,
        tallies: Mapping[str, Tally],
        rounds: Sequence[Sequence[Trained]],
        adapters: Mapping[str, Path],
    ) -> TuneReport:
        desk = self.writer.desk
        costs = {step: desk.cost(step) if desk is not None else Cost() for step in tallies}
        dev = self.rows.of("dev")
        return TuneReport(
            stack=self.stack.name,
            fslm=__version__,
            data_sha256=self.rows.sha256,
            plan=plan,
            messages=tuple(
                MessagesReport(
                    step=step,
                    given=tally.given,
                    passed=tally.passed,
                    written=tally.written,
                    lost=dict(tally.lost.most_common()),
                    calls=costs[step].calls,
                    tokens=costs[step].tokens,
                    seconds=costs[step].seconds,
                )
                for step, tally in tallies.items()
            ),
            dev_written={
                step.name: sum(step.name in item.raw["steps"] and step.name not in item.given for item in dev)
                for step in tunable(self.stack)
            },
            stages=tuple(
                StageReport(
                    stage=made.stage,
                    round=number,
                    again=made.again,
                    rows=made.rows,
                    select=made.select,
                    fed=made.fed,
                    pairs=made.pairs,
                    left_out=dict(made.left_out),
                    tokens=made.tokens,
                    seconds=made.seconds,
                    epoch=made.epoch,
                    select_scores=dict(made.scores),
                    sha256=made.sha256,
                )
                for number, part in enumerate(rounds, start=1)
                for made in part
            ),
            scores=tuple(self.scores),
            adapters={name: path.relative_to(self.folder).as_posix() for name, path in adapters.items()},
        )


_PLACES: Any = {"work": True, "data": {"train", "dev"}}


def _published(folder: Path, name: str, adapter: Path) -> Path:
    """A copy of an adapter where it is easily found, put there whole.

    Raises:
        TrainError: it cannot be written.
    """
    place = folder / "adapters" / name
    try:
        place.parent.mkdir(exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=place.parent))
        try:
            shutil.copytree(adapter, made, dirs_exist_ok=True)
            made.chmod(0o755)
            swap(made, place)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise TrainError(
            f"the adapter cannot be written: {error.strerror}",
            where=str(place),
            hint="free space or give yourself write access, then run the same command again",
        ) from None
    return place


__all__ = ["TuneResult", "plan_stack", "tune_stack"]

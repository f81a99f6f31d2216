"""``fslm train``: from a recipe to an adapter folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import extras
from ..adapter import AdapterInfo, inspect
from ..checkpoints import ResolvedCheckpoint
from ..errors import TrainError
from ..plugins import PluginHost
from ..settings import Settings, default
from ..stage import Stage
from .distill import Teacher, find_teacher
from .processes import is_main, join, leave, refuse_several
from .progress import Estimated, Progress, Working, silent
from .recipe import Recipe, load_recipe
from .rows import RowSets, read_sets

_MORE_PACKAGES = ("accelerate", "matplotlib")


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What came of a training run.

    Attributes:
        adapter: the adapter folder.
        work: the folder with the loss curve and checkpoints.
        sha256: of the adapter's weights, hex.
        scores: of the best epoch on the selection rows.
        epoch: the best epoch, from 1.
        seconds: spent in steps, over all sessions.
        tokens_per_second: tokens of rows (prompt, answer and end) trained on, by those seconds.
    """

    adapter: Path
    work: Path
    sha256: str
    scores: Mapping[str, float]
    epoch: int
    seconds: float
    tokens_per_second: float


def run_recipe(
    path: Path,
    *,
    overrides: Iterable[str] = (),
    resume: bool = False,
    settings: Settings | None = None,
    host: PluginHost | None = None,
    progress: Progress = silent,
) -> TrainResult:
    """Train one stage by a recipe. Checkpoints and the loss curve go to ``runs/<recipe's name>`` beside the recipe.

    Args:
        path: the recipe.
        overrides: ``key=value`` for any of its keys, as ``--set`` gives them.
        resume: go on from the last checkpoint; without one, start afresh.
        host: where the stage is found; by default the installed plugins.
        progress: told what happens.

    Raises:
        TrainError: the recipe or its rows are wrong; nothing was trained.
        TrainInterrupted: Ctrl-C; go on with ``resume``.
        UnknownNameError: no such stage or base.
        CheckpointError: the base cannot be had.
        AdapterError: there is no sound adapter at ``lora.start``.
        MissingExtraError: ``fslm-core[train]`` is not installed.
    """
    root = path.resolve().parent
    return train_stage(
        load_recipe(path, overrides),
        root=root,
        work=root / "runs" / path.stem,
        resume=resume,
        settings=settings,
        host=host,
        progress=progress,
    )


def train_stage(
    recipe: Recipe,
    *,
    root: Path,
    work: Path,
    stage: Stage[Any, Any] | None = None,
    resume: bool = False,
    settings: Settings | None = None,
    host: PluginHost | None = None,
    progress: Progress = silent,
) -> TrainResult:
    """As :func:`run_recipe`, by a recipe in hand.

    Args:
        root: the recipe's folder; paths below it are recorded relative to it.
        work: for checkpoints and the loss curve.
        stage: in place of the installed one of the recipe's name.
    """
    settings = settings or default()
    host = host or PluginHost(settings)
    stage = stage or host.stage(recipe.stage)
    for section in ("select", "distill", "preference"):
        if getattr(recipe, section) is not None:
            refuse_several(f"[{section}]")
    if not is_main():
        progress = silent
    prepared = _Prepared.of(recipe, stage, settings, host, progress)
    processes = join(settings.torch)
    from .artefact import refuse_taken, write_curve, write_folder
    from .loop import interruption, write_whole
    from .record import make_record

    output, work = _places(recipe, work)
    refuse_taken(output)
    data, checkpoint, start = prepared.data, prepared.checkpoint, prepared.start
    chosen = None
    with ExitStack() as held:
        if processes.main:
            held.enter_context(alone(work))
        try:
            if recipe.preference is not None:
                from .prefer import prefer

                tuned = prefer(recipe, stage, data, checkpoint, work, resume, settings.torch, progress)
            else:
                from .select import choose
                from .tuning import tune

                folder = work.with_name(f"{work.name}.select")
                data, chosen = choose(
                    recipe, stage, data, checkpoint, folder, resume=resume, settings=settings.torch, progress=progress
                )
                tuned = tune(
                    recipe,
                    stage,
                    data,
                    checkpoint,
                    start,
                    prepared.teacher,
                    work,
                    resume,
                    settings.torch,
                    progress,
                    processes,
                )
        except KeyboardInterrupt:
            raise interruption(work) from None
    state = tuned.state

    def written() -> TrainResult:
        write_curve(work, state.losses, state.scores)
        for name, found in (("cleaned.json", data.cleaned), ("selected.json", chosen)):
            if found is not None:
                write_whole(work / name, json.dumps(found.plain(), indent=1).encode())
        record = make_record(
            recipe, root, stage, prepared.base, checkpoint, start, prepared.teacher, state, data, chosen, tuned.facts
        )
        sha256 = write_folder(output, model=tuned.model, tensors=tuned.tensors, record=record, curve=work)
        best = state.best or 0
        speed = state.tokens / max(state.seconds, 1e-9)
        return TrainResult(output, work, sha256, state.scores[best], best + 1, state.seconds, speed)

    made = processes.from_main(written)
    leave(processes)
    return made


def _places(recipe: Recipe, work: Path) -> tuple[Path, Path]:
    """Where the adapter goes, and the folder for checkpoints and the curve.

    Args:
        work: the folder of supervised training.

    Raises:
        TrainError: preference tuning would write over the adapter that it starts from.
    """
    output = recipe.output
    if (preference := recipe.preference) is None:
        return output, work
    start = preference.adapter or output
    output = preference.output or output.with_name(f"{output.name}-preferred")
    if output.resolve() == start.resolve():
        raise TrainError(
            "preference tuning would write over the adapter that it starts from",
            where="recipe, preference.output",
            found=str(output),
            hint="set preference.output to another folder",
        )
    return output, work.with_name(f"{work.name}.preference")


def probe_stage(
    recipe: Recipe,
    *,
    stage: Stage[Any, Any],
    settings: Settings,
    host: PluginHost,
    progress: Progress = silent,
) -> tuple[Estimated, int]:
    """Check a stage's rows as training would, time a few steps, and write nothing.

    Returns:
        How long all of it would take, and the tokens of an epoch.

    Raises:
        TrainError: as :func:`run_recipe`.
    """
    prepared = _Prepared.of(recipe, stage, settings, host, progress)
    from .tuning import probe

    return probe(recipe, stage, prepared.data, prepared.checkpoint, prepared.teacher, settings.torch, progress)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What is there before the first step: checked rows, the base, the adapter to start from, and the teacher."""

    data: RowSets
    base: str
    checkpoint: ResolvedCheckpoint
    start: AdapterInfo | None
    teacher: Teacher | None

    @classmethod
    def of(
        cls, recipe: Recipe, stage: Stage[Any, Any], settings: Settings, host: PluginHost, progress: Progress
    ) -> _Prepared:
        if stage.model is None:
            raise TrainError(
                "a tool stage has no model to train",
                where=f"stage {stage.name}",
                hint="name a stage with a model; `fslm list` shows which have one",
            )
        if strange := set(recipe.task_score.fields or ()) - stage.output.model_fields.keys():
            raise TrainError(
                "task_score.fields names fields the output does not have",
                where="recipe, task_score.fields",
                found=", ".join(sorted(strange)),
                expected=", ".join(stage.output.model_fields),
                hint="name some of these, or leave it out to score the whole output",
            )
        require_extra()
        from ..checkpoints import resolve

        base = stage.model.base
        start = None if recipe.lora.start is None else inspect(recipe.lora.start)
        data = read_sets(recipe, stage, progress)
        checkpoint = resolve(
            base,
            settings,
            extra=host.checkpoints,
            progress=lambda what, done, total: progress(Working(f"{what} {base}", done, total or 0)),
        )
        return cls(data, base, checkpoint, start, find_teacher(recipe, base, settings, host, progress))


def require_extra() -> None:
    """Make sure that what training needs is installed.

    Raises:
        MissingExtraError: it is not.
    """
    from ..backends.torch.extra import PACKAGES

    extras.require((*PACKAGES, *_MORE_PACKAGES), extra="train", what="training")


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder.

    Raises:
        TrainError: one is at work there.
    """
    from filelock import FileLock, Timeout

    work.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work.with_name(work.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TrainError(
            "another process is at work in this folder", where=str(work), hint="wait for it, or copy the recipe"
        ) from None
    try:
        yield
    finally:
        lock.release()


__all__ = ["TrainResult", "alone", "probe_stage", "require_extra", "run_recipe", "train_stage"]

"""The middle of a training run: from checked rows to the best epoch's tensors."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors.torch import load_file
from torch import Tensor

from ..adapter import AdapterInfo
from ..backends.torch.encoding import Ids
from ..backends.torch.vocabulary import Vocabulary
from ..checkpoints import ResolvedCheckpoint
from ..errors import TrainError
from ..settings import TorchSettings
from ..stage import Stage
from .distill.objective import Distilled, Reader, load_teacher
from .distill.teacher import Teacher, refuse_unfit
from .encoding import encode_rows
from .judge import judge
from .loop import BEST, Run, State, latest, stop_if_asked
from .model import add_lora, as_shipped, begin_with, load_base
from .objective import Example, Objective
from .plan import Plan, make_plan, sorted_batches
from .processes import Processes
from .progress import Estimated, Noted, Progress, Working
from .recipe import Recipe
from .rows import Problems, Row, RowSets, class_weights
from .stable import read_stable

_SCORING = 0.6
"""What decoding a row costs, as a part of a training step on it; an estimate only."""
_FROZEN_ROWS, _FROZEN_TOKENS = 64, 4096
"""The size of batches that are only read."""
_WEIGHTLESS: Any = {
    "output": True,
    "checkpoint_minutes": True,
    "languages": True,
    "licences": True,
    "notes": True,
    "data": {"train", "select"},
    "lora": {"start"},
    "clean": True,
    "continued": True,
    "preference": {"pairs", "adapter", "output"},
    "distill": {"base", "adapter"},
}
"""Keys of a recipe that leave the weights alone; of files it is the contents that count, of cleaning what stays."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """A finished run.

    Attributes:
        model: the PEFT model.
        tensors: the best epoch's.
        facts: for the record, beside what every run has.
    """

    model: Any
    tensors: dict[str, Tensor]
    state: State
    facts: Mapping[str, Any] = field(default_factory=dict)


def tune(
    recipe: Recipe,
    stage: Stage[BaseModel, BaseModel],
    data: RowSets,
    checkpoint: ResolvedCheckpoint,
    start: AdapterInfo | None,
    teacher: Teacher | None,
    work: Path,
    resume: bool,
    settings: TorchSettings,
    progress: Progress,
    processes: Processes,
) -> Tuned:
    """Train to the end.

    Args:
        start: the adapter of ``lora.start``.
        teacher: who teaches, of ``[distill]``.
        work: for checkpoints, logs and the best tensors; emptied unless a run is resumed.

    Raises:
        TrainError: rows that do not fit the context or the grammar, a checkpoint of another recipe, an adapter to
            start from that does not fit, a teacher that cannot teach this stage.
        TrainInterrupted: Ctrl-C.
    """
    vocabulary = Vocabulary(checkpoint.path)
    examples, prompts, draw = encoded(recipe, stage, data, vocabulary, progress)
    if teacher is not None:
        refuse_unfit(teacher, vocabulary, examples)
    lengths = [len(example) for example in examples]
    plan = _plan(recipe, lengths, draw)
    stable = read_stable(recipe.continued.run, recipe, checkpoint.sha256) if recipe.continued is not None else None
    begun = [*([start.identity] if start else []), *([stable.sha256] if stable else [])]
    taught = [teacher.key] if teacher else []
    digest = recipe_digest(recipe, stage, data, checkpoint, *begun, *taught)
    found = processes.from_main(lambda: prepare_folder(work, digest, resume, progress))
    state = found[1] if found else State(digest)
    if found:
        progress(Noted(f"going on at step {state.step} of {len(plan.batches)}"))
    set_threads(settings)
    base, model, objective = _loaded(recipe, checkpoint, examples, teacher, settings, progress)
    if start is not None:
        begin_with(model, start, checkpoint.sha256)
    if stable is not None:
        stable.into(model)
        progress(Noted(f"going on from the stable phase of another run, at its step {stable.step}"))
    if state.step < len(plan.batches):
        progress(_estimate(objective, plan, state, len(prompts)))
        batches = sorted_batches(lengths, rows=_FROZEN_ROWS, tokens=_FROZEN_TOKENS)
        for done in objective.prepare(batches):
            progress(Working("reading rows through the frozen layers", done, len(examples)))
        if isinstance(objective, Distilled):
            for done in objective.teacher.prepare(batches):
                progress(Working("reading rows through the teacher", done, len(examples)))

    def score() -> dict[str, float]:
        with as_shipped(model):
            return judge(
                base, vocabulary, stage, data.select, prompts, recipe.task_score, told=telling_scores(progress)
            )

    run = Run(
        objective,
        plan,
        recipe,
        state=state,
        folder=work,
        judge=score,
        lengths=lengths,
        progress=progress,
        base=checkpoint.sha256,
        start=stable,
        figures=lambda: objective.figures,
        processes=processes,
    )
    run.train(found[0] if found else None)
    facts = {} if stable is None else {"continued_at_step": stable.step, "continued_sha256": stable.sha256}
    return Tuned(model, load_file(work / BEST), state, facts)


def probe(
    recipe: Recipe,
    stage: Stage[BaseModel, BaseModel],
    data: RowSets,
    checkpoint: ResolvedCheckpoint,
    teacher: Teacher | None,
    settings: TorchSettings,
    progress: Progress,
) -> tuple[Estimated, int]:
    """Time a few steps; returns how long a whole run would take, and the tokens of an epoch.

    Raises:
        TrainError: rows that do not fit the context or the grammar, a teacher that cannot teach this stage.
    """
    vocabulary = Vocabulary(checkpoint.path)
    examples, prompts, draw = encoded(recipe, stage, data, vocabulary, progress)
    if teacher is not None:
        refuse_unfit(teacher, vocabulary, examples)
    lengths = [len(example) for example in examples]
    plan = _plan(recipe, lengths, draw)
    set_threads(settings)
    _, _, objective = _loaded(recipe, checkpoint, examples, teacher, settings, progress)
    return _estimate(objective, plan, State(""), len(prompts)), sum(lengths)


def _loaded(
    recipe: Recipe,
    checkpoint: ResolvedCheckpoint,
    examples: Sequence[Example],
    teacher: Teacher | None,
    settings: TorchSettings,
    progress: Progress,
) -> tuple[Any, Any, Objective]:
    """The base, the PEFT model on it with a fresh LoRA, and what it is trained to do."""
    base = load_base(checkpoint.path, settings)
    reader = None
    if teacher is not None:
        reader = Reader(load_teacher(teacher, base, checkpoint, settings), examples)
        progress(Noted(_memory_of(teacher, reader, base)))
    model, frozen = add_lora(base, recipe.lora, seed=recipe.seed)
    if reader is None or recipe.distill is None:
        return base, model, Objective(model, examples, frozen=frozen)
    return base, model, Distilled(model, examples, frozen=frozen, teacher=reader, ways=recipe.distill)


def _memory_of(teacher: Teacher, reader: Reader, base: Any) -> str:
    """What the teacher takes of it, in words."""
    shared = {id(weight) for weight in base.parameters()}
    weights = sum(weight.nbytes for weight in reader.base.parameters() if id(weight) not in shared)
    kept = f", and {reader.kept_bytes / 1e6:,.1f} MB for what it reads of the rows" if reader.caches else ""
    return f"the teacher, {teacher.title}, takes {weights / 1e6:,.1f} MB of memory for its own weights{kept}"


def _plan(recipe: Recipe, lengths: Sequence[int], draw: Sequence[float] | None) -> Plan:
    return make_plan(
        lengths,
        epochs=recipe.epochs,
        seed=recipe.seed,
        rows=recipe.optim.batch_rows,
        tokens=recipe.optim.batch_tokens,
        draw=draw,
    )


def encoded(
    recipe: Recipe, stage: Stage[BaseModel, BaseModel], data: RowSets, vocabulary: Vocabulary, progress: Progress
) -> tuple[list[Example], list[Ids], list[float] | None]:
    """Training rows as examples, selection rows as prompts, and the weights to draw rows by, if any."""
    problems = Problems()

    def ids(rows: Sequence[Row], path: Path) -> list[tuple[Ids, Ids]]:
        return encode_rows(rows, stage, vocabulary, path, problems, progress)

    train, select = ids(data.train, data.files[0].path), ids(data.select, data.files[-1].path)
    problems.refuse()
    weights = class_weights(data.train, recipe.data)
    each = weights if recipe.data.balance == "weights" else [1.0] * len(train)
    examples = [Example(prompt, target, weight) for (prompt, target), weight in zip(train, each, strict=True)]
    return examples, [prompt for prompt, _ in select], weights if recipe.data.balance == "sampling" else None


def prepare_folder(work: Path, digest: str, resume: bool, progress: Progress) -> tuple[Path, State] | None:
    """Make the run's folder; returns the checkpoint to resume from, if one is wanted and there."""
    found = latest(work) if resume else None
    if found is None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        (work / ".gitignore").write_text("*\n", encoding="utf-8")
        if resume:
            progress(Noted("there is no checkpoint to go on from; starting afresh"))
    elif found[1].recipe != digest:
        raise TrainError(
            "the checkpoint was made with another recipe, stage or data",
            where=str(found[0]),
            hint="train from the start: leave out --resume",
        )
    return found


def recipe_digest(
    recipe: Recipe, stage: Stage[BaseModel, BaseModel], data: RowSets, checkpoint: ResolvedCheckpoint, *more: str
) -> str:
    """Hash of all that the trained weights and the choice among them depend on; ``more`` is what else they do."""
    plain = recipe.model_dump(mode="json", exclude=_WEIGHTLESS)
    parts = [
        json.dumps({key: value for key, value in plain.items() if value is not None}, sort_keys=True),
        *(file.sha256 for file in data.files),
        checkpoint.sha256,
        stage.template.source,
        stage.schema.id,
    ]
    if data.cleaned is not None:
        parts.append(json.dumps(data.cleaned.kept))
    if data.chosen is not None:
        parts.append(data.chosen)
    parts += more
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _estimate(objective: Objective, plan: Plan, state: State, selected: int) -> Estimated:
    """Time two steps and say how long the rest will take."""
    middle = len(plan.batches) // 2
    timed = plan.batches[middle : middle + 2]
    with torch.random.fork_rng(devices=[]):
        took = objective.time_steps(timed)
    rows = sum(map(len, timed))
    step = took.step / rows
    reading = len(objective.examples) * took.once / rows
    training = sum(map(len, plan.batches[state.step :])) * step
    scoring = (len(plan.ends) - len(state.scores)) * selected * _SCORING * took.own / rows
    speed = sum(len(objective.examples[row]) for batch in timed for row in batch) / (step * rows)
    return Estimated(reading + training + scoring, len(objective.examples), len(plan.batches), speed)


def set_threads(settings: TorchSettings) -> None:
    """Have torch use as many threads as the settings say."""
    if settings.threads:
        torch.set_num_threads(settings.threads)


def telling_scores(progress: Progress) -> Callable[[int, int], None]:
    """Tells how far scoring is, and leaves it when Ctrl-C was pressed."""

    def told(done: int, total: int) -> None:
        progress(Working("scoring", done, total))
        stop_if_asked()

    return told


__all__ = ["Tuned", "encoded", "prepare_folder", "probe", "recipe_digest", "set_threads", "telling_scores", "tune"]

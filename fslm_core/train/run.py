"""``fslm train``: from a recipe to an adapter folder."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..adapter import AdapterRecord
from ..errors import TrainError
from ..plugins import PluginHost
from ..schema import schema_id_of
from ..settings import Settings, default
from ..stage import Stage
from .progress import Estimated, Noted, Progress, Working, silent
from .recipe import Recipe, load_recipe
from .rows import Problems, Row, Rows, class_weights, read_rows, split, subset


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


@dataclass(frozen=True, slots=True)
class _Data:
    """All rows of a run, and where they came from."""

    train: list[Row]
    select: list[Row]
    files: tuple[Rows, ...]


def run_recipe(
    path: Path,
    *,
    overrides: Iterable[str] = (),
    resume: bool = False,
    settings: Settings | None = None,
    host: PluginHost | None = None,
    progress: Progress = silent,
) -> TrainResult:
    """Train one stage by a recipe.

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
    """
    recipe = load_recipe(path, overrides)
    settings = settings or default()
    host = host or PluginHost(settings)
    stage = host.stage(recipe.stage)
    return _Session(recipe, path.resolve(), stage, settings, host, progress).run(resume)


class _Session:
    """One call of :func:`run_recipe`."""

    def __init__(
        self, recipe: Recipe, path: Path, stage: Stage[Any, Any], settings: Settings, host: PluginHost, progress: Progress
    ) -> None:
        if stage.model is None:
            raise TrainError("a tool stage has no model to train", where=f"stage {stage.name}")
        self.recipe = recipe
        self.path = path
        self.stage = stage
        self.base = stage.model.base
        self.settings = settings
        self.host = host
        self.progress = progress
        self.work = path.parent / "runs" / path.stem

    def run(self, resume: bool) -> TrainResult:
        from ..backends.torch.extra import require
        from .artefact import refuse_taken

        require()
        require(("matplotlib", "accelerate"))
        refuse_taken(self.recipe.output)
        data = self._read()
        self.checkpoint = self._resolve()
        return self._train(data, resume)

    # -- data -----------------------------------------------------------------------------------------------

    def _read(self) -> _Data:
        recipe, problems = self.recipe, Problems()
        train_file = read_rows(recipe.data.train, self.stage, problems)
        select_file = read_rows(recipe.data.select, self.stage, problems) if recipe.data.select else None
        problems.refuse()
        if select_file is None:
            train, select = split(train_file, recipe.data)
        else:
            train, select = list(train_file.rows), list(select_file.rows)
        files = (train_file,) if select_file is None else (train_file, select_file)
        for file in files:
            if file.duplicates:
                self.progress(Noted(f"{file.path.name}: {file.duplicates} of {len(file.rows)} rows repeat an earlier one"))
        shared = {row.input.model_dump_json() for row in train} & {row.input.model_dump_json() for row in select}
        if shared:
            self.progress(Noted(f"{len(shared)} inputs are in both training and selection rows; scores will flatter"))
        train = subset(train, recipe.data.max_rows, recipe.seed)
        select = subset(select, recipe.data.select_rows, 0)
        if not train or not select:
            raise TrainError(
                f"no rows are left to {'train on' if not train else 'select by'}",
                where=str(recipe.data.train),
                hint="give more rows, or another data.fraction",
            )
        return _Data(train, select, files)

    def _resolve(self) -> Any:
        from ..checkpoints import resolve

        def told(what: str, done: int, total: int | None) -> None:
            self.progress(Working(f"{what} {self.base}", done, total or 0))

        return resolve(self.base, self.settings, extra=self.host.checkpoints, progress=told)

    def _encode(self, vocabulary: Any, rows: list[Row], problems: Problems, path: Path) -> list[tuple[Any, Any]]:
        """Rows as (prompt ids, target ids), by the function that serves; targets end with the end token."""
        from ..backends.torch.encoding import encode, encode_text
        from ..errors import BackendError

        encoded: list[tuple[Any, Any]] = []
        for row in rows:
            answer = encode_text(row.target, vocabulary.tokenizer)
            try:
                prompt = encode(
                    self.stage.render(row.input),
                    vocabulary.tokenizer,
                    context=vocabulary.context,
                    max_tokens=max(self.stage.max_tokens, len(answer) + 1),
                    on_overflow=self.stage.decoding.on_overflow,
                )
                self._require_writable(vocabulary, row, answer)
            except BackendError as error:
                problems.add(path, row.number, f"{error.what}: {error.found}" if error.found else error.what)
                continue
            if prompt.truncated:
                self.progress(Noted(f"{path.name}, line {row.number}: {prompt.truncated} prompt tokens left out"))
            encoded.append((prompt.ids, (*answer, vocabulary.ends[0])))
        return encoded

    def _require_writable(self, vocabulary: Any, row: Row, answer: tuple[int, ...]) -> None:
        """Make sure that the decoder could write exactly this target."""
        from ..errors import BackendError

        if len(answer) > self.stage.max_tokens:
            raise BackendError("the output is longer than max_tokens", found=f"{len(answer)} tokens")
        grammar = vocabulary.grammar(row.schema.text)
        grammar.take(list(answer))
        if not grammar.finished and not grammar.allowed()[vocabulary.ends[0]]:
            raise BackendError("the grammar does not let the output end", found=row.target)

    # -- training -------------------------------------------------------------------------------------------

    def _train(self, data: _Data, resume: bool) -> TrainResult:
        import torch

        from ..backends.torch.vocabulary import Vocabulary
        from .judge import judge
        from .loop import Run, State, stop_if_asked
        from .model import add_lora, as_shipped, load_base
        from .objective import Example, Objective
        from .plan import make_plan, sorted_batches

        recipe, problems = self.recipe, Problems()
        vocabulary = Vocabulary(self.checkpoint.path)
        train = self._encode(vocabulary, data.train, problems, data.files[0].path)
        select = self._encode(vocabulary, data.select, problems, data.files[-1].path)
        problems.refuse()
        weights = class_weights(data.train, recipe.data)
        weighing = recipe.data.balance == "weights"
        examples = [Example(p, t, w if weighing else 1.0) for (p, t), w in zip(train, weights, strict=True)]
        lengths = [len(e) for e in examples]
        plan = make_plan(
            lengths,
            epochs=recipe.epochs,
            seed=recipe.seed,
            rows=recipe.optim.batch_rows,
            tokens=recipe.optim.batch_tokens,
            draw=weights if recipe.data.balance == "sampling" else None,
        )
        state = State(self._digest(data))
        found = self._prepare_work(resume, state.recipe)
        if found is not None:
            state = found[1]
            self.progress(Noted(f"going on at step {state.step} of {len(plan.batches)}"))
        if self.settings.torch.threads:
            torch.set_num_threads(self.settings.torch.threads)
        base = load_base(self.checkpoint.path, _device(self.settings.torch.device))
        model, frozen = add_lora(base, recipe.lora, checkpoint=self.base, seed=recipe.seed)
        objective = Objective(model, examples, frozen=frozen)
        self._estimate(objective, plan, state, len(select))
        done = 0
        for done in objective.prepare(sorted_batches(lengths, rows=64, tokens=4096)):
            self.progress(Working("reading rows through the frozen layers", done, len(examples)))

        def scored() -> dict[str, float]:
            def told(done: int, total: int) -> None:
                self.progress(Working("scoring", done, total))
                stop_if_asked()

            with as_shipped(model):
                return judge(base, vocabulary, self.stage, data.select, [p for p, _ in select], recipe.task_score, told=told)

        run = Run(objective, plan, recipe, state=state, folder=self.work, judge=scored, lengths=lengths, progress=self.progress)
        run.train(found[0] if found else None)
        return self._finish(model, run.state, data)

    def _prepare_work(self, resume: bool, recipe: str) -> tuple[Path, Any] | None:
        """Make the working folder; returns the checkpoint to resume from, if one is wanted and there."""
        from .loop import latest

        found = latest(self.work) if resume else None
        if found is not None and found[1].recipe != recipe:
            raise TrainError(
                "the checkpoint was made with another recipe, stage or data",
                where=str(found[0]),
                hint="train from the start: leave out --resume",
            )
        if found is None:
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir(parents=True)
            (self.work / ".gitignore").write_text("*\n", encoding="utf-8")
            if resume:
                self.progress(Noted("there is no checkpoint to go on from; starting afresh"))
        return found

    def _digest(self, data: _Data) -> str:
        """Hash of all that the trained weights depend on."""
        parts = [
            json.dumps(self.recipe.plain(self.path.parent), sort_keys=True),
            *(file.sha256 for file in data.files),
            self.checkpoint.sha256,
            self.stage.template.source,
            self.stage.schema.id,
        ]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _estimate(self, objective: Any, plan: Any, state: Any, selected: int) -> None:
        import torch

        start = len(plan.batches) // 2
        timed = plan.batches[start : start + 2]
        with torch.random.fork_rng(devices=[]):
            seconds, lower = objective.time_steps(timed)
        rows = sum(map(len, timed))
        all_rows = len(objective.examples)
        left = len(plan.batches) - state.step
        epochs = len(plan.ends) - len(state.scores)
        per_row = seconds / rows
        caching = all_rows * lower / rows if objective.caches else 0.0
        steps = left * (per_row - (lower / rows if objective.caches else 0.0)) * sum(map(len, plan.batches)) / len(plan.batches)
        judging = epochs * selected * per_row * 0.6
        tokens = sum(len(objective.examples[r]) for batch in timed for r in batch)
        speed = tokens / max(seconds - (lower if objective.caches else 0.0), 1e-9)
        self.progress(Estimated(caching + steps + judging, all_rows, len(plan.batches), speed))

    # -- the end --------------------------------------------------------------------------------------------

    def _finish(self, model: Any, state: Any, data: _Data) -> TrainResult:
        from safetensors.torch import load_file

        from .artefact import write_curve, write_folder
        from .loop import BEST

        write_curve(self.work, state.losses, state.scores)
        record = self._record(state, data)
        sha256 = write_folder(
            self.recipe.output, model=model, tensors=load_file(self.work / BEST), record=record, curve=self.work
        )
        speed = state.tokens / max(state.seconds, 1e-9)
        scores = state.scores[state.best]
        return TrainResult(self.recipe.output, self.work, sha256, scores, state.best + 1, state.seconds, speed)

    def _record(self, state: Any, data: _Data) -> AdapterRecord:
        recipe, known = self.recipe, self.checkpoint.checkpoint
        languages = list(recipe.languages or known.languages)
        training = {
            "rank": recipe.lora.rank,
            "rows": len(data.train),
            "selection_rows": len(data.select),
            "epochs": recipe.epochs,
            "best_epoch": state.best + 1,
            "steps": state.step,
            "seed": recipe.seed,
            "seconds": round(state.seconds, 1),
            "tokens_per_second": round(state.tokens / max(state.seconds, 1e-9), 1),
            "at": time.strftime("%Y-%m-%d", time.gmtime()),
            **_versions(),
        }
        return AdapterRecord(
            stage=self.stage.name,
            base=self.base,
            base_sha256=self.checkpoint.sha256,
            template=hashlib.sha256(self.stage.template.source.encode()).hexdigest(),
            input_schema=schema_id_of(self.stage.input),
            output_schema=self.stage.schema.id,
            data_sha256=data.files[0].sha256,
            recipe=recipe.plain(self.path.parent),
            languages=languages,
            licences={self.base: known.licence, **recipe.licences},
            scores={name: round(value, 6) for name, value in state.scores[state.best].items()},
            base_title=known.title,
            select_sha256=data.files[-1].sha256,
            seed=recipe.seed,
            template_source=self.stage.template.source,
            epoch_scores=state.scores,
            training=training,
        )


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "peft")}


__all__ = ["TrainResult", "run_recipe"]

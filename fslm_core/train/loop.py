"""The training loop: the transformers ``Trainer`` with our loss, our order of batches and our checkpoints.

The whole run is one pass over the plan's batches, so where a run stands is one number, and the order of the
data depends on no generator's state. The Trainer keeps the optimiser, the schedule, clipping, the random state
and their checkpoints. A checkpoint counts once its ``fslm.json`` is written, which happens last.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ..errors import BackendError, TrainError, TrainInterrupted, shorten
from .model import lora_tensors, put_tensors
from .objective import Objective
from .plan import Plan
from .processes import ALONE, Processes
from .progress import Judged, Progress, Saved, Stepped
from .recipe import Recipe
from .scores import rank
from .stable import FILE as STABLE
from .stable import Stable, stable_bytes

MARK = "fslm.json"
BEST = "best.safetensors"


@dataclass
class State:
    """What a run knows beside the Trainer's own state; goes into every checkpoint.

    Attributes:
        recipe: digest of all the run depends on; a checkpoint of another is refused.
        losses: one ``{"step", "epoch", "loss", "lr"}`` a step, with what else the objective tells.
        scores: one dict for each epoch that was judged.
        best: index into ``scores``, or None.
        seconds: spent in steps, over all sessions.
        tokens: of the rows trained on.
    """

    recipe: str
    step: int = 0
    losses: list[dict[str, float]] = field(default_factory=list)
    scores: list[dict[str, float]] = field(default_factory=list)
    best: int | None = None
    seconds: float = 0.0
    tokens: int = 0


class _Batches(Dataset[dict[str, tuple[int, ...]]]):
    def __init__(self, plan: Plan) -> None:
        self._batches = plan.batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> dict[str, tuple[int, ...]]:
        return {"rows": self._batches[index]}


class _Trainer(Trainer):
    """Our loss and our order; everything else is the Trainer's."""

    def __init__(self, objective: Objective, plan: Plan, processes: Processes, **arguments: Any) -> None:
        self._plan = _Batches(plan)
        self._objective = objective
        self._processes = processes
        super().__init__(
            model=objective.model, data_collator=lambda batch: batch[0], train_dataset=self._plan, **arguments
        )
        self.last_loss = 0.0

    def training_step(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> torch.Tensor:
        """A step's gradients and loss, added up over the parts of its batch and over all processes.

        Accelerate wraps the model for several processes, but the loss goes round that wrapper's forward, which then
        leaves gradients alone.
        """
        model.train()
        rows = inputs["rows"]
        own = self._processes.share(rows)
        weights = [weight for weight in self._objective.model.parameters() if weight.requires_grad]
        if own:
            of = self._objective.weight(rows)
            loss = self._objective.descend(own, of=of, backward=self.accelerator.backward)
        else:  # nothing to add
            loss = torch.zeros((), device=self._objective.device)
            for weight in weights:
                weight.grad = torch.zeros_like(weight)
        self._processes.add_up([loss, *(weight.grad for weight in weights if weight.grad is not None)])
        self.last_loss = finite(loss)
        return loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint; what cannot be written whole is taken away, and the one before it stays."""
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have errors of their own
            place = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            shutil.rmtree(place, ignore_errors=True)
            raise _unwritable(error, place) from None

    def get_train_dataloader(self) -> Any:
        """All batches in every process, which takes its share of each."""
        return DataLoader(self._plan, collate_fn=self.data_collator)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0


class Trained(Protocol):
    """What a run trains."""

    @property
    def model(self) -> Any:
        """The PEFT model."""

    @property
    def device(self) -> torch.device:
        """Where it is."""


class Run:
    """One training run, new or resumed.

    Args:
        objective: what is trained; unless :meth:`make_trainer` says otherwise, an :class:`Objective`.
        folder: where checkpoints, the best adapter and logs go.
        judge: scores the model as it stands.
        lengths: tokens of each row, for the speed told.
        base: SHA-256 of the base, under which the end of a stable phase is kept; None keeps none.
        start: the end of another run's stable phase, to go on from; there is no warm-up then.
        figures: what else is to be told of the newest step, by name.
        processes: those that train together.
    """

    def __init__(
        self,
        objective: Trained,
        plan: Plan,
        recipe: Recipe,
        *,
        state: State,
        folder: Path,
        judge: Callable[[], dict[str, float]],
        lengths: Sequence[int],
        progress: Progress,
        base: str | None = None,
        start: Stable | None = None,
        figures: Callable[[], Mapping[str, float]] = dict,
        processes: Processes = ALONE,
    ) -> None:
        self.processes = processes
        self.base = base
        self.start = start
        self.objective = objective
        self.plan = plan
        self.recipe = recipe
        self.state = state
        self.folder = folder
        self._judge = judge
        self._lengths = lengths
        self._progress = progress
        self._figures = figures

    def train(self, checkpoint: Path | None) -> None:
        """Train to the end, from ``checkpoint`` if there is one; the best epoch's tensors are in ``BEST`` then.

        Raises:
            TrainInterrupted: Ctrl-C; a checkpoint was written if a step was done.
        """
        with _quiet(), _until_interrupted() as interrupted:
            if checkpoint is not None and self.to_judge:  # stopped between an epoch's last step and its score
                self._judge_resumed(checkpoint)
            if self.state.step == len(self.plan.batches):
                return
            watch = _Watch(self, interrupted)
            trainer = self.make_trainer([watch])
            watch.trainer = trainer
            trainer.pop_callback(PrinterCallback)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if interrupted.is_set():
            raise interruption(self.folder)

    def _judge_resumed(self, checkpoint: Path) -> None:
        from safetensors.torch import load_file

        put_tensors(self.objective.model, load_file(checkpoint / "adapter_model.safetensors"))
        try:
            self.judged()
        except Stopped:
            raise interruption(self.folder) from None

    def make_trainer(self, callbacks: list[Any]) -> Any:
        """The trainer of the whole plan; its ``last_loss`` is that of the newest step."""
        assert isinstance(self.objective, Objective)
        ways = TrainingArguments(**self.settings())
        return _Trainer(self.objective, self.plan, self.processes, args=ways, callbacks=callbacks)

    def settings(self) -> dict[str, Any]:
        """Arguments of any ``TrainingArguments``."""
        optim, steps = self.recipe.optim, len(self.plan.batches)
        warmup = max(1, round(optim.warmup * steps)) if self.start is None else 0
        names = {"linear": "linear", "cosine": "cosine", "wsd": "warmup_stable_decay"}
        return {
            "output_dir": str(self.folder),
            "num_train_epochs": 1,
            "per_device_train_batch_size": 1,
            "learning_rate": optim.lr,
            "lr_scheduler_type": names[optim.schedule],
            "lr_scheduler_kwargs": {"num_decay_steps": round(optim.decay * steps)} if optim.schedule == "wsd" else None,
            "warmup_steps": warmup,
            "weight_decay": optim.weight_decay,
            "max_grad_norm": optim.grad_clip,
            "optim": "adamw_torch",
            "seed": self.recipe.seed,
            "use_cpu": self.objective.device.type == "cpu",
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "dataloader_pin_memory": False,
        }

    # What the watch calls, in this order.

    def stepped(self, loss: float, lr: float, seconds: float) -> None:
        """Note one step."""
        state = self.state
        rows = self.plan.batches[state.step]
        epoch = next(e for e, end in enumerate(self.plan.ends, start=1) if state.step < end)
        state.step += 1
        state.seconds += seconds
        state.tokens += sum(self._lengths[row] for row in rows)
        figures = {name: round(value, 6) for name, value in self._figures().items()}
        state.losses.append({"step": state.step, "epoch": epoch, "loss": round(loss, 6), "lr": lr, **figures})
        steps = len(self.plan.batches)
        left = (steps - state.step) * state.seconds / state.step
        speed = state.tokens / max(state.seconds, 1e-9)
        self._progress(Stepped(state.step, steps, epoch, loss, lr, speed, left, figures))

    def begun(self, optimizer: Any) -> None:
        """Give a new run's optimiser what it goes on from."""
        if self.start is not None and self.state.step == 0:
            self.start.into_optimizer(self.objective.model, optimizer)

    def keep_stable(self, optimizer: Any) -> None:
        """Write where the run stands if its stable phase has just ended."""
        optim, steps = self.recipe.optim, len(self.plan.batches)
        ended = self.state.step == steps - round(optim.decay * steps)
        if self.base is not None and optim.schedule == "wsd" and ended:
            raw = stable_bytes(self.objective.model, optimizer, self.recipe, self.base, self.state.step)
            self._write(self.folder / STABLE, raw)

    def saved(self) -> None:
        """Make the checkpoint just written count, and drop older ones."""
        self.processes.wait()  # each has a part of it to write
        place = self.folder / f"checkpoint-{self.state.step}"
        self._write(place / MARK, json.dumps(asdict(self.state)).encode())
        for other in self.folder.glob("checkpoint-*"):
            if other != place and self.processes.main:
                shutil.rmtree(other, ignore_errors=True)
        self._progress(Saved(self.state.step, place))

    def judged(self) -> None:
        """Score the epoch that has just ended, and keep its tensors if it is the best so far."""
        from safetensors.torch import save

        state = self.state
        scores = self.processes.from_main(self._scores)
        if scores is None:
            raise Stopped
        state.scores.append(scores)
        best = state.best is None or rank(scores) > rank(state.scores[state.best])
        if best:
            state.best = len(state.scores) - 1
            self._write(self.folder / BEST, save(lora_tensors(self.objective.model)))
        mark = self.folder / f"checkpoint-{state.step}" / MARK
        self._write(mark, json.dumps(asdict(state)).encode())
        self.processes.wait()  # what was written is there for all
        self._progress(Judged(len(state.scores), scores, best))

    def _scores(self) -> dict[str, float] | None:
        """What an epoch's judgement finds; None where it was left at Ctrl-C."""
        try:
            return self._judge()
        except Stopped:
            return None
        except BackendError as error:
            raise _diverged(f"epoch {len(self.state.scores) + 1}", error.what) from None

    def _write(self, path: Path, raw: bytes) -> None:
        if not self.processes.main:
            return
        try:
            write_whole(path, raw)
        except OSError as error:
            raise _unwritable(error, path) from None

    @property
    def to_judge(self) -> bool:
        """True at the end of an epoch that has no score yet."""
        ended = sum(end <= self.state.step for end in self.plan.ends)
        return ended > len(self.state.scores)


def _diverged(where: str, found: str) -> TrainError:
    return TrainError(
        "training has led to what is no number",
        where=where,
        found=found,
        hint="set a lower optim.lr or optim.grad_clip; if that does not help, look whether the base is sound",
    )


def _unwritable(error: Exception, place: Path) -> TrainError:
    return TrainError(
        f"a checkpoint cannot be written: {getattr(error, 'strerror', None) or shorten(str(error), 120)}",
        where=str(place),
        hint="free space, then go on from the checkpoint before it, which stands: the same command with --resume",
    )


class _Watch(TrainerCallback):
    """Times steps, asks for checkpoints, has epochs judged and stops at Ctrl-C."""

    def __init__(self, run: Run, interrupted: threading.Event) -> None:
        self._run = run
        self._interrupted = interrupted
        self._begun = 0.0
        self._lr = 0.0
        self._saved = time.monotonic()
        self.trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._run.begun(kwargs["optimizer"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._begun = time.monotonic()
        self._lr = float(kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.trainer is not None
        self._run.stepped(self.trainer.last_loss, self._lr, time.monotonic() - self._begun)
        self._run.keep_stable(kwargs["optimizer"])
        late = time.monotonic() - self._saved > 60 * self._run.recipe.checkpoint_minutes
        due, stop = self._run.processes.any(late, self._interrupted.is_set())
        if stop:
            self._interrupted.set()
        control.should_save = due or stop or self._run.to_judge
        control.should_training_stop = stop or self._run.state.step == len(self._run.plan.batches)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._run.saved()
        self._saved = time.monotonic()
        (stop,) = self._run.processes.any(self._interrupted.is_set())
        if self._run.to_judge and not stop:
            with contextlib.suppress(Stopped):
                self._run.judged()
        control.should_training_stop = control.should_training_stop or self._interrupted.is_set()


class Stopped(Exception):
    """Raised in the middle of a judgement when Ctrl-C was pressed; the checkpoint before it stands."""


def finite(loss: torch.Tensor) -> float:
    """The loss of a step, which goes no further if it is not a number.

    Raises:
        TrainError: it is not.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        raise _diverged("the loss", str(value))
    return value


_flag = threading.Event()


def stop_if_asked() -> None:
    """Leave a long piece of work when Ctrl-C was pressed."""
    if _flag.is_set():
        raise Stopped


def interruption(folder: Path) -> TrainInterrupted:
    """The error that ends an interrupted run: it says what a resumed run would go on from."""
    found = latest(folder)
    if found is None:
        return TrainInterrupted(
            "training was stopped before its first checkpoint", where=str(folder), hint="start it again"
        )
    return TrainInterrupted(
        f"training was stopped; the checkpoint at step {found[1].step} stands",
        where=str(folder),
        hint="go on with the same command and --resume",
    )


@contextlib.contextmanager
def _until_interrupted() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a flag looked at after each step; a second one interrupts at once."""
    _flag.clear()
    if threading.current_thread() is not threading.main_thread():
        yield _flag
        return
    before = signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        _flag.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield _flag
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No word from transformers on the host's screen."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def latest(folder: Path) -> tuple[Path, State] | None:
    """The newest checkpoint that was written whole, and its state; None where there is none."""
    marks = sorted(folder.glob(f"checkpoint-*/{MARK}"), key=lambda p: int(p.parent.name.partition("-")[2]))
    if not marks:
        return None
    return marks[-1].parent, State(**json.loads(marks[-1].read_text(encoding="utf-8")))


def write_whole(path: Path, raw: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(raw)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


__all__ = ["BEST", "Run", "State", "Stopped", "finite", "interruption", "latest", "stop_if_asked", "write_whole"]

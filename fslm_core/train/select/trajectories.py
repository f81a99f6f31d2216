"""A short run of reference that tells how each row is learnt: its loss at some moments, of target tokens alone.

It is a training run like any other, checkpoints and all; in place of an epoch's score stand the rows' losses. The
reference is the stage's own base with a small adapter on its topmost layers, for there is no smaller base at hand.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...errors import TrainError
from ...settings import TorchSettings
from ..loop import Run, State, latest, write_whole
from ..model import add_lora, load_base
from ..objective import Example, Objective
from ..plan import Plan, make_plan, sorted_batches
from ..progress import Event, Judged, Noted, Progress, Stepped, Working
from ..recipe import Recipe, Select

_READ_ROWS, _READ_TOKENS = 64, 4096
"""The size of batches that are only read."""
_FILE = "trajectories.json"


def trajectories(
    examples: Sequence[Example],
    recipe: Recipe,
    select: Select,
    base: Path,
    folder: Path,
    *,
    key: str,
    resume: bool,
    settings: TorchSettings,
    progress: Progress,
) -> list[list[float]]:
    """Train the reference and return each row's mean loss a target token at every moment, (rows, moments).

    Args:
        folder: for checkpoints and what was found, which is taken from there if it was found before.
        key: says all that the losses depend on, besides the reference's own settings.
        resume: go on from a checkpoint in ``folder``.

    Raises:
        TrainError: a loss is not a number.
        TrainInterrupted: Ctrl-C.
    """
    digest = _digest(select, recipe, key)
    if (found := _read(folder / _FILE, digest)) is not None:
        progress(Noted("the losses of the reference run are those found before"))
        return found
    begun = latest(folder) if resume else None
    if begun is None or begun[1].recipe != digest:
        begun = None
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    state = begun[1] if begun else State(digest)
    reference = _reference(recipe, select)
    lengths = [len(example) for example in examples]
    plan = _plan(lengths, reference, select.moments)
    model, frozen = add_lora(load_base(base, settings), reference.lora, seed=select.seed)
    objective = Objective(model, examples, frozen=frozen)
    batches = sorted_batches(lengths, rows=_READ_ROWS, tokens=_READ_TOKENS)
    for done in objective.prepare(batches):
        progress(Working("reading rows through the frozen layers", done, len(examples)))

    def record() -> dict[str, float]:
        losses = _losses(objective, batches)
        write_whole(_part(folder, len(state.scores)), json.dumps(losses).encode())
        return {"exact": -math.fsum(losses) / len(losses)}

    Run(
        objective,
        plan,
        reference,
        state=state,
        folder=folder,
        judge=record,
        lengths=lengths,
        progress=_told(progress, len(plan.ends)),
    ).train(begun[0] if begun else None)
    parts = [json.loads(_part(folder, moment).read_text(encoding="utf-8")) for moment in range(len(plan.ends))]
    made = [list(row) for row in zip(*parts, strict=True)]
    write_whole(folder / _FILE, json.dumps({"key": digest, "losses": made}).encode())
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)
    return made


def _reference(recipe: Recipe, select: Select) -> Recipe:
    """The recipe of the reference run: the stage's, but smaller."""
    return recipe.model_copy(
        update={
            "epochs": select.epochs,
            "seed": select.seed,
            "lora": recipe.lora.model_copy(update={"rank": select.rank, "layers": select.layers}),
            "optim": recipe.optim.model_copy(update={"lr": select.lr or recipe.optim.lr}),
        }
    )


def _plan(lengths: Sequence[int], reference: Recipe, moments: int) -> Plan:
    """The run's batches; the moments at which losses are taken stand in place of the ends of epochs."""
    plan = make_plan(
        lengths,
        epochs=reference.epochs,
        seed=reference.seed,
        rows=reference.optim.batch_rows,
        tokens=reference.optim.batch_tokens,
    )
    steps = len(plan.batches)
    return replace(plan, ends=tuple(sorted({math.ceil(steps * (n + 1) / moments) for n in range(moments)})))


def _losses(objective: Objective, batches: Sequence[Sequence[int]]) -> list[float]:
    found = [0.0] * len(objective.examples)
    objective.model.eval()
    for rows in batches:
        for row, loss in zip(rows, objective.row_losses(rows), strict=True):
            found[row] = loss
    objective.model.train()
    if not all(map(math.isfinite, found)):
        raise TrainError(
            "a loss of the reference run is not a number",
            where="recipe, select",
            found=f"{sum(not math.isfinite(loss) for loss in found)} of {len(found)} rows",
            hint="set a lower select.lr",
        )
    return found


def _told(progress: Progress, moments: int) -> Progress:
    """The reference's events as those of a piece of work."""

    def told(event: Event) -> None:
        match event:
            case Stepped():
                progress(Working("training the reference", event.step, event.steps))
            case Judged():
                loss = -event.scores["exact"]
                progress(Noted(f"reference, moment {event.epoch} of {moments}: mean loss of all rows {loss:.4f}"))
            case _:
                progress(event)

    return told


def _part(folder: Path, moment: int) -> Path:
    return folder / f"losses-{moment}.json"


def _read(path: Path, digest: str) -> list[list[float]] | None:
    try:
        held: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return None
    losses: list[list[float]] = held["losses"]
    return losses if held["key"] == digest else None


def _digest(select: Select, recipe: Recipe, key: str) -> str:
    """Hash of all that the losses depend on."""
    settings = select.model_dump(mode="json", include={"seed", "moments", "epochs", "layers", "rank", "lr"})
    parts = [
        json.dumps(settings, sort_keys=True),
        recipe.lora.model_dump_json(),
        recipe.optim.model_dump_json(),
        str(torch.get_num_threads()),
        key,
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


__all__ = ["trajectories"]

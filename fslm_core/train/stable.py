"""Where a run of warm-up, stable phase and decay stood at the end of its stable phase, so that another may go on there.

S. Hu and others, MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies (2024,
arXiv 2404.06395): a checkpoint of the stable phase may be trained on with other rows, and decayed then.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import TrainError
from .recipe import Recipe

FILE = "stable.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True, slots=True)
class Stable:
    """The adapter's weights and AdamW's moments, by the names of the model's parameters; and the file's SHA-256."""

    tensors: dict[str, Tensor]
    step: int
    sha256: str

    def into(self, model: Any) -> None:
        """Give a model these weights."""
        for name, weight in _trained(model):
            weight.data.copy_(self.tensors[f"weight.{name}"])

    def into_optimizer(self, model: Any, optimizer: Any) -> None:
        """Give its optimiser these moments."""
        for name, weight in _trained(model):
            kept = {moment: self.tensors[f"{moment}.{name}"].clone() for moment in _MOMENTS}
            optimizer.state[weight] = {m: t if m == "step" else t.to(weight.device) for m, t in kept.items()}


def stable_bytes(model: Any, optimizer: Any, recipe: Recipe, base_sha256: str, step: int) -> bytes:
    """The file's content."""
    tensors: dict[str, Tensor] = {}
    for name, weight in _trained(model):
        tensors[f"weight.{name}"] = weight.detach().cpu().contiguous()
        for moment in _MOMENTS:
            tensors[f"{moment}.{name}"] = optimizer.state[weight][moment].detach().cpu().contiguous()
    told = {"same": _same(recipe, base_sha256), "step": str(step)}
    return save(dict(sorted(tensors.items())), metadata=told)


def read_stable(run: Path, recipe: Recipe, base_sha256: str) -> Stable:
    """What a run left in its folder.

    Raises:
        TrainError: nothing, or it was another stage, base, adapter's shape or learning rate.
    """
    path = run / FILE
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, SafetensorError) as error:
        raise TrainError(
            "there is no stable phase to go on from",
            where=str(path),
            found=str(error),
            expected='the folder of a run with optim.schedule = "wsd" that came to the end of its stable phase',
            hint="set continued.run to that folder, runs/NAME beside its recipe",
        ) from None
    now, then = json.loads(_same(recipe, base_sha256)), json.loads(told.get("same", "{}"))
    if other := [name for name in now if now[name] != then.get(name)]:
        raise TrainError(
            "the run to go on from was another one",
            where=str(path),
            found="; ".join(f"{name} was {then.get(name)}" for name in other),
            expected="; ".join(f"{name} {now[name]}" for name in other),
            hint="make them equal in the recipe, or leave `continued` out and train from the start",
        )
    return Stable(tensors, int(told["step"]), sha256)


def _same(recipe: Recipe, base_sha256: str) -> str:
    """What has to be the same when another run goes on."""
    return json.dumps(
        {"stage": recipe.stage, "base": base_sha256, "lora": recipe.lora.model_dump(mode="json"), "lr": recipe.optim.lr}
    )


def _trained(model: Any) -> list[tuple[str, Tensor]]:
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]


__all__ = ["FILE", "Stable", "read_stable", "stable_bytes"]

"""Adapters in the form the fused forward adds them: two thin matrices for each packed product they touch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..adapters import PREFIX, Adapter
from .shape import Shape
from .weights import interleaved

Place = Literal["qkv", "out", "gate_up", "down"]
"""A packed product of a layer."""
_MODULES: dict[str, Place] = {
    "self_attn.q_proj": "qkv",
    "self_attn.k_proj": "qkv",
    "self_attn.v_proj": "qkv",
    "self_attn.o_proj": "out",
    "mlp.gate_proj": "gate_up",
    "mlp.up_proj": "gate_up",
    "mlp.down_proj": "down",
}
_NAME = re.compile(r"model\.layers\.(\d+)\.(\w+\.\w+)\.lora_([AB])\.weight")


@dataclass(frozen=True, slots=True)
class Delta:
    """What an adapter adds to one product: ``x @ down @ up``.

    Attributes:
        down: float32 [in, r], the A matrices of the product's parts side by side; r is the sum of their ranks.
        up: float32 [r, out], the scaled B matrices, each over its own part of the outputs and zero elsewhere.
    """

    down: Tensor
    up: Tensor

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add to y, float32 [tokens, out], in place; x is float32 [tokens, in]."""
        y.addmm_(x @ self.down, self.up)


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """An adapter ready to be added.

    Attributes:
        name: a hash of its weights and configuration.
        first: the lowest layer it touches; below it, everything is the base's own.
    """

    name: str
    first: int
    deltas: dict[tuple[int, Place], Delta] = field(repr=False)


def unsupported(adapter: Adapter) -> str | None:
    """Say why the fused executor cannot add this adapter, or None where it can."""
    odd = [name for name in adapter.tensors if _parsed(name) is None]
    return f"an adapter on {odd[0]}" if odd else None


def prepare(adapter: Adapter, shape: Shape, device: torch.device) -> Tuned:
    """Stack an adapter's matrices; :func:`unsupported` has nothing against it."""
    pairs: dict[tuple[int, str], dict[str, Tensor]] = {}
    for name, tensor in adapter.tensors.items():
        parsed = _parsed(name)
        assert parsed is not None
        layer, module, letter = parsed
        pairs.setdefault((layer, module), {})[letter] = tensor.float()
    places: dict[tuple[int, Place], list[str]] = {}
    for layer, module in pairs:
        places.setdefault((layer, _MODULES[module]), []).append(module)
    deltas = {}
    for (layer, place), modules in places.items():
        downs, ups = [], []
        for module in modules:
            a, b = pairs[layer, module]["A"], pairs[layer, module]["B"]
            start, width = _span(module, shape)
            if module in ("self_attn.q_proj", "self_attn.k_proj"):
                b = interleaved(b, shape)
            up = torch.zeros(len(a), _width(place, shape))
            up[:, start : start + width] = b.T * _scale(adapter.config, f"model.layers.{layer}.{module}", len(a))
            downs.append(a.T)
            ups.append(up)
        deltas[layer, place] = Delta(torch.cat(downs, 1).contiguous().to(device), torch.cat(ups).to(device))
    return Tuned(adapter.name, min((layer for layer, _ in deltas), default=shape.layers), deltas)


def _parsed(name: str) -> tuple[int, str, str] | None:
    found = _NAME.fullmatch(name.removeprefix(PREFIX))
    return (int(found[1]), found[2], found[3]) if found and found[2] in _MODULES else None


def _span(module: str, shape: Shape) -> tuple[int, int]:
    """Where a module's outputs start in its packed product, and how many there are."""
    queries, keys = shape.heads * shape.head, shape.kv_heads * shape.head
    return {
        "self_attn.q_proj": (0, queries),
        "self_attn.k_proj": (queries, keys),
        "self_attn.v_proj": (queries + keys, keys),
        "mlp.gate_proj": (0, shape.inner),
        "mlp.up_proj": (shape.inner, shape.inner),
    }.get(module, (0, shape.hidden))


def _width(place: Place, shape: Shape) -> int:
    return {"qkv": shape.qkv, "gate_up": 2 * shape.inner}.get(place, shape.hidden)


def _scale(config: Any, module: str, rank: int) -> float:
    """PEFT's factor: alpha over rank, or over its root (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732)."""
    from peft.utils.other import get_pattern_key

    patterns = config.alpha_pattern or {}
    alpha = float(patterns.get(get_pattern_key(list(patterns), module), config.lora_alpha))
    return alpha / (math.sqrt(rank) if config.use_rslora else rank)


__all__ = ["Delta", "Place", "Tuned", "prepare", "unsupported"]

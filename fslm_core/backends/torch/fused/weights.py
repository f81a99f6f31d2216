"""A checkpoint's weights, packed for the fused forward one tensor at a time."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....errors import CheckpointError
from .products import Format, Product, pack
from .shape import Shape

Get = Callable[[str], Tensor]


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer.

    The norms' weights are float32 [hidden], or [head] for those of queries and keys. They are multiplied by the root
    of their length, so that an RMS norm is ``x * weight / |x|``.
    """

    before: Tensor
    qkv: Product
    out: Product
    after: Tensor
    gate_up: Product
    down: Product
    query_norm: Tensor | None
    key_norm: Tensor | None


@dataclass(frozen=True, slots=True)
class Weights:
    """A whole decoder.

    Attributes:
        embedding: [vocabulary, hidden], in the checkpoint's own type.
        rows: the head's weight as [vocabulary, hidden], for products with few of its rows; the embedding itself
            where the two are tied.
        head: the whole head, packed.
        frequencies: of the rotation, float32 [head / 2]; ``stretch`` is what cosine and sine are multiplied by.
    """

    shape: Shape
    embedding: Tensor
    layers: list[Layer]
    norm: Tensor
    rows: Tensor
    head: Product
    frequencies: Tensor
    stretch: float


def interleaved(weight: Tensor, shape: Shape) -> Tensor:
    """Reorder the rows of a query or key matrix [heads * head, …] so that each pair that is turned lies together.

    Checkpoints turn component i with i + head / 2; as complex numbers they must be neighbours. Products of queries
    and keys do not change when both are reordered alike.
    """
    half = shape.head // 2
    pairs: Tensor = weight.unflatten(0, (-1, 2, half))
    return pairs.transpose(1, 2).flatten(0, 2).contiguous()


def load(folder: Path, config: Any, number_format: Format, device: torch.device) -> Weights:
    """Read and pack ``*.safetensors`` of a checkpoint folder.

    Raises:
        CheckpointError: a tensor is missing or of another shape, or a file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    def get(name: str) -> Tensor:
        with safe_open(places[name], framework="pt") as file:  # opened anew, so that no more than one tensor is mapped
            tensor: Tensor = file.get_tensor(name)
            return tensor

    places: dict[str, Path] = {}
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                places |= dict.fromkeys(file.keys(), path)
        return _packed(get, places.keys(), config, number_format, device)
    except KeyError as error:
        raise _incomplete(folder, f"no tensor {error.args[0]}") from None
    except (SafetensorError, OSError, RuntimeError) as error:
        raise _incomplete(folder, f"{type(error).__name__}: {error}") from error


def _incomplete(folder: Path, found: str) -> CheckpointError:
    return CheckpointError(
        "the weights cannot be loaded",
        where=str(folder),
        found=found,
        hint="fetch the checkpoint again: `fslm models pull`, then `fslm models verify`",
    )


def _packed(get: Get, names: Any, config: Any, number_format: Format, device: torch.device) -> Weights:
    shape = Shape.of(config)
    embedding = get("model.embed_tokens.weight").clone()  # a view would keep the file mapped
    tied = config.tie_word_embeddings or "lm_head.weight" not in names
    rows = embedding if tied else get("lm_head.weight").clone()
    frequencies, stretch = _rotation(config)
    head = pack(rows, None, number_format, device, kept=True)  # the largest first, while there is most room
    layers = []
    for index in range(shape.layers):
        layers.append(_layer(get, names, index, shape, number_format, device))
        _give_back()
    return Weights(
        shape=shape,
        embedding=embedding.to(device),
        layers=layers,
        norm=_rooted(get("model.norm.weight")).to(device),
        rows=rows.to(device),
        head=head,
        frequencies=frequencies.float().to(device),
        stretch=stretch,
    )


def _give_back() -> None:
    """Let the operating system have what packing has freed; glibc alone would keep some hundred megabytes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _layer(get: Get, names: Any, index: int, shape: Shape, number_format: Format, device: torch.device) -> Layer:
    own = f"model.layers.{index}."

    def optional(name: str) -> Tensor | None:
        return get(own + name) if own + name in names else None

    def norm(name: str) -> Tensor:
        return _rooted(get(own + name)).to(device)

    def joined(*parts: str, turned: tuple[str, ...] = ()) -> Product:
        def turn(tensor: Tensor, part: str) -> Tensor:
            return interleaved(tensor, shape) if part in turned else tensor

        weights = [turn(get(f"{own}{part}.weight"), part) for part in parts]
        biases = [optional(f"{part}.bias") for part in parts]
        bias = None
        if any(b is not None for b in biases):
            both = zip(parts, weights, biases, strict=True)
            bias = torch.cat([w.new_zeros(len(w)) if b is None else turn(b, part) for part, w, b in both])
        return pack(torch.cat(weights), bias, number_format, device)

    query, key = "self_attn.q_proj", "self_attn.k_proj"
    return Layer(
        before=norm("input_layernorm.weight"),
        qkv=joined(query, key, "self_attn.v_proj", turned=(query, key)),
        out=joined("self_attn.o_proj"),
        after=norm("post_attention_layernorm.weight"),
        gate_up=joined("mlp.gate_proj", "mlp.up_proj"),
        down=joined("mlp.down_proj"),
        query_norm=interleaved(norm("self_attn.q_norm.weight"), shape) if shape.normed_heads else None,
        key_norm=interleaved(norm("self_attn.k_norm.weight"), shape) if shape.normed_heads else None,
    )


def _rooted(norm: Tensor) -> Tensor:
    return norm.float() * math.sqrt(len(norm))


def _rotation(config: Any) -> tuple[Tensor, float]:
    """Frequencies and stretch as transformers computes them, which knows every published rule."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    made: Any = LlamaRotaryEmbedding(config)
    return made.inv_freq, float(made.attention_scaling)


__all__ = ["Layer", "Weights", "interleaved", "load"]

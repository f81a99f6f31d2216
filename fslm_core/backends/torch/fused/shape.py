"""Which decoders the fused executor runs, and their dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""``model_type`` of the configurations whose arithmetic is written down in :mod:`.forward`."""
_ROPES = ("default", "linear", "llama3", "yarn")
"""Rotations that do not change with the length of what was read."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder's dimensions.

    Attributes:
        layers: L.
        hidden: H, the width of the residual stream.
        heads: query heads; a multiple of ``kv_heads``.
        kv_heads: key and value heads.
        head: D, the width of one head; even.
        inner: the width of the gated MLP.
        vocabulary: V, how many logits.
        eps: of every RMS norm.
        normed_heads: True where queries and keys are normed by head (Qwen3).
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    inner: int
    vocabulary: int
    eps: float
    normed_heads: bool

    @property
    def group(self) -> int:
        """Query heads that share one key head."""
        return self.heads // self.kv_heads

    @property
    def rotated(self) -> int:
        """The width of queries and keys side by side, which the rotation turns."""
        return (self.heads + self.kv_heads) * self.head

    @property
    def qkv(self) -> int:
        """The width of queries, keys and values side by side."""
        return (self.heads + 2 * self.kv_heads) * self.head

    @classmethod
    def of(cls, config: Any) -> Shape:
        """Read the dimensions off a transformers configuration that :func:`unsupported` has nothing against."""
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head=getattr(config, "head_dim", None) or config.hidden_size // heads,
            inner=config.intermediate_size,
            vocabulary=config.vocab_size,
            eps=config.rms_norm_eps,
            normed_heads=config.model_type == "qwen3",
        )


def unsupported(config: Any) -> str | None:
    """Say why the fused executor cannot run this configuration, or None where it can.

    >>> from transformers import GPT2Config, LlamaConfig
    >>> unsupported(LlamaConfig()) is None
    True
    >>> unsupported(GPT2Config())
    "model type 'gpt2'"
    """
    if config.model_type not in FAMILIES:
        return f"model type {config.model_type!r}"
    if getattr(config, "hidden_act", None) != "silu":
        return f"activation {config.hidden_act!r}"
    kinds = set(getattr(config, "layer_types", None) or ()) or {"full_attention"}
    window = getattr(config, "sliding_window", None) if config.model_type == "mistral" else None
    if kinds != {"full_attention"} or window is not None:
        return "sliding windows of attention"
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in _ROPES:
        return f"rotary positions of type {rope!r}"
    shape = Shape.of(config)
    if shape.head % 2 or shape.heads % shape.kv_heads:
        return f"{shape.heads} heads over {shape.kv_heads} of width {shape.head}"
    return None


__all__ = ["FAMILIES", "Shape", "unsupported"]

"""Attention for training on a CPU: torch's own spends most of a step of short rows in its backward pass.

Nothing but queries, keys and values is kept for the backward pass; the weights are computed again there, as
FlashAttention does (Dao et al. 2022, arXiv 2205.14135). Softmax is computed in float32 (float64 for float64 inputs).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_NAME = "fslm_recomputed"
"""What a model's configuration calls it."""


class _Attention(torch.autograd.Function):
    """``softmax(q kᵀ · scale) v`` for grouped heads.

    Shapes: q (rows, key heads, group · T, width), k and v (rows, key heads, S, width); ``hidden`` (T, S) is true where
    a query does not see a key; a group's queries stand one after another, T each.
    """

    @staticmethod
    def forward(context: Any, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, scale: float) -> Tensor:
        context.save_for_backward(q, k, v, hidden)
        context.scale = scale
        return _weights(q, k, hidden, scale) @ v

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (gradient,) = gradients
        q, k, v, hidden = context.saved_tensors
        weights = _weights(q, k, hidden, context.scale)
        inner = gradient @ v.transpose(-1, -2)
        each = (weights * inner).sum(-1, keepdim=True)
        scores = (weights * (inner - each)).mul_(context.scale)
        return scores @ k, scores.transpose(-1, -2) @ q, weights.transpose(-1, -2) @ gradient, None, None


def _weights(q: Tensor, k: Tensor, hidden: Tensor, scale: float) -> Tensor:
    """The attention weights, (rows, key heads, group · T, S), in the dtype of ``q``."""
    scores = (q @ k.transpose(-1, -2)).to(torch.promote_types(q.dtype, torch.float32)).mul_(scale)
    tokens, seen = hidden.shape
    scores.view(*scores.shape[:2], -1, tokens, seen).masked_fill_(hidden, -torch.inf)
    return scores.softmax(-1).to(q.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Attend, with gradients for all three.

    Args:
        q: (rows, heads, T, width).
        k, v: (rows, key heads, S, width); heads is a multiple of key heads.
        hidden: (T, S), true where a query does not see a key; None: query t sees the keys up to S - T + t.
        scale: of the scores; ``width ** -0.5`` by default.

    Returns:
        (rows, heads, T, width).

    >>> q, k = torch.ones(1, 2, 3, 4), torch.ones(1, 1, 3, 4)
    >>> attend(q, k, torch.arange(3.0)[None, None, :, None].expand(1, 1, 3, 4))[0, 0, :, 0].tolist()
    [0.0, 0.5, 1.0]
    """
    rows, heads, tokens, width = q.shape
    own, seen = k.shape[1:3]
    if hidden is None:
        hidden = torch.ones(tokens, seen, dtype=torch.bool, device=q.device).triu(seen - tokens + 1)
    grouped = q.reshape(rows, own, heads // own * tokens, width)
    out: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        grouped, k, v, hidden, width**-0.5 if scale is None else scale
    )
    return out.view(rows, heads, tokens, width)


@contextmanager
def attending(config: Any) -> Iterator[None]:
    """Within this, a Transformers model of this configuration attends by :func:`attend`.

    Its masks, where there are any, have to be (1, 1, T, S), true where a query sees a key.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _for_transformers)
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def _for_transformers(
    module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, **_: object
) -> tuple[Tensor, None]:
    hidden = None if mask is None else ~mask[0, 0]
    return attend(q, k, v, hidden, scaling).transpose(1, 2).contiguous(), None


__all__ = ["attend", "attending"]

"""How far a student's probabilities are from a teacher's, with the gradient in closed form.

P are the teacher's probabilities of the next token, Q the student's, both of logits divided by a temperature T:

- ``forward_kl``: KL(P ‖ Q), of G. Hinton and others, Distilling the Knowledge in a Neural Network (2015, arXiv
  1503.02531);
- ``reverse_kl``: KL(Q ‖ P);
- ``jsd``: β KL(P ‖ M) + (1 - β) KL(Q ‖ M) with M = β P + (1 - β) Q, of R. Agarwal and others, On-Policy Distillation of
  Language Models: Learning from Self-Generated Mistakes (GKD, ICLR 2024, arXiv 2306.13649). Divided by β it goes to
  ``forward_kl`` for β → 0, divided by 1 - β to ``reverse_kl`` for β → 1.

Each times T², as Hinton has it, so that gradients keep their size whatever T is.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["forward_kl", "reverse_kl", "jsd"]
_ROWS = 64
"""Positions at a time: beside the gradient, only so many rows of a vocabulary are held in float32."""


def divergence(student: Tensor, teacher: Tensor, kind: Kind, *, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    """The divergence at each position, with a gradient for the student.

    Args:
        student, teacher: logits, (positions, vocabulary).
        beta: of ``jsd``, between 0 and 1.

    Returns:
        (positions,), in float32 (float64 for float64 logits).

    >>> teacher = torch.tensor([[0.0, 100.0]])
    >>> [round(float(divergence(student, teacher, "forward_kl")), 4) for student in (teacher, torch.zeros(1, 2))]
    [0.0, 0.6931]
    """
    apart: Tensor = _Divergence.apply(student, teacher, kind, beta, temperature)  # type: ignore[no-untyped-call]
    return apart


class _Divergence(torch.autograd.Function):
    """Computes the gradient on the way, so that nothing but it is kept for the backward pass."""

    @staticmethod
    def forward(context: Any, student: Tensor, teacher: Tensor, kind: Kind, beta: float, temperature: float) -> Tensor:
        exact = torch.promote_types(student.dtype, torch.float32)
        apart = torch.empty(len(student), dtype=exact, device=student.device)
        slope = torch.empty_like(student)
        for first in range(0, len(student), _ROWS):
            rows = slice(first, first + _ROWS)
            q, p = ((logits[rows].to(exact) / temperature).log_softmax(-1) for logits in (student, teacher))
            apart[rows], slope[rows] = _compared(q, p, kind, beta)
        context.save_for_backward(slope.mul_(temperature))
        return apart.mul_(temperature**2)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (slope,) = context.saved_tensors
        return slope * gradients[0].to(slope.dtype)[:, None], None, None, None, None


def _compared(q: Tensor, p: Tensor, kind: Kind, beta: float) -> tuple[Tensor, Tensor]:
    """The divergence of log-probabilities, and its gradient by the student's logits.

    With g the gradient by Q, that by the logits is Q (g - Σ Q g); each g is taken up to a constant, which falls out.
    """
    if kind == "forward_kl":
        likely = p.exp()
        return (likely * (p - q)).sum(-1), q.exp() - likely
    m = p if kind == "reverse_kl" else torch.logaddexp(p + math.log(beta), q + math.log1p(-beta))
    own, each = q.exp(), q - m
    apart = (own * each).sum(-1)
    slope = own * (each - apart[:, None])
    if kind == "reverse_kl":
        return apart, slope
    return beta * (p.exp() * (p - m)).sum(-1) + (1 - beta) * apart, (1 - beta) * slope


__all__ = ["Kind", "divergence"]

"""From hidden states to tokens: each row's choice among what its grammar allows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ....errors import BackendError, FslmError
from ..row import Row
from .weights import Weights

_FEW = 1024
"""Up to this many allowed tokens, the head is computed for those alone."""


@torch.inference_mode()
def decide(weights: Weights, hidden: Tensor, rows: Sequence[Row]) -> None:
    """Let every row choose and follow its choice. A row that cannot is given its error; the others go on.

    Args:
        hidden: float32 [rows, hidden], normed.
    """
    whole: list[int] = []
    masks: list[NDArray[np.bool_] | None] = []
    for i, row in enumerate(rows):
        try:
            allowed = row.grammar.allowed() if row.grammar else None
        except FslmError as error:
            row.error = error
            continue
        ids = None if allowed is None else np.flatnonzero(allowed)
        if ids is None or len(ids) > _FEW:
            whole.append(i)
            masks.append(allowed)
        else:
            candidates = torch.from_numpy(ids).to(hidden.device)
            _follow(row, weights.rows[candidates].float() @ hidden[i], ids)
    if whole:
        logits = weights.head(hidden[torch.tensor(whole, device=hidden.device)])
        for i, allowed, own in zip(whole, masks, logits, strict=True):
            if allowed is not None:
                own.masked_fill_(~torch.from_numpy(allowed).to(own.device), -math.inf)
            _follow(rows[i], own, None)


def _follow(row: Row, logits: Tensor, ids: NDArray[np.intp] | None) -> None:
    """Choose among logits, float32 [candidates], whose token ids are ``ids``, or their places where that is None."""
    best, second = _two(logits)
    chosen = row.choose(logits) if row.sampling.temperature > 0 else best[0]
    total = float(torch.logsumexp(logits, 0))
    own = best[1] if chosen == best[0] else float(logits[chosen])
    if math.isnan(own - total):
        row.error = BackendError(
            "the model's output is not a number",
            where="the torch backend",
            hint='set torch.precision to "float32", or verify the checkpoint (`fslm models verify`)',
        )
        return

    def token(place: int) -> int:
        return place if ids is None else int(ids[place])

    try:
        runner_up = (token(second[0]), second[1] - total) if second[1] > -math.inf else None
        row.take(token(chosen), own - total, runner_up)
    except FslmError as error:
        row.error = error


def _two(logits: Tensor) -> tuple[tuple[int, float], tuple[int, float]]:
    """The likeliest place and the next, each with its logit; the next of a single one is at minus infinity."""
    if len(logits) < 2:
        return (0, float(logits[0])), (0, -math.inf)
    values, places = logits.topk(2)
    (a, b), (i, j) = values.tolist(), places.tolist()
    return (i, a), (j, b)


__all__ = ["decide"]

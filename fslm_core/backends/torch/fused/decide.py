"""From hidden states to tokens: each row's choices among what its grammar allows, and the check of its draft."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ....errors import FslmError
from ..row import Row, failure, no_number
from .weights import Weights

_FEW = 1024
"""Up to this many allowed tokens, the head is computed for those alone."""


@dataclass(slots=True, eq=False)
class Chance:
    """A row that may choose.

    Attributes:
        hidden: float32 [1 + draft, hidden], normed: after the last token that is certain, and after each drafted one.
        draft: tokens that were fed in the hope that the row will choose them.
        right: how many of them it did.
    """

    row: Row
    hidden: Tensor
    draft: Sequence[int] = ()
    right: int = 0
    logits: Tensor | None = None
    """Of the whole head for ``hidden[first:]``, where they were needed."""
    first: int = 0

    def go_on(self) -> bool:
        """Take what the row has just written off its draft; True if it may choose once more."""
        row = self.row
        if row.finished is not None or row.error is not None:
            return False
        rest = self.draft[self.right :]
        same = next((i for i, (a, b) in enumerate(zip(row.pending, rest, strict=False)) if a != b), None)
        count = min(len(row.pending), len(rest)) if same is None else same
        self.right += count
        row.pending = row.pending[count:]
        return not row.pending


@torch.inference_mode()
def decide(weights: Weights, chances: Sequence[Chance]) -> None:
    """Let every row choose, and again for as long as its draft was right.

    A row that cannot is given its error; the others go on.
    """
    going = list(chances)
    while going:
        masks = [(chance, mask) for chance in going if (mask := _allowed(chance.row)) is not None]
        _compute([chance for chance, mask in masks if mask.few is None and chance.logits is None], weights)
        for chance, mask in masks:
            _follow(chance.row, _logits(chance, mask, weights), mask.few)
        going = [chance for chance, _ in masks if chance.go_on()]


@dataclass(frozen=True, slots=True)
class _Mask:
    """What a row may choose: token ids where they are few, else bools [vocabulary], else (both None) anything."""

    few: NDArray[np.intp] | None = None
    bits: NDArray[np.bool_] | None = None


def _allowed(row: Row) -> _Mask | None:
    """What the row's grammar allows; None where it broke, of which the row is told."""
    if row.grammar is None:
        return _Mask()
    try:
        bits = row.grammar.allowed()
    except Exception as error:  # whatever it is concerns this row only
        row.error = error if isinstance(error, FslmError) else failure(error)
        return None
    ids = np.flatnonzero(bits)
    return _Mask(few=ids) if len(ids) <= _FEW else _Mask(bits=bits)


def _compute(chances: Sequence[Chance], weights: Weights) -> None:
    """Compute the whole head for all that these rows may still need, in one product."""
    if chances:
        logits = weights.head(torch.cat([chance.hidden[chance.right :] for chance in chances]))
        parts = logits.split([len(chance.hidden) - chance.right for chance in chances])
        for chance, part in zip(chances, parts, strict=True):
            chance.logits, chance.first = part, chance.right


def _logits(chance: Chance, mask: _Mask, weights: Weights) -> Tensor:
    """float32 [candidates]."""
    if mask.few is not None:
        candidates = torch.from_numpy(mask.few).to(chance.hidden.device)
        return weights.rows[candidates].float() @ chance.hidden[chance.right]
    assert chance.logits is not None
    own = chance.logits[chance.right - chance.first]
    if mask.bits is not None:
        own.masked_fill_(~torch.from_numpy(mask.bits).to(own.device), -math.inf)
    return own


def _follow(row: Row, logits: Tensor, ids: NDArray[np.intp] | None) -> None:
    """Choose among logits, float32 [candidates], whose token ids are ``ids``, or their places where that is None."""
    best, second = _two(logits)
    chosen = row.choose(logits) if row.sampling.temperature > 0 else best[0]
    total = float(torch.logsumexp(logits, 0))
    own = best[1] if chosen == best[0] else float(logits[chosen])
    if math.isnan(own - total):
        row.error = no_number()
        return

    def token(place: int) -> int:
        return place if ids is None else int(ids[place])

    try:
        runner_up = (token(second[0]), second[1] - total) if second[1] > -math.inf else None
        row.take(token(chosen), own - total, runner_up)
    except Exception as error:  # whatever it is concerns this row only
        row.error = error if isinstance(error, FslmError) else failure(error)


def _two(logits: Tensor) -> tuple[tuple[int, float], tuple[int, float]]:
    """The likeliest place and the next, each with its logit; the next of a single one is at minus infinity."""
    if len(logits) < 2:
        return (0, float(logits[0])), (0, -math.inf)
    values, places = logits.topk(2)
    (a, b), (i, j) = values.tolist(), places.tolist()
    return (i, a), (j, b)


__all__ = ["Chance", "decide"]

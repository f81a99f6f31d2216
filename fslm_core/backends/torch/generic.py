"""The reference executor: any transformers causal language model, plainly.

A batch of rows starts together, left-padded. Every forward takes a block ``[rows, columns]`` with explicit
positions and a mask over the cache: after each decision a row feeds the token it chose and all that the
grammar dictates after it, so rows feed blocks of different lengths, padded on the left; the padding's places
in the cache stay masked for good. What is dictated at an answer's end is never fed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..protocol import ModelRef
from .encoding import Ids
from .models import Resident
from .row import Row, no_number

TOGETHER = 65_536
"""The most places in the cache that one batch may reserve, padding included; bounds its memory."""
COLUMNS = 512
"""The most tokens of one row in one forward: bounds the mask's memory and the wait for a cancellation."""

OnForward = Callable[[int, int], None]
"""Called before every forward with its rows and columns; for tests and meters."""


class Batch:
    """Rows that run together on one model and adapter, from their start to their end."""

    def __init__(self, resident: Resident, rows: Sequence[Row], on_forward: OnForward | None = None) -> None:
        from transformers import DynamicCache

        self._resident = resident
        self._on_forward = on_forward
        self.rows = list(rows)
        self._cache = DynamicCache(config=resident.model.config)
        self._mask = torch.zeros((len(rows), 0), dtype=torch.long, device=resident.device)
        self._block = _Block.of(self.rows, resident.device)
        # By place, not by count: a slice of several rows is not contiguous, and the head would be read once a row.
        self._last = torch.tensor([-1], device=resident.device)

    def drop(self) -> list[Row]:
        """Take out the rows that are finished or no longer wanted, and return them."""
        gone = [r.over() for r in self.rows]
        if not any(gone):
            return []
        dropped = [r for r, out in zip(self.rows, gone, strict=True) if out]
        self.rows = [r for r, out in zip(self.rows, gone, strict=True) if not out]
        if self.rows:
            keep = torch.tensor([i for i, out in enumerate(gone) if not out], device=self._resident.device)
            self._cache.batch_select_indices(keep)
            self._mask = self._mask[keep]
            self._block = self._block.select(keep)
        return dropped

    @torch.inference_mode()
    def step(self) -> None:
        """Run one forward; where it read the last of a block, let every row choose.

        Must not be called without rows.
        """
        part, self._block = self._block.split(COLUMNS)
        self._mask = torch.cat([self._mask, part.real], dim=1)
        if self._on_forward:
            self._on_forward(*part.ids.shape)
        logits = self._resident.model(
            input_ids=part.ids,
            position_ids=part.positions,
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=self._last,
        ).logits
        for row, took_part in zip(self.rows, part.real.any(dim=1).tolist(), strict=True):
            row.forwards += took_part
        if self._block.ids.shape[1] == 0:
            self._decide(logits[:, -1].float())
            self._block = _Block.of(self.rows, self._resident.device)

    def _decide(self, logits: Tensor) -> None:
        allowed = [row.grammar.allowed() if row.grammar else None for row in self.rows]
        logits = _masked(logits, allowed)
        logprobs = torch.log_softmax(logits, dim=-1)
        best = logits.argmax(dim=-1)
        second_logprobs, second = logprobs.scatter(1, best[:, None], -math.inf).max(dim=-1)
        chosen = [
            row.choose(logits[i]) if row.sampling.temperature > 0 else int(best[i]) for i, row in enumerate(self.rows)
        ]
        at = torch.tensor(chosen, device=logits.device)
        own = logprobs.gather(1, at[:, None])[:, 0].tolist()
        runners = zip(second.tolist(), second_logprobs.tolist(), strict=True)
        for row, token, logprob, runner in zip(self.rows, chosen, own, runners, strict=True):
            if math.isnan(logprob):
                raise no_number()
            row.take(token, logprob, runner if runner[1] > -math.inf else None)


class Generic:
    """The executor: one static batch after another, each of one adapter.

    Args:
        most: the most rows in a batch.
    """

    def __init__(self, resident: Resident, most: int, on_forward: OnForward | None = None) -> None:
        self._resident = resident
        self._most = most if resident.together else 1
        self._on_forward = on_forward
        self._ref: ModelRef | None = None
        self._gathered: list[Row] = []
        self._batch: Batch | None = None

    @property
    def rows(self) -> Sequence[Row]:
        """The rows in flight."""
        return self._batch.rows if self._batch else self._gathered

    def admit(self, row: Row, ref: ModelRef) -> bool:
        """Take a row that is started into the next batch, or return False while it cannot join.

        Raises:
            AdapterError: the adapter does not fit.
        """
        if self._batch is not None:
            return False
        if self._gathered and (self._ref is None or self._ref.key != ref.key or not self._fits(row)):
            return False
        self._resident.use(ref)
        self._ref = ref
        row.start()
        self._gathered.append(row)
        return True

    def _fits(self, row: Row) -> bool:
        rows = [*self._gathered, row]
        longest = max(len(r.prompt.ids) + r.max_tokens for r in rows)
        return len(rows) <= self._most and longest * len(rows) <= TOGETHER

    def tick(self) -> None:
        """Run one forward."""
        if self._batch is None:
            self._batch = Batch(self._resident, self._gathered, self._on_forward)
            self._gathered = []
        self._batch.step()

    def drop(self) -> list[Row]:
        """Take out the rows that are finished, failed or no longer wanted, and return them."""
        if self._batch is None:
            gone = [r for r in self._gathered if r.over()]
            self._gathered = [r for r in self._gathered if r not in gone]
            return gone
        gone = self._batch.drop()
        if not self._batch.rows:
            self._batch = None
        return gone

    def clear(self) -> list[Row]:
        """Take out every row, after a failure."""
        gone = list(self.rows)
        self._gathered, self._batch = [], None
        return gone


@dataclass(frozen=True, slots=True)
class _Block:
    """Tokens still to be fed, left-padded; all of shape [rows, columns], ``real`` 0 at padding."""

    ids: Tensor
    positions: Tensor
    real: Tensor

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> _Block:
        """Take what is pending from the rows. A finished row feeds nothing any more."""
        width = max((len(r.pending) for r in rows if not r.finished), default=0)
        made = np.zeros((3, len(rows), width), dtype=np.int64)
        for i, row in enumerate(rows):
            if (count := len(row.pending)) and not row.finished:
                made[0, i, -count:] = row.pending
                made[1, i, -count:] = range(row.seen, row.seen + count)
                made[2, i, -count:] = 1
                row.seen += count
            row.pending = []
        return cls(*torch.from_numpy(made).to(device))

    def split(self, columns: int) -> tuple[_Block, _Block]:
        parts = ((t[:, :columns], t[:, columns:]) for t in (self.ids, self.positions, self.real))
        left, right = zip(*parts, strict=True)
        return _Block(*left), _Block(*right)

    def select(self, keep: Tensor) -> _Block:
        return _Block(self.ids[keep], self.positions[keep], self.real[keep])


def _masked(logits: Tensor, allowed: Sequence[NDArray[np.bool_] | None]) -> Tensor:
    if all(a is None for a in allowed):
        return logits
    every = np.ones(logits.shape[1], dtype=np.bool_)
    bits = torch.from_numpy(np.stack([every if a is None else a for a in allowed])).to(logits.device)
    return logits.masked_fill(~bits, -math.inf)


@torch.inference_mode()
def likelihood(resident: Resident, prompt: Ids, continuation: Ids) -> float:
    """The natural-log likelihood of ``continuation`` after ``prompt``: one plain forward over both."""
    if not continuation:
        return 0.0
    ids = torch.tensor([[*prompt, *continuation]], device=resident.device)
    keep = len(continuation) + 1
    logits: Any = resident.model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
    logprobs = torch.log_softmax(logits[0, -keep:-1].float(), dim=-1)
    return float(logprobs.gather(1, ids[0, len(prompt) :, None]).sum())


__all__ = ["COLUMNS", "Batch", "Generic", "OnForward", "likelihood"]

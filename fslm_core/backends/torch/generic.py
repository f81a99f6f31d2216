"""The reference executor: any transformers causal language model, plainly.

A batch of rows starts together, left-padded. Every forward takes a block ``[rows, columns]`` with explicit
positions and a mask over the cache: after each decision a row feeds the token it chose and all that the
grammar dictates after it, so rows feed blocks of different lengths, padded on the left; the padding's places
in the cache stay masked for good. What is dictated at an answer's end is never fed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import BackendError
from ..protocol import Counts, FinishReason, Generation, Sampling, Times
from .encoding import Encoded, Ids
from .models import Resident
from .vocabulary import Grammar, Writer

COLUMNS = 512
"""The most tokens of one row in one forward: bounds the mask's memory and the wait for a cancellation."""

OnForward = Callable[[int, int], None]
"""Called before every forward with its rows and columns; for tests and meters."""


@dataclass(slots=True)
class Row:
    """One output in the making.

    Attributes:
        emit: told each new piece of text; called on the worker's thread.
        stopped: asked before every forward whether nobody wants this row any more.
    """

    prompt: Encoded
    index: int
    max_tokens: int
    sampling: Sampling
    seed: int
    ends: frozenset[int]
    grammar: Grammar | None
    writer: Writer
    emit: Callable[[str], None]
    stopped: Callable[[], bool]
    submitted: float
    tokens: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    runners_up: list[tuple[int, float] | None] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    seen: int = 0
    forwards: int = 0
    finished: FinishReason | None = None
    started: float = 0.0
    first: float = 0.0
    _generator: torch.Generator | None = None

    def start(self) -> None:
        """Feed the prompt and what the grammar dictates before the first choice."""
        if not self.prompt.ids:
            raise BackendError("the prompt is empty", where="the prompt", hint="write something into the template")
        self.started = time.monotonic()
        self.pending = list(self.prompt.ids)
        self._go_on()

    def take(self, token: int, logprob: float, runner_up: tuple[int, float] | None) -> None:
        """Follow the model's choice."""
        self.first = self.first or time.monotonic()
        if token in self.ends:
            self._finish("stop")
            return
        self.pending = []
        self._write([token], [logprob], [runner_up], forced=False)
        if self.grammar:
            self.grammar.take([token])
        self._go_on()

    def _go_on(self) -> None:
        """Append what is dictated, then finish if nothing is left to choose."""
        if self.grammar:
            dictated = self.grammar.advance(self.max_tokens - len(self.tokens))
            self._write(dictated, [0.0] * len(dictated), [None] * len(dictated), forced=True)
            if self.grammar.finished:
                self._finish("stop")
                return
        if len(self.tokens) >= self.max_tokens:
            self._finish("length")

    def _write(
        self, tokens: list[int], logprobs: list[float], runners_up: Sequence[tuple[int, float] | None], *, forced: bool
    ) -> None:
        texts = [self.writer.text(t) for t in tokens]
        self.tokens += tokens
        self.pending += tokens
        self.texts += texts
        self.logprobs += logprobs
        self.runners_up += runners_up
        self.forced += [forced] * len(tokens)
        self._tell("".join(texts))

    def _finish(self, reason: FinishReason) -> None:
        self.finished = reason
        if (rest := self.writer.rest()) and self.texts:
            self.texts[-1] += rest
            self._tell(rest)

    def _tell(self, text: str) -> None:
        if text:
            self.emit(text)

    def choose(self, logits: Tensor) -> int:
        """Sample from logits of shape [vocabulary] (float32, forbidden places at minus infinity)."""
        if self._generator is None:
            self._generator = torch.Generator().manual_seed((self.seed + self.index) % 2**63)
        return _sample(logits.cpu(), self.sampling, self._generator)

    def generation(self) -> Generation:
        """What came of it."""
        now = time.monotonic()
        first = self.first or now
        return Generation(
            text="".join(self.texts),
            index=self.index,
            tokens=tuple(self.tokens),
            texts=tuple(self.texts),
            logprobs=tuple(self.logprobs),
            runners_up=tuple(self.runners_up),
            forced=tuple(self.forced),
            finish_reason=self.finished or "stop",
            truncated=self.prompt.truncated,
            counts=Counts(len(self.prompt.ids), 0, len(self.tokens), sum(self.forced), self.forwards),
            times=Times(self.started - self.submitted, first - self.started, now - first),
        )


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

    def drop(self) -> list[Row]:
        """Take out the rows that are finished or no longer wanted, and return them."""
        gone = [r.finished is not None or r.stopped() for r in self.rows]
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
            logits_to_keep=1,
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
                raise BackendError(
                    "the model's output is not a number",
                    where="the torch backend",
                    hint='set torch.precision to "float32", or verify the checkpoint (`fslm models verify`)',
                )
            row.take(token, logprob, runner if runner[1] > -math.inf else None)


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


def _sample(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw one token: temperature, then the ``top_k`` likeliest, then the fewest that reach ``top_p``.

    At least one token always stays (nucleus sampling: Holtzman et al. 2020, arXiv 1904.09751).
    """
    ordered, order = torch.sort(logits / sampling.temperature, descending=True, stable=True)
    if sampling.top_k > 0:
        ordered = ordered[: sampling.top_k]
    probabilities = torch.softmax(ordered, dim=-1)
    before = probabilities.cumsum(-1) - probabilities
    probabilities = torch.where(before < sampling.top_p, probabilities, 0.0)
    probabilities[0] = probabilities[0].clamp_min(torch.finfo(probabilities.dtype).tiny)
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])


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


__all__ = ["COLUMNS", "Batch", "OnForward", "Row", "likelihood"]

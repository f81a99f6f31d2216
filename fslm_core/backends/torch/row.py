"""One output in the making, whichever executor writes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...errors import BackendError, FslmError, shorten
from ..protocol import Counts, FinishReason, Generation, Sampling, Times
from .encoding import Encoded
from .vocabulary import Grammar, Writer


@dataclass(slots=True, eq=False)
class Row:
    """One output in the making.

    Attributes:
        emit: told each new piece of text; called on the worker's thread.
        stopped: asked before every forward whether nobody wants this row any more.
        pending: tokens that are to be fed before the next choice.
        seen: how many positions were fed, or copied from where they had been.
        cached: how many of the prompt's tokens were copied and not computed.
        error: what went wrong with this row alone.
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
    runner_texts: list[str | None] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    seen: int = 0
    forwards: int = 0
    cached: int = 0
    finished: FinishReason | None = None
    error: FslmError | None = None
    started: float = 0.0
    first: float = 0.0
    _generator: torch.Generator | None = None

    def start(self) -> None:
        """Make the prompt, and what the grammar dictates before the first choice, pending."""
        self.started = time.monotonic()
        self.pending = list(self.prompt.ids)
        try:
            if not self.prompt.ids:
                raise BackendError("the prompt is empty", where="the prompt", hint="write something into the template")
            self._go_on()
        except FslmError as error:
            self.error = error

    def over(self) -> bool:
        """True if nothing more is to be done: finished, failed, or nobody waits for it."""
        return self.finished is not None or self.error is not None or self.stopped()

    def take(self, token: int, logprob: float, runner_up: tuple[int, float] | None) -> None:
        """Follow the model's choice."""
        self.first = self.first or time.monotonic()
        if token in self.ends:
            self._finish("stop")
            return
        self.pending = []
        self.runner_texts.append(None if runner_up is None else self.writer.instead(runner_up[0]))
        self._write([token], [logprob], [runner_up], forced=False)
        if self.grammar:
            self.grammar.take([token])
        self._go_on()

    def _go_on(self) -> None:
        """Append what is dictated, then finish if nothing is left to choose."""
        if self.grammar:
            dictated = self.grammar.advance(self.max_tokens - len(self.tokens))
            self.runner_texts += [None] * len(dictated)
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
        """Sample a place in logits, float32 [candidates]; forbidden ones stand at minus infinity."""
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
            runner_texts=tuple(self.runner_texts),
            forced=tuple(self.forced),
            finish_reason=self.finished or "stop",
            truncated=self.prompt.truncated,
            counts=Counts(len(self.prompt.ids), self.cached, len(self.tokens), sum(self.forced), self.forwards),
            times=Times(self.started - self.submitted, first - self.started, now - first),
        )


def _sample(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw one place: temperature, then the ``top_k`` likeliest, then the fewest that reach ``top_p``.

    At least one token always stays (nucleus sampling: Holtzman et al. 2020, arXiv 1904.09751). Drawn by where one
    uniform number falls in the cumulated probabilities; nothing is sorted unless the narrowing needs it.
    """
    logits, places = logits / sampling.temperature, None
    if 0 < sampling.top_k < len(logits):
        logits, places = logits.topk(sampling.top_k)
    elif sampling.top_p < 1:
        logits, places = logits.sort(descending=True, stable=True)
    probabilities = torch.softmax(logits, dim=-1)
    if places is not None:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = torch.where(before < sampling.top_p, probabilities, 0.0)
        probabilities[0] = probabilities[0].clamp_min(torch.finfo(probabilities.dtype).tiny)
    reached = probabilities.cumsum(-1, dtype=torch.float64)
    drawn = torch.rand((), generator=generator, dtype=torch.float64) * reached[-1]
    place = int(torch.searchsorted(reached, drawn, right=True))
    if place == len(reached):  # rounded up to the very end, or no number at all
        place = int(probabilities.argmax())
    return place if places is None else int(places[place])


def no_number() -> BackendError:
    """The logits are not finite."""
    return BackendError(
        "the model's output is not a number",
        where="the torch backend",
        hint='set torch.precision to "float32", or verify the checkpoint (`fslm models verify`)',
    )


def failure(error: Exception) -> BackendError:
    """What torch, a grammar or a caller raised, as an error that says what to do."""
    scarce = isinstance(error, MemoryError) or "memory" in str(error).lower()
    lighter = "set a smaller torch.max_batch, or run fewer models at once"
    told = BackendError(
        f"the model failed: {type(error).__name__}: {shorten(str(error))}",
        where="the torch backend",
        hint=lighter if scarce else "run `fslm doctor`, then `fslm models verify` for its checkpoint",
    )
    told.__cause__ = error
    return told


__all__ = ["Row", "failure", "no_number"]

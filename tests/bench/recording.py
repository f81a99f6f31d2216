"""A backend that remembers what passed through it, and one that knows the answers already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

from fslm_core.backends.protocol import Backend, Capabilities, Chunk, Counts, Generation, ModelRef, Request
from fslm_core.backends.torch.encoding import encode

Answers = Mapping[tuple[str, tuple[int, ...]], str]
"""Texts by stage and prompt."""


class Encoder:
    """Prompts to token ids, as the torch backend does it. For one thread at a time."""

    def __init__(self, checkpoint: Path, context: int = 8192) -> None:
        self._checkpoint = checkpoint
        self._context = context
        self._tokenizer: object | None = None

    def __call__(self, request: Request) -> tuple[int, ...]:
        """The request's prompt."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(self._checkpoint, local_files_only=True)
        return encode(request.prompt, self._tokenizer, context=self._context, max_tokens=request.max_tokens).ids


class Recorder:
    """Passes everything on to another backend, and keeps pairs of request and generation while it is told to."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.name = inner.name
        self.kept: list[tuple[Request, Generation]] | None = None

    @property
    def capabilities(self) -> Capabilities:
        """As the other's."""
        return self._inner.capabilities

    async def warm(self, models: Sequence[ModelRef]) -> Sequence[str]:
        """As the other's."""
        return await self._inner.warm(models)

    async def open(self, request: Request) -> AsyncIterator[Chunk | Generation]:
        """As the other's."""
        async with aclosing(self._inner.open(request)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                if self.kept is not None and isinstance(piece, Generation):
                    self.kept.append((request, piece))
                yield piece

    async def score(self, request: Request, continuations: Sequence[str]) -> tuple[float, ...]:
        """As the other's."""
        return await self._inner.score(request, continuations)

    async def aclose(self) -> None:
        """As the other's."""
        await self._inner.aclose()


class ReplayBackend:
    """Gives known answers at once: what is left is what the engine itself costs, tokenising included."""

    name = "replay"

    def __init__(self, answers: Answers, encode: Encoder) -> None:
        self._answers = answers
        self._encode = encode
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replay")

    @property
    def capabilities(self) -> Capabilities:
        """One greedy output, no log-probabilities."""
        return Capabilities(logprobs=False, score=False, streaming=False, sampling=False)

    async def warm(self, models: Sequence[ModelRef]) -> Sequence[str]:
        """Nothing to load."""
        return [""] * len(models)

    async def open(self, request: Request) -> AsyncIterator[Chunk | Generation]:
        """The answer of the stage to that prompt."""
        ids = await asyncio.get_running_loop().run_in_executor(self._thread, self._encode, request)
        text = self._answers[request.model.stage, ids]
        yield Generation(text, texts=(text,), forced=(False,), counts=Counts(len(ids)))

    async def score(self, request: Request, continuations: Sequence[str]) -> tuple[float, ...]:
        """Not offered."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False)


__all__ = ["Answers", "Encoder", "Recorder", "ReplayBackend"]

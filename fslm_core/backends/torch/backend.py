"""``torch``: models in this process. Torch itself is imported with the first model."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ... import adapter as folders
from ...errors import BackendError, CapabilityError
from ...forking import imports
from ...settings import TorchSettings
from ..protocol import Capabilities, Chunk, Generation, ModelRef, Request
from .encoding import Encoded, Ids, encode, encode_text
from .extra import require

if TYPE_CHECKING:
    from .hosted import Hosted
    from .row import Row
    from .vocabulary import Vocabulary
    from .worker import Mailbox, Task, Worker

T = TypeVar("T")

_SCORED = 16
"""So many continuations of one prompt are scored at once; whatever else is in flight waits for them."""


class TorchBackend:
    """Runs any transformers causal language model, with PEFT LoRA adapters, in this process.

    Prompts are tokenised and grammars compiled on one thread; another owns the models and runs waiting requests
    of one model in batches. The host's torch settings stay as they are.

    Args:
        settings: device, threads, batch size.
        on_forward: called on the models' thread before every forward, with its rows and columns.

    Making one needs nothing but fslm itself, so that stacks of tools alone run without the extra; the first model
    needs all of it.

    Raises:
        MissingExtraError: from :meth:`warm`, :meth:`open` and :meth:`score`, where torch, transformers, peft or
            llguidance is not installed.
    """

    name = "torch"

    def __init__(
        self, settings: TorchSettings | None = None, *, on_forward: Callable[[int, int], None] | None = None
    ) -> None:
        self._settings = settings or TorchSettings()
        self._on_forward = on_forward
        self._preparer = ThreadPoolExecutor(1, thread_name_prefix="fslm-encode")
        self._vocabularies: dict[Path, Vocabulary] = {}
        self._guard = threading.Lock()
        self._worker: Worker | None = None
        self._closed = False

    @property
    def capabilities(self) -> Capabilities:
        """Everything, with as many outputs of one request as fit in a batch."""
        return Capabilities(n=self._settings.max_batch, require=require)

    async def warm(self, models: Sequence[ModelRef]) -> Sequence[str]:
        """Load ``models`` with their adapters and run one small forward on each."""
        runs = []
        for model in models:
            require()
            await self._prepare(_import_torch)  # it takes seconds: not on the engine's loop
            ref = await self._prepare(self._resolved, model)
            await self._prepare(self._vocabulary, ref)
            runs.append(await self._errand(partial(_touch, ref), ref, None))
        return runs

    async def open(self, request: Request) -> AsyncIterator[Chunk | Generation]:
        """Start ``request``; see :meth:`fslm_core.backends.protocol.Backend.open`."""
        require()
        from .worker import Mailbox, Task

        if not 1 <= request.n <= self.capabilities.n:
            raise CapabilityError(
                "the request asks for more outputs than a batch has rows",
                where=f"stage {request.model.stage}",
                found=request.n,
                expected=f"from 1 to {self.capabilities.n}",
                hint="raise torch.max_batch",
            )
        mailbox = Mailbox()
        task = Task(
            mailbox,
            deadline=request.deadline,
            priority=request.priority,
            group=request.group or request.id,
            run=request.run or request.id,
        )
        asked = time.monotonic()
        try:
            await self._within(request.deadline, self._prepare(self._fill, request, task, asked))
            self._running().submit(task)
            left = request.n
            while left:
                letter = await mailbox.get(request.deadline)
                if isinstance(letter, Chunk | Generation):
                    left -= isinstance(letter, Generation)
                    yield letter
        finally:
            task.over = True

    async def score(self, request: Request, continuations: Sequence[str]) -> tuple[float, ...]:
        """Return the natural-log likelihood of each continuation after the request's prompt."""
        require()
        ref, prompt, ends = await self._within(
            request.deadline, self._prepare(self._encode_all, request, tuple(continuations))
        )
        scores: list[float] = []
        for start in range(0, len(ends), _SCORED):
            part = ends[start : start + _SCORED]
            scores += await self._errand(partial(_score, ref, prompt, part), ref, request)
        return tuple(scores)

    async def aclose(self) -> None:
        """Stop within one forward, let go of the models."""
        with self._guard:
            self._closed = True
            worker, self._worker = self._worker, None
        if worker is not None:
            await asyncio.to_thread(worker.close)
        self._preparer.shutdown(wait=False, cancel_futures=True)
        self._vocabularies.clear()

    def _running(self) -> Worker:
        from .worker import Worker, closed

        with self._guard:
            if self._closed:
                raise closed()
            if self._worker is None:
                self._worker = Worker(self._settings, self._on_forward)
            return self._worker

    async def _prepare(self, work: Callable[..., T], *args: Any) -> T:
        if self._closed:
            from .worker import closed

            raise closed()
        return await asyncio.get_running_loop().run_in_executor(self._preparer, work, *args)

    @staticmethod
    async def _within(deadline: float | None, work: Any) -> Any:
        from .worker import late

        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic())):
                return await work
        except TimeoutError:
            raise late() from None

    async def _errand(self, errand: Callable[[Hosted], T], ref: ModelRef, request: Request | None) -> T:
        from .worker import Done, Mailbox, Task

        deadline = request.deadline if request else None
        task = Task(Mailbox(), ref, errand=errand, deadline=deadline, priority=request.priority if request else 0)
        try:
            self._running().submit(task)
            done = await task.mailbox.get(deadline)
            assert isinstance(done, Done)
            answer: T = done.answer
            return answer
        finally:
            task.over = True

    # What follows runs on the preparing thread.

    def _resolved(self, ref: ModelRef) -> ModelRef:
        if ref.path is None:
            raise BackendError(
                "the torch backend needs the checkpoint's folder",
                where=ref.stage or None,
                found=f"{ref.checkpoint} without a path",
                hint="fetch it: `fslm models pull`",
            )
        if ref.adapter is not None and ref.adapter_sha256 is None:
            return replace(ref, adapter_sha256=folders.inspect(ref.adapter).sha256)
        return ref

    def _vocabulary(self, ref: ModelRef) -> Vocabulary:
        from .vocabulary import Vocabulary

        assert ref.path is not None
        if ref.path not in self._vocabularies:
            self._vocabularies[ref.path] = Vocabulary(ref.path)
        return self._vocabularies[ref.path]

    def _encode(self, request: Request, vocabulary: Vocabulary, max_tokens: int) -> Encoded:
        return encode(
            request.prompt,
            vocabulary.tokenizer,
            context=vocabulary.context,
            max_tokens=max_tokens,
            on_overflow=request.on_overflow,
        )

    def _fill(self, request: Request, task: Task, asked: float) -> None:
        """Give the task its model and rows; ``asked`` is when the request came, :func:`time.monotonic` seconds."""
        task.ref = self._resolved(request.model)
        vocabulary = self._vocabulary(task.ref)
        prompt = self._encode(request, vocabulary, request.max_tokens)
        task.rows = [_row(request, index, prompt, vocabulary, task, asked) for index in range(request.n)]

    def _encode_all(self, request: Request, continuations: Sequence[str]) -> tuple[ModelRef, Ids, list[Ids]]:
        ref = self._resolved(request.model)
        vocabulary = self._vocabulary(ref)
        ends = [encode_text(text, vocabulary.tokenizer) for text in continuations]
        prompt = self._encode(request, vocabulary, max(map(len, ends), default=0))
        return ref, prompt.ids, ends


def _import_torch() -> None:
    with imports:
        import_module(f"{__package__}.worker")


def _row(request: Request, index: int, prompt: Encoded, vocabulary: Vocabulary, task: Task, asked: float) -> Row:
    from .row import Row

    mailbox: Mailbox = task.mailbox
    return Row(
        prompt=prompt,
        index=index,
        max_tokens=request.max_tokens,
        sampling=request.sampling,
        seed=request.seed,
        ends=frozenset(vocabulary.ends),
        grammar=vocabulary.grammar(request.grammar) if request.grammar is not None else None,
        writer=vocabulary.writer(),
        emit=lambda text: mailbox.put(Chunk(text, index)),
        stopped=task.stopped,
        submitted=asked,
    )


def _touch(ref: ModelRef, hosted: Hosted) -> str:
    return hosted.runs(ref)


def _score(ref: ModelRef, prompt: Ids, continuations: Sequence[Ids], hosted: Hosted) -> list[float]:
    return hosted.likelihoods(prompt, continuations, ref)


__all__ = ["TorchBackend"]

"""Candidates: another adapter runs beside a step, on the same prompt and schema; it is recorded and never returned.

A run never waits for a candidate, is never slowed and never fails by one: a candidate begins when its run has ended, as
a task of the engine, of lower priority than any run; it is stopped after :data:`LIMIT_SECONDS`. They are bounded in
number (:data:`AT_ONCE`): one for which there is no room is not drawn up, and the record says ``skipped``. Where the run
was cancelled, or the engine closed, before the candidate was done, the record says ``cancelled``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel

from ..backends.protocol import Backend, Generation, ModelRef
from ..errors import FslmError, shorten
from ..events import Event, ShadowDrawn, ShadowFinished
from ..message import CANDIDATE, Attempt, Message, Origin, Problem, Usage, derive_seed, digest, node_id
from ..plugins import PluginHost
from ..prompt import Prompt
from ..schema import Schema, content_id, dumps, plain_data
from ..stage import Stage
from .asking import answer, confidence_of, judge, request_of
from .run import Run

PRIORITY = 1
"""Of a candidate's request; a run's own have 0, and go first."""
AT_ONCE = 64
"""So many candidates may be at work in an engine, or as many as it lets runs in where that is more."""
LIMIT_SECONDS = 60.0
"""A candidate that is not done by then is stopped."""
_DRAWN_DIGITS = 13
"""Hexadecimal digits of the hash that decides: 52 bits, which a float holds exactly."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model to try beside a step, in this share of the runs, 0 to 1."""

    ref: ModelRef
    origin: Origin
    share: float


def drawn(run: str, seed: int, step: str, share: float) -> bool:
    """Whether a candidate runs beside this step of this run: decided by a hash, so that whoever asks gets one answer.

    >>> drawn("01JD", 0, "intent", 1.0), drawn("01JD", 0, "intent", 0.0)
    (True, False)
    """
    return int(digest("shadow", run, str(seed), step)[:_DRAWN_DIGITS], 16) / (1 << 4 * _DRAWN_DIGITS) < share


class Shadows:
    """The candidates of one engine. Used on the engine's loop only.

    Args:
        tell: records an event and tells observers.
        most: candidates at once; those that wait for the end of their run count too.
        seconds: after which one is stopped.

    Attributes:
        skipped: candidates that were left out, for there were so many.
    """

    def __init__(
        self,
        backend: Backend,
        host: PluginHost,
        tell: Callable[[Event], Awaitable[None]],
        most: int,
        seconds: float = LIMIT_SECONDS,
    ) -> None:
        self.backend = backend
        self.host = host
        self.most = most
        self.seconds = seconds
        self.skipped = 0
        self._tell = tell
        self._alive: set[asyncio.Task[None]] = set()

    @property
    def alive(self) -> int:
        """Candidates that are at work, or wait for their run to end."""
        return len(self._alive)

    @property
    def has_room(self) -> bool:
        """Whether another may begin."""
        return self.alive < self.most

    def start(self, work: Any) -> asyncio.Task[None]:
        """Let a candidate's work run by itself."""
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._alive.add(task)
        task.add_done_callback(self._alive.discard)
        return task

    async def tell(self, event: Event) -> None:
        """Record an event; where it cannot be, it is counted as lost, and nobody fails by it."""
        with suppress(FslmError):
            await self._tell(event)

    async def settle(self, timeout: float | None = None) -> bool:
        """Wait until what became of every candidate is told; False where ``timeout`` seconds were not enough."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._alive:
                    await asyncio.wait(self._alive)
        return not self._alive

    async def aclose(self) -> None:
        """Stop what is at work; the records say ``cancelled``."""
        for task in self._alive:
            task.cancel()
        await asyncio.gather(*self._alive, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Work:
    """What a candidate is asked, as its step is; ``path`` is the step's, ``plain`` the same without indices."""

    plain: str
    path: str
    stage: Stage[Any, Any]
    candidate: Candidate
    input: BaseModel
    prompt: Prompt
    schema: Schema
    parents: tuple[str, ...]


@dataclass
class _Made:
    """What came of it so far."""

    status: Literal["ok", "failed", "cancelled"] = "cancelled"
    attempts: list[Attempt] = field(default_factory=list)
    content: Any = None
    confidence: Mapping[str, float] | None = None
    started: float = field(default_factory=time.time)


class Beside:
    """The candidates beside one run's steps.

    Args:
        candidates: by step.
        group: whose work it is, of those that share the backend alike.
    """

    def __init__(self, shadows: Shadows, run: Run[Any], candidates: Mapping[str, Candidate], group: str) -> None:
        self._shadows = shadows
        self._run = run
        self._candidates = candidates
        self._group = group
        self._over = asyncio.Event()
        self._waiting: list[asyncio.Task[None]] = []
        self._skipped: list[ShadowFinished] = []

    def step(
        self,
        plain: str,
        path: str,
        stage: Stage[Any, Any],
        input: BaseModel,
        prompt: Prompt,
        schema: Schema,
        parents: tuple[str, ...],
    ) -> None:
        """The step is about to be asked this: so will its candidate be, if it has one and the draw falls on it.

        Args:
            plain: the step's path without indices, by which candidates are known.
            path: the same with them.
        """
        candidate = self._candidates.get(plain)
        if candidate is None or not drawn(self._run.id, self._run.seed, path, candidate.share):
            return
        work = _Work(plain, path, stage, candidate, input, prompt, schema, parents)
        if not self._shadows.has_room:
            self._shadows.skipped += 1
            self._skipped.append(self._finished(work, "skipped", _Made()))
        else:
            self._waiting.append(self._shadows.start(self._go(work)))

    async def over(self, *, cancelled: bool) -> None:
        """The run has ended, and that is told. Where it was cancelled nobody wants to know of its candidates either."""
        for task in self._waiting if cancelled else ():
            task.cancel()
        self._over.set()
        for event in self._skipped:
            await self._shadows.tell(event)

    async def _go(self, work: _Work) -> None:
        made = _Made()
        with suppress(asyncio.CancelledError):
            await self._shadows.tell(ShadowDrawn(self._run.id, work.path, self._node(work)))
            await self._over.wait()
            made.started = time.time()
            await self._within_limit(work, made)
        await self._shadows.tell(self._compared(work, made))

    async def _within_limit(self, work: _Work, made: _Made) -> None:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self._shadows.seconds):
                await self._ask(work, made)
        except TimeoutError:
            self._failed(work, made, f"it was not done within {self._shadows.seconds:g} s, and was stopped", began)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # whatever it raises is its own failure, a call for an exit too
            what = error.what if isinstance(error, FslmError) else shorten(str(error))
            self._failed(work, made, f"{type(error).__name__}: {what}", began)

    async def _ask(self, work: _Work, made: _Made) -> None:
        """As the step asks: as many attempts, the same seeds, one prompt."""
        stage, shadows = work.stage, self._shadows
        where = f"stack {self._run.stack}, step {work.path}, its candidate"
        for index in range(stage.decoding.attempts):
            began = time.perf_counter()
            request = request_of(
                stage,
                work.prompt,
                work.schema,
                work.candidate.ref,
                id=self._node(work, index),
                seed=derive_seed(self._run.seed, work.path, 0, index),
                priority=PRIORITY,
                group=self._group or self._run.id,
                input=content_id(work.input),
            )
            generation: Generation = await answer(shadows.backend, request, where)
            judged = time.perf_counter()
            content, attempt = judge(shadows.host, stage, work.input, work.schema, generation, index)
            ended = time.perf_counter()
            usage = replace(attempt.usage, validate=ended - judged, seconds=ended - began)
            made.attempts.append(replace(attempt, prompt=work.prompt, usage=usage))
            if content is not None:
                content_id(content)  # what cannot be written as JSON is no message
                made.status, made.content, made.confidence = "ok", content, confidence_of(generation)
                return
        made.status = "failed"

    def _failed(self, work: _Work, made: _Made, why: str, began: float) -> None:
        made.status, made.content = "failed", None
        usage = Usage(seconds=time.perf_counter() - began)
        problem = Problem("error", why)
        made.attempts.append(
            Attempt(len(made.attempts), work.prompt, "", (problem,), usage=usage, finish_reason="error")
        )

    def _compared(self, work: _Work, made: _Made) -> ShadowFinished:
        """What became of the candidate, beside what the step said."""
        finished = self._finished(work, made.status, made)
        if made.status != "ok":
            return finished
        message: Message[Any] = Message(
            work.path,
            made.content,
            node_id=finished.node_id,
            content_id=content_id(made.content),
            parents=work.parents,
            attempts=finished.attempts,
            usage=sum((a.usage for a in made.attempts), Usage()),
            confidence=made.confidence,
            origin=work.candidate.origin,
            narrowed=work.schema.tree if work.stage.narrow else None,
            started=made.started,
        )
        told = self._run.messages.get(work.path)
        if not isinstance(told, Message):
            return replace(finished, message=message)
        fields = _agreement(plain_data(told.content), plain_data(made.content))
        return replace(finished, message=message, same=all(fields.values()), fields=fields)

    def _finished(
        self,
        work: _Work,
        status: Literal["ok", "failed", "cancelled", "skipped"],
        made: _Made,
    ) -> ShadowFinished:
        tried = tuple(made.attempts)
        return ShadowFinished(
            self._run.id,
            work.path,
            self._node(work, tried[-1].index if tried else 0),
            status,
            work.candidate.origin,
            attempts=tried,
            parents=work.parents,
            started=made.started,
        )

    def _node(self, work: _Work, index: int = 0) -> str:
        return node_id(self._run.id, f"{work.path}{CANDIDATE}", 0, index)


def _agreement(said: Mapping[str, Any], candidate: Mapping[str, Any]) -> dict[str, bool]:
    """Field by field, whether two messages of one model say the same."""
    return {name: dumps(value) == dumps(candidate[name]) for name, value in said.items()}


__all__ = ["AT_ONCE", "LIMIT_SECONDS", "PRIORITY", "Beside", "Candidate", "Shadows", "drawn"]

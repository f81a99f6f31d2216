"""How one stage makes one message: its function is called, or its model is asked, and what came is judged."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from ..backends.protocol import Backend, ModelRef
from ..errors import StageFailedError
from ..events import AttemptFailed, RunEvent, TextWritten
from ..message import Attempt, Message, Origin, Problem, Usage, derive_seed, digest, node_id
from ..plugins import PluginHost
from ..schema import Schema, canonical, content_id
from ..stack import Node
from ..stage import Decoding, Stage
from .asking import answer, confidence_of, judge, request_of
from .past import Past
from .run import Run
from .shadow import Beside
from .tools import ToolRunner

SEMANTICS = "1"
"""Part of every ``work_key``; raised when the engine would do the same work otherwise."""


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of work: what is to be done, where, and by whom.

    Attributes:
        path: of the step, with indices.
        where: the place that errors name.
        model: None for a tool.
        decoding: in place of the stage's own, where given.
        plain: the path without indices.
    """

    node: Node
    path: str
    where: str
    origin: Origin
    model: ModelRef | None
    decoding: Decoding | None
    plain: str


@dataclass(frozen=True)
class Maker:
    """Makes the messages of one run's stages. ``look`` is what errors say to do next."""

    run: Run[Any]
    backend: Backend
    host: PluginHost
    tools: ToolRunner
    emit: Callable[[RunEvent], Awaitable[None]]
    deadline: float | None
    group: str
    beside: Beside | None
    look: str
    past: Past | None = None

    async def make(self, work: Work, value: BaseModel, parents: tuple[str, ...]) -> Message[Any]:
        """Make one message.

        Raises:
            FslmError: there is none.
        """
        assert isinstance(work.node, Stage)
        if work.node.tool is not None:
            return await self._tool(work, work.node, value, parents)
        return await self._slm(work, work.node, value, parents)

    async def _tool(
        self, work: Work, stage: Stage[Any, Any], value: BaseModel, parents: tuple[str, ...]
    ) -> Message[Any]:
        assert stage.tool is not None
        key = digest(SEMANTICS, work.origin.fingerprint, canonical(value)) if stage.tool.pure else ""
        if (made := self._again(work, stage, key)) is not None:
            return made
        began = time.perf_counter()
        try:
            scored = await self.tools.call(stage, value, work.where)
        except StageFailedError as error:
            problems = error.problems or (Problem("tool", error.what),)
            lost = Usage(seconds=time.perf_counter() - began)
            await self._failed(work, Attempt(0, None, "", tuple(problems), lost), parents)
            raise
        raw = canonical(scored.output)
        judged = time.perf_counter()
        refused = self.host.check_message(stage, scored.output, value)
        ended = time.perf_counter()
        usage = Usage(seconds=ended - began, validate=ended - judged)
        attempt = Attempt(0, None, raw, tuple(refused), usage)
        if refused:
            await self._failed(work, attempt, parents)
            raise StageFailedError(
                "the message was refused", where=work.where, problems=refused, attempts=[attempt], hint=self.look
            )
        return self._made(work, scored.output, (attempt,), dict(scored.confidence) or None, key, None)

    async def _slm(
        self, work: Work, stage: Stage[Any, Any], value: BaseModel, parents: tuple[str, ...]
    ) -> Message[Any]:
        assert work.model is not None
        began = time.perf_counter()
        schema = stage.narrowed(value)
        if self.past is not None:
            before = self._key(work, value, schema, self.past.attempt(work.path))
            if (made := self._again(work, stage, before)) is not None:
                return made
        prompt = stage.render(value)
        rendered = time.perf_counter() - began
        if self.beside is not None:
            self.beside.step(work.plain, work.path, stage, value, prompt, schema, parents)

        given = content_id(value)
        decoding = work.decoding or stage.decoding
        attempts: list[Attempt] = []
        for index in range(decoding.attempts):
            request = request_of(
                stage,
                prompt,
                schema,
                work.model,
                decoding=decoding,
                id=node_id(self.run.id, work.path, 0, index),
                seed=self._seed(work, index),
                deadline=self.deadline,
                group=self.group or self.run.id,
                run=self.run.id,
                input=given,
            )
            generation = await answer(self.backend, request, work.where, self._written(work.path, index))
            judged = time.perf_counter()
            content, attempt = judge(self.host, stage, value, schema, generation, index)
            ended = time.perf_counter()
            times = replace(attempt.usage, render=rendered, validate=ended - judged, seconds=ended - began)
            attempt = replace(attempt, prompt=prompt, usage=times)
            attempts.append(attempt)
            began, rendered = ended, 0.0
            if content is not None:
                key = self._key(work, value, schema, index)
                narrowed = schema.tree if stage.narrow else None
                return self._made(work, content, tuple(attempts), confidence_of(generation), key, narrowed)
            await self._failed(work, attempt, parents)
        raise StageFailedError(
            f"the stage {stage.name} gave no valid message",
            where=work.where,
            problems=attempts[-1].problems,
            attempts=attempts,
            hint=self.look,
        )

    def _seed(self, work: Work, attempt: int) -> int:
        return derive_seed(self.run.seed, work.path, 0, attempt)

    def _key(self, work: Work, value: BaseModel, schema: Schema, attempt: int) -> str:
        """Says "the same work" of what a model does in one attempt."""
        assert isinstance(work.node, Stage)
        decoding = work.decoding or work.node.decoding
        sampled = [str(self._seed(work, attempt)) if decoding.temperature > 0 else None]
        if work.decoding is not None:
            sampled.append(repr(work.decoding))
        return digest(SEMANTICS, work.origin.fingerprint, canonical(value), schema.id, *sampled)

    def _again(self, work: Work, stage: Stage[Any, Any], key: str) -> Message[Any] | None:
        """What an earlier run said here, where this one replays it and would do the same work."""
        return None if self.past is None else self.past.again(stage, work.path, self.run.id, work.origin, key)

    def _written(self, path: str, attempt: int) -> Callable[[str], Awaitable[None]]:
        """Tells of each piece that an attempt writes."""
        pieces: list[str] = []

        async def written(text: str) -> None:
            pieces.append(text)
            await self.emit(TextWritten(self.run.id, path, text, attempt, pieces, len(pieces)))

        return written

    async def _failed(self, work: Work, attempt: Attempt, parents: tuple[str, ...]) -> None:
        place = node_id(self.run.id, work.path, 0, attempt.index)
        started = time.time() - attempt.usage.seconds
        await self.emit(AttemptFailed(self.run.id, work.path, place, attempt, work.origin, parents, started))

    def _made(
        self,
        work: Work,
        content: BaseModel,
        attempts: tuple[Attempt, ...],
        confidence: Mapping[str, float] | None,
        work_key: str,
        narrowed: Mapping[str, Any] | None,
    ) -> Message[Any]:
        return Message(
            work.path,
            content,
            node_id=node_id(self.run.id, work.path, 0, attempts[-1].index),
            content_id=content_id(content),
            work_key=work_key,
            attempts=attempts,
            usage=sum((a.usage for a in attempts), Usage()),
            confidence=confidence,
            origin=work.origin,
            narrowed=narrowed,
        )


__all__ = ["SEMANTICS", "Maker", "Work"]

"""``scripted``: answers written in advance, for tests. No model, no tokens to wait for, no chance."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from ..errors import CapabilityError, DeadlineExceeded, EngineStateError, UnknownNameError
from .protocol import Capabilities, Chunk, Counts, Generation, ModelRef, Request, Times

Answer = str | BaseException
Script = Answer | Sequence[Answer] | Callable[[Request], str]


class ScriptedBackend:
    """Answers every stage from a script.

    A string is the answer every time; a sequence gives its members one after another and then the last for
    good; a function makes the answer of the request. An exception among them is raised. One word is one token.

    Args:
        answers: the script of each stage, by name.
        gate: an answer is only begun when this event is set; keep it unset to see what waiting does.

    Attributes:
        requests: every request opened, in order.
        closed_early: the ids of requests that were given up before their answer was whole.

    >>> async def ask(backend, request):
    ...     return [piece async for piece in backend.open(request)][-1].text
    >>> from fslm_core.prompt import Prompt
    >>> request = Request("1", Prompt(()), ModelRef("none", stage="greet"), grammar=None, max_tokens=9)
    >>> asyncio.run(ask(ScriptedBackend({"greet": "Good day"}), request))
    'Good day'
    """

    name = "scripted"

    def __init__(self, answers: Mapping[str, Script] | None = None, *, gate: asyncio.Event | None = None) -> None:
        self._answers = dict(answers or {})
        self._gate = gate
        self._given: dict[str, int] = {}
        self._closed = False
        self.requests: list[Request] = []
        self.closed_early: list[str] = []
        self.warmed: list[ModelRef] = []

    @property
    def capabilities(self) -> Capabilities:
        """Any number of outputs, no weights, no log-probabilities."""
        return Capabilities(logprobs=False, score=False, n=64, weights=False)

    async def warm(self, models: Sequence[ModelRef]) -> Sequence[str]:
        """Remember which models were asked for."""
        self.warmed += models
        return [""] * len(models)

    async def open(self, request: Request) -> AsyncIterator[Chunk | Generation]:
        """Stream the script's answer for ``request.model.stage`` word by word.

        Raises:
            UnknownNameError: the script has no such stage.
            DeadlineExceeded: the deadline passed while waiting for the gate.
        """
        self._refuse_when_closed()
        self.requests.append(request)
        started = time.monotonic()
        whole = False
        try:
            await self._wait(request)
            queued = time.monotonic() - started
            for index in range(request.n):
                generation = _generation(self._next(request), index, request, queued)
                for text in generation.texts:
                    yield Chunk(text, index)
                    await asyncio.sleep(0)
                whole = index == request.n - 1
                yield generation
        finally:
            if not whole:
                self.closed_early.append(request.id)

    async def score(self, request: Request, continuations: Sequence[str]) -> tuple[float, ...]:
        """Raise: a script has no likelihoods."""
        raise CapabilityError(
            "the scripted backend cannot score", where=f"stage {request.model.stage}", hint="use the torch backend"
        )

    async def aclose(self) -> None:
        """Refuse what comes after."""
        self._closed = True

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise EngineStateError("the backend is closed", where="the scripted backend", hint="open a new engine")

    async def _wait(self, request: Request) -> None:
        left = None if request.deadline is None else max(0.0, request.deadline - time.monotonic())
        try:
            async with asyncio.timeout(left):
                await asyncio.sleep(0)
                if self._gate is not None:
                    await self._gate.wait()
        except TimeoutError:
            raise DeadlineExceeded(
                "the time allowed has passed", where=f"stage {request.model.stage}", hint="allow more time"
            ) from None

    def _next(self, request: Request) -> str:
        stage = request.model.stage
        if stage not in self._answers:
            hint = "give the script an answer for it"
            raise UnknownNameError.of("scripted stage", stage, self._answers, where="the script", hint=hint)
        script = self._answers[stage]
        if callable(script):
            return script(request)
        if isinstance(script, Sequence) and not isinstance(script, str):
            turn = self._given.get(stage, 0)
            self._given[stage] = turn + 1
            script = script[min(turn, len(script) - 1)]
        if isinstance(script, BaseException):
            raise script
        return script


def _generation(text: str, index: int, request: Request, queued: float) -> Generation:
    """``text`` as a generation, cut at ``max_tokens`` words."""
    words = text.split(" ")
    texts = tuple([w + " " for w in words[:-1]] + words[-1:]) if text else ()
    kept = texts[: request.max_tokens]
    return Generation(
        text="".join(kept),
        index=index,
        texts=kept,
        forced=(False,) * len(kept),
        finish_reason="stop" if len(kept) == len(texts) else "length",
        counts=Counts(prompt=sum(len(s.text.split()) for s in request.prompt.spans), output=len(kept), forwards=1),
        times=Times(queued=queued),
    )


__all__ = ["Answer", "Script", "ScriptedBackend"]

"""The engine: opens a backend, checks and warms stacks, runs them, and keeps what it promises about each run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from pydantic import BaseModel

from .. import backends
from ..backends.protocol import Backend, Capabilities
from ..checkpoints import Progress
from ..errors import EngineStateError
from ..events import RunEvent
from ..message import Origin
from ..plugins import PluginHost
from ..prompt import Prompt
from ..settings import Settings, default
from ..stack import Stack
from ..store import ContentMode, Sessions, StoredRun
from .check import Report, check_stack
from .flow import Driven, from_iterable, from_loop
from .observers import Observer
from .run import Outcome, Run
from .scoring import Likelihood
from .works import Works, find

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)


class Engine:
    """Runs stacks. Open it with ``with`` or ``async with``; every method is safe from any thread or event loop.

    An open engine belongs to the process that opened it. In a fork of that process every use of it raises
    :class:`EngineStateError`, and closing it does nothing; open another there.

    Args:
        stacks: stacks, or names of installed ones, to check and warm when the engine opens. Others are checked and
            warmed when they are first run.
        settings: all settings; those of the process by default.
        host: where named stacks and plugins come from; one for these settings by default.
        backend: a backend, or the name of one, in place of what the settings say.
        max_in_flight: runs at once; ``arun`` and ``run`` beyond that raise :class:`EngineBusy`, ``map`` waits.
        threads: CPU threads for the backend; 0 leaves it to torch.
        content: what the trace keeps: ``full`` text, ``redacted``, or ``none`` (shape, scores, times, keyed hashes).
            The settings' choice, else ``none``.
        trace: False keeps no trace at all.
        strict: make errors of the check's warnings.
        locked: refuse what differs from the lock file (``settings.lock_file``); the settings' choice by default.
        progress: told of downloads and conversions.
        observers: functions that are called with every :data:`~fslm_core.events.Event`, beside those of plugins: on one
            thread of their own behind a bounded queue, so that none of them can slow or break a run.
        wait: whether opening waits until ``stacks`` are warm. With False the engine is open at once, for a service that
            should answer health checks meanwhile; :attr:`ready` says when it is warm, or why it will not be.

    >>> from fslm_core import tool
    >>> class Text(BaseModel):
    ...     text: str
    >>> class Loud(BaseModel):
    ...     loud: str
    >>> @tool("demo.shout", version="1", pure=True)
    ... def shout(message: Text) -> Loud:
    ...     return Loud(loud=message.text.upper())
    >>> demo = Stack("demo", input=Text, output=Loud, steps=[shout])
    >>> with Engine(stacks=[demo], trace=False) as engine:
    ...     engine.run(demo, {"text": "hello"}).output.loud
    'HELLO'
    """

    def __init__(
        self,
        stacks: Sequence[Stack[Any, Any] | str] = (),
        *,
        settings: Settings | None = None,
        host: PluginHost | None = None,
        backend: Backend | str | None = None,
        max_in_flight: int = 64,
        threads: int | None = None,
        content: ContentMode | None = None,
        trace: bool = True,
        strict: bool = False,
        locked: bool | None = None,
        progress: Progress | None = None,
        observers: Sequence[Observer] = (),
        wait: bool = True,
    ) -> None:
        chosen = settings or default()
        if threads is not None:
            chosen = chosen.model_copy(update={"torch": chosen.torch.model_copy(update={"threads": threads})})
        if locked is not None:
            chosen = chosen.model_copy(update={"locked": locked})
        if max_in_flight < 1:
            raise EngineStateError(
                "max_in_flight is out of range",
                where="Engine(max_in_flight=…)",
                found=max_in_flight,
                expected="at least 1",
                hint="leave it out, and 64 runs are let in",
            )
        self.settings = chosen
        self.host = host or PluginHost(chosen)
        self.max_in_flight = max_in_flight
        self._stacks = tuple(stacks)
        self._backend_asked = backend
        self._content: ContentMode = content or chosen.trace.content or "none"
        self._trace = trace
        self._strict = strict
        self._progress = progress
        self._observers = tuple(observers)
        self._wait = wait
        self._opened: Works | None = None
        self._records_lost = 0
        self._closed = False

    # -- opening and closing ------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        works = self._open()
        try:
            if self._wait:
                works.loop.wait(works.warm(self._stacks))
            else:
                works.warm_behind(self._stacks)
        except BaseException:
            self.close()
            raise
        return self

    async def __aenter__(self) -> Self:
        works = self._open()
        try:
            if self._wait:
                await asyncio.wrap_future(works.loop.submit(works.warm(self._stacks)))
            else:
                works.warm_behind(self._stacks)
        except BaseException:
            await self.aclose()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _open(self) -> Works:
        if self._opened is not None:
            self._opened.loop.usable()
            raise EngineStateError("the engine is open already", where="Engine", hint="use the one that is open")
        if self._closed:
            raise EngineStateError("the engine is closed", where="Engine", hint="open a new Engine")
        asked = self._backend_asked
        backend = (
            backends.create(asked or self.settings.backend, self.settings, extra=self.host.backends)
            if asked is None or isinstance(asked, str)
            else asked
        )
        self._opened = Works(
            self.settings,
            self.host,
            backend,
            observers=self._observers,
            content=self._content,
            trace=self._trace,
            strict=self._strict,
            progress=self._progress,
            max_in_flight=self.max_in_flight,
        )
        return self._opened

    @property
    def _works(self) -> Works:
        if self._opened is not None:
            self._opened.loop.usable()
            return self._opened
        if self._closed:
            raise EngineStateError("the engine is closed", where="Engine", hint="open a new Engine")
        raise EngineStateError("the engine is not open", where="Engine", hint="write `with Engine(…) as engine:`")

    @property
    def ready(self) -> bool:
        """Whether it is open and warm: what a service's readiness check asks.

        Raises:
            EngineStateError: it was opened before this process was forked, and will never be ready here.
            FslmError: with ``wait=False``, what kept it from getting warm.
        """
        if self._opened is None:
            return False
        self._opened.loop.refuse_fork()
        return self._opened.is_ready()

    @property
    def records_lost(self) -> int:
        """Events that could not be written to the trace since the engine was opened; it can be asked when closed too.

        Under ``trace.on_failure = "continue"`` the runs went on without them, and observers saw a ``RecordsLost``.
        """
        return self._records_lost if self._opened is None else self._opened.records_lost

    @property
    def traced(self) -> bool:
        """Whether it is open and keeps a trace: False with ``trace=False``, and where ``trace.on_failure`` is
        ``continue`` and the trace could not be opened."""
        return self._opened is not None and self._opened.traced

    @property
    def sessions(self) -> Sessions:
        """The sessions that are kept: ``get``, ``list``, ``fork`` and ``forget`` them. It is closed with the engine.

        Raises:
            SessionError: the settings say that none is kept.
            StoreError: the session store cannot be opened.
        """
        return self._works.turns.store()

    def settle(self, timeout: float | None = None) -> bool:
        """Wait until what became of every candidate so far is recorded (see ``shadow`` in the settings).

        Runs never wait for candidates; a program that is about to close the engine may want to.

        Args:
            timeout: seconds; None waits as long as it takes, which is bounded: a candidate is stopped after a minute.

        Returns:
            False where ``timeout`` was not enough.
        """
        works = self._works
        return works.loop.wait(works.settle(timeout))

    async def asettle(self, timeout: float | None = None) -> bool:
        """As :meth:`settle`, from an event loop."""
        works = self._works
        return await asyncio.wrap_future(works.loop.submit(works.settle(timeout)))

    def close(self) -> None:
        """Cancel what is in flight, record it, and give everything back. Idempotent.

        In a fork of the process that opened it, nothing is done: the engine is the parent's, and goes on there.

        Raises:
            EngineStateError: asked by a run of this engine, which would wait for itself.
        """
        works = self._opened
        if works is not None and works.loop.forked:
            return
        if works is not None:
            works.loop.refuse_own_thread()
        self._opened, self._closed = None, True
        if works is not None:
            try:
                works.close()
            finally:
                self._records_lost = works.records_lost

    async def aclose(self) -> None:
        """As :meth:`close`, from an event loop."""
        await asyncio.to_thread(self.close)

    def check(self, stack: Stack[Any, Any] | str) -> Report:
        """Check a stack for this engine's backend and settings, loading no weight. An engine need not be open for it.

        Raises:
            UnknownNameError: there is no stack of that name.
        """
        return check_stack(
            find(self.host, stack),
            host=self.host,
            settings=self.settings,
            capabilities=self._works.backend.capabilities if self._opened is not None else Capabilities(),
            strict=self._strict,
        )

    def origins(self, stack: Stack[Any, Any] | str) -> Mapping[str, Origin]:
        """Who writes each step's messages, by the step's name: plugin, model, backend, fingerprint.

        It makes the stack ready, as a first run would.

        Raises:
            CheckError: the stack was refused.
            CheckpointError, AdapterError: its models cannot be had or loaded.
        """
        works = self._works
        return works.loop.wait(works.prepare(stack)).origins

    # -- one run ------------------------------------------------------------------------------------------------

    @overload
    def run(
        self,
        stack: Stack[In, Out],
        input: In | Mapping[str, Any],
        *,
        seed: int = 0,
        timeout: float | None = None,
        session: str | None = None,
        state: BaseModel | Mapping[str, Any] | None = None,
    ) -> Run[Out]: ...
    @overload
    def run(
        self,
        stack: str,
        input: Any,
        *,
        seed: int = 0,
        timeout: float | None = None,
        session: str | None = None,
        state: BaseModel | Mapping[str, Any] | None = None,
    ) -> Run[Any]: ...
    def run(
        self,
        stack: Any,
        input: Any,
        *,
        seed: int = 0,
        timeout: float | None = None,
        session: str | None = None,
        state: BaseModel | Mapping[str, Any] | None = None,
    ) -> Run[Any]:
        """Run one input and wait. Not for a thread whose event loop is running: there, await :meth:`arun`.

        Args:
            stack: a stack or the name of an installed one.
            input: an instance of its input model, or a mapping of its fields.
            seed: decides every sampled token of the run.
            timeout: seconds after which the work is stopped; a session's turn waits no longer for those before it.
            session: the id of the session that it is a turn of: it reads what the turn before left, and when it has
                succeeded, what it leaves is written before anyone is told. Turns of one session wait for each other.
                Without one, a stack that has a session begins anew and keeps nothing.
            state: for a stack with a session, what to begin with in place of one; nothing is kept. What it would have
                left is ``run.state``.

        Raises:
            InputError: the input does not fit, or the state.
            CheckError: the stack was refused.
            SessionError: the stack has no session, or this one cannot be gone on with.
            EngineBusy: ``max_in_flight`` runs are in flight, or wait for the session.
            RunFailed: the run ended without an output; it carries the run. One that a person is to review is returned:
                its ``status`` is ``review``, and its ``output`` raises ReviewNeeded.
        """
        works = self._works
        return works.loop.wait(works.run(stack, input, seed, timeout, waits=False, session=session, state=state))

    @overload
    async def arun(
        self,
        stack: Stack[In, Out],
        input: In | Mapping[str, Any],
        *,
        seed: int = 0,
        timeout: float | None = None,
        session: str | None = None,
        state: BaseModel | Mapping[str, Any] | None = None,
    ) -> Run[Out]: ...
    @overload
    async def arun(
        self,
        stack: str,
        input: Any,
        *,
        seed: int = 0,
        timeout: float | None = None,
        session: str | None = None,
        state: BaseModel | Mapping[str, Any] | None = None,
    ) -> Run[Any]: ...
    async def arun(
        self,
        stack: Any,
        input: Any,
        *,
        seed: int = 0,
        timeout: float | None = None,
        session: str | None = None,
        state: BaseModel | Mapping[str, Any] | None = None,
    ) -> Run[Any]:
        """As :meth:`run`, from any event loop. Cancelling it stops the work within one forward."""
        works = self._works
        return await asyncio.wrap_future(
            works.loop.submit(works.run(stack, input, seed, timeout, waits=False, session=session, state=state))
        )

    def replay(
        self,
        run: Run[Any] | StoredRun | str,
        *,
        start: str | None = None,
        edits: Mapping[str, Any] | None = None,
        input: Any = None,
        state: BaseModel | Mapping[str, Any] | None = None,
        stack: Stack[Any, Any] | None = None,
        timeout: float | None = None,
    ) -> Run[Any]:
        """Run an earlier run's stack again, with messages edited; what would do the same work is not done again.

        The new run's ``parent`` is the earlier one's id. Its messages say where they were taken from (``reused``) and
        what was changed in them (``edited``). It reads what a session's turn read, and writes no session.

        Args:
            run: one in hand, one out of a trace, or the id (or its beginning, or ``last``) of one in this engine's.
            start: the step from which all is done anew, by its path. Without it, where something is edited, only what
                changes by it is done; and where nothing is, all of it.
            edits: new values (JSON data) by ``step.field``, ``step[3].field.inner``, ``input.field`` or
                ``session.field``. An edited step is not run. None for a ``step`` leaves it out, if it may be skipped.
            input: in place of the earlier run's input, needed where it was not kept in full.
            state: the same of the session's state.
            stack: in place of the installed stack of that name.

        Raises:
            UnknownNameError: no such run, stack or step.
            UsageError: an edit names no place in a message.
            InputError: the input was not kept and is not given, or does not fit.
            RunFailed: as :meth:`run`; with an InputError in it where what comes of an edit is nothing that the step
                could say.

        >>> from fslm_core import tool
        >>> class Text(BaseModel):
        ...     text: str
        >>> class Loud(BaseModel):
        ...     loud: str
        >>> class Sent(BaseModel):
        ...     sent: str
        >>> @tool("demo.shout", version="1", pure=True)
        ... def shout(message: Text) -> Loud:
        ...     return Loud(loud=message.text.upper())
        >>> @tool("demo.send", version="1", pure=True)
        ... def send(message: Loud) -> Sent:
        ...     return Sent(sent=f"{message.loud}!")
        >>> demo = Stack("demo", input=Text, output=Sent, steps=[shout, send])
        >>> with Engine(content="full") as engine:
        ...     first = engine.run(demo, {"text": "hello"})
        ...     again = engine.replay(first.id, edits={"shout.loud": "HALLO"}, stack=demo)
        >>> first.output.sent, again.output.sent, again.parent == first.id, again.messages["shout"].edited
        ('HELLO!', 'HALLO!', True, ('loud',))
        """
        works = self._works
        return works.loop.wait(works.replay(run, stack, start, edits, input, state, timeout))

    async def areplay(
        self,
        run: Run[Any] | StoredRun | str,
        *,
        start: str | None = None,
        edits: Mapping[str, Any] | None = None,
        input: Any = None,
        state: BaseModel | Mapping[str, Any] | None = None,
        stack: Stack[Any, Any] | None = None,
        timeout: float | None = None,
    ) -> Run[Any]:
        """As :meth:`replay`, from any event loop."""
        works = self._works
        return await asyncio.wrap_future(
            works.loop.submit(works.replay(run, stack, start, edits, input, state, timeout))
        )

    # -- many runs ----------------------------------------------------------------------------------------------

    @overload
    def map(
        self,
        stack: Stack[In, Out],
        inputs: Iterable[In | Mapping[str, Any]],
        *,
        concurrency: int = ...,
        seed: int = ...,
        timeout: float | None = ...,
    ) -> Iterator[Outcome[Out]]: ...
    @overload
    def map(
        self, stack: str, inputs: Iterable[Any], *, concurrency: int = ..., seed: int = ..., timeout: float | None = ...
    ) -> Iterator[Outcome[Any]]: ...
    def map(
        self, stack: Any, inputs: Iterable[Any], *, concurrency: int = 32, seed: int = 0, timeout: float | None = None
    ) -> Iterator[Outcome[Any]]:
        """Run many inputs, ``concurrency`` at a time; outcomes come in the inputs' order. A failed run is an outcome.

        ``inputs`` may be endless: it is read only as far ahead as there is work for. ``timeout`` is for each run.
        """
        works = self._works
        outcomes = Driven(works.map(stack, from_iterable(inputs), concurrency, seed, timeout))
        try:
            while True:
                try:
                    yield works.loop.wait(outcomes.next())
                except StopAsyncIteration:
                    return
        finally:
            if works.loop.alive:
                works.loop.wait(outcomes.close())

    @overload
    def amap(
        self,
        stack: Stack[In, Out],
        inputs: Iterable[In | Mapping[str, Any]] | AsyncIterable[In | Mapping[str, Any]],
        *,
        concurrency: int = ...,
        seed: int = ...,
        timeout: float | None = ...,
    ) -> AsyncIterator[Outcome[Out]]: ...
    @overload
    def amap(
        self,
        stack: str,
        inputs: Iterable[Any] | AsyncIterable[Any],
        *,
        concurrency: int = ...,
        seed: int = ...,
        timeout: float | None = ...,
    ) -> AsyncIterator[Outcome[Any]]: ...
    async def amap(
        self, stack: Any, inputs: Any, *, concurrency: int = 32, seed: int = 0, timeout: float | None = None
    ) -> AsyncIterator[Outcome[Any]]:
        """As :meth:`map`, from any event loop."""
        works = self._works
        source = (
            from_loop(inputs, asyncio.get_running_loop())
            if isinstance(inputs, AsyncIterable)
            else from_iterable(inputs)
        )
        outcomes = Driven(works.map(stack, source, concurrency, seed, timeout))
        try:
            while True:
                try:
                    yield await asyncio.wrap_future(works.loop.submit(outcomes.next()))
                except StopAsyncIteration:
                    return
        finally:
            if works.loop.alive:
                await asyncio.wrap_future(works.loop.submit(outcomes.close()))

    # -- how likely a text is -----------------------------------------------------------------------------------

    def score(
        self, stack: Stack[Any, Any] | str, step: str, prompt: Prompt, texts: Sequence[str], *, greedy: bool = False
    ) -> tuple[Likelihood, ...]:
        """How likely the model of a step is to write each of these texts after a prompt.

        Nothing is run and nothing is recorded; the step's schema is not asked.

        Args:
            step: its path in the stack; a stage with a model stands there.
            prompt: rendered, as an attempt of a run's message has it: ``run.messages[step].attempts[-1].prompt``.
            texts: each from the answer's beginning. Without any, all that could stand in the way is looked at, and
                nothing is scored.
            greedy: find out, too, whether the model left to itself would begin with just this text.

        Raises:
            UnknownNameError: no such stack or step.
            UsageError: no model writes there.
            CapabilityError: the backend cannot score.
            ContextOverflowError: prompt and text do not fit the model's context.
            CheckError, CheckpointError, AdapterError: the stack cannot be made ready.
        """
        works = self._works
        return works.loop.wait(works.score(stack, step, prompt, texts, greedy))

    async def ascore(
        self, stack: Stack[Any, Any] | str, step: str, prompt: Prompt, texts: Sequence[str], *, greedy: bool = False
    ) -> tuple[Likelihood, ...]:
        """As :meth:`score`, from any event loop."""
        works = self._works
        return await asyncio.wrap_future(works.loop.submit(works.score(stack, step, prompt, texts, greedy)))

    # -- events as they happen ----------------------------------------------------------------------------------

    def stream(
        self,
        stack: Stack[Any, Any] | str,
        input: Any,
        *,
        seed: int = 0,
        timeout: float | None = None,
        session: str | None = None,
        state: BaseModel | Mapping[str, Any] | None = None,
    ) -> Iterator[RunEvent]:
        """Run one input and yield its events as they happen, the last of them :class:`RunFinished`.

        Ending the loop early cancels the run. A run that fails does not raise: its ``RunFinished`` has the error.

        Raises:
            InputError, CheckError, EngineBusy: as :meth:`run`.
        """
        works = self._works
        events = Driven(works.stream(stack, input, seed, timeout, session, state))
        try:
            while True:
                try:
                    yield works.loop.wait(events.next())
                except StopAsyncIteration:
                    return
        finally:
            if works.loop.alive:
                works.loop.wait(events.close())

    async def astream(
        self,
        stack: Stack[Any, Any] | str,
        input: Any,
        *,
        seed: int = 0,
        timeout: float | None = None,
        session: str | None = None,
        state: BaseModel | Mapping[str, Any] | None = None,
    ) -> AsyncIterator[RunEvent]:
        """As :meth:`stream`, from any event loop."""
        works = self._works
        events = Driven(works.stream(stack, input, seed, timeout, session, state))
        try:
            while True:
                try:
                    yield await asyncio.wrap_future(works.loop.submit(events.next()))
                except StopAsyncIteration:
                    return
        finally:
            if works.loop.alive:
                await asyncio.wrap_future(works.loop.submit(events.close()))


__all__ = ["Engine"]

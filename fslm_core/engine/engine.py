"""The engine: opens a backend, checks and warms stacks, runs them, and keeps what it promises about each run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from pydantic import BaseModel

from .. import backends
from ..backends.protocol import Backend, Capabilities
from ..checkpoints import Progress
from ..errors import EngineBusy, EngineStateError, FslmError, InputError, RunFailed, StoreError, UsageError
from ..events import Event
from ..message import Origin
from ..plugins import PluginHost
from ..settings import Settings, default
from ..stack import Stack
from ..store import TraceStore
from .check import Report, check_stack
from .flow import Driven, from_iterable, from_loop, in_order
from .loop import LoopThread
from .observers import Observers
from .passage import Listener, Passage, Rooms
from .prepare import Preparer
from .run import Outcome, Run
from .tools import ToolRunner
from .walk import read_input
from .withhold import withholds

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)
Content = Literal["full", "redacted", "none"]

log = logging.getLogger("fslm")


class Engine:
    """Runs stacks. Open it with ``with`` or ``async with``; every method is safe from any thread or event loop.

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
        progress: told of downloads and conversions.

    >>> from fslm_core import Engine                                    # doctest: +SKIP
    >>> with Engine(stacks=["support"]) as engine:                      # doctest: +SKIP
    ...     run = engine.run("support", {"text": "Where is order 123?"})
    ...     run.output.intent
    'track_order'
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
        content: Content | None = None,
        trace: bool = True,
        strict: bool = False,
        progress: Progress | None = None,
    ) -> None:
        chosen = settings or default()
        if threads is not None:
            chosen = chosen.model_copy(update={"torch": chosen.torch.model_copy(update={"threads": threads})})
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
        self.ready = False
        self.max_in_flight = max_in_flight
        self._stacks = tuple(stacks)
        self._backend_asked = backend
        self._content: Content = content or chosen.trace.content or "none"
        self._trace = trace
        self._strict = strict
        self._progress = progress
        self._loop: LoopThread | None = None
        self._closed = False

    # -- opening and closing ------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._begin()
        try:
            self._looping.wait(self._warm())
        except BaseException:
            self.close()
            raise
        return self

    async def __aenter__(self) -> Self:
        self._begin()
        try:
            await asyncio.wrap_future(self._looping.submit(self._warm()))
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

    def _begin(self) -> None:
        if self._closed:
            raise EngineStateError("the engine is closed", where="Engine", hint="open a new Engine")
        if self._loop is not None:
            raise EngineStateError("the engine is open already", where="Engine", hint="use the one that is open")
        asked = self._backend_asked
        self._backend: Backend = (
            backends.create(asked or self.settings.backend, self.settings, extra=self.host.backends)
            if asked is None or isinstance(asked, str)
            else asked
        )
        self._store = self._open_store() if self._trace else None
        recorder = self._store.recorder() if self._store is not None else None
        observers = Observers(self.host.observers, quotes=self._content == "full")
        self._rooms = Rooms(self._backend, self.host, ToolRunner(), recorder, observers, self._content)
        self._preparer = Preparer(self._backend, self.host, self.settings, strict=self._strict, progress=self._progress)
        self._slots = asyncio.Semaphore(self.max_in_flight)
        self._at_work: set[asyncio.Task[Any]] = set()
        self._loop = LoopThread("fslm-engine")

    def _open_store(self) -> TraceStore | None:
        on_failure = self.settings.trace.on_failure
        try:
            return TraceStore.open(self.settings.trace_path, content=self._content, on_failure=on_failure)
        except StoreError as error:
            if on_failure == "fail":
                raise
            log.warning("no trace is kept: %s", error)
            return None

    @property
    def _looping(self) -> LoopThread:
        if self._loop is None and self._closed:
            raise EngineStateError("the engine is closed", where="Engine", hint="open a new Engine")
        if self._loop is None:
            raise EngineStateError("the engine is not open", where="Engine", hint="write `with Engine(…) as engine:`")
        return self._loop

    async def _warm(self) -> None:
        for stack in self._stacks:
            await self._preparer.prepare(self._find(stack))
        self.ready = True

    def close(self) -> None:
        """Cancel what is in flight, record it, and give everything back. Idempotent."""
        loop, self._loop = self._loop, None
        self.ready = False
        self._closed = True
        if loop is None:
            return
        try:
            loop.submit(self._end()).result()
        except EngineStateError:
            return  # a forked child owns none of it
        finally:
            loop.close()
        self._rooms.close()
        if self._store is not None:
            self._store.close()

    async def aclose(self) -> None:
        """As :meth:`close`, from an event loop."""
        await asyncio.to_thread(self.close)

    async def _end(self) -> None:
        for task in list(self._at_work):
            task.cancel()
        await asyncio.gather(*self._at_work, return_exceptions=True)
        await self._backend.aclose()

    def check(self, stack: Stack[Any, Any] | str) -> Report:
        """Check a stack for this engine's backend and settings, loading no weight.

        Raises:
            UnknownNameError: there is no stack of that name.
        """
        return check_stack(
            self._find(stack),
            host=self.host,
            settings=self.settings,
            capabilities=self._backend.capabilities if self._loop is not None else Capabilities(),
            strict=self._strict,
        )

    def origins(self, stack: Stack[Any, Any] | str) -> Mapping[str, Origin]:
        """Who writes each step's messages, by the step's name: plugin, model, backend, fingerprint.

        It makes the stack ready, as a first run would.

        Raises:
            CheckError: the stack was refused.
            CheckpointError, AdapterError: its models cannot be had or loaded.
        """
        return self._looping.wait(self._preparer.prepare(self._find(stack))).origins

    def _find(self, stack: Stack[Any, Any] | str) -> Stack[Any, Any]:
        if isinstance(stack, str):
            return self.host.stack(stack)
        if not isinstance(stack, Stack):
            raise UsageError(
                "what is run is a Stack, or the name of one",
                where="Engine",
                found=type(stack).__name__,
                expected="a Stack or a str",
                hint="wrap a single stage: Stack(name, input=…, output=…, steps=[stage])",
            )
        return stack

    # -- one run ------------------------------------------------------------------------------------------------

    @overload
    def run(
        self, stack: Stack[In, Out], input: In | Mapping[str, Any], *, seed: int = 0, timeout: float | None = None
    ) -> Run[Out]: ...
    @overload
    def run(self, stack: str, input: Any, *, seed: int = 0, timeout: float | None = None) -> Run[Any]: ...
    def run(self, stack: Any, input: Any, *, seed: int = 0, timeout: float | None = None) -> Run[Any]:
        """Run one input and wait. Not for a thread whose event loop is running: there, await :meth:`arun`.

        Args:
            stack: a stack or the name of an installed one.
            input: an instance of its input model, or a mapping of its fields.
            seed: decides every sampled token of the run.
            timeout: seconds after which the work is stopped.

        Raises:
            InputError: the input does not fit.
            CheckError: the stack was refused.
            EngineBusy: ``max_in_flight`` runs are in flight.
            RunFailed: the run ended without an output; it carries the run.
        """
        return self._looping.wait(self._run(stack, input, seed, timeout, waits=False))

    @overload
    async def arun(
        self, stack: Stack[In, Out], input: In | Mapping[str, Any], *, seed: int = 0, timeout: float | None = None
    ) -> Run[Out]: ...
    @overload
    async def arun(self, stack: str, input: Any, *, seed: int = 0, timeout: float | None = None) -> Run[Any]: ...
    async def arun(self, stack: Any, input: Any, *, seed: int = 0, timeout: float | None = None) -> Run[Any]:
        """As :meth:`run`, from any event loop. Cancelling it stops the work within one forward."""
        return await asyncio.wrap_future(self._looping.submit(self._run(stack, input, seed, timeout, waits=False)))

    async def _run(
        self,
        stack: Stack[Any, Any] | str,
        value: Any,
        seed: int,
        timeout: float | None,
        *,
        waits: bool,
        listener: Listener | None = None,
    ) -> Run[Any]:
        task = asyncio.current_task()
        assert task is not None
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)
        found = self._find(stack)
        checked = self._read(found, value)
        prepared = await self._preparer.prepare(found)
        if not waits and self._slots.locked():
            raise EngineBusy(
                f"{self.max_in_flight} runs are in flight",
                where=f"stack {found.name}",
                hint="try again later, use map (which waits), or open the Engine with a larger max_in_flight",
            )
        async with self._slots:
            return await Passage(self._rooms, prepared, checked, seed, timeout, listener).go()

    def _read(self, stack: Stack[Any, Any], value: Any) -> Any:
        try:
            return read_input(stack, value)
        except InputError:
            if not withholds(stack, self._content):
                raise
        return read_input(stack, value, quotes=False)  # raises; here no other exception stands behind it

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
        loop = self._looping
        outcomes = Driven(self._map(stack, from_iterable(inputs), concurrency, seed, timeout))
        try:
            while True:
                try:
                    yield loop.wait(outcomes.next())
                except StopAsyncIteration:
                    return
        finally:
            if self._loop is not None:
                loop.wait(outcomes.close())

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
        source = (
            from_loop(inputs, asyncio.get_running_loop())
            if isinstance(inputs, AsyncIterable)
            else from_iterable(inputs)
        )
        outcomes = Driven(self._map(stack, source, concurrency, seed, timeout))
        try:
            while True:
                try:
                    yield await asyncio.wrap_future(self._looping.submit(outcomes.next()))
                except StopAsyncIteration:
                    return
        finally:
            if self._loop is not None:
                await asyncio.wrap_future(self._looping.submit(outcomes.close()))

    async def _map(
        self, stack: Any, inputs: AsyncIterable[Any], concurrency: int, seed: int, timeout: float | None
    ) -> AsyncGenerator[Outcome[Any], None]:
        if concurrency < 1:
            raise EngineStateError(
                "concurrency is out of range",
                where="map(concurrency=…)",
                found=concurrency,
                expected="at least 1",
                hint="leave it out, or pass how many inputs shall run at once",
            )
        await self._preparer.prepare(self._find(stack))

        async def one(index: int, value: Any) -> Outcome[Any]:
            try:
                return Outcome(index, await self._run(stack, value, seed, timeout, waits=True))
            except RunFailed as failed:
                return Outcome(index, failed.run, failed.error)
            except FslmError as error:
                return Outcome(index, None, error)

        async with aclosing(in_order(inputs, one, concurrency)) as outcomes:
            async for outcome in outcomes:
                yield outcome

    # -- events as they happen ----------------------------------------------------------------------------------

    def stream(
        self, stack: Stack[Any, Any] | str, input: Any, *, seed: int = 0, timeout: float | None = None
    ) -> Iterator[Event]:
        """Run one input and yield its events as they happen, the last of them :class:`RunFinished`.

        Ending the loop early cancels the run. A run that fails does not raise: its ``RunFinished`` has the error.

        Raises:
            InputError, CheckError, EngineBusy: as :meth:`run`.
        """
        loop = self._looping
        events = Driven(self._stream(stack, input, seed, timeout))
        try:
            while True:
                try:
                    yield loop.wait(events.next())
                except StopAsyncIteration:
                    return
        finally:
            if self._loop is not None:
                loop.wait(events.close())

    async def astream(
        self, stack: Stack[Any, Any] | str, input: Any, *, seed: int = 0, timeout: float | None = None
    ) -> AsyncIterator[Event]:
        """As :meth:`stream`, from any event loop."""
        events = Driven(self._stream(stack, input, seed, timeout))
        try:
            while True:
                try:
                    yield await asyncio.wrap_future(self._looping.submit(events.next()))
                except StopAsyncIteration:
                    return
        finally:
            if self._loop is not None:
                await asyncio.wrap_future(self._looping.submit(events.close()))

    async def _stream(self, stack: Any, value: Any, seed: int, timeout: float | None) -> AsyncGenerator[Event, None]:
        events: Listener = asyncio.Queue()

        async def go() -> None:
            try:
                await self._run(stack, value, seed, timeout, waits=False, listener=events)
            except RunFailed:
                pass
            except BaseException as error:
                events.put_nowait(error)
                raise
            events.put_nowait(None)

        task = asyncio.create_task(go())
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


__all__ = ["Content", "Engine"]

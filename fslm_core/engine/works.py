"""What there is of an engine while it is open: its loop, its backend, its trace, and the runs at work."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from typing import Any

from ..backends.protocol import Backend
from ..checkpoints import Progress
from ..errors import EngineBusy, EngineStateError, FslmError, RunFailed, StoreError, UsageError
from ..events import RunEvent, RunRefused
from ..plugins import PluginHost
from ..prompt import Prompt
from ..settings import Settings
from ..stack import Stack
from ..store import ContentMode, StoredRun, TraceStore
from .flow import in_order
from .here import hold
from .loop import LoopThread
from .observers import Observer, Observers, named
from .passage import Listener, Passage, Rooms
from .past import Past, begin, of_run, of_stored
from .prepare import Preparer
from .run import Outcome, Run, new_run_id
from .scoring import Likelihood, likelihoods
from .shadow import AT_ONCE, Shadows
from .threads import in_thread
from .tools import ToolRunner
from .turns import Turns, refuse
from .walk import Prepared
from .withhold import read_quietly
from .within import within

AnyStack = Stack[Any, Any] | str

log = logging.getLogger("fslm")


class Works:
    """An open engine. Its coroutines run on :attr:`loop`; everything else may be called from any thread.

    Args:
        observers: those of the program, told beside the plugins'.
        content: what the trace keeps.
        trace: False keeps none.
        max_in_flight: runs let in at once.

    Raises:
        StoreError: the trace cannot be opened, and ``trace.on_failure`` is ``fail``.
        LockError: the settings say ``locked``, and what is installed is not what was locked.
    """

    def __init__(
        self,
        settings: Settings,
        host: PluginHost,
        backend: Backend,
        *,
        observers: Sequence[Observer],
        content: ContentMode,
        trace: bool,
        strict: bool,
        progress: Progress | None,
        max_in_flight: int,
    ) -> None:
        self.backend = backend
        self._ready = False
        self._warming: Future[None] | None = None
        self._host = host
        self._max_in_flight = max_in_flight
        lock = hold(settings, host, backend) if settings.locked else None
        told = [*host.observers, *named(observers)]
        self._store = _open_store(settings, content) if trace else None
        recorder = self._store.recorder() if self._store is not None else None
        self.rooms = Rooms(backend, host, ToolRunner(), recorder, Observers(told, quotes=content == "full"), content)
        self.shadows = Shadows(backend, host, self.rooms.tell, max(AT_ONCE, max_in_flight))
        self._preparer = Preparer(backend, host, settings, strict=strict, progress=progress, lock=lock)
        self.turns = Turns(settings, max_in_flight)
        self._slots = asyncio.Semaphore(max_in_flight)
        self._at_work: set[asyncio.Task[Any]] = set()
        self.loop = LoopThread("fslm-engine")

    async def warm(self, stacks: Sequence[AnyStack]) -> None:
        """Make ``stacks`` ready to run; the engine is ready after it."""
        for stack in stacks:
            await self.prepare(stack)
        self._ready = True

    def warm_behind(self, stacks: Sequence[AnyStack]) -> None:
        """Begin to :meth:`warm`; :meth:`is_ready` says how it went."""
        self._warming = self.loop.submit(self.warm(stacks))

    def is_ready(self) -> bool:
        """Whether everything is warm.

        Raises:
            FslmError: what kept it from getting warm.
        """
        if self._warming is not None and self._warming.done() and (error := self._warming.exception()):
            raise error.with_traceback(None)  # asked every second, one error must not grow
        return self._ready

    async def prepare(self, stack: AnyStack) -> Prepared:
        """Check a stack and load its models, unless that was done."""
        return await self._preparer.prepare(find(self._host, stack))

    async def settle(self, timeout: float | None) -> bool:
        """Wait until every candidate has ended and its record is on the disk; see :meth:`Engine.settle`."""
        done = await self.shadows.settle(timeout)
        if self.rooms.recorder is not None:
            await in_thread(self.rooms.recorder.flush)
        return done

    def close(self) -> None:
        """Cancel what is in flight, record it, and give everything back.

        Raises:
            EngineStateError: asked by a run of this engine, which would wait for itself.
        """
        self.loop.refuse_own_thread()
        self._ready = False
        try:
            self.loop.submit(self._end()).result()
        finally:
            self.loop.close()
            self.rooms.close()
            self.turns.close()
            if self._store is not None:
                self._store.close()

    @property
    def records_lost(self) -> int:
        """Events that could not be written to the trace."""
        return 0 if self.rooms.recorder is None else self.rooms.recorder.lost

    @property
    def traced(self) -> bool:
        """Whether there is a trace to write to."""
        return self._store is not None

    async def _end(self) -> None:
        for task in list(self._at_work):
            task.cancel()
        await asyncio.gather(*self._at_work, return_exceptions=True)
        await self.shadows.aclose()
        await self._preparer.close()
        await self.backend.aclose()

    async def run(
        self,
        stack: AnyStack,
        value: Any,
        seed: int,
        timeout: float | None,
        *,
        waits: bool,
        listener: Listener | None = None,
        group: str = "",
        session: str | None = None,
        state: object = None,
        past: Past | None = None,
    ) -> Run[Any]:
        """One run.

        Args:
            waits: wait for a place where the engine is full, rather than be refused.
            listener: gets the run's events.
            group: whose work it is, of those that share the backend alike; empty for work of its own.
            session: the session that it is a turn of.
            state: what it begins with in place of a session.
            past: the earlier run that it replays.

        Raises:
            InputError, CheckError, EngineBusy, SessionError, RunFailed: see :meth:`Engine.run`.
        """
        self._stopped_at_the_end()
        found = find(self._host, stack)
        checked = read_quietly(found, value, self.rooms.content)
        refuse(found, session, state)
        prepared = await self._preparer.prepare(found)
        if not waits and (self._slots.locked() or self.turns.full(session)):
            raise self._refused(found)
        async with self.turns.of(found, session, state, timeout) as turn, self._slots:
            passage = Passage(self.rooms, prepared, checked, seed, timeout, listener, group, self.shadows, turn, past)
            with within(passage.run.id, passage.run.stack):
                return await passage.go()

    async def replay(
        self,
        run: Run[Any] | StoredRun | str,
        stack: AnyStack | None,
        start: str | None,
        edits: Mapping[str, Any] | None,
        input: Any,
        state: Any,
        timeout: float | None,
    ) -> Run[Any]:
        """An earlier run anew; see :meth:`Engine.replay`."""
        if isinstance(run, Run):
            earlier = of_run(run)
        else:
            earlier = of_stored(await in_thread(self._stored, run) if isinstance(run, str) else run)
        found = find(self._host, earlier.stack if stack is None else stack)
        begun = begin(earlier, found, start=start, edits=edits, input=input, state=state)
        return await self.run(found, begun.input, begun.seed, timeout, waits=False, state=begun.state, past=begun.past)

    def _stored(self, run: str) -> StoredRun:
        if self._store is None:
            raise EngineStateError(
                "the engine has no trace to find the run in",
                where=f"run {run}",
                hint="open the Engine with a trace, or pass the StoredRun: TraceStore.open(…).run(id)",
            )
        return self._store.run(run)

    def _refused(self, stack: Stack[Any, Any]) -> EngineBusy:
        self.rooms.observers.tell(RunRefused(new_run_id(), stack.name, time.time(), self.rooms.load.in_flight))
        return EngineBusy(
            f"{self._max_in_flight} run{'s are' if self._max_in_flight > 1 else ' is'} in flight",
            where=f"stack {stack.name}",
            hint="try again later, use map (which waits), or open the Engine with a larger max_in_flight",
        )

    async def map(
        self, stack: AnyStack, inputs: AsyncIterable[Any], concurrency: int, seed: int, timeout: float | None
    ) -> AsyncGenerator[Outcome[Any], None]:
        """Many runs; see :meth:`Engine.map`."""
        if concurrency < 1:
            raise EngineStateError(
                "concurrency is out of range",
                where="map(concurrency=…)",
                found=concurrency,
                expected="at least 1",
                hint="leave it out, or pass how many inputs shall run at once",
            )
        await self.prepare(stack)
        group = new_run_id()

        async def one(index: int, value: Any) -> Outcome[Any]:
            try:
                run = await self.run(stack, value, seed, timeout, waits=True, group=group)
                return Outcome(index, run, run.error)
            except RunFailed as failed:
                return Outcome(index, failed.run, failed.error)
            except FslmError as error:
                return Outcome(index, None, error)

        async with aclosing(in_order(inputs, one, concurrency)) as outcomes:
            async for outcome in outcomes:
                yield outcome

    async def score(
        self, stack: AnyStack, step: str, prompt: Prompt, texts: Sequence[str], greedy: bool
    ) -> tuple[Likelihood, ...]:
        """How likely a step's model is to write texts; see :meth:`Engine.score`."""
        self._stopped_at_the_end()
        prepared = await self.prepare(stack)
        return await likelihoods(self.backend, prepared, step, prompt, texts, greedy=greedy)

    def _stopped_at_the_end(self) -> None:
        """Have the task that is at work be cancelled where the engine is closed before it ends."""
        task = asyncio.current_task()
        assert task is not None
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)

    async def stream(
        self,
        stack: AnyStack,
        value: Any,
        seed: int,
        timeout: float | None,
        session: str | None = None,
        state: object = None,
    ) -> AsyncGenerator[RunEvent, None]:
        """One run's events; see :meth:`Engine.stream`."""
        events: Listener = asyncio.Queue()

        async def go() -> None:
            try:
                await self.run(stack, value, seed, timeout, waits=False, listener=events, session=session, state=state)
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


def find(host: PluginHost, stack: object) -> Stack[Any, Any]:
    """A stack, given or named.

    Raises:
        UnknownNameError: there is no stack of that name.
        UsageError: it is neither a stack nor a name.
    """
    if isinstance(stack, str):
        return host.stack(stack)
    if not isinstance(stack, Stack):
        raise UsageError(
            "what is run is a Stack, or the name of one",
            where="Engine",
            found=type(stack).__name__,
            expected="a Stack or a str",
            hint="wrap a single stage: Stack(name, input=…, output=…, steps=[stage])",
        )
    return stack


def _open_store(settings: Settings, content: ContentMode) -> TraceStore | None:
    on_failure = settings.trace.on_failure
    try:
        store = TraceStore.open(settings.trace_path, content=content, on_failure=on_failure)
        try:
            store.recorder()
        except BaseException:
            store.close()
            raise
        return store
    except StoreError as error:
        if on_failure == "fail":
            raise
        log.warning("no trace is kept: %s: %s", error.where, error.what)  # its hint is what was chosen here
        return None


__all__ = ["AnyStack", "Works", "find"]

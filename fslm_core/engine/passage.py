"""One run from its start to its end: what is told of it, to whom, and that it is on the disk before anyone is told."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from ..backends.protocol import Backend
from ..errors import DeadlineExceeded, FslmError, InternalError, ReviewNeeded, RunFailed, StoreError, shorten
from ..events import Event, RecordsLost, RunEvent, RunFinished, RunStarted, TextWritten
from ..message import Message, node_id, plain_path
from ..plugins import PluginHost
from ..schema import content_id
from ..stack import INPUT, places
from ..store import ContentMode, Recorder
from .observers import Observers
from .past import Past
from .run import Run, new_run_id
from .shadow import Beside, Shadows
from .tools import ToolRunner
from .turns import Turn
from .walk import Prepared, Walk
from .withhold import withheld

Ended = Literal["succeeded", "failed", "cancelled", "review"]
Listener = asyncio.Queue[RunEvent | BaseException | None]


@dataclass
class Load:
    """What an engine counts of its runs. Touched on the engine's loop only."""

    in_flight: int = 0
    records_lost: int = 0
    """As far as observers were told."""


@dataclass(frozen=True)
class Rooms:
    """What an engine's runs share."""

    backend: Backend
    host: PluginHost
    tools: ToolRunner
    recorder: Recorder | None
    observers: Observers
    content: ContentMode
    load: Load = field(default_factory=Load)

    async def tell(self, event: Event) -> None:
        """Record an event, then tell observers.

        Raises:
            StoreError: it, or an earlier event of its run, could not be recorded.
        """
        if self.recorder is not None and not isinstance(event, TextWritten):
            try:
                await self.recorder.record(event)
            finally:
                self._count_lost(self.recorder)
        self.observers.tell(event)

    def _count_lost(self, recorder: Recorder) -> None:
        if (more := recorder.lost - self.load.records_lost) > 0:
            self.load.records_lost += more
            self.observers.tell(RecordsLost(more))

    def close(self) -> None:
        """Close what is no backend: that one is closed on the engine's loop."""
        self.observers.close()
        self.tools.close()
        if self.recorder is not None:
            self.recorder.close()


class Passage:
    """One passage of one input through a prepared stack.

    Args:
        value: a valid input instance.
        timeout: seconds, or None.
        listener: gets every event, text as it is written among them.
        group: whose work it is, of those that share the backend alike; empty for work of its own.
        shadows: where the candidates of steps run; without it, or without a trace, none does.
        turn: its part in a session, where the stack has one.
        past: the earlier run that it replays.
    """

    def __init__(
        self,
        rooms: Rooms,
        prepared: Prepared,
        value: BaseModel,
        seed: int,
        timeout: float | None,
        listener: Listener | None = None,
        group: str = "",
        shadows: Shadows | None = None,
        turn: Turn | None = None,
        past: Past | None = None,
    ) -> None:
        id = new_run_id()
        given = Message(INPUT, value, node_id=node_id(id, INPUT), content_id=content_id(value), started=time.time())
        self.run: Run[Any] = Run(id, prepared.stack.name, given, seed, session="" if turn is None else turn.id)
        self._rooms = rooms
        self._prepared = prepared
        self._timeout = timeout
        self._listener = listener
        self._group = group
        self._turn = turn
        self._past = past
        self.run.parent = "" if past is None else past.run
        self._beside: Beside | None = None
        if shadows is not None and prepared.candidates and rooms.recorder is not None:
            self._beside = Beside(shadows, self.run, prepared.candidates, group)
        self._began = time.monotonic()

    async def go(self) -> Run[Any]:
        """Run it to its end.

        Returns:
            The run: it succeeded, or a person is to review it.

        Raises:
            RunFailed: it ended otherwise without an output; it carries the run.
            StoreError: it could not be recorded; its session is as it was.
        """
        rooms, run = self._rooms, self.run
        deadline = None if self._timeout is None else self._began + self._timeout
        walk = Walk(
            self._prepared,
            run,
            rooms.backend,
            rooms.host,
            rooms.tools,
            self._emit,
            deadline,
            rooms.recorder is not None,
            self._group,
            self._beside,
            self._turn,
            self._past,
        )
        rooms.load.in_flight += 1
        try:
            await self._emit(self._start())
        except asyncio.CancelledError:  # it may be on the disk already
            await asyncio.shield(asyncio.ensure_future(self._finish("cancelled")))
            raise
        except BaseException:
            rooms.load.in_flight -= 1
            raise
        try:
            async with asyncio.timeout(self._timeout):
                result = await walk.go()
            await self._remember()
            run.result = result
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.ensure_future(self._finish("cancelled")))
            raise
        except (TimeoutError, DeadlineExceeded):
            run.error = DeadlineExceeded(
                f"the run did not end within {self._timeout} s and was stopped",
                where=f"stack {run.stack}",
                hint="allow a longer timeout, or let fewer runs in at once",
            )
        except FslmError as error:
            run.error = self._told(error)
        except Exception as error:
            unexpected = InternalError(
                f"an error that fslm did not expect: {type(error).__name__}: {shorten(str(error))}",
                where=f"stack {run.stack}, run {run.id}",
                hint="look at its __cause__ (`fslm --debug run …` shows it); if it is not your own code, report it",
            )
            unexpected.__cause__ = error
            run.error = self._told(unexpected)
        if run.error is not None:
            run.state = None
        try:
            await self._finish(_ended(run.error))
        except StoreError:
            if self._turn is not None:
                await self._turn.undo()
            raise
        if run.error is not None and run.status == "failed":
            raise RunFailed(run, run.error) from run.error
        return run

    async def _remember(self) -> None:
        """Write the session's new state; where its writer was passed over, the old one stands."""
        if self._turn is None:
            return
        if self.run.state is None:
            self.run.state = self._turn.state
        else:
            await self._turn.write(self.run.state, self.run.id)

    def _told(self, error: FslmError) -> FslmError:
        """The error as the caller may see it: whoever catches it will log it."""
        stack = self._prepared.stack
        if self._rooms.content == "full" or not self._prepared.marks:
            return error
        steps = {path for path, _ in places(stack)}
        path, plain = _place_in(error, stack.name)
        where = f"stack {stack.name}, step {path}" if plain in steps else f"stack {stack.name}"
        return withheld(error, stack, where=where)

    def _start(self) -> RunStarted:
        fingerprints = {name: o.fingerprint for name, o in self._prepared.origins.items() if o.fingerprint}
        run = self.run
        backend, marks = self._rooms.backend.name, self._prepared.marks
        at_work = self._rooms.load.in_flight
        return RunStarted(
            run.id, run.stack, run.input, run.seed, time.time(), backend, fingerprints, marks, at_work, run.parent
        )

    async def _finish(self, status: Ended) -> None:
        run = self.run
        run.status = status
        run.seconds = time.monotonic() - self._began
        load = self._rooms.load
        load.in_flight -= 1
        try:
            await self._emit(
                RunFinished(
                    run.id,
                    run.stack,
                    status,
                    time.time(),
                    run.seconds,
                    run.result,
                    run.error,
                    load.in_flight,
                    run.state if status == "succeeded" else None,
                )
            )
        finally:
            if self._beside is not None:
                await self._beside.over(cancelled=status == "cancelled")

    async def _emit(self, event: RunEvent) -> None:
        await self._rooms.tell(event)
        if self._listener is not None:
            self._listener.put_nowait(event)


def _ended(error: FslmError | None) -> Ended:
    """How a run that was not cancelled ended."""
    if error is None:
        return "succeeded"
    return "review" if isinstance(error, ReviewNeeded) else "failed"


def _place_in(error: FslmError, stack: str) -> tuple[str, str]:
    """The path of the step that an error names, with indices and without; empty where it names none."""
    head, _, rest = (error.where or "").partition(f"stack {stack}, step ")
    path = "" if head else rest.partition(",")[0]
    return path, plain_path(path)


__all__ = ["Listener", "Load", "Passage", "Rooms"]

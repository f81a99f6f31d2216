"""The one thread that owns the models, and the queues in front of it."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...errors import BackendError, DeadlineExceeded, EngineStateError, FslmError
from ...settings import TorchSettings
from ..protocol import Chunk, Generation, ModelRef
from .generic import OnForward
from .hosted import Executor, Hosted
from .queue import FairQueue
from .row import Row, failure


@dataclass(frozen=True, slots=True)
class Done:
    """An errand's answer."""

    answer: Any


Letter = Chunk | Generation | FslmError | Done


class Mailbox:
    """What the worker sends back to one caller, on the caller's own event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._letters: asyncio.Queue[Letter] = asyncio.Queue()
        self.closed = False

    def put(self, letter: Letter) -> None:
        """Send from any thread. A loop that is gone closes the box."""
        try:
            self._loop.call_soon_threadsafe(self._letters.put_nowait, letter)
        except RuntimeError:
            self.closed = True

    async def get(self, deadline: float | None) -> Chunk | Generation | Done:
        """Wait for the next letter.

        Raises:
            DeadlineExceeded: ``deadline`` (:func:`time.monotonic` seconds) has passed.
            FslmError: what the worker sent.
        """
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic())):
                letter = await self._letters.get()
        except TimeoutError:
            raise late() from None
        if isinstance(letter, FslmError):
            raise letter
        return letter


@dataclass(slots=True)
class Task:
    """Work for one caller: rows to write, or an errand.

    ``errand`` is given the checkpoint; what it returns is sent back. ``group`` is whose work it is, of those that
    share the machine alike, and ``run`` the part of it to which this belongs.
    """

    mailbox: Mailbox
    ref: ModelRef | None = None
    rows: Sequence[Row] = ()
    errand: Callable[[Hosted], Any] | None = None
    deadline: float | None = None
    priority: int = 0
    group: str = ""
    run: str = ""
    over: bool = False
    """Set by the caller to stop the work, and by the worker when it has sent an error."""

    def stopped(self) -> bool:
        """True if nobody waits for this any more; a passed deadline is told once."""
        if not self.over and self.deadline is not None and time.monotonic() > self.deadline:
            self.fail(late())
        return self.over or self.mailbox.closed

    def fail(self, error: FslmError) -> None:
        """Send an error, which ends the task."""
        if not self.over:
            self.over = True
            self.mailbox.put(copy.copy(error))


class Models:
    """The checkpoints in memory, by folder. Used by the worker's thread only."""

    def __init__(self, settings: TorchSettings, on_forward: OnForward | None) -> None:
        self._settings = settings
        self._on_forward = on_forward
        self._device = _device(settings.device)
        self._hosted: dict[Path, Hosted] = {}

    def get(self, ref: ModelRef) -> Hosted:
        """Return the checkpoint of ``ref``, whose weights are loaded when they are first needed.

        Raises:
            CheckpointError: its configuration cannot be read.
            BackendError: the settings ask for what it cannot do.
        """
        assert ref.path is not None
        if ref.path not in self._hosted:
            self._hosted[ref.path] = Hosted(ref.path, self._settings, self._device, self._on_forward)
        return self._hosted[ref.path]

    @property
    def executors(self) -> list[Executor]:
        """All that are loaded."""
        return [executor for hosted in self._hosted.values() for executor in hosted.executors]


@dataclass(slots=True, eq=False)
class _Waiting:
    """A row that waits for a place, or an errand."""

    task: Task
    row: Row | None


class Worker:
    """Admits rows and runs ticks, one forward each, as long as there are any.

    Each checkpoint has a queue of its own, and those with rows in flight take turns.

    Args:
        settings: where the models live, this worker's torch threads, the most rows that run together.
        on_forward: called before every forward.
    """

    def __init__(self, settings: TorchSettings, on_forward: OnForward | None = None) -> None:
        self._settings = settings
        self._on_forward = on_forward
        self._queues: dict[Path | None, FairQueue[_Waiting]] = {}
        self._owners: dict[Row, Task] = {}
        self._news = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="fslm-torch", daemon=True)
        self._thread.start()

    def submit(self, task: Task) -> None:
        """Queue a task from any thread.

        Raises:
            EngineStateError: the worker is closed.
        """
        assert task.ref is not None
        with self._news:
            if self._closing:
                raise closed()
            queue = self._queues.setdefault(task.ref.path, FairQueue())
            for row in task.rows or (None,):
                cost = 1 if row is None else len(row.prompt.ids) + row.max_tokens
                queue.push(_Waiting(task, row), group=task.group, job=task.run, cost=cost, priority=task.priority)
            self._news.notify()

    def close(self) -> None:
        """Stop within one forward and wait for it; whoever still waits is told. Idempotent."""
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join()

    def _run(self) -> None:
        models: Models | None = None
        if self._settings.threads:
            _limit_threads_here(self._settings.threads)
        while self._wait():
            try:
                models = models or Models(self._settings, self._on_forward)
            except FslmError as error:
                self._refuse_all(error)
                continue
            self._admit(models)
            for executor in models.executors:
                self._tick(executor)
        self._refuse_all(closed())
        for task in self._owners.values():
            task.fail(closed())

    def _wait(self) -> bool:
        """Wait until there is something to do; False when closing."""
        with self._news:
            while not self._closing and not self._owners and not any(self._queues.values()):
                self._news.wait()
            return not self._closing

    def _refuse_all(self, error: FslmError) -> None:
        with self._news:
            for queue in self._queues.values():
                while queue:
                    queue.pop().task.fail(error)

    def _admit(self, models: Models) -> None:
        """Give places to those who wait, in order, and run errands."""
        for queue in list(self._queues.values()):
            self._sweep(queue)
            while (waiting := self._head(queue)) is not None:
                if waiting.task.stopped():  # since the queue was swept
                    self._sweep(queue)
                    continue
                try:
                    admitted = self._begin(waiting, models)
                except FslmError as error:
                    waiting.task.fail(error)
                except Exception as error:  # whatever torch raises concerns this one only
                    waiting.task.fail(failure(error))
                else:
                    if not admitted:
                        break
                with self._news:
                    queue.remove(waiting)

    def _sweep(self, queue: FairQueue[_Waiting]) -> None:
        with self._news:
            queue.sweep(lambda waiting: waiting.task.stopped())

    def _head(self, queue: FairQueue[_Waiting]) -> _Waiting | None:
        with self._news:
            return None if self._closing else queue.peek()

    def _begin(self, waiting: _Waiting, models: Models) -> bool:
        task, row = waiting.task, waiting.row
        assert task.ref is not None
        hosted = models.get(task.ref)
        if row is None:
            assert task.errand is not None
            task.mailbox.put(Done(task.errand(hosted)))
            return True
        if not hosted.admit(row, task.ref):
            return False
        self._owners[row] = task
        return True

    def _tick(self, executor: Executor) -> None:
        """Send what is finished, then run one forward."""
        try:
            self._send(executor.drop())
            if executor.rows:
                executor.tick()
                self._send(executor.drop())
        except Exception as error:  # whatever torch raises ends those in flight here
            told = error if isinstance(error, FslmError) else failure(error)
            for row in executor.clear():
                self._owners.pop(row).fail(told)

    def _send(self, rows: Sequence[Row]) -> None:
        for row in rows:
            task = self._owners.pop(row)
            if row.error is not None:
                task.fail(row.error)
            elif row.finished is not None and not task.over:
                task.mailbox.put(row.generation())


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise BackendError(
            f"torch cannot use the device {name!r}: {error}",
            where="setting torch.device",
            hint='set torch.device to "cpu" or "auto" in fslm.toml',
        ) from None


def _limit_threads_here(count: int) -> None:
    """Set this thread's number of torch threads and leave the process's as it was.

    ``set_num_threads`` sets the calling thread's number and the default of threads yet to come; the second is
    put back from a thread that then ends.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    restorer = threading.Thread(target=torch.set_num_threads, args=(before,))
    restorer.start()
    restorer.join()


def late() -> DeadlineExceeded:
    """The deadline has passed."""
    return DeadlineExceeded(
        "the time allowed has passed", where="the torch backend", hint="allow more time, or ask for fewer tokens"
    )


def closed() -> EngineStateError:
    """The backend is closed."""
    return EngineStateError("the backend is closed", where="the torch backend", hint="open a new engine")


__all__ = ["Mailbox", "Models", "Task", "Worker", "closed", "late"]

"""The one thread that owns the models, and the queue in front of it."""

from __future__ import annotations

import asyncio
import copy
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...errors import BackendError, DeadlineExceeded, EngineStateError, FslmError, shorten
from ...settings import TorchSettings
from ..protocol import Chunk, Generation, ModelRef
from .generic import Batch, OnForward, Row
from .models import Resident

TOKENS_TOGETHER = 65_536
"""The most places in the cache that one batch may reserve, padding included; bounds its memory."""


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

    ``errand`` is given the models; what it returns is sent back.
    """

    mailbox: Mailbox
    ref: ModelRef | None = None
    rows: Sequence[Row] = ()
    errand: Callable[[Models], Any] | None = None
    deadline: float | None = None
    priority: int = 0
    order: int = 0
    over: bool = False
    """Set by the caller to stop the work, and by the worker when it has sent an error."""

    @property
    def key(self) -> object:
        """Rows of equal keys may share a batch."""
        return self.ref and self.ref.key

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


@dataclass(slots=True)
class Models:
    """The checkpoints in memory, by folder."""

    device: torch.device
    precision: str = "auto"
    _residents: dict[Path, Resident] = field(default_factory=dict)

    def get(self, ref: ModelRef) -> Resident:
        """Return the base of ``ref`` with its adapter at work, loading what is not there yet.

        Raises:
            CheckpointError: the weights do not load.
            AdapterError: the adapter does not fit.
        """
        assert ref.path is not None
        if ref.path not in self._residents or self._residents[ref.path].broken:
            self._residents[ref.path] = Resident(ref.path, self.device, self.precision)
        resident = self._residents[ref.path]
        resident.use(ref)
        return resident


class Worker:
    """Runs one batch after another: the most urgent, then oldest, row waiting, and those that may join it.

    Args:
        settings: where the models live, this worker's torch threads, the most rows that run together.
        on_forward: called before every forward.
    """

    def __init__(self, settings: TorchSettings, on_forward: OnForward | None = None) -> None:
        self._settings = settings
        self._on_forward = on_forward
        self._order = itertools.count()
        self._waiting: list[tuple[Task, Row | None]] = []
        self._news = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="fslm-torch", daemon=True)
        self._thread.start()

    def submit(self, task: Task) -> None:
        """Queue a task from any thread.

        Raises:
            EngineStateError: the worker is closed.
        """
        with self._news:
            if self._closing:
                raise closed()
            task.order = next(self._order)
            self._waiting += [(task, row) for row in task.rows] or [(task, None)]
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
        while (picked := self._next()) is not None:
            tasks = {id(task): task for task, _ in picked}.values()
            try:
                models = models or Models(_device(self._settings.device), self._settings.precision)
                self._serve(picked, models)
            except FslmError as error:
                self._fail(tasks, error)
            except Exception as error:  # whatever torch raises concerns this batch only
                self._fail(tasks, _failure(error))

    @staticmethod
    def _fail(tasks: Any, error: FslmError) -> None:
        for task in tasks:
            task.fail(error)

    def _next(self) -> list[tuple[Task, Row | None]] | None:
        """Wait for work and take a batch of it: rows of one key, or one errand. None when closing."""
        with self._news:
            while True:
                self._waiting = [entry for entry in self._waiting if not entry[0].stopped()]
                if self._closing:
                    self._fail([task for task, _ in self._waiting], closed())
                    self._waiting.clear()
                    return None
                if self._waiting:
                    break
                self._news.wait()
            self._waiting.sort(key=lambda entry: (entry[0].priority, entry[0].order))
            picked = self._together(self._waiting)
            taken = set(map(id, picked))
            self._waiting = [entry for entry in self._waiting if id(entry) not in taken]
            return picked

    def _together(self, waiting: list[tuple[Task, Row | None]]) -> list[tuple[Task, Row | None]]:
        first, row = waiting[0]
        picked: list[tuple[Task, Row | None]] = waiting[:1]
        longest = 0 if row is None else len(row.prompt.ids) + row.max_tokens
        for entry in waiting[1:] if row else []:
            task, other = entry
            if other is None or task.key != first.key:
                continue
            longest = max(longest, len(other.prompt.ids) + other.max_tokens)
            if len(picked) == self._settings.max_batch or longest * (len(picked) + 1) > TOKENS_TOGETHER:
                break
            picked.append(entry)
        return picked

    def _serve(self, picked: list[tuple[Task, Row | None]], models: Models) -> None:
        task, row = picked[0]
        if row is None:
            assert task.errand is not None
            task.mailbox.put(Done(task.errand(models)))
            return
        assert task.ref is not None
        resident = models.get(task.ref)
        owners = {id(row): task for task, row in picked}
        rows = [row for _, row in picked if row is not None]
        for group in [rows] if resident.together else [[row] for row in rows]:
            self._write(group, owners, resident)

    def _write(self, rows: list[Row], owners: dict[int, Task], resident: Resident) -> None:
        started = [row for row in rows if _start(row, owners[id(row)])]
        batch = Batch(resident, started, self._on_forward)
        while batch.rows:
            if self._closing:
                raise closed()
            for row in batch.drop():
                if row.finished:
                    owners[id(row)].mailbox.put(row.generation())
            if batch.rows:
                batch.step()


def _start(row: Row, owner: Task) -> bool:
    try:
        row.start()
    except FslmError as error:
        owner.fail(error)
        return False
    return True


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


def _failure(error: Exception) -> BackendError:
    scarce = isinstance(error, MemoryError) or "memory" in str(error).lower()
    lighter = "set a smaller torch.max_batch, or run fewer models at once"
    told = BackendError(
        f"the model failed: {type(error).__name__}: {shorten(str(error))}",
        where="the torch backend",
        hint=lighter if scarce else "run `fslm doctor`, then `fslm models verify` for its checkpoint",
    )
    told.__cause__ = error
    return told


def late() -> DeadlineExceeded:
    """The deadline has passed."""
    return DeadlineExceeded(
        "the time allowed has passed", where="the torch backend", hint="allow more time, or ask for fewer tokens"
    )


def closed() -> EngineStateError:
    """The backend is closed."""
    return EngineStateError("the backend is closed", where="the torch backend", hint="open a new engine")


__all__ = ["Mailbox", "Models", "Task", "Worker", "closed", "late"]

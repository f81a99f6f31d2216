"""Processes that run tools: each has a pipe of its own and does one call at a time, so what ends one ends no other.

Only JSON crosses. A process is used again after a clean answer alone; after anything else, a timeout, a cancelled call
or its own end, it is killed and the next call gets a new one.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import threading
import traceback
import weakref
from collections import defaultdict
from multiprocessing.connection import Connection
from typing import Any

from ..schema import canonical
from ..stage import Scored, Stage
from .threads import in_thread

_AT_ONCE = 2
"""Processes for one module's tools."""
_PATIENCE = 5.0
"""Seconds for a process to be gone after it was killed."""


class TookTooLong(Exception):
    """A call did not end in its time; its process was killed."""


class WorkerEnded(Exception):
    """A process ended before it answered. ``exitcode`` is negative where a signal ended it, None where unknown."""

    def __init__(self, exitcode: int | None) -> None:
        self.exitcode = exitcode
        super().__init__(f"exit code {exitcode}")


class Worker:
    """A process that has imported one module and runs its tools. ``call`` is not for two at a time."""

    def __init__(self, module: str) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pid = os.getpid()
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(module, theirs), name=f"fslm-tool {module}")
        self._process.start()
        theirs.close()
        self._ready = False
        _all.add(self)

    async def call(self, name: str, text: str, timeout: float | None) -> dict[str, Any]:
        """Have the tool ``name`` called with an input as JSON.

        Returns:
            ``{"output": JSON text, "confidence": {…}}``, ``{"type": its name}`` of what is no output, or
            ``{"error": its type, "text": …, "traceback": …}``.

        Raises:
            TookTooLong: it did not end within ``timeout`` seconds. The first import of the module does not count.
            WorkerEnded: the process ended first.
        """
        try:
            return await in_thread(self._call, name, text, timeout)
        except asyncio.CancelledError:
            self.kill()  # and the thread sees that the pipe is closed
            raise

    def _call(self, name: str, text: str, timeout: float | None) -> dict[str, Any]:
        try:
            if not self._ready:
                self._pipe.recv_bytes()
                self._ready = True
            self._pipe.send_bytes(json.dumps([name, text]).encode())
            if not self._pipe.poll(timeout):
                self.end()
                raise TookTooLong
            answer: dict[str, Any] = json.loads(self._pipe.recv_bytes())
            return answer
        except (EOFError, OSError):
            self._process.join(_PATIENCE)
            ended = WorkerEnded(self._process.exitcode)
            self.end()
            raise ended from None

    @property
    def usable(self) -> bool:
        """Whether the process still runs."""
        return self._process.is_alive()

    def kill(self) -> None:
        """End the process, and those it began, at once."""
        if self._pid != os.getpid() or self._process.pid is None or not self._process.is_alive():
            return
        with contextlib.suppress(OSError, AttributeError):  # it has no group of its own yet; there are none here
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()

    def end(self) -> None:
        """Kill the process and wait until it is gone."""
        self.kill()
        self._process.join(_PATIENCE)
        self._pipe.close()
        _all.discard(self)


class Workers:
    """The processes of one engine. Its calls are made on the engine's loop."""

    def __init__(self) -> None:
        self._seats: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_AT_ONCE))
        self._idle: defaultdict[str, list[Worker]] = defaultdict(list)
        self._busy: set[Worker] = set()

    async def call(self, module: str, name: str, text: str, timeout: float | None) -> dict[str, Any]:
        """As :meth:`Worker.call`, in a process that has imported ``module``; waits while all are busy."""
        async with self._seats[module]:
            worker = self._taken(module)
            self._busy.add(worker)
            try:
                answer = await worker.call(name, text, timeout)
                self._idle[module].append(worker)
                return answer
            finally:
                self._busy.discard(worker)

    def _taken(self, module: str) -> Worker:
        idle = self._idle[module]
        while idle:
            worker = idle.pop()
            if worker.usable:
                return worker
            worker.end()
        return Worker(module)

    def close(self) -> None:
        """Kill all of them."""
        for worker in [*self._busy, *(worker for idle in self._idle.values() for worker in idle)]:
            worker.end()
        self._idle.clear()


_all: weakref.WeakSet[Worker] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """Before multiprocessing waits for them: an engine need not have been closed."""
    for worker in list(_all):
        worker.kill()


# -- in the process ----------------------------------------------------------------------------------------------------


def _serve(module: str, pipe: Connection) -> None:
    """Answer calls until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program, which ends this process
    with contextlib.suppress(OSError, AttributeError):
        os.setsid()
    threading.Thread(target=_follow_parent, daemon=True).start()
    with contextlib.suppress(Exception):  # what fails here fails again, and is told, in the call
        importlib.import_module(module)
    with contextlib.suppress(EOFError, OSError):
        pipe.send_bytes(b"")
        while True:
            name, text = json.loads(pipe.recv_bytes())
            pipe.send_bytes(json.dumps(_answer(module, name, text)).encode())


def _follow_parent() -> None:
    """A program that was killed leaves no tool at work behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer(module: str, name: str, text: str) -> dict[str, Any]:
    try:
        return _called(module, name, text)
    except BaseException as error:  # the function is the author's, and may call for an exit
        return {"error": type(error).__name__, "text": str(error), "traceback": traceback.format_exc()}


def _called(module: str, name: str, text: str) -> dict[str, Any]:
    """Find the tool by name and run it."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not isinstance(found, Stage) or found.tool is None:
        raise TypeError(f"{module}.{name} is not a tool stage, so a worker process cannot find it by name")
    function: Any = found.tool.function
    answer = function(found.input.model_validate_json(text, by_name=True))
    scored = answer if isinstance(answer, Scored) else Scored(answer, {})
    if not isinstance(scored.output, found.output):
        return {"type": type(scored.output).__name__}
    sure = {str(field): float(value) for field, value in scored.confidence.items()}
    return {"output": canonical(scored.output), "confidence": sure}


__all__ = ["TookTooLong", "Worker", "WorkerEnded", "Workers"]

"""One event loop on a thread of its own, that work can be handed to from any thread or loop of the process."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from ..errors import EngineStateError

T = TypeVar("T")


_LOOK_UP = 0.25
"""Seconds."""


class LoopThread:
    """A running event loop. Context variables of the caller carry over into the work."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._pid = os.getpid()
        self._closed = False
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that opened it: its thread is not here, only its memory."""
        return os.getpid() != self._pid

    @property
    def alive(self) -> bool:
        """Whether work can be handed over."""
        return not (self._closed or self.forked)

    def usable(self) -> None:
        """Raise if work can no longer be handed over.

        Raises:
            EngineStateError: closed, or the process is a fork of the one that opened it.
        """
        self.refuse_fork()
        if self._closed:
            raise EngineStateError("the engine is closed", where="Engine", hint="open a new Engine")

    def refuse_fork(self) -> None:
        """Raise in a fork of the process that opened it.

        Raises:
            EngineStateError: this is one.
        """
        if self.forked:
            raise EngineStateError(
                "the engine was opened before this process was forked",
                where="Engine",
                found=f"process {os.getpid()}, opened in {self._pid}",
                hint="open an Engine in each worker process, after the fork",
            )

    def refuse_own_thread(self) -> None:
        """Raise on the loop's own thread, where waiting for the loop would never end.

        Raises:
            EngineStateError: this is that thread.
        """
        if threading.current_thread() is self._thread:
            raise EngineStateError(
                "the engine cannot be closed by one of its own runs",
                where=f"thread {self._thread.name}",
                hint="close it from the thread or event loop that opened it",
            )

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start ``work`` on the loop. Cancelling the future cancels the work.

        Raises:
            EngineStateError: as :meth:`usable`; the future raises it where the engine is closed before the work ends.
        """
        return self._start(work)[0]

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` and wait for it on this thread. Ctrl-C cancels it, waits for it to end, and goes on up.

        Raises:
            EngineStateError: this thread runs an event loop, which waiting would block.
        """
        if _loop_runs_here():
            work.close()
            raise EngineStateError(
                "run, map and stream would block this thread's running event loop",
                where=f"thread {threading.current_thread().name}",
                hint="await arun, or use amap and astream",
            )
        future, ended = self._start(work)
        try:
            _wait_for(ended)
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            _wait_for(ended)
            raise

    def _start(self, work: Coroutine[Any, Any, T]) -> tuple[concurrent.futures.Future[T], threading.Event]:
        try:
            self.usable()
        except EngineStateError:
            work.close()
            raise
        outer: concurrent.futures.Future[T] = concurrent.futures.Future()
        ended = threading.Event()
        context = contextvars.copy_context()

        def start() -> None:
            task = self._loop.create_task(work, context=context)

            def done(task: asyncio.Task[T]) -> None:
                with contextlib.suppress(concurrent.futures.InvalidStateError):  # cancelled by whoever waited
                    _hand_over(task, outer)
                ended.set()

            def stop(_: concurrent.futures.Future[T]) -> None:
                if outer.cancelled():
                    self._loop.call_soon_threadsafe(task.cancel)

            task.add_done_callback(done)
            outer.add_done_callback(stop)

        self._loop.call_soon_threadsafe(start, context=context)
        return outer, ended

    def close(self) -> None:
        """Stop the loop and its thread. Idempotent; in a forked child it does nothing."""
        if not self.alive:
            return
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def _loop_runs_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _hand_over(task: asyncio.Task[T], outer: concurrent.futures.Future[T]) -> None:
    if task.cancelled():
        outer.set_exception(
            EngineStateError(
                "the engine was closed before the work ended",
                where="Engine",
                hint="end the runs before the engine is closed, or open a new Engine and run them again",
            )
        )
    elif error := task.exception():
        outer.set_exception(error)
    else:
        outer.set_result(task.result())


def _wait_for(ended: threading.Event) -> None:
    """Wait, and look up now and then: a signal that comes just as a thread falls asleep does not wake it."""
    while not ended.wait(_LOOK_UP):
        pass


__all__ = ["LoopThread"]

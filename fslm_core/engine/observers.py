"""Hands events to observers on a thread of their own, behind a bounded queue: none of them can slow or break a run."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Sequence

from ..events import Event

log = logging.getLogger("fslm.observers")
_CAPACITY = 10_000
_PATIENCE = 10
"""Seconds that observers have to see what is left when the engine closes."""


class Observers:
    """The observers of one engine.

    Attributes:
        dropped: how many events found the queue full.
        errors: the last error of each observer that raised, by name.
    """

    def __init__(self, observers: Sequence[tuple[str, Callable[[Event], None]]]) -> None:
        self._observers = list(observers)
        self._queue: queue.Queue[Event | None] = queue.Queue(_CAPACITY)
        self._thread: threading.Thread | None = None
        self.dropped = 0
        self.errors: dict[str, BaseException] = {}
        if self._observers:
            self._thread = threading.Thread(target=self._main, name="fslm-observers", daemon=True)
            self._thread.start()

    def tell(self, event: Event) -> None:
        """Queue an event; count it as dropped if the queue is full."""
        if self._thread is None:
            return
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Let the observers see what is queued, then stop."""
        if self._thread is not None:
            with contextlib.suppress(queue.Full):  # an observer that hangs is left behind
                self._queue.put(None, timeout=_PATIENCE)
                self._thread.join(timeout=_PATIENCE)
            self._thread = None

    def _main(self) -> None:
        while (event := self._queue.get()) is not None:
            for name, observer in self._observers:
                try:
                    observer(event)
                except BaseException as error:  # an observer's failure, even sys.exit(), is its own
                    if name not in self.errors:
                        log.warning("observer %s failed: %s: %s", name, type(error).__name__, error)
                    self.errors[name] = error


__all__ = ["Observers"]

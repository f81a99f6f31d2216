"""Hands events to observers on a thread of their own, behind a bounded queue: none of them can slow or break a run."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Sequence

from ..events import Event, EventsDropped

Observer = Callable[[Event], None]

log = logging.getLogger("fslm.observers")
_CAPACITY = 10_000
_PATIENCE = 10
"""Seconds that observers have to see what is left when the engine closes."""


class Observers:
    """The observers of one engine.

    Args:
        quotes: whether the log may say what an observer raised: it may quote the event it was given.

    Attributes:
        dropped: how many events found the queue full. Observers are told by an ``EventsDropped``.
        errors: the last error of each observer that raised, by name.
    """

    def __init__(self, observers: Sequence[tuple[str, Observer]], *, quotes: bool = False) -> None:
        self._observers = list(observers)
        self._quotes = quotes
        self._queue: queue.Queue[tuple[Event, contextvars.Context] | None] = queue.Queue(_CAPACITY)
        self._thread: threading.Thread | None = None
        self._told = 0
        self.dropped = 0
        self.errors: dict[str, BaseException] = {}
        if self._observers:
            self._thread = threading.Thread(target=self._main, name="fslm-observers", daemon=True)
            self._thread.start()

    def tell(self, event: Event) -> None:
        """Queue an event; count it as dropped if the queue is full.

        Observers see it with the context variables of this moment, which are those of whoever asked for the run.
        """
        if self._thread is None:
            return
        try:
            self._queue.put_nowait((event, contextvars.copy_context()))
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
        while (told := self._queue.get()) is not None:
            event, context = told
            context.run(self._show, event)
            self._tell_missed()
        self._tell_missed()

    def _tell_missed(self) -> None:
        if (missed := self.dropped - self._told) > 0:
            self._told += missed
            self._show(EventsDropped(missed))

    def _show(self, event: Event) -> None:
        for name, observer in self._observers:
            try:
                observer(event)
            except BaseException as error:  # an observer's failure, even sys.exit(), is its own
                if name not in self.errors:
                    said = f": {error}" if self._quotes else ""
                    log.warning("observer %s failed: %s%s", name, type(error).__name__, said)
                self.errors[name] = error


def named(observers: Iterable[Observer]) -> list[tuple[str, Observer]]:
    """Observers that a program brings, with the names by which their failures are told.

    >>> named([print])
    [('print', <built-in function print>)]
    """
    return [(getattr(observer, "__qualname__", type(observer).__qualname__), observer) for observer in observers]


__all__ = ["Observer", "Observers", "named"]

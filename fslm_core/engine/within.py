"""Which run, and which step of it, is at work here: for tools, callbacks and the lines that they log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Within:
    """A run at work: its id, its stack's name, and the path of the step, which is empty between steps."""

    run: str
    stack: str
    step: str = ""


_here: ContextVar[Within | None] = ContextVar("fslm_run", default=None)


def current_run() -> Within | None:
    """The run that this code is called by: in a tool, a plugin's check, an observer; None anywhere else.

    A tool's function with ``isolated=True`` runs in a process of its own and is told nothing; so is a thread that was
    started without the context variables of whoever started it.

    >>> print(current_run())
    None
    """
    return _here.get()


@contextmanager
def within(run: str, stack: str, step: str = "") -> Iterator[None]:
    """For as long as this lasts, and in whatever task or thread is started meanwhile, that is what is at work."""
    token = _here.set(Within(run, stack, step))
    try:
        yield
    finally:
        _here.reset(token)


__all__ = ["Within", "current_run", "within"]

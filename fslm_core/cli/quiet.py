"""What Python and libraries print by themselves comes out as lines of our own; tracebacks only where asked for."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

from ..errors import shorten
from . import screen

_SEE = "; `fslm --debug …` shows where"


@contextmanager
def quiet(debug: Callable[[], bool]) -> Iterator[None]:
    """Within this, a warning is one line, and so is what a thread, a task or a finaliser lets go unhandled.

    Args:
        debug: whether tracebacks are wanted, asked anew each time.
    """
    before = threading.excepthook, sys.unraisablehook, warnings.showwarning, logging.lastResort

    def thread_failed(failed: threading.ExceptHookArgs) -> None:
        if failed.exc_type is not SystemExit:
            _told("an error in the background", failed.exc_type, failed.exc_value, failed.exc_traceback, debug())

    def finaliser_failed(failed: sys.UnraisableHookArgs) -> None:
        if debug():
            _told("an error while tidying up", failed.exc_type, failed.exc_value, failed.exc_traceback, True)

    threading.excepthook, sys.unraisablehook = thread_failed, finaliser_failed
    warnings.showwarning = _warned
    logging.lastResort = _Lines(debug)
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook, warnings.showwarning, logging.lastResort = before


def _warned(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    screen.warn(f"{shorten(str(message))} ({category.__name__}, {os.path.basename(filename)}:{lineno})")


def _told(
    what: str, kind: type[BaseException], error: BaseException | None, trace: TracebackType | None, debug: bool
) -> None:
    screen.warn(f"{what}: {kind.__name__}: {shorten(str(error or ''))}{'' if debug else _SEE}")
    if debug:
        screen.say("".join(traceback.format_exception(kind, error, trace)))


class _Lines(logging.Handler):
    """Takes what is logged where nobody listens: by asyncio of a task that was forgotten, by a library."""

    def __init__(self, debug: Callable[[], bool]) -> None:
        super().__init__(logging.WARNING)
        self._debug = debug

    def emit(self, record: logging.LogRecord) -> None:
        kind, error, trace = record.exc_info or (None, None, None)
        if kind is not None:
            _told("an error in the background", kind, error, trace, self._debug())
        elif record.name == "asyncio" and not self._debug():
            screen.warn(f"work in the background was left unfinished{_SEE}")
        else:
            screen.warn(record.getMessage())


class Refusing(io.TextIOBase):
    """Stands for a standard output that was closed before fslm began: a result that goes there is an error."""

    def write(self, text: str) -> int:
        """Refuse."""
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard output")


def hold_streams() -> None:
    """Give closed standard streams a place, or the next file to be opened would get their number and their output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = Refusing()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def let_go(stream: TextIO) -> None:
    """Drop what could not be written, so that Python does not try again, and complain, when it ends."""
    try:
        stream.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


__all__ = ["Refusing", "hold_streams", "let_go", "quiet"]

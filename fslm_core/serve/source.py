"""A batch's input: lines of a file, or of a pipe as they come."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self

from .inputs import MAX_INPUT

_LONG = 1 << 20
_MOST = MAX_INPUT + 1
"""Bytes of a line that are kept: enough for it to be refused."""
_AHEAD = 64
"""Lines of a pipe that are read before they are asked for."""


class Source:
    """The input's lines. ``path`` None is standard input."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def __enter__(self) -> Self:
        self._file: BinaryIO | None = None if self._path is None else open(self._path, "rb")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield each line; reading a pipe waits on a thread of its own, so that a slow writer holds nothing up."""
        if self._file is None or not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            async for line in _piped(0 if self._file is None else self._file.fileno()):
                yield line
        else:
            for line in bounded_lines(self._file):
                yield line


async def _piped(descriptor: int) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[bytes | OSError | None] = asyncio.Queue()
    room = threading.Semaphore(_AHEAD)
    ended = threading.Event()

    def hand_over(item: bytes | OSError | None) -> bool:
        room.acquire()
        if not ended.is_set():
            with suppress(RuntimeError):  # the loop was closed just now
                loop.call_soon_threadsafe(waiting.put_nowait, item)
        return not ended.is_set()

    def pump() -> None:
        try:
            if all(map(hand_over, _lines_of(descriptor))):
                hand_over(None)
        except OSError as error:
            hand_over(error)

    threading.Thread(target=pump, name="fslm-input", daemon=True).start()
    try:
        while (item := await waiting.get()) is not None:
            room.release()
            if isinstance(item, OSError):
                raise item
            yield item
    finally:
        ended.set()  # nobody wants the rest
        room.release()


def _lines_of(descriptor: int) -> Iterator[bytes]:
    """Split what a descriptor gives into lines; no buffered file, whose lock a waiting thread would keep at exit."""
    rest: list[bytes] = []
    held = 0
    while block := os.read(descriptor, _LONG):
        *whole, last = block.split(b"\n")
        for line in whole:
            yield b"".join((*rest, line))[:_MOST]
            rest.clear()
            held = 0
        if last and held < _MOST:
            rest.append(last)
            held += len(last)
    if rest:
        yield b"".join(rest)[:_MOST]


def bounded_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; of one that is too long, no more than shows that it is."""
    while line := file.readline(_MOST):
        end = line
        while len(end) == _MOST and not end.endswith(b"\n"):
            end = file.readline(_MOST)
        yield line


def count_lines(path: Path) -> int:
    """Count lines as they will be read: a last one without a line end counts too."""
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(_LONG):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


__all__ = ["Source", "bounded_lines", "count_lines"]

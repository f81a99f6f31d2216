"""Many pieces of work at once, their results in order; and async generators driven from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

from .threads import in_thread

T = TypeVar("T")
R = TypeVar("R")

_LOOKAHEAD = 8
"""How many results, in multiples of the concurrency, are held back to keep the order."""


async def in_order(
    items: AsyncIterable[T], work: Callable[[int, T], Awaitable[R]], concurrency: int
) -> AsyncGenerator[R, None]:
    """Do ``work(index, item)`` for every item, ``concurrency`` at a time, and yield the results in the items' order.

    Items are read only as far ahead as there is work for. What ``items`` raises comes in its place; closing the
    generator cancels what is under way.
    """
    gate = asyncio.Semaphore(concurrency)
    line: asyncio.Queue[asyncio.Future[R] | None] = asyncio.Queue(concurrency * _LOOKAHEAD)
    alive: set[asyncio.Task[Any]] = set()

    def start(job: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(job)
        alive.add(task)
        task.add_done_callback(alive.discard)
        return task

    async def one(index: int, item: T) -> R:
        try:
            return await work(index, item)
        finally:
            gate.release()

    async def feed() -> None:
        index = 0
        try:
            async for item in items:
                await gate.acquire()
                await line.put(start(one(index, item)))
                index += 1
        except Exception as error:  # the caller's own iterator raised
            broken: asyncio.Future[R] = asyncio.get_running_loop().create_future()
            broken.set_exception(error)
            await line.put(broken)
        await line.put(None)

    start(feed())
    try:
        while (result := await line.get()) is not None:
            yield await result
    finally:
        for task in alive:
            task.cancel()
        await asyncio.gather(*alive, return_exceptions=True)


async def from_iterable(items: Iterable[T]) -> AsyncIterator[T]:
    """Read a plain iterable without holding up the loop while it waits for its next item."""
    iterator = iter(items)
    end: Any = object()
    while (item := await in_thread(next, iterator, end)) is not end:
        yield item


async def from_loop(items: AsyncIterable[T], loop: asyncio.AbstractEventLoop) -> AsyncIterator[T]:
    """Read an async iterable on the loop it belongs to, from another."""
    iterator = aiter(items)

    async def step() -> T:
        return await anext(iterator)

    while True:
        try:
            yield await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(step(), loop))
        except StopAsyncIteration:
            return


class Driven(Generic[T]):
    """An async generator driven step by step from elsewhere.

    Its steps never overlap: closing it waits for the one under way, which may be ending because whoever wanted it was
    cancelled.
    """

    def __init__(self, items: AsyncGenerator[T, None]) -> None:
        self._items = items
        self._turn = asyncio.Lock()

    async def next(self) -> T:
        """``anext``."""
        async with self._turn:
            return await anext(self._items)

    async def close(self) -> None:
        """``aclose``."""
        async with self._turn:
            await self._items.aclose()


__all__ = ["Driven", "from_iterable", "from_loop", "in_order"]

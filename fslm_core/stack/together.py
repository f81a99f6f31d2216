"""Several pieces of work at once, and the one error that is told when some of them fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from ..errors import DeadlineExceeded, FslmError

T = TypeVar("T")
R = TypeVar("R")


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Do all of it at once; the results in the order of the work.

    Raises:
        BaseException: the first thing that went wrong; what is still at work is stopped before.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(piece) for piece in work]
    except BaseExceptionGroup as failed:
        first = _first(failed)
        raise first from first.__cause__
    return [task.result() for task in tasks]


async def each(items: Sequence[T], work: Callable[[int, T], Awaitable[R]], concurrency: int) -> list[R]:
    """Do ``work(index, item)`` for every item, so many at once; the results in the items' order.

    There are as many tasks as work at once, never one for each item.

    Raises:
        BaseException: as :func:`together`.
    """
    line = enumerate(items)
    results: dict[int, R] = {}

    async def worker() -> None:
        for index, item in line:
            results[index] = await work(index, item)

    await together(worker() for _ in range(min(concurrency, len(items))))
    return [results[index] for index in range(len(items))]


def _first(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to report: the first of our own, else the first there is."""
    flat: list[BaseException] = []
    stack: list[BaseException] = [failed]
    while stack:
        error = stack.pop(0)
        if isinstance(error, BaseExceptionGroup):
            stack[:0] = error.exceptions
        else:
            flat.append(error)
    ours = [e for e in flat if isinstance(e, FslmError)]
    return next((e for e in ours if not isinstance(e, DeadlineExceeded)), ours[0] if ours else flat[0])


__all__ = ["each", "together"]

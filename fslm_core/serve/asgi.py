"""What any ASGI framework leaves to its applications: stopping work that nobody waits for any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
"""An ASGI ``receive``, such as ``request.receive`` of Starlette and FastAPI."""


async def while_connected(receive: Receive, work: Awaitable[T]) -> T | None:
    """Await ``work`` for as long as the client is there.

    A server tells an application that the client has gone by a message, and cancels nothing by itself. Here the work is
    cancelled as soon as that message comes. Call it once the request's body is read; of a streamed response the
    frameworks see to it themselves.

    Args:
        receive: the request's ``receive``.
        work: what the client waits for, such as ``engine.arun(…)``. It is cancelled too if this call is.

    Returns:
        Its result, or None if the client went away first.

    >>> async def gone():
    ...     return {"type": "http.disconnect"}
    >>> print(asyncio.run(while_connected(gone, asyncio.sleep(3600))))
    None
    """
    answer = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((answer, leaving), return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        leaving.result()  # what receive raised is no departure
        return None
    finally:
        answer.cancel()
        leaving.cancel()
        await asyncio.gather(answer, leaving, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


__all__ = ["Receive", "while_connected"]

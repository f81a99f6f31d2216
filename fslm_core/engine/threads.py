"""Calling blocking code from the engine's loop, so that what never returns holds up nothing but its own caller."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def in_thread(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call ``function`` on a daemon thread of its own and wait for it; context variables carry over.

    As :func:`asyncio.to_thread` without its pool: calls do not queue behind one another, and neither closing the loop
    nor the end of the process waits for a call that nobody waits for any more.

    >>> asyncio.run(in_thread(pow, 2, 5))
    32
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(how: Callable[[Any], None], value: Any) -> None:
        if not answer.done():  # nobody waits any more where it was cancelled
            how(value)

    def tell(how: Callable[[Any], None], value: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, how, value)

    def work() -> None:
        try:
            value = context.run(function, *args)
        except BaseException as error:
            tell(answer.set_exception, error)
        else:
            tell(answer.set_result, value)

    threading.Thread(target=work, name=f"fslm-{getattr(function, '__name__', 'call')}", daemon=True).start()
    return await answer


__all__ = ["in_thread"]

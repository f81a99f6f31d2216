"""Work that goes on for as long as the client is there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from fslm_core.serve.asgi import while_connected


def says(*messages: Mapping[str, Any], then: BaseException | None = None) -> Callable[[], Awaitable[Mapping[str, Any]]]:
    """A ``receive`` that gives these messages, and then raises or waits for ever."""
    left = list(messages)

    async def receive() -> Mapping[str, Any]:
        if left:
            return left.pop(0)
        if then is not None:
            raise then
        await asyncio.Event().wait()
        raise AssertionError

    return receive


class Work:
    """Ends when it is let, and knows whether it was stopped."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.stopped = False
        self._error = error

    async def __call__(self) -> str:
        self.begun.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.stopped = True
            raise
        if self._error is not None:
            raise self._error
        return "done"


def test_who_stays_gets_the_answer() -> None:
    async def main() -> None:
        work = Work()
        work.go_on.set()
        assert await while_connected(says({"type": "http.request"}), work()) == "done"
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_who_leaves_stops_the_work() -> None:
    async def main() -> None:
        work = Work()
        messages = ({"type": "http.request"}, {"type": "http.disconnect"})
        assert await while_connected(says(*messages), work()) is None
        assert work.stopped or not work.begun.is_set()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_what_the_work_raises_is_raised() -> None:
    async def main() -> None:
        work = Work(ValueError("no"))
        work.go_on.set()
        with pytest.raises(ValueError, match="no"):
            await while_connected(says(), work())

    asyncio.run(main())


def test_a_connection_that_cannot_be_read_stops_the_work_and_says_so() -> None:
    async def main() -> None:
        work = Work()
        with pytest.raises(OSError, match="broken"):
            await while_connected(says(then=OSError("broken")), work())
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_cancelling_it_stops_the_work() -> None:
    async def main() -> None:
        work = Work()
        waiting = asyncio.create_task(while_connected(says(), work()))
        await work.begun.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert work.stopped

    asyncio.run(main())

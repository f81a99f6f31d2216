"""What changes while it is looked at, as server-sent events: the page then fetches itself anew.

The trace is a file that other processes write, so it is asked, and told only when the answer is another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from zlib import crc32

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ..errors import FslmError
from ..store import RunRow
from .desk import Desk
from .listing import Wanted, newest

EVERY = 0.4
"""Seconds between two looks into the trace, each of which takes a fraction of a millisecond."""
_RUNNING = "running"


def run(desk: Desk, request: Request) -> Response:
    """Tell whenever more of a run is recorded, until it has ended."""
    name = request.path_params["run"]

    def look() -> str | None:
        return desk.store.pulse(name)

    return _stream(desk, look, request.query_params.get("seen", ""), lambda pulse: not pulse.startswith(_RUNNING))


def runs(desk: Desk, request: Request) -> Response:
    """Tell whenever the list of runs is another one."""
    wanted = Wanted.of(request.query_params)
    return _stream(desk, lambda: pulse_of(newest(desk.store, wanted)), request.query_params.get("seen", ""))


def pulse_of(rows: list[RunRow]) -> str:
    """What is another text once a list of runs is another one."""
    return f"{crc32(repr([(row.id, row.status) for row in rows]).encode()):08x}"


def _stream(
    desk: Desk, look: Callable[[], str | None], seen: str, ended: Callable[[str], bool] = lambda pulse: False
) -> Response:
    return StreamingResponse(_events(desk, look, seen, ended), media_type="text/event-stream")


async def _events(
    desk: Desk, look: Callable[[], str | None], seen: str, ended: Callable[[str], bool]
) -> AsyncIterator[str]:
    yield "retry: 2000\n\n"
    while not desk.ending.is_set():
        try:
            pulse = await run_in_threadpool(look)
        except FslmError:  # the file is being written anew, say; the next look tells
            pulse = seen
        if pulse is None:
            break
        if pulse != seen:
            seen = pulse
            yield f"event: changed\ndata: {pulse}\n\n"
        if ended(pulse):
            break
        with suppress(TimeoutError):
            await asyncio.wait_for(desk.ending.wait(), EVERY)
    yield "event: ended\ndata: \n\n"


__all__ = ["pulse_of", "run", "runs"]

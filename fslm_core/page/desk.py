"""What the page's parts share: the trace, the engine that replays, and the templates."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import Response

from ..errors import StoreError, UsageError
from ..stack import Stack
from ..store import TraceStore
from .drawing import Html, environment
from .guard import new_token, same

if TYPE_CHECKING:
    from ..engine import Engine, Run

_LARGEST = 4_000_000
"""Bytes of a form."""


class Replayer:
    """The engine that replays runs, opened when the first is asked for and closed with the server.

    Args:
        opening: makes the engine, which is not open yet.
    """

    def __init__(self, opening: Callable[[], Engine]) -> None:
        self._opening = opening
        self._engine: Engine | None = None
        self._lock = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def replay(self, run: str, *, start: str | None, edits: Mapping[str, Any]) -> Run[Any]:
        """Replay a run; see :meth:`~fslm_core.engine.Engine.replay`."""
        async with self._lock:
            if self._engine is None:
                made = await asyncio.to_thread(self._opening)  # plugins are imported by it
                self._engine = await self._stack.enter_async_context(made)
        return await self._engine.areplay(run, start=start, edits=edits)

    async def aclose(self) -> None:
        """Close the engine, if there is one."""
        await self._stack.aclose()


@dataclass
class Desk:
    """Everything a request may need.

    Attributes:
        readonly: why nothing can be changed here; empty where it can.
        blame: the file that `fslm blame --json` wrote.
        stacks: finds a run's stack, by which a correction is checked; None where it is not installed.
        ending: set when the server is to end, so that nobody waits any more.
    """

    store: TraceStore
    replayer: Replayer | None = None
    readonly: str = ""
    blame: Path | None = None
    key: str | None = None
    stacks: Callable[[str], Stack[Any, Any] | None] = lambda name: None
    token: str = field(default_factory=new_token)
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    templates: Environment = field(default_factory=environment)

    def page(self, name: str, status: int = 200, **values: Any) -> Response:
        """Draw a template."""
        text = self.templates.get_template(name).render(desk=self, token=self.token, readonly=self.readonly, **values)
        return Html(text, status)

    async def form(self, request: Request) -> dict[str, str]:
        """What a form sent, once it is known to be one of ours.

        Raises:
            UsageError: it is too large, or not a form of this page.
            StoreError: nothing can be changed here.
        """
        found = await fields_of(request)
        if not same(found.get("token", ""), self.token):
            raise UsageError(
                "the form is not of this page, or the server was started anew since",
                where=request.url.path,
                hint="load the page again and send it once more",
            )
        if self.readonly:
            raise StoreError(self.readonly, where=str(self.store.path), hint="start `fslm ui` where it can be written")
        return found


async def fields_of(request: Request) -> dict[str, str]:
    """The fields of a form; of several of one name the last.

    Raises:
        UsageError: it is too large.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _LARGEST:
            raise UsageError(
                "the form is too large",
                where=request.url.path,
                expected=f"at most {_LARGEST:,} bytes",
                hint="replay with --set on the command line",
            )
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


__all__ = ["Desk", "Replayer", "fields_of"]

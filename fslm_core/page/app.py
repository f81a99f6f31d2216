"""The application: which address shows what."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ..errors import FslmError, InputError, StoreError, UnknownNameError, UsageError
from . import live, reading, trends, writing
from .desk import Desk, fields_of
from .guard import COOKIE, Guard, proof_of, same

_STATUS: tuple[tuple[type[FslmError], int], ...] = (
    (UnknownNameError, 404),
    (UsageError, 400),
    (InputError, 400),
    (StoreError, 503),
)


def make(desk: Desk, *, hosts: frozenset[str] | None) -> Starlette:
    """The application.

    Args:
        hosts: see :class:`~fslm_core.page.guard.Guard`.
    """

    def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, FslmError)
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        return desk.page("error.html", status, error=error)

    def missing(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        told = UnknownNameError("there is no such page", where=request.url.path, hint="go back to the list of runs")
        return desk.page("error.html", status, error=told)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        if desk.replayer is not None:
            await desk.replayer.aclose()

    def show(page: Callable[[Desk, Request], Response]) -> Callable[[Request], Response]:
        return lambda request: page(desk, request)

    async def key(request: Request) -> Response:
        if request.method == "GET" and "key" not in request.query_params:
            return desk.page("key.html", 200, wrong=False)
        given = (await fields_of(request)).get("key", "") if request.method == "POST" else request.query_params["key"]
        if desk.key is None or not same(given, desk.key):
            return desk.page("key.html", 401, wrong=True)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, proof_of(desk.key), httponly=True, samesite="strict")
        return answer

    async def replay(request: Request) -> Response:
        return await writing.replay(desk, request)

    async def label(request: Request) -> Response:
        form = await desk.form(request)
        return await run_in_threadpool(writing.label, desk, request.path_params["run"], form)

    async def live_runs(request: Request) -> Response:
        return live.runs(desk, request)

    async def live_run(request: Request) -> Response:
        return live.run(desk, request)

    return Starlette(
        routes=[
            Route("/", show(reading.runs)),
            Route("/live", live_runs),
            Route("/runs/{run}", show(reading.run)),
            Route("/runs/{run}/live", live_run),
            Route("/runs/{run}/replay", replay, methods=["POST"]),
            Route("/runs/{run}/label", label, methods=["POST"]),
            Route("/diff", show(reading.diff)),
            Route("/stats", show(trends.stats)),
            Route("/blame", show(reading.blame)),
            Route("/key", key, methods=["GET", "POST"]),
            Mount("/static", StaticFiles(directory=Path(__file__).with_name("static"))),
        ],
        exception_handlers={FslmError: failed, HTTPException: missing},
        middleware=[Middleware(Guard, hosts=hosts, key=desk.key)],
        lifespan=lifespan,
    )


__all__ = ["make"]

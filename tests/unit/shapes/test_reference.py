"""Random small graphs on the real engine say what a naive walker says, and can be stopped, in whatever order."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fslm_core import Engine
from fslm_core.errors import RunFailed

from .graphs import Builder, Chancy, Nest, Value, graphs
from .reference import Failure, Reference, Told, agree


@pytest.fixture(scope="module")
def backend() -> Chancy:
    return Chancy()


@pytest.fixture(scope="module")
def engine(backend: Chancy) -> Iterator[Engine]:
    log = logging.getLogger("fslm")
    level = log.level
    log.setLevel(logging.ERROR)  # what is drawn is often of no use to anybody
    with Engine(trace=False, backend=backend) as opened:
        yield opened
    log.setLevel(level)


SAME: dict[str, st.SearchStrategy[Any]] = {
    "graph": graphs(),
    "a": st.integers(0, 20),
    "b": st.none() | st.integers(0, 20),
    "seed": st.integers(0, 2**32),
}
STOPPED: dict[str, st.SearchStrategy[Any]] = {
    "graph": graphs(),
    "a": st.integers(0, 20),
    "seed": st.integers(0, 2**32),
    "stuck": st.integers(1, 25),
}


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(**SAME)
def test_the_engine_says_what_a_naive_walker_says(engine: Engine, backend: Chancy, **drawn: Any) -> None:
    same(engine, backend, **drawn)


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(**STOPPED)
def test_a_run_that_is_cancelled_leaves_nothing_at_work(engine: Engine, backend: Chancy, **drawn: Any) -> None:
    stopped(engine, backend, **drawn)


def same(engine: Engine, backend: Chancy, graph: Nest, a: int, b: int | None, seed: int) -> None:
    backend.builder = builder = Builder(random.Random(seed))
    stack = builder.nest(graph)
    told = Told()
    try:
        wanted: Value | Failure = Reference().node(graph, a, b, "", told)[0]
    except Failure as failure:
        wanted = failure
        told, before = Told(), told
        told.hush(before)
    try:
        run = engine.run(stack, {"a": a, "b": b})
        assert not isinstance(wanted, Failure), f"it should have failed: {wanted.faults}"
        assert run.output.value == wanted
    except RunFailed as failed:
        run = failed.run
        assert isinstance(wanted, Failure), failed
        error = failed.error
        path = (error.where or "").removeprefix(f"stack {stack.name}").removeprefix(", step ")
        assert (path, error.code) in wanted.faults
    told.may |= told.must
    for path, found in run.messages.items():
        assert path in told.may, f"{path} should not be there"
        assert agree(told.may[path], found), f"{path}: {found}, not {told.may[path]}"
    assert set(told.must) <= set(run.messages)


def stopped(engine: Engine, backend: Chancy, graph: Nest, a: int, seed: int, stuck: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        hung = asyncio.Event()
        backend.builder = builder = Builder(random.Random(seed), stuck, partial(loop.call_soon_threadsafe, hung.set))
        task = asyncio.create_task(engine.arun(builder.nest(graph), {"a": a, "b": None}))
        waiting = asyncio.create_task(hung.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        task.cancel()  # of no effect where it ended before, or failed beside what never ends
        await asyncio.gather(task, return_exceptions=True)
        while builder.at_work:  # the engine's own loop hears of it a moment later
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(main(), 60))

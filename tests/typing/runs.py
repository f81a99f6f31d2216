"""Read by mypy, never run: what a caller's type checker knows of a run."""

from __future__ import annotations

from typing import Any, assert_type

from fslm_core import Engine, Outcome, Run
from fslm_echo import Echo, Said, echo


def by_stack(engine: Engine) -> None:
    run = engine.run(echo, Said(text="hello"))
    assert_type(run, Run[Echo])
    assert_type(run.output.echo, str)
    assert_type(engine.run(echo, {"text": "hello"}).output, Echo)
    engine.run(echo, 3)  # type: ignore[call-overload]
    run.output.nothing  # type: ignore[attr-defined]  # noqa: B018


def by_name(engine: Engine) -> None:
    assert_type(engine.run("echo", {"text": "hello"}), Run[Any])


def many(engine: Engine) -> None:
    for outcome in engine.map(echo, [Said(text="hello"), {"text": "again"}], concurrency=2):
        assert_type(outcome, Outcome[Echo])
        assert_type(outcome.output.echo, str)


async def from_a_loop(engine: Engine) -> None:
    assert_type((await engine.arun(echo, Said(text="hello"))).output, Echo)
    async for outcome in engine.amap(echo, [Said(text="hello")]):
        assert_type(outcome.output, Echo)

"""The scripted backend: what tests of everything above it lean on."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from fslm_core.backends.protocol import Chunk, Generation, ModelRef, Request
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.errors import DeadlineExceeded, UnknownNameError
from fslm_core.prompt import Prompt, Span


def ask(stage: str = "greet", **options: Any) -> Request:
    prompt = Prompt((Span("Say hello to Ada", "user"),))
    return Request("r1", prompt, ModelRef("none", stage=stage), **{"grammar": None, "max_tokens": 20, **options})


def play(backend: ScriptedBackend, request: Request) -> list[Chunk | Generation]:
    async def main() -> list[Chunk | Generation]:
        return [piece async for piece in backend.open(request)]

    return asyncio.run(main())


def said(backend: ScriptedBackend, request: Request) -> str:
    last = play(backend, request)[-1]
    assert isinstance(last, Generation)
    return last.text


def test_a_string_is_the_answer_every_time() -> None:
    backend = ScriptedBackend({"greet": "Good day, Ada"})
    pieces = play(backend, ask())
    assert [p.text for p in pieces] == ["Good ", "day, ", "Ada", "Good day, Ada"]
    assert said(backend, ask()) == "Good day, Ada"
    last = pieces[-1]
    assert isinstance(last, Generation)
    assert (last.counts.prompt, last.counts.output, last.finish_reason) == (4, 3, "stop")


def test_a_sequence_is_played_in_order_and_its_last_stays() -> None:
    backend = ScriptedBackend({"greet": ["one", "two"]})
    assert [said(backend, ask()) for _ in range(3)] == ["one", "two", "two"]


def test_a_function_sees_the_request() -> None:
    backend = ScriptedBackend({"greet": lambda r: f"seed {r.seed}"})
    assert said(backend, ask(seed=7)) == "seed 7"
    assert backend.requests[0].seed == 7


def test_an_exception_is_raised_and_the_next_answer_follows() -> None:
    backend = ScriptedBackend({"greet": [RuntimeError("broken"), "fine"]})
    with pytest.raises(RuntimeError, match="broken"):
        said(backend, ask())
    assert said(backend, ask()) == "fine"


def test_an_unknown_stage_offers_near_names() -> None:
    with pytest.raises(UnknownNameError) as caught:
        said(ScriptedBackend({"support.intent": "{}"}), ask("support.intend"))
    assert "support.intent" in str(caught.value)


def test_max_tokens_cuts() -> None:
    last = play(ScriptedBackend({"greet": "a b c"}), ask(max_tokens=2))[-1]
    assert isinstance(last, Generation)
    assert (last.text, last.finish_reason) == ("a b ", "length")


def test_a_gate_holds_the_answer_back_until_it_opens_or_time_is_up() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        backend = ScriptedBackend({"greet": "hello"}, gate=gate)
        stream = backend.open(ask())
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        assert not first.done()
        with pytest.raises(DeadlineExceeded):
            await anext(backend.open(ask(deadline=time.monotonic())))
        gate.set()
        assert await first == Chunk("hello")

    asyncio.run(main())


def test_giving_up_is_recorded() -> None:
    async def main() -> list[str]:
        backend = ScriptedBackend({"greet": "a b c"})
        stream = backend.open(ask())
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        return backend.closed_early

    assert asyncio.run(main()) == ["r1"]


def test_who_has_the_whole_answer_and_asks_no_further_gave_nothing_up() -> None:
    async def main() -> list[str]:
        backend = ScriptedBackend({"greet": "a b c"})
        stream = backend.open(ask())
        while not isinstance(await anext(stream), Generation):
            pass
        await stream.aclose()  # type: ignore[attr-defined]
        return backend.closed_early

    assert asyncio.run(main()) == []

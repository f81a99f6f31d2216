"""The bridge to other engines, with a process that knows its answers by heart."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fslm_core.backends.protocol import Generation, ModelRef, Request
from fslm_core.errors import BackendError
from fslm_core.prompt import Prompt, Span

from ..bench import ROOT
from ..bench.bridge import PeerBackend
from ..bench.isolation import check

PEER = [sys.executable, str(ROOT / "tests/bench/replay.py")]


def request(text: str, stage: str = "greet") -> Request:
    return Request("r", Prompt((Span(text, "user"),)), ModelRef("none", stage=stage), grammar="{}", max_tokens=9)


def ids_of(asked: Request) -> Sequence[int]:
    return [ord(sign) for span in asked.prompt.spans for sign in span.text]


@asynccontextmanager
async def bridge(
    folder: Path, answers: Sequence[tuple[str, str, str]], command: Sequence[str] = PEER
) -> AsyncIterator[PeerBackend]:
    """A peer that answers ``(stage, prompt, text)``."""
    file = folder / "answers.json"
    file.write_text(json.dumps([[stage, [ord(sign) for sign in prompt], text] for stage, prompt, text in answers]))
    stages = [{"name": "greet", "schema": "{}", "max_tokens": 9}]
    job = {"arm": "replay", "answers": str(file), "work_dir": str(folder), "stages": stages}
    backend = PeerBackend(command, job, ids_of)
    try:
        yield backend
    finally:
        await backend.aclose()


async def ask(backend: PeerBackend, asked: Request) -> Generation:
    (made,) = [piece async for piece in backend.open(asked)]
    assert isinstance(made, Generation)
    return made


def test_answers_find_their_askers_however_many_wait(tmp_path: Path) -> None:
    answers = [("greet", f"hello {number}", f"answer {number}") for number in range(40)]

    async def main() -> list[Generation]:
        async with bridge(tmp_path, answers) as backend:
            assert await backend.warm([ModelRef("none", stage="greet")]) == ["replay replay"]
            return await asyncio.gather(*(ask(backend, request(f"hello {number}")) for number in range(40)))

    made = asyncio.run(main())
    assert [one.text for one in made] == [f"answer {number}" for number in range(40)]
    assert made[0].counts.prompt == len("hello 0")
    assert made[0].counts.output == len("answer 0")


def test_the_job_tells_the_base_and_each_stages_adapter(tmp_path: Path) -> None:
    async def main() -> None:
        async with bridge(tmp_path, []) as backend:
            await backend.warm([ModelRef("none", Path("/base"), Path("/adapters/greet"), stage="greet")])

    asyncio.run(main())
    job = json.loads((tmp_path / "job-replay.json").read_text())
    assert job["base"] == "/base"
    assert job["stages"] == [{"name": "greet", "schema": "{}", "max_tokens": 9, "adapter": "/adapters/greet"}]


def test_a_failed_answer_is_the_askers_alone(tmp_path: Path) -> None:
    async def main() -> str:
        async with bridge(tmp_path, [("greet", "known", "yes")]) as backend:
            await backend.warm([ModelRef("none", stage="greet")])
            with pytest.raises(BackendError, match="not in the script"):
                await ask(backend, request("unknown"))
            return (await ask(backend, request("known"))).text

    assert asyncio.run(main()) == "yes"


def test_it_can_be_reset_and_asked_for_counts_from_another_loop(tmp_path: Path) -> None:
    async def main() -> dict[str, int]:
        async with bridge(tmp_path, [("greet", "known", "yes")]) as backend:
            await backend.warm([ModelRef("none", stage="greet")])
            await ask(backend, request("known"))
            await asyncio.to_thread(asyncio.run, backend.reset())
            return await asyncio.to_thread(asyncio.run, backend.stats())

    assert asyncio.run(main())["served"] == 1


def test_a_process_that_ends_is_told_to_whoever_waits(tmp_path: Path) -> None:
    program = 'print(\'{"event": "error", "message": "no such arm"}\')'

    async def main() -> None:
        async with bridge(tmp_path, [], [sys.executable, "-c", program]) as backend:
            with pytest.raises(BackendError, match="no such arm"):
                await backend.warm([ModelRef("none", stage="greet")])

    asyncio.run(main())


class Engine:
    """Answers of adapter and prompt; ``leaks`` keeps what the first adapter made of a prompt for all others."""

    def __init__(self, *, leaks: bool) -> None:
        self._leaks = leaks
        self._cache: dict[str, str] = {}

    async def reset(self) -> None:
        self._cache.clear()

    async def ask(self, asked: Request) -> str:
        prompt, own = asked.prompt.spans[0].text, asked.model.stage
        made_by = self._cache.setdefault(prompt, own) if self._leaks else own
        return f"{prompt} by {made_by}"


@pytest.mark.parametrize(("leaks", "verdict"), [(False, "held"), (True, "fails")])
def test_an_engine_that_mixes_up_its_adapters_is_found_out(leaks: bool, verdict: str) -> None:
    engine = Engine(leaks=leaks)
    requests = {stage: [request(f"{stage} {number}", stage) for number in range(3)] for stage in ("a", "b", "c")}
    found = asyncio.run(check(engine.ask, engine.reset, requests))
    assert found.verdict == verdict
    assert found.compared[0] == 3 * 3 * 2
    assert (found.sensitive > 0) is True


def test_an_engine_that_rounds_otherwise_when_asked_again_keeps_its_adapters_apart() -> None:
    class Rounding(Engine):
        async def ask(self, asked: Request) -> str:
            place = f"{asked.model.stage}: {asked.prompt.spans[0].text}"
            again = self._cache.setdefault(place, "")
            self._cache[place] = " again"
            return await super().ask(asked) + again

    engine = Rounding(leaks=False)
    requests = {stage: [request(f"{stage} {number}", stage) for number in range(3)] for stage in ("a", "b", "c")}
    found = asyncio.run(check(engine.ask, engine.reset, requests))
    assert (found.verdict, found.differing) == ("held", (0, 0))


def test_one_stage_alone_shows_nothing() -> None:
    engine = Engine(leaks=True)
    assert asyncio.run(check(engine.ask, engine.reset, {"a": [request("x", "a")]})).verdict == "unknown"

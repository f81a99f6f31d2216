"""Sessions: turns at once, in one engine, in two, and in processes that are killed; no update is ever lost."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as effort
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from hypothesis.strategies import booleans

from fslm_core import Engine, Settings
from fslm_core.errors import (
    DeadlineExceeded,
    EngineBusy,
    RunFailed,
    SessionConflict,
    UnknownNameError,
)
from fslm_core.settings import load

from .talking import HELD, Dialogue, Held, engine_of, talk


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(files=(), data_dir=tmp_path)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    with engine_of(settings) as opened:
        yield opened


@pytest.fixture
def held() -> Held:
    HELD.begun, HELD.go = threading.Event(), asyncio.Event()
    return HELD


# -- two at once -----------------------------------------------------------------------------------------------------


def test_turns_of_one_session_wait_for_each_other_and_none_is_lost(engine: Engine) -> None:
    engine.origins(talk)  # made ready: who waits for that is let in as it comes

    async def many() -> list[Any]:
        return await asyncio.gather(*(engine.arun(talk, {"text": str(n)}, session=f"s{n % 3}") for n in range(30)))

    runs = asyncio.run(many())
    for n in range(3):
        turns = engine.sessions.get(f"s{n}").state["turns"]
        assert turns == [str(k) for k in range(n, 30, 3)]  # in the order in which they came
    assert sorted(run.output.reply.split(":")[0] for run in runs) == sorted(str(k) for k in range(10) for _ in range(3))


def test_who_waits_for_a_session_has_the_time_of_a_run(engine: Engine, held: Held) -> None:
    async def two() -> None:
        first = asyncio.create_task(engine.arun(talk, {"text": "wait"}, session="ann"))
        await asyncio.to_thread(held.begun.wait)
        with pytest.raises(DeadlineExceeded, match="the turns before it did not end within"):
            await engine.arun(talk, {"text": "b"}, session="ann", timeout=0.05)
        await engine.arun(talk, {"text": "c"}, session="bob")  # others do not wait
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(two())


def test_no_more_wait_for_a_session_than_the_engine_lets_in(settings: Settings, held: Held) -> None:
    with engine_of(settings, max_in_flight=3) as engine:

        async def many() -> list[Any]:
            first = asyncio.create_task(engine.arun(talk, {"text": "wait"}, session="ann"))
            await asyncio.to_thread(held.begun.wait)
            others = [asyncio.create_task(engine.arun(talk, {"text": "b"}, session="ann")) for _ in range(8)]
            done, _ = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
            for task in (first, *others):
                task.cancel()
            await asyncio.gather(first, *others, return_exceptions=True)
            return [task.exception() for task in done]

        assert all(isinstance(error, EngineBusy) for error in asyncio.run(many()))


def test_another_engine_in_between_is_a_conflict_and_its_turn_stays(settings: Settings, held: Held) -> None:
    with engine_of(settings) as mine, engine_of(settings) as theirs:

        async def both() -> None:
            task = asyncio.create_task(mine.arun(talk, {"text": "wait"}, session="ann"))
            await asyncio.to_thread(held.begun.wait)
            await theirs.arun(talk, {"text": "b"}, session="ann")
            mine._works.loop._loop.call_soon_threadsafe(held.go.set)
            with pytest.raises(RunFailed) as failed:
                await task
            assert isinstance(failed.value.error, SessionConflict) and failed.value.exit_code == 5
            assert failed.value.run.status == "failed" and failed.value.run.result is None

        asyncio.run(both())
        assert mine.run(talk, {"text": "c"}, session="ann").state == Dialogue(turns=["b", "c"])


ROOT = Path(__file__).parents[2]


def test_processes_that_share_sessions_and_are_killed_lose_no_turn() -> None:
    campaign = [sys.executable, "-m", "tests.campaigns.sessions"]
    options = ["--kills", "1", "--talkers", "2", "--pause", "0.1", "--seed", "1"]
    done = subprocess.run([*campaign, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert (counts["killed"], counts["processes"], counts["sessions"]) == (1, 3, 2)
    assert counts["turns told"] >= 3


# -- whatever comes after whatever -----------------------------------------------------------------------------------


class Interleavings(RuleBasedStateMachine):
    """Turns, failures, forks and forgetting in any order, by two engines, say what a dict of lists says."""

    ids = Bundle("ids")

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        chosen = load(files=(), data_dir=self.folder.name)
        self.engines = [engine_of(chosen, trace=False).__enter__() for _ in range(2)]
        self.model: dict[str, list[str]] = {}
        self.made = 0

    def teardown(self) -> None:
        for engine in getattr(self, "engines", ()):
            engine.close()
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule(target=ids)
    def name(self) -> str:
        self.made += 1
        return f"s{self.made}"

    @rule(id=ids, which=booleans(), text=booleans())
    def turn(self, id: str, which: bool, text: bool) -> None:
        said = f"t{len(self.model.get(id, []))}{text}"
        run = self.engines[which].run(talk, {"text": said}, session=id)
        assert run.output.reply == f"{len(self.model.get(id, []))}: {said}"
        self.model.setdefault(id, []).append(said)

    @rule(id=ids, which=booleans())
    def fail(self, id: str, which: bool) -> None:
        with pytest.raises(RunFailed):
            self.engines[which].run(talk, {"text": "boom"}, session=id)

    @rule(id=ids)
    def both_at_once(self, id: str) -> None:
        """Of two engines at least one succeeds; who does not was told."""

        async def two() -> list[Any]:
            turns = (engine.arun(talk, {"text": f"e{n}"}, session=id) for n, engine in enumerate(self.engines))
            return await asyncio.gather(*turns, return_exceptions=True)

        done = asyncio.run(two())
        kept = self.engines[0].sessions.get(id).state["turns"]
        new = kept[len(self.model.get(id, [])) :]
        assert kept[: len(kept) - len(new)] == self.model.get(id, [])
        assert sorted(new) == [f"e{n}" for n, run in enumerate(done) if not isinstance(run, BaseException)] != []
        assert all(isinstance(e.error, SessionConflict) for e in done if isinstance(e, BaseException))
        self.model[id] = kept

    @rule(target=ids, id=ids, which=booleans())
    def fork(self, id: str, which: bool) -> str:
        sessions = self.engines[which].sessions
        if id not in self.model:
            with pytest.raises(UnknownNameError):
                sessions.fork(id)
            return id
        made = sessions.fork(id).id
        assert made not in self.model
        self.model[made] = list(self.model[id])
        return made

    @rule(id=consumes(ids), which=booleans())
    def forget(self, id: str, which: bool) -> None:
        assert self.engines[which].sessions.forget(id) == ((id,) if id in self.model else ())
        self.model.pop(id, None)

    @invariant()
    def they_say_the_same(self) -> None:
        for engine in getattr(self, "engines", ()):
            assert {one.id: one.state["turns"] for one in engine.sessions.list()} == self.model


Interleavings.TestCase.settings = effort(max_examples=12, stateful_step_count=15, deadline=None)
test_any_interleaving_says_what_a_dict_says = Interleavings.TestCase

"""Closed-loop load on an engine, with clients that change their minds: is it flat in memory, threads, files and tasks?

::

    python -m tests.campaigns.load --minutes 10 --json load.json
    python -m tests.campaigns.load --minutes 10 --stack support     # with the real model

Every client asks again as soon as it was answered. Of its questions some are cancelled after a random while, some have
a deadline that they may miss, some are streamed and left early, some meet a full engine, the others are awaited. Every
few seconds the process is measured. After a warm-up (a fifth of the time) the medians of the two halves that follow are
compared, and a line is fitted through them. The exit code is 1 where the second half is not as flat as the limits ask.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from pydantic import BaseModel, Field

from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.engine import Engine
from fslm_core.errors import DeadlineExceeded, EngineBusy, RunFailed
from fslm_core.plugins import PluginHost
from fslm_core.serve.metrics import Metrics
from fslm_core.settings import Settings, load
from fslm_core.stack import Stack, Step
from fslm_core.stage import SLM, Stage, tool
from fslm_core.store import TraceStore

MIB = 2**20
LIMITS = {"own": (0.03, 4 * MIB), "rss": (0.03, 8 * MIB), "threads": (0, 4), "files": (0, 4), "tasks": (0, 128)}
LIMITS["objects"] = (0.02, 2000)
"""By how much the second half may exceed the first: a share of it, and an amount. Tasks come and go with every step: of
them only a heap is looked for."""


class Text(BaseModel):
    text: str


class Flag(BaseModel):
    flag: bool


class Shout(BaseModel):
    shout: str = Field(max_length=10_000)


@tool("load.shout", version="1")
def shout(text: Text) -> Shout:
    return Shout(shout=text.text.upper())


@tool("load.think", version="1")
async def think(shout: Shout) -> Text:
    await asyncio.sleep(0.01)
    return Text(text=shout.shout.lower())


flag = Stage("load.flag", input=Text, output=Flag, prompt="{{ text }}", model=SLM("smollm2-135m", tuned=True))
scripted = Stack("load", input=Text, output=Flag, steps=[shout, think, Step(flag, bind={"text": "think.text"})])


@dataclass(frozen=True)
class Sample:
    """One look at the process. Bytes and counts; ``seconds`` since the load began."""

    seconds: float
    own: int
    """Anonymous memory; what is mapped from files counts or not as other processes come and go."""
    rss: int
    threads: int
    files: int
    tasks: int
    objects: int


@dataclass(frozen=True)
class Course:
    """How one figure went: the halves' medians and the slope, per minute, of a line through both."""

    name: str
    first: float
    second: float
    slope: float
    flat: bool


class Load:
    """Clients at work on one engine. Their patience is drawn about the time that questions take under this load."""

    def __init__(self, engine: Engine, stack: Stack[Any, Any] | str, clients: int, chance: random.Random) -> None:
        self.ends: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self._engine = engine
        self._stack = stack
        self._clients = clients
        self._chance = chance
        self._patience = 0.1
        self._over = False

    async def run(self, seconds: float, every: float) -> None:
        """Load the engine for so long, and look at the process every so often."""
        began = time.monotonic()
        await self._engine.arun(self._stack, self._question())
        self._patience = (time.monotonic() - began) * self._clients / 2
        began = time.monotonic()
        clients = [asyncio.create_task(self._client()) for _ in range(self._clients)]
        while time.monotonic() < began + seconds or not (self._enough() or any(client.done() for client in clients)):
            await asyncio.sleep(every)
            self.samples.append(self._look(time.monotonic() - began))
        self._over = True
        await asyncio.gather(*clients)

    def _enough(self) -> bool:
        """Whether there is anything to compare, however busy the machine is."""
        return len(self.samples) >= 4 and sum(self.ends.values()) >= 8 * self._clients

    async def _client(self) -> None:
        while not self._over:
            kind = self._chance.choices(["wait", "cancel", "deadline", "leave"], [6, 2, 1, 1])[0]
            try:
                self.ends[await getattr(self, f"_{kind}")()] += 1
            except EngineBusy:
                self.ends["refused"] += 1
                await asyncio.sleep(self._chance.random() * self._patience / 4)

    def _question(self) -> dict[str, str]:
        what = self._chance.choice(["where is", "cancel", "I want my money back for", "tell me about"])
        return {"text": f"{what} order {self._chance.randrange(10**6)}" + " please" * self._chance.randrange(20)}

    def _soon(self) -> float:
        return self._chance.random() * self._patience

    async def _wait(self) -> str:
        try:
            return (await self._engine.arun(self._stack, self._question())).status
        except RunFailed as failed:
            return f"failed: {failed.error.code}"

    async def _cancel(self) -> str:
        task = asyncio.create_task(self._wait())
        await asyncio.wait([task], timeout=self._soon())
        task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return "cancelled"

    async def _deadline(self) -> str:
        try:
            return (await self._engine.arun(self._stack, self._question(), timeout=self._soon())).status
        except RunFailed as failed:
            return "late" if isinstance(failed.error, DeadlineExceeded) else f"failed: {failed.error.code}"

    async def _leave(self) -> str:
        async with aclosing(self._engine.astream(self._stack, self._question())) as events:  # type: ignore[type-var]
            left = self._chance.randrange(1, 12)
            async for _ in events:
                left -= 1
                if not left:
                    return "left"
        return "streamed"

    def _look(self, seconds: float) -> Sample:
        gc.collect()
        process = psutil.Process()
        memory = process.memory_info()
        return Sample(
            round(seconds, 1),
            memory.rss - memory.shared,
            memory.rss,
            process.num_threads(),
            process.num_fds(),
            len(asyncio.all_tasks(self._engine._works.loop._loop)),
            len(gc.get_objects()),
        )


def courses(samples: Sequence[Sample], seconds: float) -> list[Course]:
    """How each figure went after the warm-up.

    >>> still = [Sample(float(s), 100 * MIB, 200 * MIB, 9, 30, 40, 10**5) for s in range(60)]
    >>> all(course.flat and course.slope == 0 for course in courses(still, 60.0))
    True
    >>> leaking = [Sample(float(s), (100 + s) * MIB, 200 * MIB, 9, 30 + s, 40, 10**5) for s in range(60)]
    >>> [course.name for course in courses(leaking, 60.0) if not course.flat]
    ['own', 'files']
    """
    warm = [sample for sample in samples if sample.seconds >= seconds / 5]
    half = len(warm) // 2
    found = []
    for name, (share, amount) in LIMITS.items():
        values = [float(getattr(sample, name)) for sample in warm]
        first, second = statistics.median(values[:half]), statistics.median(values[half:])
        slope, _ = statistics.linear_regression([sample.seconds / 60 for sample in warm], values)
        found.append(Course(name, first, second, slope, second <= first * (1 + share) + amount))
    return found


def engine_for(name: str, settings: Settings, clients: int) -> tuple[Engine, Stack[Any, Any] | str]:
    """An engine with a trace and observers, that has room for a few clients less than there are."""
    more: dict[str, Any] = {
        "settings": settings,
        "max_in_flight": max(1, clients - 4),
        "observers": [Metrics(MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False))],
    }
    if name != "scripted":
        return Engine([name], **more), name
    backend = _Forgetful({"load.flag": '{"flag":true}'})
    return Engine([scripted], host=PluginHost(settings, installed=False), backend=backend, **more), scripted


class _Forgetful(ScriptedBackend):
    """Does not keep every request for a test to look at."""

    async def open(self, request: Any) -> Any:
        try:
            async with aclosing(super().open(request)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    yield piece
        finally:
            self.requests.clear()
            self.closed_early.clear()


async def campaign(stack: str, settings: Settings, *, clients: int, seconds: float, every: float, seed: int) -> Load:
    """The whole load; the engine is opened before it and closed after it."""
    engine, chosen = engine_for(stack, settings, clients)
    async with engine:
        load = Load(engine, chosen, clients, random.Random(seed))
        await load.run(seconds, every)
    return load


def record(load: Load, settings: Settings, seconds: float) -> dict[str, Any]:
    """What is to be reported, as plain data."""
    with TraceStore.open(settings.trace_path, readonly=True) as store:
        kept = Counter(row.status for row in store.runs(limit=10**9))
    return {
        "seconds": seconds,
        "ends": dict(load.ends),
        "trace": dict(kept),
        "courses": [asdict(course) for course in courses(load.samples, seconds)],
        "samples": [asdict(sample) for sample in load.samples],
    }


def show(found: dict[str, Any]) -> None:
    """Print the record for people."""
    print(f"{sum(found['ends'].values())} questions in {found['seconds']:.0f} s:", found["ends"])
    print("runs in the trace:", found["trace"])
    print(f"{'':10}{'first half':>14}{'second half':>14}{'per minute':>14}")
    for course in found["courses"]:
        unit = MIB if course["name"] in ("own", "rss") else 1
        figures = "".join(f"{course[part] / unit:14.2f}" for part in ("first", "second", "slope"))
        name = course["name"] + (" MiB" if unit == MIB else "")
        print(f"{name:10}{figures}  {'flat' if course['flat'] else 'NOT FLAT'}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; 0 if everything was flat and no run was left running."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.load", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--stack", default="scripted", help="an installed stack's name, or `scripted`: no model")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two looks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the record here")
    asked = parser.parse_args(arguments)
    seconds = asked.minutes * 60
    with tempfile.TemporaryDirectory() as folder:
        settings = load(data_dir=folder)
        done = asyncio.run(
            campaign(asked.stack, settings, clients=asked.clients, seconds=seconds, every=asked.every, seed=asked.seed)
        )
        found = {"stack": asked.stack, "clients": asked.clients, **record(done, settings, seconds)}
    show(found)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    good = all(course["flat"] for course in found["courses"])
    return 0 if good and not {"running", "interrupted"} & found["trace"].keys() else 1


if __name__ == "__main__":
    sys.exit(main())

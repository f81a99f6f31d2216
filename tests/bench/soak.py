"""Closed-loop load with clients that change their minds: does an engine leak memory, slots, futures or threads?

    python -m tests.bench soak --data DIR --engine fused-auto --minutes 10 --json soak.json

As ``tests.campaigns.load``, whose clients it uses, but with the benchmark's engines and rows and without a trace:
32 clients ask again as soon as they are answered; some cancel after a while, some have a deadline, some leave a stream
early. Every few seconds the process is measured, and with it what lives in it: rows, tasks, slots in use, pending
futures. The halves after a warm-up are compared. At the end, when nobody asks any more, nothing may be in use. The exit
code is 0 if all was flat and nothing was left.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fslm_core import Engine
from tests.campaigns.load import Load, Sample, courses

from .compare import cores_of, data_of, shared_options, torch_of
from .engines import chosen
from .worker import Job, make_backend
from .workloads import WORKLOADS

WATCHED = ("Row", "Task", "Mailbox", "Slot", "Future")
SETTLE = 30.0
"""Seconds in which the last cancelled work must be gone."""
MORE = 64
"""How many more of a kind the second half may hold than the first: they come and go with every request."""
Json = dict[str, Any]


def living() -> dict[str, int]:
    """What lives of the kinds that stand for work; of slots those in use, of futures those pending."""
    counts = dict.fromkeys(WATCHED, 0)
    for one in gc.get_objects():
        kind = type(one)
        if kind.__name__ == "Future" and isinstance(one, asyncio.Future):
            counts["Future"] += not one.done()
        elif kind.__name__ in counts and kind.__module__.startswith("fslm_core.backends.torch"):
            counts[kind.__name__] += bool(getattr(one, "busy", True))
    return counts


class Soak(Load):
    """The campaign's clients with the benchmark's questions."""

    def __init__(self, engine: Engine, stack: Any, clients: int, chance: random.Random, inputs: Sequence[Json]) -> None:
        super().__init__(engine, stack, clients, chance)
        self._inputs = inputs
        self.counts: list[tuple[float, dict[str, int]]] = []

    def _question(self) -> Json:
        return self._chance.choice(self._inputs)

    def _look(self, seconds: float) -> Sample:
        sample = super()._look(seconds)
        self.counts.append((seconds, living()))
        return sample


async def soak(job: Job, inputs: Sequence[Json], *, clients: int, seconds: float, every: float, seed: int) -> Json:
    """The whole load on one engine, and what was left of it."""
    stack = WORKLOADS[job.workload].stack()
    engine = Engine([stack], backend=make_backend(job, stack), trace=False, max_in_flight=max(1, clients - 4))
    async with engine:
        before = living()
        load = Soak(engine, stack, clients, random.Random(seed), inputs)
        await load.run(seconds, every)
        left = await _settled(before)
    kinds = {name: halves([(at, counts[name]) for at, counts in load.counts], seconds) for name in WATCHED}
    return {
        "engine": job.engine.name,
        "seconds": seconds,
        "clients": clients,
        "ends": dict(load.ends),
        "courses": [asdict(course) for course in courses(load.samples, seconds)],
        "living": kinds,
        "left": left,
        "samples": [asdict(sample) for sample in load.samples],
    }


async def _settled(before: Mapping[str, int]) -> dict[str, int]:
    """What more lives than before the load, as soon as nothing does or the time is over."""
    until = time.monotonic() + SETTLE
    while True:
        gc.collect()
        left = {name: count - before[name] for name, count in living().items() if count > before[name]}
        if not left or time.monotonic() > until:
            return left
        await asyncio.sleep(0.5)


def halves(counts: Sequence[tuple[float, int]], seconds: float) -> tuple[float, float]:
    """The medians of the two halves that follow a warm-up of a fifth.

    >>> halves([(float(at), at) for at in range(10)], 10.0)
    (3.5, 7.5)
    """
    warm = [count for at, count in counts if at >= seconds / 5]
    half = len(warm) // 2
    return statistics.median(warm[:half] or [0]), statistics.median(warm[half:] or [0])


def good(found: Json) -> bool:
    """Whether all was flat and nothing was left."""
    flat = all(course["flat"] for course in found["courses"])
    return flat and not found["left"] and all(b <= a + MORE for a, b in found["living"].values())


def show(found: Json) -> None:
    """Print the record for people."""
    print(f"{found['engine']}: {sum(found['ends'].values())} questions in {found['seconds']:.0f} s:", found["ends"])
    for course in found["courses"]:
        unit = 2**20 if course["name"] in ("own", "rss") else 1
        figures = "".join(f"{course[part] / unit:14.2f}" for part in ("first", "second", "slope"))
        print(
            f"{course['name'] + (' MiB' if unit > 1 else ''):10}{figures}  {'flat' if course['flat'] else 'NOT FLAT'}"
        )
    for name, (first, second) in found["living"].items():
        print(f"{name:10}{first:14.1f}{second:14.1f}")
    print("left when nobody asks:", found["left"] or "nothing")


def main(arguments: list[str]) -> int:
    """Load; 0 if nothing leaks."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared_options(parser)
    parser.add_argument("--engine", default="fused-auto")
    parser.add_argument("--workload", default="support", choices=WORKLOADS)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two looks")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    cores = cores_of(asked)
    os.sched_setaffinity(0, cores)
    inputs = [row.input for row in WORKLOADS[asked.workload].rows(data_of(asked), 0).timing]
    (engine,) = chosen(asked.engine)
    job = Job(engine, asked.workload, cores, torch_of(asked))
    load = {"clients": asked.clients, "seconds": asked.minutes * 60, "every": asked.every, "seed": asked.seed}
    found = asyncio.run(soak(job, inputs, **load))
    show(found)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if good(found) else 1


__all__ = ["Soak", "good", "halves", "living", "main", "soak"]

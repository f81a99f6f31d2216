"""Closed loops and the figures made of them. Nothing here knows an engine: a call is any coroutine function."""

from __future__ import annotations

import asyncio
import math
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fslm_core.explain.paired import percentile

Call = Callable[[Any], Awaitable[bool]]
"""Asks one input; whether a valid output came of it."""


@dataclass(frozen=True)
class Timing:
    """One closed loop.

    Attributes:
        latencies: seconds of each stack that ended, in the order in which they ended.
        seconds: from the first question to the last answer.
        failed: how many of the stacks ended without an output; they count as work done.
        foreign: the share of the cores that processes outside the engine used meanwhile, 0 to 1; a figure far above 0
            says that the timing was disturbed.
    """

    latencies: tuple[float, ...]
    seconds: float
    failed: int = 0
    foreign: float = 0.0

    @property
    def rate(self) -> float:
        """Stacks a second."""
        return len(self.latencies) / self.seconds


async def closed_loop(call: Call, inputs: Sequence[Any], concurrency: int, patience: float = math.inf) -> Timing:
    """Let ``concurrency`` clients ask one input after another until all are answered.

    A concurrency of the number of inputs is an offline batch: all is asked at once.

    Args:
        call: asks one input. What it raises ends the loop.
        patience: seconds after which the loop ends. What is being worked on then is cancelled and does not count, but
            one answer is waited for, so that a slow engine's rate is known without its whole batch.

    >>> async def ask(value): return True
    >>> len(asyncio.run(closed_loop(ask, range(10), 4)).latencies)
    10
    """
    waiting: Iterator[Any] = iter(inputs)
    latencies: list[float] = []
    answered = asyncio.Event()
    failed = 0

    async def client() -> None:
        nonlocal failed
        for value in waiting:
            asked = time.perf_counter()
            valid = await call(value)  # in a line of its own: `+=` would have read the sum before it waited
            latencies.append(time.perf_counter() - asked)
            failed += not valid
            answered.set()

    async def all_clients() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(client())

    began = time.perf_counter()
    loop = asyncio.create_task(all_clients())
    first = asyncio.create_task(answered.wait())
    try:
        done, _ = await asyncio.wait([loop], timeout=None if math.isinf(patience) else patience)
        if not done:
            await asyncio.wait([loop, first], return_when=asyncio.FIRST_COMPLETED)
        seconds = time.perf_counter() - began
        finished = tuple(latencies)
    finally:
        for task in (loop, first):
            task.cancel()
        outcome, _ = await asyncio.gather(loop, first, return_exceptions=True)
    if isinstance(outcome, BaseExceptionGroup):
        raise outcome.exceptions[0]
    return Timing(finished, seconds, failed)


@dataclass(frozen=True)
class Figures:
    """What several rounds of one measurement come to.

    Attributes:
        p50_s: the median over the rounds of each round's median latency, seconds.
        p95_s: of all rounds' latencies together, seconds.
        stacks_per_s: the median over the rounds.
        spread: least and greatest round of ``p50_s`` and of ``stacks_per_s``.
        foreign: the greatest share of the cores that others used during a round.
    """

    p50_s: float
    p95_s: float
    stacks_per_s: float
    spread: dict[str, tuple[float, float]]
    rounds: int
    rows: int
    failed: int
    foreign: float


def figures(rounds: Sequence[Timing]) -> Figures:
    """Sum up the rounds of one measurement.

    >>> two = [Timing((1.0, 1.0, 2.0), 4.0), Timing((3.0, 3.0, 3.0), 6.0)]
    >>> found = figures(two)
    >>> found.p50_s, found.stacks_per_s, found.spread["p50_s"]
    (2.0, 0.625, (1.0, 3.0))
    """
    medians = [statistics.median(timing.latencies) for timing in rounds]
    rates = [timing.rate for timing in rounds]
    together = [latency for timing in rounds for latency in timing.latencies]
    return Figures(
        p50_s=statistics.median(medians),
        p95_s=percentile(together, 0.95),
        stacks_per_s=statistics.median(rates),
        spread={"p50_s": (min(medians), max(medians)), "stacks_per_s": (min(rates), max(rates))},
        rounds=len(rounds),
        rows=len(together),
        failed=sum(timing.failed for timing in rounds),
        foreign=max(timing.foreign for timing in rounds),
    )


class Watch:
    """How busy the cores are with what is not ours, from its making to :meth:`foreign`.

    Args:
        cores: the cores the benchmark is pinned to.
        pids: the processes that are ours, with what they start.
    """

    def __init__(self, cores: Sequence[int], pids: Sequence[int]) -> None:
        self._cores = cores
        self._pids = pids
        self._began = time.perf_counter()
        self._busy = self._core_seconds()
        self._own = self._own_seconds()

    def foreign(self) -> float:
        """The share of the cores that other processes used, 0 to 1."""
        others = (self._core_seconds() - self._busy) - (self._own_seconds() - self._own)
        return min(1.0, max(0.0, others / (len(self._cores) * (time.perf_counter() - self._began))))

    def _core_seconds(self) -> float:
        import psutil

        every = psutil.cpu_times(percpu=True)
        return sum(sum(times) - times.idle - getattr(times, "iowait", 0.0) for times in (every[c] for c in self._cores))

    def _own_seconds(self) -> float:
        return sum(_seconds_of(pid) for pid in self._pids) + _seconds_of(os.getpid(), alone=True)


def family(pid: int) -> list[Any]:
    """The process and all it started that still run, as psutil's processes."""
    import psutil

    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _seconds_of(pid: int, *, alone: bool = False) -> float:
    import psutil

    total = 0.0
    for process in family(pid)[: 1 if alone else None]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


__all__ = ["Call", "Figures", "Timing", "Watch", "closed_loop", "family", "figures", "percentile"]

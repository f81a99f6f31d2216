"""What a batch will take, from a few of its rows that are really run."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..engine import Engine
from ..errors import InputError, ReviewNeeded, UsageError
from ..stack import Stack
from .inputs import read_line
from .source import bounded_lines, count_lines

SAMPLE = 20
_RESAMPLES = 2000
_TAIL = 0.05
_HOUR = 3600


@dataclass(frozen=True)
class Range:
    """An expected value and the bounds of its 90 % interval."""

    low: float
    expected: float
    high: float

    def times(self, factor: float, plus: float = 0.0) -> Range:
        """Each of the three, times ``factor`` and ``plus`` something."""
        return Range(*(value * factor + plus for value in (self.low, self.expected, self.high)))


@dataclass(frozen=True)
class Estimate:
    """What a batch will take.

    Attributes:
        rows: lines of the input.
        sampled: how many of them were run.
        failed: how many of those failed.
        concurrency: rows at work at once while they ran.
        start_seconds: once, before the first row: loading models and running one row to warm up.
        row_seconds: per row, at this concurrency: the whole divided by the rows.
        seconds: of the whole batch, start included.
        peak_memory_bytes: the most this process held in memory; None where the system does not say.
        cost: of the whole batch, in the currency of the price; None without one.
    """

    rows: int
    sampled: int
    failed: int
    concurrency: int
    start_seconds: float
    row_seconds: Range
    seconds: Range
    peak_memory_bytes: int | None
    cost: Range | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


def sample_of(path: Path, size: int = SAMPLE) -> tuple[int, list[bytes]]:
    """How many rows an input has, and ``size`` of them, evenly spread; all of them if there are no more.

    Raises:
        UsageError: there is no row.
    """
    rows = count_lines(path)
    if not rows:
        raise UsageError("there is no row to estimate by", where=str(path), hint="name an input that has rows")
    with path.open("rb") as file:
        if rows <= size:
            return rows, list(bounded_lines(file))
        wanted = {(2 * n + 1) * rows // (2 * size) for n in range(size)}
        return rows, [line for number, line in enumerate(bounded_lines(file)) if number in wanted]


async def estimate(
    engine: Engine,
    stack: Stack[Any, Any],
    rows: int,
    sample: Sequence[bytes],
    *,
    concurrency: int,
    seed: int,
    timeout: float | None,
    began: float,
    price: float | None,
) -> Estimate:
    """Run the sample and reckon from it.

    The mean number of rows at work, ``sum(seconds of each row) / seconds of all``, is taken to stay as it is in the
    sample, so the whole takes ``rows * mean(seconds of a row) / rows at work``. How far that mean may be off is told by
    the percentile bootstrap over the sampled rows (Efron 1979), 5 % on either side.

    Args:
        rows: of the whole batch.
        sample: lines of its input.
        began: the ``time.monotonic()`` at which the program began to load.
        price: of one hour of this machine, in any currency.
    """
    values = list(_readable(sample, stack))
    for value in values[:1]:
        async for _ in engine.amap(stack, [value], concurrency=1, seed=seed, timeout=timeout):
            pass
    start_seconds = time.monotonic() - began
    seconds, failed = [0.0] * (len(sample) - len(values)), len(sample) - len(values)
    running = time.perf_counter()  # the finest clock: no row may have been there to run
    async for outcome in engine.amap(stack, _as_they_are(values), concurrency=concurrency, seed=seed, timeout=timeout):
        seconds.append(outcome.run.seconds if outcome.run is not None else 0.0)
        failed += outcome.error is not None and not isinstance(outcome.error, ReviewNeeded)
    took = time.perf_counter() - running
    at_work = max(sum(seconds) / took, 1.0)
    row = bootstrapped(seconds).times(1 / at_work)
    whole = row.times(rows, start_seconds)
    return Estimate(
        rows=rows,
        sampled=len(sample),
        failed=failed,
        concurrency=min(concurrency, len(sample)),
        start_seconds=start_seconds,
        row_seconds=row,
        seconds=whole,
        peak_memory_bytes=peak_memory(),
        cost=None if price is None else whole.times(price / _HOUR),
    )


def _readable(sample: Sequence[bytes], stack: Stack[Any, Any]) -> list[dict[str, Any]]:
    values = []
    for number, line in enumerate(sample):
        try:
            values.append(read_line(line, stack.input, where=f"row {number}"))
        except InputError:
            continue
    return values


async def _as_they_are(values: Sequence[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    for value in values:
        yield value


def bootstrapped(seconds: Sequence[float]) -> Range:
    """The mean, and the 5th and 95th percentile of the means of resamples; the same for the same numbers.

    >>> bootstrapped([2.0, 2.0])
    Range(low=2.0, expected=2.0, high=2.0)
    """
    chance = random.Random(0)
    count = len(seconds)
    means = sorted(sum(chance.choices(seconds, k=count)) / count for _ in range(_RESAMPLES))
    low, high = means[int(_TAIL * _RESAMPLES)], means[int((1 - _TAIL) * _RESAMPLES) - 1]
    return Range(low, sum(seconds) / count, high)


def peak_memory() -> int | None:
    """Bytes of memory this process held at most; None where the system does not say."""
    try:
        import resource
    except ModuleNotFoundError:
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


__all__ = ["SAMPLE", "Estimate", "Range", "bootstrapped", "estimate", "peak_memory", "sample_of"]

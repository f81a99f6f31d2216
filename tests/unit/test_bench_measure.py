"""The benchmark's clock: closed loops, percentiles, and what rounds come to."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..bench.measure import Timing, closed_loop, figures, percentile

NUMBERS = st.lists(st.floats(0, 1e6), min_size=1, max_size=40)


@given(NUMBERS, st.floats(0, 1))
def test_a_percentile_lies_among_the_values_and_grows_with_its_share(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert min(values) <= found <= max(values)
    assert percentile(values, 0) == min(values)
    assert percentile(values, 1) == max(values)
    assert percentile(values, share / 2) <= found


def test_the_median_of_an_even_number_lies_halfway() -> None:
    assert percentile([1.0, 2.0, 10.0, 20.0], 0.5) == 6.0


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 1.5)])
def test_no_percentile_of_nothing_or_beyond_all(values: list[float], share: float) -> None:
    with pytest.raises(AssertionError, match="quantile"):
        percentile(values, share)


class Server:
    """Answers when told to, and knows how many wait."""

    def __init__(self, most: int) -> None:
        self.waiting = self.most_waiting = 0
        self.served: list[int] = []
        self._room = asyncio.Semaphore(most)

    async def __call__(self, value: int) -> bool:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        async with self._room:
            for _ in range(3):
                await asyncio.sleep(0)
        self.waiting -= 1
        self.served.append(value)
        return value % 5 != 0


@pytest.mark.parametrize("clients", [1, 4, 32])
def test_every_input_is_asked_once_and_no_more_wait_than_there_are_clients(clients: int) -> None:
    async def main() -> tuple[Timing, Server]:
        server = Server(2)
        return await closed_loop(server, range(20), clients), server

    timing, server = asyncio.run(main())
    assert sorted(server.served) == list(range(20))
    assert server.most_waiting == min(clients, 20)
    assert len(timing.latencies) == 20
    assert timing.failed == 4
    assert timing.rate == pytest.approx(20 / timing.seconds)


def test_impatience_ends_a_loop_after_its_first_answer_and_cancels_the_rest() -> None:
    cancelled = []

    async def ask(value: int) -> bool:
        try:
            if value:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(value)
            raise
        return True

    timing = asyncio.run(closed_loop(ask, [0, 1, 2, 3], 2, patience=0.0))
    assert len(timing.latencies) == 1
    assert sorted(cancelled) == [1, 2]


def test_what_a_call_raises_ends_the_loop() -> None:
    async def ask(value: int) -> bool:
        raise OSError(f"no answer to {value}")

    with pytest.raises(OSError, match="no answer to 0"):
        asyncio.run(closed_loop(ask, range(3), 1))


def test_rounds_come_to_medians_and_their_spread_and_percentiles_of_all() -> None:
    rounds = [Timing((1.0, 3.0, 2.0), 3.0, failed=1), Timing((5.0, 5.0, 8.0), 6.0, foreign=0.2), Timing((4.0,), 4.0)]
    found = figures(rounds)
    assert found.p50_s == 4.0
    assert found.spread["p50_s"] == (2.0, 5.0)
    assert found.stacks_per_s == 0.5
    assert found.spread["stacks_per_s"] == (0.25, 1.0)
    assert found.p95_s == percentile([1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 8.0], 0.95)
    assert (found.rounds, found.rows, found.failed, found.foreign) == (3, 7, 1, 0.2)

"""Bootstrap intervals: right where theory says what they must be, the same for one seed, paired, by groups."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fslm_core.evaluate import bootstrap
from fslm_core.evaluate.bootstrap import Bootstrap

pytestmark = pytest.mark.torch


def shares(hits: list[float], **options: int) -> tuple[float, float, float]:
    stat = Bootstrap(range(len(hits)), **options).ratio(hits, [1] * len(hits))
    return stat.value, *stat.interval()


def test_a_share_and_its_interval_agree_with_the_normal_approximation() -> None:
    hits = [1.0] * 160 + [0.0] * 40
    value, low, high = shares(hits, resamples=4000)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 200)
    assert value == 0.8
    assert low == pytest.approx(0.8 - half, abs=0.01) and high == pytest.approx(0.8 + half, abs=0.01)


def test_intervals_hold_the_truth_as_often_as_they_promise() -> None:
    rng = np.random.default_rng(5)
    held = 0
    for trial in range(300):
        hits = (rng.random(120) < 0.7).astype(float)
        _, low, high = shares(list(hits), resamples=400, seed=trial)
        held += low <= 0.7 <= high
    assert 0.90 <= held / 300 <= 0.98


def test_one_seed_draws_once_and_another_draws_otherwise() -> None:
    hits = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0] * 9
    assert shares(hits, seed=3) == shares(hits, seed=3)
    one, other = (Bootstrap(range(63), seed=s).ratio(hits, [1] * 63).samples for s in (3, 4))
    assert not np.array_equal(one, other)


def test_many_rows_are_drawn_block_by_block_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    hits = np.arange(50) % 3 == 0
    kept = Bootstrap(range(50)).ratio(hits, np.ones(50))
    monkeypatch.setattr(bootstrap, "_CACHED", 0)
    again = Bootstrap(range(50))
    for _ in range(2):
        assert np.array_equal(again.ratio(hits, np.ones(50)).samples, kept.samples)


def test_rows_that_belong_together_are_drawn_together() -> None:
    hits = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0] * 10
    alone = Bootstrap(range(80)).ratio(hits, [1] * 80).interval()
    grouped = Bootstrap([place // 4 for place in range(80)]).ratio(hits, [1] * 80).interval()
    assert grouped[1] - grouped[0] > 1.5 * (alone[1] - alone[0])


def test_one_group_alone_has_no_interval() -> None:
    single = Bootstrap([0] * 8 + [1] * 8).ratio([1, 0] * 4 + [0] * 8, [1] * 8 + [0] * 8)
    assert single.value == 0.5 and single.groups == 1 and all(map(math.isnan, single.interval()))
    assert not any(map(math.isnan, Bootstrap([0] * 8 + [1] * 8).ratio([1, 0] * 8, [1] * 16).interval()))


def test_a_difference_on_the_same_rows_is_paired() -> None:
    rng = np.random.default_rng(1)
    ours = (rng.random(300) < 0.6).astype(float)
    theirs = ours.copy()
    theirs[:12] = 1 - theirs[:12]
    boot = Bootstrap(range(300))
    one, other = (boot.ratio(hits, np.ones(300)) for hits in (ours, theirs))
    low, high = (one - other).interval()
    assert (one - other).value == pytest.approx(ours.mean() - theirs.mean())
    assert high - low < 0.6 * (one.interval()[1] - one.interval()[0])
    same = (one - one).interval()
    assert same == (0.0, 0.0)


def test_a_share_of_nothing_is_not_defined_and_says_so() -> None:
    stat = Bootstrap(range(3)).ratio([0, 0, 0], [0, 0, 0])
    assert math.isnan(stat.value) and all(map(math.isnan, stat.interval())) and stat.n == 0
    rare = Bootstrap(range(3)).ratio([1, 1, 0], [1, 1, 0])  # some draws miss the rows it is about
    assert rare.value == 1 and rare.interval() == (1.0, 1.0) and np.isnan(rare.samples).any()
    empty = Bootstrap([]).ratio([], [])
    assert math.isnan(empty.value)

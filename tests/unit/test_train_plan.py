"""The plan of batches: every row once an epoch, within bounds, and a function of its arguments alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fslm_core.train.plan import make_plan, sorted_batches

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=120)


@given(lengths, st.integers(1, 3), st.integers(0, 9), st.integers(1, 16), st.integers(16, 300))
def test_every_row_once_an_epoch_within_bounds(
    sizes: list[int], epochs: int, seed: int, rows: int, tokens: int
) -> None:
    plan = make_plan(sizes, epochs=epochs, seed=seed, rows=rows, tokens=tokens)
    assert plan == make_plan(sizes, epochs=epochs, seed=seed, rows=rows, tokens=tokens)
    start = 0
    for end in plan.ends:
        epoch = plan.batches[start:end]
        assert sorted(i for batch in epoch for i in batch) == list(range(len(sizes)))
        start = end
    for batch in plan.batches:
        assert len(batch) <= rows
        assert len(batch) == 1 or max(sizes[i] for i in batch) * len(batch) <= tokens
    assert plan.ends[-1] == len(plan.batches) and len(plan.ends) == epochs


def test_epochs_and_seeds_differ() -> None:
    sizes = list(range(1, 65))
    plan = make_plan(sizes, epochs=2, seed=0, rows=4, tokens=1000)
    assert plan.batches[: plan.ends[0]] != plan.batches[plan.ends[0] :]
    assert plan != make_plan(sizes, epochs=2, seed=1, rows=4, tokens=1000)


def test_rows_of_a_batch_are_about_equally_long() -> None:
    sizes = [(7 * i) % 61 + 1 for i in range(512)]
    plan = make_plan(sizes, epochs=1, seed=0, rows=16, tokens=10_000)
    padded = sum(max(sizes[i] for i in batch) * len(batch) for batch in plan.batches)
    assert padded < 1.1 * sum(sizes)


def test_drawing_by_weight_makes_rare_rows_frequent() -> None:
    draw = [1.0] * 90 + [9.0] * 10
    plan = make_plan([1] * 100, epochs=20, seed=0, rows=10, tokens=100, draw=draw)
    rare = sum(i >= 90 for batch in plan.batches for i in batch)
    assert 0.4 < rare / (20 * 100) < 0.6


@given(lengths, st.integers(1, 9), st.integers(16, 99))
def test_sorted_batches_hold_every_row(sizes: list[int], rows: int, tokens: int) -> None:
    batches = sorted_batches(sizes, rows=rows, tokens=tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(sizes)))

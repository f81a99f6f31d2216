"""What a stack needs at least, counted by hand."""

from __future__ import annotations

import pytest

from ..bench.limit import KV_BYTES, Adapted, Rates, Shape, Told, work_of

SHAPE = Shape(layers=10, layer=100, head=1000, kv=8, queries=16)
RATES = Rates(bandwidth=1e4, float32=1e6, bfloat16=2e6, int8=4e6)
NEEDS = {"a": frozenset[str](), "b": frozenset({"a"}), "c": frozenset({"a"})}
ADAPTERS = {name: Adapted(weights=50, lowest=6) for name in NEEDS}


def told(row: int, step: str, ids: tuple[int, ...], forced: str) -> Told:
    """A message whose tokens are 100, 101, …; ``forced`` has an f for each that is dictated."""
    tokens = tuple(range(100, 100 + len(forced)))
    return Told(row, step, step, ids, tokens, tuple(sign == "f" for sign in forced))


def test_only_what_comes_before_the_last_decision_is_forwarded() -> None:
    work = work_of([told(0, "a", (1, 2, 7), "fdfdff"), told(1, "a", (1, 2, 8), "d")], NEEDS, ADAPTERS, SHAPE)
    first, second = work.runs
    # static: (1, 2); then the third prompt token and one dictated token, then a decision and a dictated one
    assert [(part.upper, part.decisions) for part in first] == [(2, 1), (2, 1)]
    assert [(part.upper, part.decisions) for part in second] == [(1, 1)]
    assert first[0].attended == 3 + 4
    assert first[0].context == 4
    assert work.mean("rounds") == 1.5


def test_a_message_without_a_choice_costs_nothing() -> None:
    work = work_of([told(0, "a", (1, 2), "fff")], NEEDS, ADAPTERS, SHAPE)
    assert work.runs == [[]]
    assert work.seconds(RATES, "float32", 1) == 0.0


def test_steps_that_need_nothing_of_each_other_share_their_rounds() -> None:
    rows = [
        [told(row, "a", (1, row), "d"), told(row, "b", (2, row), "dd"), told(row, "c", (3, row), "d")] for row in (8, 9)
    ]
    work = work_of([message for row in rows for message in row], NEEDS, ADAPTERS, SHAPE)
    assert [part.decisions for part in work.runs[0]] == [1, 2, 1]


def test_with_perfect_drafts_a_message_needs_one_round_and_the_same_work() -> None:
    rows = [[told(row, "a", (1, row), "dfd"), told(row, "b", (2, row), "ddd")] for row in (8, 9)]
    work = work_of([message for row in rows for message in row], NEEDS, ADAPTERS, SHAPE)
    assert [len(run) for run in work.runs] == [5, 5]
    assert [len(run) for run in work.drafted] == [2, 2]
    sums = [sum(map(work.operations, run)) for run in (work.runs[0], work.drafted[0])]
    assert sums[0] == sums[1]
    assert work.seconds(RATES, "int8", 1, drafted=True) < work.seconds(RATES, "int8", 1)


def test_below_the_lowest_adapter_steps_share_what_their_prompts_have_in_common() -> None:
    messages = [told(row, step, (1, row, 5, 6, ord(step)), "d") for row in (8, 9) for step in ("a", "b", "c")]
    work = work_of(messages, NEEDS, ADAPTERS, SHAPE)
    assert work.mean("upper") == 3 * 4  # all but the static first token, for each of three adapters
    assert work.mean("lower") == 4 + 1 + 1


def test_operations_are_those_of_the_formula() -> None:
    work = work_of([told(0, "a", (1, 7), "d"), told(1, "a", (1, 8), "d")], NEEDS, ADAPTERS, SHAPE)
    (part,) = work.runs[0]
    linear = 2 * SHAPE.layer * 10
    assert work.operations(part) == linear + 2 * 50 + 2 * SHAPE.head + 4 * SHAPE.queries * SHAPE.layers * 2


def test_alone_the_weights_are_read_in_every_round_and_together_they_are_shared() -> None:
    work = work_of([told(row, "a", (1, 7 + row), "dd") for row in (0, 1)], NEEDS, ADAPTERS, SHAPE)
    weights = 4 * (SHAPE.layer * SHAPE.layers + SHAPE.head)
    cache = [KV_BYTES * SHAPE.kv * SHAPE.layers * context for context in (2, 3)]
    alone = work.seconds(RATES, "float32", 1)
    assert alone == pytest.approx((2 * weights + sum(cache)) / RATES.bandwidth)
    assert work.seconds(RATES, "float32", 8) == pytest.approx((2 * weights / 8 + sum(cache)) / RATES.bandwidth)


def test_with_many_at_once_arithmetic_bounds() -> None:
    work = work_of([told(row, "a", (1, 7 + row), "d") for row in (0, 1)], NEEDS, ADAPTERS, SHAPE)
    operations = work.operations(work.runs[0][0])
    slow = Rates(bandwidth=1e12, float32=1e6, bfloat16=2e6, int8=4e6)
    assert work.seconds(slow, "float32", 10**9) == pytest.approx(operations / 1e6)
    assert work.seconds(slow, "16-bit", 10**9) == pytest.approx(operations / 2e6)
    assert work.seconds(slow, "int4", 10**9) == pytest.approx(operations / 4e6)


def test_a_narrower_class_is_never_slower_and_auto_is_the_best() -> None:
    work = work_of([told(row, "a", (1, 7 + row), "dfd") for row in (0, 1)], NEEDS, ADAPTERS, SHAPE)
    for clients in (1, 32):
        found = [work.seconds(RATES, precision, clients) for precision in ("float32", "16-bit", "int8", "int4")]
        assert found == sorted(found, reverse=True)
        assert work.seconds(RATES, "auto", clients) == found[-1]

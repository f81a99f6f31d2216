"""Drift: two windows compared field by field, and the tests behind it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from math import comb, inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fslm_core.errors import UnknownNameError, UsageError
from fslm_core.evaluate.drifting import Drift, FieldDrift, drift, homogeneity
from fslm_core.evaluate.stats_plot import draw
from fslm_core.explain.stats import stats
from fslm_core.message import Marks
from fslm_core.store import ContentMode

from .history import NOON, History

np = pytest.importorskip("numpy")
scipy_stats = pytest.importorskip("scipy.stats")
pytestmark = pytest.mark.torch

LATER = NOON + 10_000
BEFORE, NOW = (NOON, LATER), (LATER, LATER + 10_000)
COUNTS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=2, max_size=6).filter(
    lambda pairs: all(map(sum, pairs)) and all(map(sum, zip(*pairs, strict=True)))
)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    made = History(tmp_path)
    yield made
    made.close()


def compared(history: History, **windows: Any) -> Drift:
    return drift(history.store, "desk", **{"reference": BEFORE, "window": NOW, **windows})


def by_field(found: Drift) -> dict[tuple[str, str, str], FieldDrift]:
    return {(test.step, test.field, test.what): test for test in found.tests}


def test_labels_lengths_numbers_and_confidence_that_moved_are_told(history: History) -> None:
    for place in range(40):
        history.run(f"letter {place:02d}", "praise" if place % 4 else "complaint", at=NOON + place, sure=0.9)
        history.run(
            f"a much longer letter {place:02d}",
            "complaint" if place % 4 else "praise",
            at=LATER + place,
            sure=0.6 + place / 1000,
            pages=2 + place % 3,
        )
    found = compared(history)
    tests = by_field(found)
    assert found.runs == (40, 40) and found.few == 0
    label = tests["kind", "kind", "labels"]
    assert (label.test, label.n, label.drifts) == ("chi-squared", (40, 40), True)
    assert label.effect == pytest.approx(0.5)
    assert {(s.value, s.before, s.now) for s in label.shifts} == {("praise", 0.75, 0.25), ("complaint", 0.25, 0.75)}
    length = tests["input", "text", "characters"]
    assert (length.test, length.effect, length.drifts) == ("kolmogorov-smirnov", 1.0, True)
    assert length.spreads is not None and [spread.median for spread in length.spreads] == [9, 23]
    assert tests["input", "pages", "numbers"].drifts and tests["kind", "kind", "confidence"].effect == 1.0
    for same in (("kind", "urgent", "labels"), ("kind", "", "outcome"), ("kind", "urgent", "confidence")):
        assert not tests[same].drifts and tests[same].p == 1.0 and tests[same].effect == 0.0
    drifting = [test.drifts for test in found.tests]
    assert drifting == sorted(drifting, reverse=True)
    assert json.loads(json.dumps(found.to_dict()))["tests"][0]["drifts"] is True


def test_a_field_that_turns_to_nothing_and_a_step_that_fails_are_told(history: History) -> None:
    for place in range(30):
        history.run(at=NOON + place)
        history.run(at=LATER + place, reply=None if place % 2 else "sorry", failed=place % 3 == 0)
    tests = by_field(compared(history))
    nothing = tests["reply", "reply", "nothing"]
    assert nothing.drifts and nothing.effect == pytest.approx(0.5)
    assert {shift.value for shift in nothing.shifts} == {None, "…"}
    outcome = tests["kind", "", "outcome"]
    assert outcome.drifts and outcome.shifts[0].value in ("failed", "valid at once")


def test_the_same_is_no_drift_and_one_run_shows_none(history: History) -> None:
    history.runs(["a", "b", "c"], at=NOON)
    history.run("something else altogether", "other", at=LATER)
    found = compared(history)
    assert found.tests and not any(test.drifts for test in found.tests)


def test_p_values_are_adjusted_over_all_tests(history: History) -> None:
    for place in range(12):
        history.run(kind="complaint" if place % 2 else "praise", at=NOON + place)
        history.run(kind="complaint", at=LATER + place)
    found = compared(history)
    raw, adjusted = ([getattr(test, name) for test in found.tests] for name in ("p", "adjusted"))
    least = min(range(len(raw)), key=raw.__getitem__)
    assert adjusted[least] == pytest.approx(min(1.0, raw[least] * len(raw)))
    assert all(one >= other for one, other in zip(adjusted, raw, strict=True))


def test_empty_windows_compare_nothing(history: History) -> None:
    history.run(at=NOON)
    found = compared(history)
    assert (found.runs, found.tests) == ((1, 0), ()) and found.few > 0
    assert compared(history, window=(LATER, inf)).to_dict()["window"] == [LATER, None]


@pytest.mark.parametrize(
    ("reference", "window", "what"),
    [
        ((NOON, LATER), (LATER - 1, LATER + 1), "overlap"),
        ((NOON, LATER), (-inf, inf), "overlap"),
        ((LATER, NOON), NOW, "the reference ends before it begins"),
        (BEFORE, (LATER, LATER), "the window ends before it begins"),
    ],
)
def test_windows_that_are_none_are_refused(history: History, reference: Any, window: Any, what: str) -> None:
    history.run()
    with pytest.raises(UsageError, match=what):
        compared(history, reference=reference, window=window)


def test_a_stack_that_is_not_there(history: History) -> None:
    history.run()
    with pytest.raises(UnknownNameError):
        drift(history.store, "dosk", reference=BEFORE, window=NOW)


@pytest.mark.parametrize("content", ["redacted", "none"])
def test_what_was_not_kept_is_not_compared_and_is_counted(tmp_path: Path, content: ContentMode) -> None:
    made = History(tmp_path, content)
    nothing: frozenset[str] = frozenset()
    marks = Marks({}, {"input": frozenset({"text"}), "kind": nothing, "reply": nothing})
    for place in range(5):
        made.run("a secret", at=NOON + place, marks=marks)
        made.run("another secret of another length", at=LATER + place, marks=marks, sure=0.2)
    found = compared(made)
    made.close()
    fields = {(test.step, test.field) for test in found.tests}
    assert ("input", "text") not in fields
    assert by_field(found)["kind", "kind", "confidence"].effect == 1.0
    assert (found.untold, found.blanked) == ((0, 10) if content == "redacted" else (30, 0))


def test_the_picture_is_a_png(history: History) -> None:
    history.runs(["a", "b", "c"])
    history.run(at=NOON + 7200, abstained=True)
    assert draw(stats(history.store, "desk")).startswith(b"\x89PNG")
    assert draw(stats(history.store, "desk", since=LATER + 9999)).startswith(b"\x89PNG")


# -- the statistics --------------------------------------------------------------------------------------------------


@given(COUNTS)
def test_where_counts_are_large_it_is_pearsons_test(pairs: list[tuple[int, int]]) -> None:
    counts = np.array(pairs).T + 12
    seen = scipy_stats.chi2_contingency(counts, correction=False)
    name, p = homogeneity(counts)
    if seen.expected_freq.min() >= 5:
        assert name == "chi-squared" and p == pytest.approx(seen.pvalue)
    else:
        assert name == "permutation"


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_where_they_are_small_it_is_the_permutation_test(a: int, b: int, c: int, d: int) -> None:
    """Two labels: the tables with these margins can be told one by one, and how likely each is."""
    name, p = homogeneity(np.array([[a, b], [c, d]]))
    first, total, column = a + b, a + b + c + d, a + c

    def uneven(k: int) -> float:
        return abs(k - first * column / total)

    ways = [(comb(column, k) * comb(total - column, first - k), uneven(k)) for k in range(min(first, column) + 1)]
    exact = sum(way for way, far in ways if far >= uneven(a) - 1e-9) / comb(total, first)
    if name == "permutation":
        assert p == pytest.approx(exact, abs=5 * (exact * (1 - exact) / 9_999) ** 0.5 + 2e-4)


def test_by_hand() -> None:
    """Four of one label against four of another: 2 of the 70 ways to deal them are as uneven."""
    name, p = homogeneity(np.array([[4, 0], [0, 4]]))
    assert name == "permutation" and p == pytest.approx(2 / 70, abs=0.005)
    assert homogeneity(np.array([[3], [4]])) == ("chi-squared", 1.0)
    # (30 - 20)^2 / 20 in each of four cells is 20, with one degree of freedom
    assert homogeneity(np.array([[30, 10], [10, 30]]))[1] == pytest.approx(7.744e-6, rel=1e-3)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=2, max_size=30))
def test_many_rare_labels_are_told_within_reason(row: list[int]) -> None:
    counts = np.array([row, row[::-1]])
    name, p = homogeneity(counts)
    assert 0 < p <= 1 and name in ("permutation", "chi-squared")
    assert homogeneity(counts) == (name, p)  # the same draw each time


def test_under_the_null_few_tests_err() -> None:
    draws = np.random.default_rng(1)
    shares = np.array([0.6, 0.3, 0.08, 0.02])
    wrong = 0
    for _ in itertools.repeat(None, 100):
        counts = np.array([draws.multinomial(30, shares), draws.multinomial(30, shares)])
        counts = counts[:, counts.sum(axis=0) > 0]
        wrong += homogeneity(counts)[1] < 0.05
    assert wrong <= 12

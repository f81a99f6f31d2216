"""Near-duplicates are found exactly, and clusters are divided so that labels have their shares."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fslm_core.data.near import Clusters, join_near, near_form, same_form, similarity
from fslm_core.data.split import divide, parse_shares
from fslm_core.errors import DataError

WORDS = ["cancel", "my", "order", "orders", "please", "refund", "where", "is", "it", "12", "a", "invoice"]
TEXTS = st.lists(
    st.one_of(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join),
        st.text("ab ", min_size=1, max_size=7),
    ),
    max_size=25,
)


@given(TEXTS, st.sampled_from([0.5, 0.66, 0.8, 0.9, 1.0]))
def test_the_search_finds_every_pair_that_comparing_all_finds(texts: list[str], threshold: float) -> None:
    forms = [near_form(text) for text in texts]
    found, expected = Clusters(len(forms)), Clusters(len(forms))
    join_near(found, forms, threshold)
    for one in range(len(forms)):
        for other in range(one):
            if forms[one] == forms[other] or (threshold < 1 and similarity(forms[one], forms[other]) >= threshold):
                expected.join(one, other)
    assert [found.of(n) for n in range(len(forms))] == [expected.of(n) for n in range(len(forms))]


def test_long_texts_are_compared_too() -> None:
    words = [f"word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(400)]
    other = [*words[:395], *["else"] * 5]
    forms = [" ".join(words), " ".join(other), " ".join(reversed(words[:200])), "short"]
    clusters = Clusters(4)
    join_near(clusters, forms, 0.9)
    assert [clusters.of(n) for n in range(4)] == [0, 0, 2, 3]


def test_forms_make_alike_what_does_not_matter() -> None:
    assert same_form(" Where\u00a0IS\n it") == same_form("where is it")
    assert same_form("Order 1") != same_form("Order 2")
    assert near_form("Order #12-A!") == near_form("order 9 a")
    assert near_form("!!!") == "!!!"  # nothing but punctuation stays what it is
    assert same_form("stra\u00dfe \ufb01n") == "strasse fin"


@pytest.mark.parametrize("text", ["", "80", "80/0/20", "a/b", "80/10/5/5", "-1/2", "inf/1", "nan/1/1"])
def test_shares_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="no shares"):
        parse_shares(text)


def test_shares_are_parts_of_one() -> None:
    assert parse_shares("8/1/1") == parse_shares("80/10/10")
    assert parse_shares("3/1") == {"train": 0.75, "test": 0.25}


CLUSTERS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=60)


def made_of(sizes: list[tuple[int, int]]) -> tuple[list[list[int]], list[list[tuple[str, int]]]]:
    clusters, labels = [], []
    for size, label in sizes:
        clusters.append(list(range(len(labels), len(labels) + size)))
        labels += [[("label", label)]] * size
    return clusters, labels


@given(CLUSTERS, st.sampled_from(["80/10/10", "1/1/1", "70/30"]), st.integers(0, 5))
def test_clusters_stay_whole_and_shares_hold(sizes: list[tuple[int, int]], text: str, seed: int) -> None:
    clusters, labels = made_of(sizes)
    shares = parse_shares(text)
    made = divide(clusters, labels, shares, seed=seed)
    assert set(made) <= set(shares) and len(made) == len(labels)
    assert all(len({made[row] for row in rows}) == 1 for rows in clusters)
    assert made == divide(clusters, labels, shares, seed=seed)
    largest = max(size for size, _ in sizes)
    for name, share in shares.items():
        assert abs(made.count(name) - share * len(made)) <= largest + 2 * 4  # a row or two for each of four labels


def test_labels_have_their_shares_and_rare_ones_are_in_every_split() -> None:
    labels = [[("topic", "common")]] * 400 + [[("topic", "some")]] * 50 + [[("topic", "rare")]] * 3
    made = divide([[n] for n in range(len(labels))], labels, parse_shares("80/10/10"), seed=3)
    counts = Counter((label, split) for ((_, label),), split in zip(labels, made, strict=True))
    for label, total in (("common", 400), ("some", 50)):
        for split, share in (("train", 0.8), ("dev", 0.1), ("test", 0.1)):
            assert abs(counts[label, split] - share * total) <= 2
    assert [counts["rare", split] for split in ("train", "dev", "test")] == [1, 1, 1]


def test_another_seed_divides_otherwise() -> None:
    clusters, labels = made_of([(1, 0)] * 40)
    shares = parse_shares("1/1")
    assert divide(clusters, labels, shares, seed=0) != divide(clusters, labels, shares, seed=1)

"""Which texts are the same, or nearly: their normal forms, and every pair whose similarity reaches a threshold.

Similarity is the share of character trigrams that two texts have in common, after case, punctuation and numbers are
made alike. The search is exact, by the prefix filter of Bayardo, Ma and Srikant (2007) as Wang, Li and Feng extended it
(2012): two sets that are similar enough share two of their few rarest members. A sketch such as MinHash is no faster on
short texts and misses a few pairs, which would then stand on both sides of a split.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from unicodedata import normalize

_DIGITS = re.compile(r"\d+")
_MARKS = re.compile(r"[\W_]+")


class Clusters:
    """Things that belong together, joined pair by pair (union-find); a cluster is known by its first member."""

    def __init__(self, size: int) -> None:
        self._above = list(range(size))

    def of(self, place: int) -> int:
        """The first member of a thing's cluster."""
        above = self._above
        while above[place] != place:
            above[place] = above[above[place]]
            place = above[place]
        return place

    def join(self, one: int, other: int) -> None:
        """Make two clusters one."""
        first, second = sorted((self.of(one), self.of(other)))
        self._above[second] = first

    def join_equal(self, keys: Iterable[Hashable]) -> None:
        """Join the things whose keys are equal; a key of None joins nothing."""
        first: dict[Hashable, int] = {}
        for place, key in enumerate(keys):
            if key is not None:
                self.join(first.setdefault(key, place), place)

    def count(self) -> int:
        """How many clusters there are."""
        return sum(self._above[place] == place for place in range(len(self._above)))


def same_form(text: str) -> str:
    """The form in which texts are the same: case, width and white space made alike.

    >>> same_form("  Where IS\\tit?")
    'where is it?'
    """
    return " ".join(normalize("NFKC", text).casefold().split())


def near_form(text: str) -> str:
    """The form in which texts are compared: as :func:`same_form`, without punctuation, every number 0.

    >>> near_form("Cancel order #12-34, please!")
    'cancel order 0 0 please'
    """
    plain = _MARKS.sub(" ", _DIGITS.sub("0", same_form(text))).strip()
    return plain or same_form(text)


def similarity(one: str, other: str) -> float:
    """The share of their trigrams that two texts in :func:`near_form` have in common (Dice's coefficient), 0 to 1.

    >>> round(similarity("please cancel my order", "please cancel my orders"), 2)
    0.93
    """
    a, b = trigrams(one), trigrams(other)
    return 2 * len(a & b) / (len(a) + len(b))


@lru_cache(maxsize=1 << 15)
def trigrams(text: str) -> frozenset[str]:
    """The character trigrams of a text with a space on both sides."""
    padded = f" {text} "
    return frozenset(padded[i : i + 3] for i in range(max(1, len(padded) - 2)))


def join_near(clusters: Clusters, forms: Sequence[str], threshold: float) -> None:
    """Join all texts whose :func:`similarity` is at least ``threshold``.

    Args:
        forms: the texts in :func:`near_form`.
        threshold: at least 0.5, at most 1.
    """
    clusters.join_equal(forms)
    for one, other, _ in near_pairs(forms, threshold, skip=lambda a, b: clusters.of(a) == clusters.of(b)):
        clusters.join(one, other)


def near_pairs(
    forms: Sequence[str], threshold: float, *, skip: Callable[[int, int], bool] = lambda one, other: False
) -> Iterator[tuple[int, int, float]]:
    """Every pair of different texts whose :func:`similarity` is at least ``threshold``, and that similarity.

    Equal texts are one, known by the place of the first; the smaller place of a pair comes first.

    Args:
        forms: the texts in :func:`near_form`.
        threshold: at least 0.5; of 1 or more there are no pairs.
        skip: pairs that need not be looked at; asked as the pairs are taken.

    >>> list(near_pairs(["please cancel my order", "hello", "please cancel my orders"], 0.9))
    [(0, 2, 0.9333333333333333)]
    """
    if threshold >= 1:
        return
    first: dict[str, int] = {}
    for place, form in enumerate(forms):
        first.setdefault(form, place)
    sets = _ranked(list(first))
    index = _Index(threshold)
    bits: list[int] = []  # a few bits of each set; one that a set lacks is a member it does not share
    for number, (ranks, form) in enumerate(sets):
        mine, most = _bits(ranks), len(ranks) - index.shared(len(ranks))
        for other in index.candidates(ranks):
            if (mine & ~bits[other]).bit_count() <= most:
                near = sets[other][1]
                one, two = sorted((first[form], first[near]))
                if not skip(one, two) and (alike := similarity(form, near)) >= threshold:
                    yield one, two, alike
        bits.append(mine)
        index.add(number, ranks)


def _ranked(texts: Sequence[str]) -> list[tuple[Sequence[int], str]]:
    """The texts, those with few trigrams first, each with its trigrams' places in the order from rare to frequent."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(trigrams(text))
    rank = {gram: place for place, gram in enumerate(sorted(counts, key=lambda gram: (counts[gram], gram)))}
    sets = [(array("L", sorted(map(rank.__getitem__, trigrams(text)))), text) for text in texts]
    return sorted(sets, key=lambda one: (len(one[0]), one[1]))


def _bits(ranks: Iterable[int]) -> int:
    bits = 0
    for rank in ranks:
        bits |= 1 << rank % _BITS
    return bits


class _Index:
    """Finds the sets that may be similar to one that is at least as large as all of them.

    Two sets of sizes ``n >= m`` with a similarity of ``t`` share at least ``n * t / (2 - t)`` and at least ``m * t``
    members. Of sets that share ``a`` members, the ``size - a + k`` rarest of each share ``k``: usually two, which make
    a key that few sets have; one where sets are tiny, or so large that there would be too many pairs.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._share = threshold / (2 - threshold)
        self._large = _MANY / (1 - self._share)
        self._singles: dict[int, list[int]] = {}
        self._pairs: dict[int, list[int]] = {}

    def shared(self, size: int) -> int:
        """How many members a set of this size shares at least with a smaller one that is similar."""
        return _least(self._share, size)

    def candidates(self, ranks: Sequence[int]) -> set[int]:
        """The numbers of all sets that may be similar; most of them are."""
        few = len(ranks) - self.shared(len(ranks)) + 1
        found: set[int] = set()
        if len(ranks) < _TINY or len(ranks) > self._large:
            for rank in ranks[:few]:
                found.update(self._singles.get(rank, ()))
        else:
            for key in _keys(ranks[: few + 1]):
                found.update(self._pairs.get(key, ()))
        return found

    def add(self, number: int, ranks: Sequence[int]) -> None:
        """Put a set into the index."""
        few = len(ranks) - _least(self._threshold, len(ranks)) + 1
        if len(ranks) < _TINY or len(ranks) >= self._large * self._share:
            for rank in ranks[:few]:
                self._singles.setdefault(rank, []).append(number)
        if len(ranks) <= self._large:
            for key in _keys(ranks[: few + 1]):
                self._pairs.setdefault(key, []).append(number)


_TINY = 5
_BITS = 509
_MANY = 40
"""So many of the rarest members are taken in pairs."""


def _keys(ranks: Sequence[int]) -> Iterator[int]:
    return (one << 32 | other for one, other in combinations(ranks, 2))


def _least(share: float, size: int) -> int:
    """The least whole number of members that is at least a share of a set; rounding errors do not raise it."""
    return max(1, math.ceil(share * size - 1e-9))


__all__ = ["Clusters", "join_near", "near_form", "near_pairs", "same_form", "similarity", "trigrams"]

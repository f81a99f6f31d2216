"""Which questions are nearly the same: the trigrams of letters that two of them share (Dice's coefficient)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

ALIKE = 0.8
_BLOCK = 1000


def near_pairs(one: Sequence[str], other: Sequence[str], least: float = ALIKE) -> list[tuple[int, int]]:
    """Places of every pair, one text of each side, whose likeness is ``least`` or more.

    >>> near_pairs(["What is ice made of?"], ["Who is he?", "What is ice made of"])
    [(0, 1)]
    """
    import numpy as np
    from sklearn.feature_extraction.text import CountVectorizer

    if not one or not other:
        return []
    counter = CountVectorizer(analyzer="char_wb", ngram_range=(3, 3), binary=True, dtype=np.float32)
    counter.fit([*one, *other])
    left, right = counter.transform(one), counter.transform(other)
    sizes = np.asarray(right.sum(axis=1)).ravel()
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(one), _BLOCK):
        block: Any = left[start : start + _BLOCK]
        shared = (block @ right.T).tocoo()
        own = np.asarray(block.sum(axis=1)).ravel()
        near = 2 * shared.data >= least * (own[shared.row] + sizes[shared.col])
        pairs += zip((shared.row[near] + start).tolist(), shared.col[near].tolist(), strict=True)
    return pairs


def families(texts: Sequence[str], facts: Sequence[Iterable[str]]) -> list[int]:
    """The family of each text: those that are nearly the same or share a fact, directly or through others, have one.

    >>> families(["What is ice made of?", "Who is he?", "What is ice made of"], [[], [], []])
    [0, 1, 0]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = near_pairs(texts, texts)
    first: dict[str, int] = {}
    pairs += [(place, first.setdefault(fact.lower(), place)) for place, told in enumerate(facts) for fact in told]
    rows, columns = zip(*pairs, strict=True)
    graph = coo_array(([True] * len(pairs), (rows, columns)), shape=(len(texts), len(texts)))
    return [int(family) for family in connected_components(graph, directed=False)[1]]

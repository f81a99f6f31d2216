"""Which rows to take: by chance, or evenly from clusters of loss trajectories.

The method is that of Y. Yang and others, SmallToLarge (S2L): Scalable Data Selection for Fine-tuning Large Language
Models by Summarizing Training Trajectories of Small Models (NeurIPS 2024, arXiv 2403.07384, algorithm 1).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from ... import extras


def drawn(of: int, rows: int, seed: int) -> list[int]:
    """So many places of ``of`` rows by chance, in order.

    >>> drawn(5, 2, seed=0)
    [3, 4]
    """
    return sorted(random.Random(seed).sample(range(of), rows))


def learnt_alike(trajectories: Sequence[Sequence[float]], clusters: int, seed: int) -> list[int]:
    """The cluster of each row, by k-means of their losses over time.

    Args:
        trajectories: of each row its losses, (rows, times).
        clusters: how many; fewer where fewer trajectories differ.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    extras.require(("sklearn",), extra="eval", what="selection by loss trajectories")
    import numpy as np
    from sklearn.cluster import KMeans

    points = np.asarray(trajectories, dtype=np.float64)
    different = len(np.unique(points, axis=0))
    found = KMeans(min(clusters, different), n_init=1, random_state=seed).fit(points)
    return [int(label) for label in found.labels_]


def evenly(clusters: Sequence[int], rows: int, seed: int) -> list[int]:
    """So many places, as many from each cluster as can be: the small clusters whole, of the others equal numbers.

    Args:
        clusters: of each row its cluster.
        rows: at most as many as there are.

    >>> evenly([0, 0, 0, 0, 0, 0, 1, 2, 2], 5, seed=0)[2:]
    [6, 7, 8]
    """
    members: dict[int, list[int]] = defaultdict(list)
    for place, cluster in enumerate(clusters):
        members[cluster].append(place)
    rng = random.Random(seed)
    taken: list[int] = []
    ordered = sorted(members.values(), key=lambda places: (len(places), places))
    for done, places in enumerate(ordered):
        due = (rows - len(taken)) // (len(ordered) - done)
        taken += places if len(places) <= due else rng.sample(places, due)
    return sorted(taken)


__all__ = ["drawn", "evenly", "learnt_alike"]

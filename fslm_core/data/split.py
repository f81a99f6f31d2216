"""Dividing clusters of rows into splits so that every label has its share in each, as far as whole clusters allow.

>>> rows = [["spam"]] * 10 + [["ham"]] * 10
>>> parts = divide([[n] for n in range(20)], rows, {"train": 0.8, "test": 0.2}, seed=0)
>>> [parts[:10].count(name) for name in ("train", "test")], [parts[10:].count(name) for name in ("train", "test")]
([8, 2], [8, 2])
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

from ..errors import DataError

SPLITS = ("train", "dev", "test")


def parse_shares(text: str) -> dict[str, float]:
    """Read the shares of train, dev and test, ``80/10/10`` or ``80/20`` for train and test alone.

    Raises:
        DataError: no such shares.

    >>> parse_shares("80/10/10")
    {'train': 0.8, 'dev': 0.1, 'test': 0.1}
    """
    try:
        given = [float(part) for part in text.split("/")]
    except ValueError:
        given = []
    if len(given) not in (2, 3) or not all(0 < part < float("inf") for part in given):
        raise DataError(
            "these are no shares",
            where="--split",
            found=text,
            expected="two or three numbers above 0: train/test or train/dev/test",
            hint="write it as --split 80/10/10",
        )
    names = SPLITS if len(given) == 3 else ("train", "test")
    return {name: round(part / sum(given), 12) for name, part in zip(names, given, strict=True)}


def divide(
    clusters: Sequence[Sequence[int]],
    labels: Sequence[Sequence[Hashable]],
    shares: Mapping[str, float],
    *,
    seed: int,
) -> list[str]:
    """Give every cluster to one split; large clusters first, then those with rare labels.

    Each goes where its rows are most wanted: to the split that, with it, has the smallest part of what it should have
    of these labels and of rows in all. A label that occurs in as many clusters as there are splits is due in each; one
    in fewer goes where most rows go, unless so many labels are like it that only rows in all can be balanced.

    Args:
        clusters: the rows of each, by their places.
        labels: the labels of each row; several targets give a row several.
        shares: split to its share of the rows; they add up to 1.

    Returns:
        The split of each row.
    """
    held = _without_scarce(
        [Counter(label for row in rows for label in (*labels[row], _ROWS)) for rows in clusters], shares
    )
    totals: Counter[Hashable] = Counter()
    for counts in held:
        totals.update(counts)
    due = _due(held, totals, shares)
    order = list(range(len(clusters)))
    random.Random(seed).shuffle(order)
    order.sort(key=lambda place: (-len(clusters[place]), min(totals[label] for label in held[place])))
    have: dict[str, Counter[Hashable]] = {name: Counter() for name in shares}
    made = [""] * len(labels)
    for place in order:
        chosen = min(shares, key=lambda name: (_fullness(held[place], have[name], due[name]), -shares[name]))
        have[chosen].update(held[place])
        for row in clusters[place]:
            made[row] = chosen
    return made


_SCARCE = 0.05
"""A larger share of rows whose labels are too scarce to be balanced leaves those labels out of account."""
_ROWS = object()
"""Stands among labels for the row itself, so that splits are balanced in all."""


def _without_scarce(held: list[Counter[Hashable]], shares: Mapping[str, float]) -> list[Counter[Hashable]]:
    """The label counts of clusters, without labels too scarce for every split if many rows have such a one."""
    spread = Counter(label for counts in held for label in counts if label is not _ROWS)
    scarce = {label for label, clusters in spread.items() if clusters < len(shares)}
    rows = sum(counts[_ROWS] for counts in held)
    if sum(counts[label] for counts in held for label in scarce & counts.keys()) <= _SCARCE * rows:
        return held
    return [Counter({label: n for label, n in counts.items() if label not in scarce}) for counts in held]


def _due(
    held: Sequence[Counter[Hashable]], totals: Counter[Hashable], shares: Mapping[str, float]
) -> dict[str, dict[Hashable, float]]:
    """How many rows of each label every split should have."""
    spread = Counter(label for labels in held for label in labels)
    largest = max(shares, key=lambda name: shares[name])
    due: dict[str, dict[Hashable, float]] = {name: {} for name in shares}
    for label, total in totals.items():
        for name, share in shares.items():
            due[name][label] = max(share * total, 1.0) if spread[label] >= len(shares) else share * total
        rest = sum(due[name][label] for name in shares if name != largest)
        due[largest][label] = max(total - rest, min(1.0, shares[largest] * total))
    return due


def _fullness(added: Counter[Hashable], have: Counter[Hashable], due: Mapping[Hashable, float]) -> float:
    """The mean over the labels of a cluster of how full a split would be with it."""
    full = sum(count * (have[label] + count) / due[label] for label, count in added.items())
    return full / added.total()


__all__ = ["SPLITS", "divide", "parse_shares"]

"""How confidence becomes a threshold: temperature, calibration error, and the bound on the error of what is accepted.

All of it is about pairs: a confidence from 0 to 1, and whether what was said with it was right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..shapes import scaled

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

HOTTEST = 20.0
"""No temperature above this, nor below its inverse, is fitted."""
_NEAR = 1e-12
_HALVINGS = 60
_BINS = 10
_PLACES = 4
"""Decimal places of a threshold, unless more are needed to tell it from the next confidence below."""


def fit_temperature(confidence: Sequence[float], right: Sequence[bool]) -> float:
    """The temperature whose scaling makes the rights and wrongs likeliest (least negative log-likelihood).

    Source: Guo et al. 2017, arXiv 1706.04599, section 4.2, for the two cases right and wrong. The likelihood is concave
    in the inverse temperature, whose place is found by halving.

    Returns:
        1 where all are right or all are wrong: nothing could be learnt. Otherwise 0.05 to 20.

    >>> round(fit_temperature([0.9] * 10, [True] * 7 + [False] * 3), 2)  # said 0.9, were right 0.7 of the time
    2.59
    """
    import numpy as np

    hits = np.asarray(right, dtype=bool)
    if not hits.size or hits.all() or not hits.any():
        return 1.0
    chance = np.clip(np.asarray(confidence, dtype=float), _NEAR, 1 - _NEAR)
    margin = np.where(hits, 1.0, -1.0) * np.log(chance / (1 - chance))
    low, high = -math.log(HOTTEST), math.log(HOTTEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        pull = float(np.sum(margin / (1 + np.exp(np.clip(margin * math.exp(middle), -700, 700)))))
        low, high = (middle, high) if pull > 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def calibration_error(confidence: Sequence[float], right: Sequence[bool]) -> float | None:
    """ECE: the mean distance between confidence and share of rights, over ten bins of equal width, weighted by rows.

    Source: Guo et al. 2017, arXiv 1706.04599, section 2.

    >>> round(calibration_error([0.9, 0.9, 0.3, 0.3], [True, False, False, False]), 3)
    0.35
    """
    import numpy as np

    if not len(confidence):
        return None
    chance, hits = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    bins = np.minimum((chance * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights=chance - hits, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(chance))


def upper_bound(wrong: npt.ArrayLike, rows: npt.ArrayLike, level: float) -> npt.NDArray[np.float64]:
    """The one-sided Clopper-Pearson bound on an error rate: with probability ``level`` the true rate is below it.

    Source: Clopper and Pearson, Biometrika 26 (1934), 404, https://doi.org/10.1093/biomet/26.4.404.

    >>> upper_bound([0, 1], [149, 149], 0.95).round(4).tolist()
    [0.0199, 0.0314]
    """
    import numpy as np
    from scipy.special import betaincinv

    k, n = np.asarray(wrong, dtype=float), np.asarray(rows, dtype=float)
    return np.where(k >= n, 1.0, betaincinv(k + 1, np.maximum(n - k, 1), level))


def least_rows(max_error: float, level: float) -> int:
    """So many accepted rows, all of them right, are needed to show that the error is at most ``max_error``.

    >>> least_rows(0.02, 0.95), least_rows(0.1, 0.9)
    (149, 22)
    """
    return math.ceil(math.log(1 - level) / math.log(1 - max_error))


def least_threshold(confidence: Sequence[float], right: Sequence[bool], max_error: float, level: float) -> float | None:
    """The lowest threshold whose accepted rows have an error that is at most ``max_error``, by its upper bound.

    Returns:
        None where no threshold does that.

    >>> least_threshold([0.9] * 40 + [0.6] * 10, [True] * 40 + [False] * 10, 0.1, 0.95)
    0.9
    """
    import numpy as np

    if not len(confidence):
        return None
    order = np.argsort(-np.asarray(confidence, dtype=float), kind="stable")
    chance, wrong = np.asarray(confidence, dtype=float)[order], np.cumsum(~np.asarray(right, dtype=bool)[order])
    ends = np.flatnonzero(np.append(chance[1:] != chance[:-1], True))  # equal confidences are accepted together
    good = ends[upper_bound(wrong[ends], ends + 1, level) <= max_error]
    if not good.size:
        return None
    after = good[-1] + 1
    return _shortest(float(chance[after - 1]), float(chance[after]) if after < len(chance) else -1.0)


def _shortest(lowest: float, below: float) -> float:
    """A number that is quick to write, at most ``lowest`` and above the next confidence ``below``: as good as both."""
    for places in range(_PLACES, 16):
        told = float(math.floor(lowest * 10**places) / 10**places)
        if below < told <= lowest:
            return told
    return lowest


@dataclass(frozen=True)
class Kept:
    """Rows that a threshold accepts, of ``rows``; ``error`` and ``bound`` are None where it accepts none."""

    rows: int
    accepted: int
    wrong: int
    error: float | None
    bound: float | None

    @property
    def coverage(self) -> float | None:
        """The share that is accepted."""
        return self.accepted / self.rows if self.rows else None


def kept(accepted: Sequence[bool], right: Sequence[bool], level: float) -> Kept:
    """What comes of accepting these rows."""
    n = sum(accepted)
    wrong = sum(a and not r for a, r in zip(accepted, right, strict=True))
    bound = float(upper_bound(wrong, n, level)) if n else None
    return Kept(len(accepted), n, wrong, wrong / n if n else None, bound)


def risk(confidence: Sequence[float], right: Sequence[bool]) -> tuple[tuple[float, float], ...]:
    """Coverage and error at every threshold, from the surest row alone to all of them.

    Source: the risk-coverage curve of El-Yaniv and Wiener, JMLR 11 (2010), 1605.

    >>> risk([0.9, 0.8, 0.8, 0.5], [True, True, False, False])
    ((0.25, 0.0), (0.75, 0.3333333333333333), (1.0, 0.5))
    """
    ranked = sorted(zip(confidence, right, strict=True), key=lambda pair: -pair[0])
    points: list[tuple[float, float]] = []
    wrong = 0
    for place, (chance, hit) in enumerate(ranked, start=1):
        wrong += not hit
        if place == len(ranked) or ranked[place][0] != chance:
            points.append((place / len(ranked), wrong / place))
    return tuple(points)


def cooled(confidence: Sequence[float], temperature: float) -> list[float]:
    """Each confidence after scaling."""
    return [scaled(chance, temperature) for chance in confidence]


__all__ = [
    "HOTTEST",
    "Kept",
    "calibration_error",
    "cooled",
    "fit_temperature",
    "kept",
    "least_rows",
    "least_threshold",
    "risk",
    "upper_bound",
]

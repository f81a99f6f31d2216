"""Small statistics, exact and without a library: a share with its interval, a quantile, and a paired test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan, sqrt
from typing import Any

_Z = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many, with the 95 % interval of the share; None where there are no rows."""

    hits: int
    rows: int

    @property
    def value(self) -> float | None:
        """The share, 0 to 1."""
        return self.hits / self.rows if self.rows else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's interval."""
        return wilson(self.hits, self.rows) if self.rows else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {"hits": self.hits, "rows": self.rows, "value": self.value, "interval": self.interval}


def wilson(hits: int, rows: int) -> tuple[float, float]:
    """The 95 % score interval of a share; NaN of no rows.

    Formula: E. B. Wilson, Probable inference, the law of succession, and statistical inference, Journal of the American
    Statistical Association 22 (1927), 209-212: with p = hits / rows,
    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).

    >>> low, high = wilson(9, 10)
    >>> round(low, 3), round(high, 3)
    (0.596, 0.982)
    """
    if not rows:
        return nan, nan
    share, square = hits / rows, _Z * _Z
    centre = share + square / (2 * rows)
    spread = _Z * sqrt(share * (1 - share) / rows + square / (4 * rows * rows))
    whole = 1 + square / rows
    return max(0.0, (centre - spread) / whole), min(1.0, (centre + spread) / whole)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values lie, between neighbours by linear interpolation (R's type 7).

    >>> percentile([4.0, 1.0, 3.0, 2.0], 0.5), percentile([1.0, 2.0, 3.0], 1.0), percentile([7.0], 0.95)
    (2.5, 3.0, 7.0)

    Args:
        values: one at least.
        share: 0 to 1.
    """
    assert values and 0 <= share <= 1, f"the {share} quantile of {len(values)} values"
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def mcnemar(lost: int, gained: int) -> float:
    """How likely it is, two-sided, that pairs which changed are split as unevenly, were both ways equally likely.

    The exact test: of ``lost + gained`` discordant pairs the number of either kind is binomial with one half;
    p = min(1, 2 sum_{k=0}^{min} C(n, k) / 2^n). Sources: Q. McNemar, Note on the sampling error of the difference
    between correlated proportions or percentages, Psychometrika 12 (1947), 153-157; the exact binomial form:
    A. Agresti, Categorical Data Analysis (2nd ed., 2002), section 10.1.4.

    Args:
        lost: pairs that were right before and are wrong after.
        gained: pairs that were wrong before and are right after.

    >>> mcnemar(6, 0), mcnemar(5, 0), mcnemar(3, 3), mcnemar(0, 0)
    (0.03125, 0.0625, 1.0, 1.0)
    """
    pairs = lost + gained
    ways = tail = 1  # C(pairs, 0); each next one is had from the one before
    for k in range(min(lost, gained)):
        ways = ways * (pairs - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << pairs))


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """p-values of several tests, adjusted so that all of them together err no more often than one would alone.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6
    (1979), 65-70: of m values in rising order the i-th (from 0) is multiplied by m - i; none is below one before it.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    adjusted: dict[str, float] = {}
    before = 0.0
    for place, name in enumerate(sorted(values, key=lambda name: values[name])):
        before = max(before, min(1.0, values[name] * (len(values) - place)))
        adjusted[name] = before
    return {name: adjusted[name] for name in values}


__all__ = ["Share", "holm", "mcnemar", "percentile", "wilson"]

"""Small statistics on right and wrong, exact and without a library: an interval for a share, and a paired test."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan, sqrt

_Z = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


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


__all__ = ["holm", "mcnemar", "wilson"]

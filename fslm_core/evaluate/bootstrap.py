"""Percentile bootstrap intervals for shares, ratios of sums, and differences of either on the same rows.

Whole rows are drawn with replacement (whole groups of rows, where rows belong together), so figures of two systems
on the same rows, drawn together, give paired differences. Source: Efron and Tibshirani, An Introduction to the
Bootstrap (1993), chapter 13; drawing groups whole: Davison and Hinkley, Bootstrap Methods and their Application
(1997), section 3.8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

LEVEL = 0.95
_CACHED = 8_000_000
"""Draws (resamples times groups) that are kept rather than made again."""


@dataclass(frozen=True, slots=True)
class Stat:
    """A figure: its value on the rows as they are, its value on each resample, and how many rows it is about.

    NaN where it is not defined (a share of no rows). ``groups``: how many groups those rows are from.
    """

    value: float
    samples: Floats
    n: int
    groups: int

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The percentile interval over the resamples in which the figure is defined.

        NaN where there are none, or where all rows are from one group: drawing it again says nothing.
        """
        import numpy as np

        defined = self.samples[~np.isnan(self.samples)]
        if np.isnan(self.value) or not len(defined) or self.groups < 2:
            return float("nan"), float("nan")
        low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def __sub__(self, other: Stat) -> Stat:
        return Stat(
            self.value - other.value,
            self.samples - other.samples,
            min(self.n, other.n),
            min(self.groups, other.groups),
        )


class Bootstrap:
    """Draws of rows, the same for every figure that is made from it.

    Args:
        groups: the group of each row, numbered from 0; rows of one group are drawn together.
        resamples: how many draws.
        seed: the same seed draws the same rows.
    """

    def __init__(self, groups: Sequence[int], *, resamples: int = 1000, seed: int = 0) -> None:
        import numpy as np

        self._groups = np.asarray(groups, dtype=np.int64)
        self._count = int(self._groups.max()) + 1 if len(groups) else 0
        self._resamples = resamples
        self._seed = seed
        self._kept: list[Any] | None = None

    def __len__(self) -> int:
        return len(self._groups)

    def ratio(self, top: Any, bottom: Any) -> Stat:
        """``sum(top) / sum(bottom)`` over rows; ``bottom`` counts the rows that the figure is about."""
        return self.ratios([(top, bottom)])[0]

    def ratios(self, pairs: Sequence[tuple[Any, Any]]) -> list[Stat]:
        """One figure for each pair of columns of numbers, a number for each row."""
        import numpy as np

        if not pairs:
            return []
        columns = np.stack([np.asarray(column, dtype=np.float64) for pair in pairs for column in pair], axis=1)
        sums = self.sums(columns)
        totals = columns.sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            samples = sums[:, 0::2] / sums[:, 1::2]
            values = totals[0::2] / totals[1::2]
        samples[~np.isfinite(samples)] = np.nan
        return [
            Stat(
                float(values[i]) if np.isfinite(values[i]) else float("nan"),
                samples[:, i],
                int(np.count_nonzero(columns[:, 2 * i + 1])),
                len(np.unique(self._groups[columns[:, 2 * i + 1] != 0])),
            )
            for i in range(len(pairs))
        ]

    def mean(self, stats: Sequence[Stat]) -> Stat:
        """The plain mean of figures, over those that are defined; its counts are the largest of theirs."""
        import numpy as np

        if not stats:
            return Stat(float("nan"), np.full(self._resamples, np.nan), 0, 0)
        values = np.array([stat.value for stat in stats])
        samples = np.stack([stat.samples for stat in stats])
        return Stat(
            _nan_mean(values[:, None])[0],
            _nan_mean(samples),
            max(stat.n for stat in stats),
            max(stat.groups for stat in stats),
        )

    def sums(self, columns: Floats) -> Floats:
        """The sum of each column over each resample: rows x columns in, resamples x columns out."""
        import numpy as np

        grouped = np.zeros((self._count, columns.shape[1]))
        np.add.at(grouped, self._groups, columns)
        blocks = [weights @ grouped for weights in self._weights()]
        return np.concatenate(blocks) if blocks else np.zeros((self._resamples, columns.shape[1]))

    def _weights(self) -> Iterator[Any]:
        """How often each group is drawn in each resample, a block of resamples at a time."""
        if self._kept is not None:
            yield from self._kept
            return
        small = self._resamples * self._count <= _CACHED
        kept = []
        for weights in self._drawn():
            if small:
                kept.append(weights)
            yield weights
        self._kept = kept if small else None

    def _drawn(self) -> Iterator[Any]:
        import numpy as np

        rng = np.random.default_rng(self._seed)
        block = max(1, 2_000_000 // max(1, self._count))
        for start in range(0, self._resamples if self._count else 0, block):
            lines = min(block, self._resamples - start)
            drawn = rng.integers(self._count, size=(lines, self._count))
            drawn += np.arange(lines)[:, None] * self._count
            yield np.bincount(drawn.ravel(), minlength=lines * self._count).reshape(lines, self._count).astype(float)


def _nan_mean(values: Floats) -> Any:
    """The mean along the first axis without NaN; NaN where there is nothing else."""
    import numpy as np

    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0.0).sum(axis=0) / np.where(defined.any(axis=0), defined.sum(axis=0), np.nan)


__all__ = ["LEVEL", "Bootstrap", "Stat"]

"""Drift: whether what a stack is given, what its steps say and how sure they are differ between two windows of time.

Every field of the input and of each step's messages is tested by itself, by what kind of values it has:

- **labels** (booleans, and texts of which few differ): Pearson's chi-squared test of homogeneity on the counts, K.
  Pearson, Philosophical Magazine 50 (1900), 157-175, where every expected count is at least five (W. G. Cochran, Some
  methods for strengthening the common chi-squared tests, Biometrics 10 (1954), 417-451). Where one is lower, the same
  statistic's permutation test: 9,999 tables drawn at random among those with the same margins (for two windows, a
  multivariate hypergeometric draw), p = (1 + those at least as uneven) / 10,000, B. Phipson and G. K. Smyth,
  Permutation p-values should never be zero, Statistical Applications in Genetics and Molecular Biology 9 (2010), 39.
  The effect is the total variation distance: half the sum of the differences of shares, 0 to 1.
- **numbers**, **lengths** of texts in characters, of lists in items, and **confidences**: the two-sample
  Kolmogorov-Smirnov test, N. V. Smirnov, Bulletin Mathématique de l'Université de Moscou 2 (1939), whose statistic,
  the greatest difference between the two distribution functions, is the effect. With values that are equal the test
  is conservative: p is rather too large than too small.
- **nothing**: how often a field that may be null is null, and a step's **outcome**: how often it was valid at once,
  repaired, failed or skipped; both as labels.

All p-values of a stack are adjusted together by Holm's method (:func:`~fslm_core.explain.paired.holm`).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any, Literal

from ..errors import UsageError
from ..explain.paired import holm
from ..explain.stats import Spread, stacks_of
from ..extras import require
from ..prompt import REDACTED
from ..store import TraceStore
from ..store.counting import Said, Tally

What = Literal["outcome", "labels", "numbers", "characters", "items", "nothing", "confidence"]
Window = tuple[float, float]
LEVEL = 0.05
"""Below it an adjusted p-value counts as drift."""
_LABELS, _LONGEST = 1000, 100
"""How many labels a field has at most, and how many characters one of them."""
_TABLES, _CELLS = 9_999, 2_000_000
_EXACT = 500
"""Up to so many values a side the Kolmogorov-Smirnov test is exact."""
_TOLD = 5
_LARGEST = 1e300
_DEEP = 8
"""Levels of objects within objects whose fields are looked at one by one."""


@dataclass(frozen=True, slots=True)
class Shift:
    """A value that became more or less frequent: its share in the reference, and now."""

    value: Any
    before: float
    now: float


@dataclass(frozen=True, slots=True)
class FieldDrift:
    """One field of one step, in both windows.

    Attributes:
        step: the step's path without indices; ``input`` for what the runs were given.
        field: a dotted path; empty for the step's outcome.
        what: what of it was compared.
        n: how many values there are in the reference, and now.
        test: ``chi-squared``, ``permutation`` or ``kolmogorov-smirnov``.
        effect: the total variation distance, or the Kolmogorov-Smirnov statistic; 0 to 1.
        p: of this test alone; ``adjusted``: among all.
        shifts: of labels, those whose shares changed most.
        spreads: of numbers, where they lay and lie.
    """

    step: str
    field: str
    what: What
    n: tuple[int, int]
    test: str
    effect: float
    p: float
    adjusted: float
    shifts: tuple[Shift, ...] = ()
    spreads: tuple[Spread, Spread] | None = None

    @property
    def drifts(self) -> bool:
        """Whether it differs by more than chance would have it."""
        return self.adjusted < LEVEL


@dataclass(frozen=True, slots=True)
class Drift:
    """What differs between two windows.

    Attributes:
        reference: the window before, Unix seconds; ``window``: the one compared with it.
        runs: how many there are in either.
        tests: what drifts first, and of that the largest effect.
        untold: messages that could not be compared, for no text of theirs was kept, in both windows together.
        blanked: values that could not, for they were redacted.
        few: fields with too few values in one of the windows to compare anything.
    """

    reference: Window
    window: Window
    runs: tuple[int, int]
    tests: tuple[FieldDrift, ...]
    untold: int
    blanked: int
    few: int

    @property
    def drifting(self) -> tuple[FieldDrift, ...]:
        """Those of the tests that tell of drift."""
        return tuple(test for test in self.tests if test.drifts)

    def to_dict(self) -> dict[str, Any]:
        """As JSON data; an open end of a window is null."""
        tests = [{**asdict(test), "drifts": test.drifts} for test in self.tests]
        ends = {name: [_closed(end) for end in getattr(self, name)] for name in ("reference", "window")}
        return {**asdict(self), **ends, "tests": tests}


def drift(store: TraceStore, stack: str, *, reference: Window, window: Window) -> Drift:
    """Compare the runs of a stack in two windows of time. Replays, and runs under way, are not among them.

    Args:
        reference: Unix seconds, the second of them not in it; so is ``window``.

    Raises:
        UnknownNameError: no run of this stack is kept.
        UsageError: a window ends before it begins, or the two overlap.
        MissingExtraError: the extra ``eval`` is not installed.
        StoreError: the database cannot be read.
    """
    require(["numpy", "scipy"], extra="eval", what="telling drift")
    _require_apart(reference, window)
    stacks_of(store, stack)
    before, now = (_Values.of(store, stack, *ends) for ends in (reference, window))
    fields = dict.fromkeys([*before.fields, *now.fields])
    found = [test for name in fields for test in _compared(*name, before.fields[name], now.fields[name])]
    found += [
        _label_test(step, "", "outcome", ways, now.outcomes[step])
        for step, ways in before.outcomes.items()
        if step in now.outcomes
    ]
    found += [
        _spread_test(*name, "confidence", before.confidence[name], now.confidence[name])
        for name in before.confidence
        if before.confidence[name] and now.confidence.get(name)
    ]
    told = {(test.step, test.field) for test in found}
    adjusted = holm({str(place): test.p for place, test in enumerate(found)})
    tests = [replace(test, adjusted=adjusted[str(place)]) for place, test in enumerate(found)]
    return Drift(
        reference=reference,
        window=window,
        runs=(before.runs, now.runs),
        tests=tuple(sorted(tests, key=lambda test: (not test.drifts, -test.effect, test.step, test.field))),
        untold=before.untold + now.untold,
        blanked=before.blanked + now.blanked,
        few=len({*fields, *before.confidence, *now.confidence} - told),
    )


def _closed(end: float) -> float | None:
    return None if end in (-inf, inf) else end


def _require_apart(reference: Window, window: Window) -> None:
    for name, (since, until) in (("the reference", reference), ("the window", window)):
        if not since < until:
            raise UsageError(
                f"{name} ends before it begins",
                where="drift",
                expected="two moments, the earlier one first",
                hint="take 14d..7d as the reference: the week before the last seven days",
            )
    if reference[0] < window[1] and window[0] < reference[1]:
        raise UsageError(
            "the reference and the window overlap, and a run cannot stand on both sides",
            where="drift",
            expected="a window that begins where the reference ends, or later",
            hint="take 14d..7d as the reference and what came since 7d as the window",
        )


Name = tuple[str, str]
"""A step and a field."""


@dataclass(slots=True)
class _Values:
    """All that was said in a window: each field's values with how often each was said, by its JSON text."""

    runs: int
    fields: dict[Name, Counter[str]]
    confidence: Mapping[Name, Sequence[float]]
    outcomes: Mapping[str, Counter[str]]
    untold: int = 0
    blanked: int = 0

    @classmethod
    def of(cls, store: TraceStore, stack: str, since: float, until: float) -> _Values:
        counted = store.counts(stack, since=since, until=until)
        steps = counted.steps.get(0.0, {})
        scores = {(step, field): values for step, tally in steps.items() for field, values in tally.confidence.items()}
        outcomes = {step: _outcomes(tally) for step, tally in steps.items()}
        made = cls(sum(counted.kept.values()), defaultdict(Counter), scores, outcomes)
        for said in store.said(stack, since=since, until=until):
            made._take(said)
        return made

    def _take(self, said: Said) -> None:
        if said.kind == "none":  # its types and lengths are no values
            self.untold += said.times
            return
        for field, value in _leaves(said.data, "", _DEEP):
            text = json.dumps(value, ensure_ascii=False, sort_keys=True)
            if said.kind == "redacted" and REDACTED in text:
                self.blanked += said.times
            else:
                self.fields[said.step, field][text] += said.times


def _outcomes(tally: Tally) -> Counter[str]:
    ways = {"valid at once": tally.valid, "repaired": tally.repaired, "failed": tally.failed, "skipped": tally.skipped}
    return Counter({json.dumps(way): times for way, times in ways.items() if times})


def _leaves(data: Any, path: str, levels: int) -> Iterator[tuple[str, Any]]:
    """The fields of a message that are no objects themselves, by their dotted paths."""
    if isinstance(data, dict) and levels:
        for name, value in data.items():
            yield from _leaves(value, f"{path}.{name}" if path else name, levels - 1)
    else:
        yield path, data


# -- the tests -------------------------------------------------------------------------------------------------------


def _compared(step: str, field: str, before: Counter[str], now: Counter[str]) -> Iterator[FieldDrift]:
    """The tests of one field; none where one of the windows has no value of it."""
    absent = before["null"], now["null"]
    old, new = (Counter({text: n for text, n in side.items() if text != "null"}) for side in (before, now))
    if any(absent) and (old or new) and before and now:
        sides = (
            Counter({"null": before["null"], '"…"': old.total()}),
            Counter({"null": now["null"], '"…"': new.total()}),
        )
        yield _label_test(step, field, "nothing", *sides)
    if not old or not new:
        return
    together = old + new
    values = {text: json.loads(text) for text in together}
    what = _kind_of(values, together)
    if what == "labels":
        yield _label_test(step, field, what, old, new)
    else:
        size = _SIZES[what]
        yield _spread_test(step, field, what, *(_repeated(side, values, size) for side in (old, new)))


def _kind_of(values: Mapping[str, Any], together: Counter[str]) -> What:
    """What of a field is compared; texts are labels where each is said twice on average and none is long."""
    found = list(values.values())
    if all(isinstance(value, bool) for value in found):
        return "labels"
    if all(isinstance(value, int | float) for value in found):
        return "numbers"
    if all(isinstance(value, list) for value in found):
        return "items"
    few = len(found) <= min(_LABELS, together.total() / 2)
    return "labels" if few and all(len(text) <= _LONGEST for text in values) else "characters"


_SIZES: Mapping[What, Any] = {
    "numbers": lambda value: float(max(-_LARGEST, min(_LARGEST, value))),
    "items": len,
    "characters": lambda value: len(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)),
}
"""What is measured of a value."""


def _repeated(side: Mapping[str, int], values: Mapping[str, Any], size: Any) -> list[float]:
    return [size(values[text]) for text, times in side.items() for _ in range(times)]


def _label_test(step: str, field: str, what: What, before: Counter[str], now: Counter[str]) -> FieldDrift:
    import numpy as np

    labels = sorted(before.keys() | now.keys())
    counts = np.array([[side[label] for label in labels] for side in (before, now)])
    shares = counts / counts.sum(axis=1, keepdims=True)
    name, p = homogeneity(counts)
    order = np.argsort(-abs(shares[1] - shares[0]), kind="stable")[:_TOLD]
    pairs = [(json.loads(labels[place]), *map(float, shares[:, place])) for place in order]
    shifts = [Shift(*pair) for pair in pairs if pair[1] != pair[2]]
    n = (before.total(), now.total())
    return FieldDrift(step, field, what, n, name, float(abs(shares[1] - shares[0]).sum() / 2), p, p, tuple(shifts))


def homogeneity(counts: Any) -> tuple[str, float]:
    """How likely two rows of counts differ as much where both are drawn alike: the test's name, and p.

    Args:
        counts: two rows, a column a label, no column empty.
    """
    import numpy as np
    from scipy.stats import chi2

    columns, (first, second) = counts.sum(axis=0), counts.sum(axis=1)
    if len(columns) < 2:
        return "chi-squared", 1.0
    expected = first * columns / (first + second)

    def statistic(rows: Any) -> Any:
        """Of the first row given the margins; what it is more than expected the second is less."""
        return ((rows - expected) ** 2 / expected).sum(axis=-1) * (first + second) / second

    seen = statistic(counts[0])
    if min(expected.min(), (columns - expected).min()) >= 5:
        return "chi-squared", float(chi2.sf(seen, len(columns) - 1))
    draw, at_once = np.random.default_rng(0), max(1, _CELLS // len(columns))
    uneven, left = 0, _TABLES
    while left:
        size = min(left, at_once)
        tables = draw.multivariate_hypergeometric(columns, first, size=size, method="marginals")
        uneven += int((statistic(tables) >= seen * (1 - 1e-9)).sum())
        left -= size
    return "permutation", (1 + uneven) / (1 + _TABLES)


def _spread_test(step: str, field: str, what: What, before: Sequence[float], now: Sequence[float]) -> FieldDrift:
    from scipy.stats import ks_2samp

    method = "exact" if max(len(before), len(now)) <= _EXACT else "asymp"
    found = ks_2samp(before, now, method=method)
    n, effect, p = (len(before), len(now)), float(found.statistic), min(1.0, float(found.pvalue))
    spreads = (Spread.of(before), Spread.of(now))
    return FieldDrift(step, field, what, n, "kolmogorov-smirnov", effect, p, p, spreads=spreads)


__all__ = ["LEVEL", "Drift", "FieldDrift", "Shift", "Window", "drift", "homogeneity"]

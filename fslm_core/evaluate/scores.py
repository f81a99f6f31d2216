"""The figures of one view: messages compared with gold, field by field, with draws for their intervals.

Values and intervals come from the same sums, so they cannot disagree; tests hold the values against
``sklearn.metrics``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .bootstrap import Bootstrap, Stat
from .fields import FieldSpec, Json, Mark, label_of, normal_text, same, set_f1, token_f1
from .results import Bin, Confusion

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_BINS = 10


@dataclass(frozen=True)
class LabelScores:
    """One label's figures and counts."""

    support: int
    predicted: int
    stats: Mapping[str, Stat]


@dataclass(frozen=True)
class FieldScores:
    """One field's figures. ``hits`` is 1 for each row in which it is right (0 where it does not count)."""

    spec: FieldSpec
    stats: Mapping[str, Stat]
    hits: npt.NDArray[np.float64]
    labels: Mapping[str, LabelScores] = field(default_factory=dict)
    confusion: Confusion | None = None
    bins: tuple[Bin, ...] = ()


@dataclass(frozen=True)
class ViewScores:
    """A view's figures. ``right`` says of each row whether all of it is right (False where it does not count)."""

    rows: int
    stats: Mapping[str, Stat]
    fields: Mapping[str, FieldScores]
    right: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Told:
    """What was said to each row, beside what should have been.

    A row whose gold is unknown does not count, nor does one that gold and prediction agree to skip: that they agree is
    no evidence of what the step can do.
    """

    gold: Sequence[Json | Mark]
    said: Sequence[Json | Mark]
    texts: Sequence[str]
    confidence: Sequence[Mapping[str, float]]


def score(told: Told, specs: Sequence[FieldSpec], boot: Bootstrap) -> ViewScores:
    """Score every field and the whole message."""
    import numpy as np

    pairs = list(zip(told.gold, told.said, strict=True))
    counted = np.array([counts(gold, said) for gold, said in pairs], dtype=bool)
    right = np.array([bool(c) and _right(g, s, specs) for c, (g, s) in zip(counted, pairs, strict=True)], dtype=bool)
    valid = np.array([said is not Mark.FAILED for said in told.said], dtype=bool) & counted
    exact, valid_stat = boot.ratios([(right, counted), (valid, counted)])
    fields = {spec.name: _field(spec, told, boot) for spec in specs}
    return ViewScores(int(counted.sum()), {"exact": exact, "valid": valid_stat}, fields, right)


def counts(gold: Json | Mark, said: Json | Mark) -> bool:
    """Whether a row counts in a view."""
    return gold is not Mark.UNKNOWN and not (gold is Mark.SKIPPED and said is Mark.SKIPPED)


def wrong_fields(gold: Json | Mark, said: Json | Mark, specs: Sequence[FieldSpec]) -> tuple[str, ...]:
    """The fields in which a message differs from gold, as far as gold is known."""
    cells = ((spec.name, spec.of(gold), spec.of(said)) for spec in specs)
    return tuple(name for name, ours, theirs in cells if ours is not Mark.UNKNOWN and not same(ours, theirs))


def _right(gold: Json | Mark, said: Json | Mark, specs: Sequence[FieldSpec]) -> bool:
    if isinstance(gold, Mark) or isinstance(said, Mark):
        return gold is said
    whole = len(gold) == len(said)
    return same(gold, said) if whole else not wrong_fields(gold, said, specs)


@dataclass(frozen=True)
class _Cells:
    """One field's counted rows: gold, said, input text, confidence, and their places among all rows."""

    gold: list[Any]
    said: list[Any]
    texts: list[str]
    confidence: list[float | None]
    places: list[int]
    total: int

    def column(self, values: Sequence[float]) -> npt.NDArray[np.float64]:
        """Numbers of the counted rows as a column of all rows, 0 for the others."""
        import numpy as np

        column = np.zeros(self.total)
        column[self.places] = np.asarray(values, dtype=float)
        return column


def _field(spec: FieldSpec, told: Told, boot: Bootstrap) -> FieldScores:
    gold, said = [spec.of(m) for m in told.gold], [spec.of(m) for m in told.said]
    places = [i for i, pair in enumerate(zip(gold, said, strict=True)) if counts(*pair)]
    cells = _Cells(
        [gold[i] for i in places],
        [said[i] for i in places],
        [told.texts[i] for i in places],
        [told.confidence[i].get(spec.name.partition(".")[0]) for i in places],
        places,
        len(gold),
    )
    hits = [same(g, s) for g, s in zip(cells.gold, cells.said, strict=True)]
    pairs: dict[str, tuple[Any, Any]] = {"accuracy": (cells.column(hits), cells.column([1] * len(hits)))}
    if spec.kind == "text":
        pairs |= _text(cells, hits)
    if spec.kind == "list":
        pairs["f1"] = _mean(cells, [_between(set_f1, g, s) for g, s in zip(cells.gold, cells.said, strict=True)])
    sure = [c is not None for c in cells.confidence]
    if any(sure):
        pairs["confidence"] = (cells.column([c or 0.0 for c in cells.confidence]), cells.column(sure))
    stats = dict(zip(pairs, boot.ratios(list(pairs.values())), strict=True))
    if spec.kind != "label":
        return FieldScores(spec, stats, cells.column(hits), bins=_bins(cells, hits))
    more, labels, confusion = _labels(spec, cells, boot)
    return FieldScores(spec, {**stats, **more}, cells.column(hits), labels, confusion, _bins(cells, hits))


def _mean(cells: _Cells, values: Sequence[float]) -> tuple[Any, Any]:
    return cells.column(values), cells.column([1] * len(values))


def _between(measure: Any, gold: Any, said: Any) -> float:
    if isinstance(gold, Mark) or isinstance(said, Mark):
        return float(gold is said)
    return float(measure(gold, said))


def _text(cells: _Cells, hits: Sequence[bool]) -> dict[str, tuple[Any, Any]]:
    pairs = list(zip(cells.gold, cells.said, strict=True))
    filled = [isinstance(gold, str) for gold, _ in pairs]
    empty = [gold is None for gold, _ in pairs]
    written = [isinstance(said, str) for _, said in pairs]
    alike = [_between(_normally_same, gold, said) for gold, said in pairs]
    found = [isinstance(said, str) and said in text for said, text in zip(cells.said, cells.texts, strict=True)]
    both: dict[str, tuple[Sequence[float], Sequence[float]]] = {
        "f1": ([_between(token_f1, gold, said) for gold, said in pairs], [True] * len(pairs)),
        "normalised": (alike, [True] * len(pairs)),
        "filled": ([h and f for h, f in zip(hits, filled, strict=True)], filled),
        "missed": ([f and said is None for f, (_, said) in zip(filled, pairs, strict=True)], filled),
        "invented": ([e and w for e, w in zip(empty, written, strict=True)], empty),
        "verbatim": (found, written),
    }
    return {name: (cells.column(top), cells.column(bottom)) for name, (top, bottom) in both.items()}


def _normally_same(gold: str | None, said: str | None) -> bool:
    if gold is None or said is None:
        return gold is said
    return normal_text(gold) == normal_text(said)


def _labels(
    spec: FieldSpec, cells: _Cells, boot: Bootstrap
) -> tuple[dict[str, Stat], dict[str, LabelScores], Confusion | None]:
    """Macro and micro F1, each label's figures, and the confusion of a label field.

    Macro F1 is the mean over the labels that occur in gold or prediction, as in ``sklearn.metrics.f1_score``; on a
    resample, over those that occur there. ``(skipped)`` and ``(failed)`` are no labels: they only miss.
    """
    import numpy as np

    gold = np.array([label_of(value) for value in cells.gold], dtype=object)
    said = np.array([label_of(value) for value in cells.said], dtype=object)
    present = set(gold) | set(said)
    labels = [label for label in spec.labels if label in present]
    ours, theirs = ({label: side == label for label in labels} for side in (gold, said))
    pairs = []
    for label in labels:
        g, s = ours[label], theirs[label]
        hit = cells.column(g & s)
        pairs += [
            (hit, cells.column(s)),
            (hit, cells.column(g)),
            (2 * hit, cells.column(g.astype(int) + s)),
            (cells.column(~g & s), cells.column(~g)),
        ]
    every = [np.sum([pairs[4 * i + 2][part] for i in range(len(labels))], axis=0) for part in (0, 1)]
    stats = boot.ratios([*pairs, (every[0], every[1])]) if labels else []
    names = ("precision", "recall", "f1", "false_alarms")
    found = {
        label: LabelScores(
            int(ours[label].sum()), int(theirs[label].sum()), dict(zip(names, stats[4 * i : 4 * i + 4], strict=True))
        )
        for i, label in enumerate(labels)
    }
    nothing = boot.mean([])
    both = {"f1": boot.mean([s.stats["f1"] for s in found.values()]), "micro_f1": stats[-1] if labels else nothing}
    rows = {name: replace(stat, n=len(gold)) for name, stat in both.items()}
    return rows, found, _confusion(gold, said, labels)


def _confusion(gold: Any, said: Any, labels: Sequence[str]) -> Confusion | None:
    """The table, labels in the model's order and what stands in for a label after them."""
    if not len(gold):
        return None
    table = Counter(zip(gold, said, strict=True))
    marks = [mark.value for mark in Mark]
    lines = [name for name in (*labels, *marks) if name in labels or name in gold]
    columns = [name for name in (*labels, *marks) if name in labels or name in said]
    return Confusion(
        gold=tuple(lines),
        predicted=tuple(columns),
        counts=tuple(tuple(table[line, column] for column in columns) for line in lines),
    )


def _bins(cells: _Cells, hits: Sequence[bool]) -> tuple[Bin, ...]:
    """Ten bins of equal width; the last holds confidence 1, too. Source: Guo et al., 2017, arXiv 1706.04599."""
    members: dict[int, list[tuple[float, bool]]] = {}
    for sure, hit in zip(cells.confidence, hits, strict=True):
        if sure is not None:
            members.setdefault(min(int(sure * _BINS), _BINS - 1), []).append((sure, hit))
    return tuple(
        Bin(
            low=number / _BINS,
            high=(number + 1) / _BINS,
            n=len(found),
            confidence=sum(sure for sure, _ in found) / len(found),
            accuracy=sum(hit for _, hit in found) / len(found),
        )
        for number, found in sorted(members.items())
    )


__all__ = ["FieldScores", "LabelScores", "Told", "ViewScores", "counts", "score", "wrong_fields"]

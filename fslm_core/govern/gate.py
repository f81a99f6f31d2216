"""The upgrade gate: what changed between two versions' answers to the same inputs, and whether anything fell.

A row is *valid* where the stack gave an output, and *right* where that output equals the labelled one, field by field
of the label. The two versions' rows are pairs, so what fell is judged by the exact McNemar test on the rows that
changed sides. ``valid`` and ``exact`` are each tested by themselves; the fields are many, so their p-values are
adjusted by Holm's procedure, lest one of them seem to fall by chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median
from typing import Any

from ..evaluate.fields import same
from ..explain.paired import holm, mcnemar
from .questions import Question
from .sides import PROTOCOL, Answer, Side

EXAMPLES = 5
"""Rows that are shown of each kind of change."""
ABSENT = "(no such field)"
WITHHELD = "(withheld)"


@dataclass(frozen=True, slots=True)
class Figure:
    """How many of ``rows`` were good before and after.

    Attributes:
        lost: rows that were good before and are not after; ``gained`` the other way round.
        p: of the exact McNemar test on these two, adjusted where several are tested together.
    """

    name: str
    rows: int
    before: int
    after: int
    lost: int
    gained: int
    p: float

    def fell(self, alpha: float) -> bool:
        """Whether it is lower after, and that is significant at ``alpha``; at 1, whether it is lower at all."""
        return self.after < self.before and self.p <= alpha


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a change: what was said before, and after."""

    row: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field of the output.

    Attributes:
        rows: those in which both versions gave an output.
        changed: in how many of them the field differs.
        score: of the labelled rows, how many have it right; None where none is labelled.
    """

    name: str
    rows: int
    changed: int
    examples: tuple[Example, ...]
    score: Figure | None = None


@dataclass(frozen=True)
class GateReport:
    """What became of the same rows before and after.

    Attributes:
        rows: that both versions answered, of ``asked``.
        changed: rows whose output differs, or that only one of the versions gave an output for.
        valid: rows with an output.
        exact: of the labelled rows, those wholly right; None where none is labelled.
        errors: codes of errors, by side, with their counts.
        newly_invalid: rows that lost their output, with what was said before and the error after.
        seconds: the median time of a run, by side; for information.
    """

    stack: str
    baseline: Side
    current: Side
    asked: int
    rows: int
    changed: int
    valid: Figure
    exact: Figure | None
    fields: tuple[FieldChange, ...]
    errors: Mapping[str, Mapping[str, int]]
    newly_invalid: tuple[Example, ...]
    seconds: Mapping[str, float | None]

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Everything that can fall."""
        scores = [change.score for change in self.fields]
        return tuple(figure for figure in (self.valid, self.exact, *scores) if figure is not None)

    def faults(self, *, alpha: float, max_changed: float | None = None) -> tuple[str, ...]:
        """Why the gate stays shut, a sentence each; empty where it opens.

        Args:
            alpha: the level at which a fall counts; 1 counts every fall.
            max_changed: the share of rows that may change.
        """
        found = [
            f"{figure.name} fell from {figure.before:,} to {figure.after:,} of {figure.rows:,} (p = {figure.p:.3g})"
            for figure in self.figures
            if figure.fell(alpha)
        ]
        if max_changed is not None and self.rows and self.changed > max_changed * self.rows:
            found.append(f"{self.changed:,} of {self.rows:,} rows changed, more than the share {max_changed:g}")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "protocol": PROTOCOL,
            "stack": self.stack,
            "baseline": self.baseline.to_dict(),
            "current": self.current.to_dict(),
            "asked": self.asked,
            "rows": self.rows,
            "changed": self.changed,
            "valid": asdict(self.valid),
            "exact": None if self.exact is None else asdict(self.exact),
            "fields": [asdict(change) for change in self.fields],
            "errors": {side: dict(codes) for side, codes in self.errors.items()},
            "newly_invalid": [asdict(example) for example in self.newly_invalid],
            "seconds": dict(self.seconds),
        }


@dataclass(frozen=True, slots=True)
class _Pair:
    question: Question
    before: Answer
    after: Answer

    @property
    def outputs(self) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
        """Both outputs, where both gave one."""
        if self.before.output is None or self.after.output is None:
            return None
        return self.before.output, self.after.output


def compare(
    stack: str,
    baseline: Side,
    current: Side,
    questions: Sequence[Question],
    before: Sequence[Answer],
    after: Sequence[Answer],
    *,
    quotes: bool = True,
) -> GateReport:
    """Compare two versions' answers; rows that one of them did not answer are left out.

    Args:
        quotes: False keeps values out of the examples.
    """
    pairs = [_Pair(*three) for three in zip(questions, before, after, strict=False)]
    invalid = [pair for pair in pairs if pair.before.output is not None and pair.after.output is None]
    return GateReport(
        stack=stack,
        baseline=baseline,
        current=current,
        asked=len(questions),
        rows=len(pairs),
        changed=sum(_changed(pair) for pair in pairs),
        valid=_figure("valid", pairs, lambda pair, answer: answer.output is not None),
        exact=_exact(pairs),
        fields=tuple(_fields(pairs, quotes)),
        errors={
            side.name: dict(Counter(a.code for a in (getattr(pair, part) for pair in pairs) if a.code).most_common())
            for side, part in ((baseline, "before"), (current, "after"))
        },
        newly_invalid=tuple(_lost(pair, quotes) for pair in invalid[:EXAMPLES]),
        seconds={
            side.name: _median(getattr(pair, part).seconds for pair in pairs)
            for side, part in ((baseline, "before"), (current, "after"))
        },
    )


def _changed(pair: _Pair) -> bool:
    if pair.outputs is None:
        return (pair.before.output is None) is not (pair.after.output is None)
    return not same(*map(dict, pair.outputs))


def _lost(pair: _Pair, quotes: bool) -> Example:
    what = f": {pair.after.what}" if quotes and pair.after.what else ""
    return Example(pair.question.row, pair.before.output if quotes else WITHHELD, f"error {pair.after.code}{what}")


def _figure(name: str, pairs: Sequence[_Pair], good: Callable[[_Pair, Answer], bool]) -> Figure:
    found = [(good(pair, pair.before), good(pair, pair.after)) for pair in pairs]
    lost, gained = found.count((True, False)), found.count((False, True))
    both = found.count((True, True))
    return Figure(name, len(found), both + lost, both + gained, lost, gained, mcnemar(lost, gained))


def _exact(pairs: Sequence[_Pair]) -> Figure | None:
    labelled = [pair for pair in pairs if pair.question.gold is not None]
    if not labelled:
        return None

    def right(pair: _Pair, answer: Answer) -> bool:
        return all(_right(name, pair, answer) for name in pair.question.gold or ())

    return _figure("exact", labelled, right)


def _right(name: str, pair: _Pair, answer: Answer) -> bool:
    gold, said = pair.question.gold or {}, answer.output
    return said is not None and name in said and same(gold[name], said[name])


def _fields(pairs: Sequence[_Pair], quotes: bool) -> Iterator[FieldChange]:
    golds = [pair.question.gold or {} for pair in pairs]
    outputs = [output for pair in pairs for output in (pair.before.output, pair.after.output) if output is not None]
    names = list(dict.fromkeys(name for fields in (*outputs, *golds) for name in fields))
    scores = _scores(pairs, names)
    for name in names:
        both = [(pair, pair.outputs) for pair in pairs if pair.outputs is not None]
        differs = [
            (pair, was.get(name, ABSENT), now.get(name, ABSENT))
            for pair, (was, now) in both
            if (name in was) is not (name in now) or not same(was.get(name), now.get(name))
        ]
        examples = (
            Example(pair.question.row, was, now) if quotes else Example(pair.question.row, WITHHELD, WITHHELD)
            for pair, was, now in differs[:EXAMPLES]
        )
        yield FieldChange(name, len(both), len(differs), tuple(examples), scores.get(name))


def _scores(pairs: Sequence[_Pair], names: Sequence[str]) -> dict[str, Figure]:
    """By field, of the rows that are labelled in it; what is tested together is adjusted together."""
    found: dict[str, Figure] = {}
    for name in names:
        labelled = [pair for pair in pairs if pair.question.gold is not None and name in pair.question.gold]
        if labelled:
            found[name] = _figure(name, labelled, partial(_right, name))
    adjusted = holm({name: figure.p for name, figure in found.items()})
    return {name: replace(figure, p=adjusted[name]) for name, figure in found.items()}


def _median(seconds: Iterator[float | None]) -> float | None:
    known = [s for s in seconds if s is not None]
    return median(known) if known else None


__all__ = ["ABSENT", "EXAMPLES", "WITHHELD", "Example", "FieldChange", "Figure", "GateReport", "compare"]

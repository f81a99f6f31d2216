"""Rows that say what an earlier row says already: equal to it, or nearly so with the same answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from .labels import text_of
from .near import near_form, near_pairs, similarity
from .rows import Row
from .writing import json_line


@dataclass(frozen=True, slots=True)
class Repeat:
    """A row that is not needed.

    Attributes:
        line: of the row.
        of: the line of the earlier row that stays.
        similarity: of their inputs, 1 where they are equal.
    """

    line: int
    of: int
    similarity: float


def find_repeats(rows: Sequence[Row], near: float = 1.0) -> list[Repeat]:
    """Find rows that repeat an earlier one: the same output to the letter, and the same input or one like it.

    Of like rows the first stays, and every other is named with one that stays. Rows whose outputs differ never repeat
    each other: they contradict each other, or teach to copy different values.

    Args:
        near: the least similarity (:func:`~fslm_core.data.near.similarity`) of inputs that are alike, 0.5 to 1;
            1 finds equal rows alone.

    >>> rows = [Row(1, {"text": "Cancel it"}, {"label": "a"}), Row(2, {"text": "cancel it!"}, {"label": "a"})]
    >>> find_repeats(rows), find_repeats(rows, near=0.9)
    ([], [Repeat(line=2, of=1, similarity=1.0)])
    """
    found: list[Repeat] = []
    first: dict[tuple[str, str], Row] = {}
    by_output: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        output = json_line(row.output)
        there = first.setdefault((json_line(row.input), output), row)
        if there is row:
            by_output[output].append(row)
        else:
            found.append(Repeat(row.line, there.line, 1.0))
    if near < 1:
        for alike in by_output.values():
            found += _near(alike, near)
        found = _to_those_that_stay(found)
    return sorted(found, key=lambda repeat: repeat.line)


def _near(rows: Sequence[Row], threshold: float) -> list[Repeat]:
    """Of rows with one output, those that are like one that stays; the rows are gone through in their order."""
    forms = [near_form(text_of(row)) for row in rows]
    first: dict[str, int] = {}
    for place, form in enumerate(forms):
        first.setdefault(form, place)
    before: dict[int, list[int]] = defaultdict(list)
    for one, other, _ in near_pairs(forms, threshold):
        before[other].append(one)
    found: list[Repeat] = []
    gone: set[int] = set()
    for place, form in enumerate(forms):
        of = first[form] if first[form] != place else next((p for p in sorted(before[place]) if p not in gone), None)
        if of is not None:
            gone.add(place)
            found.append(Repeat(rows[place].line, rows[of].line, similarity(form, forms[of])))
    return found


def _to_those_that_stay(found: Sequence[Repeat]) -> list[Repeat]:
    """Repeats of a row that goes itself are repeats of the one that it goes for."""
    of = {repeat.line: repeat for repeat in found}
    made = []
    for repeat in found:
        while repeat.of in of:
            repeat = Repeat(repeat.line, of[repeat.of].of, min(repeat.similarity, of[repeat.of].similarity))
        made.append(repeat)
    return made


__all__ = ["Repeat", "find_repeats"]

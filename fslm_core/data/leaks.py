"""Training rows that give away evaluation rows: they hold too many of an evaluation row's runs of words.

The measure is that of A. Chowdhery and others, PaLM (2022, arXiv 2204.02311, section 8): an evaluation example is
contaminated if at least 70 % of its 8-grams occur in the training data. Here they have to occur in one training row,
for rows are short and that row is what has to go. A text of fewer than eight words is one run as a whole, as T. Brown
and others, Language Models are Few-Shot Learners (2020, appendix C) treat short examples: it leaks if it is equal.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .labels import texts_in
from .near import same_form
from .rows import Row
from .table import AS_FOUND, open_table

WORDS, OVERLAP = 8, 0.7
_WORD = re.compile(r"\w+")
Run = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A row to be scored by; ``text`` is all that its input says."""

    path: Path
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Leak:
    """A training row, by its line, the evaluation row it gives away most of, and which share of it."""

    line: int
    path: Path
    of: int
    share: float


@dataclass(frozen=True, slots=True)
class Leaks:
    """Training rows that have to go, and how many evaluation rows of each file they give away; 0 is told, too."""

    rows: tuple[Leak, ...]
    given_away: Mapping[Path, int]


def read_evaluation(paths: Iterable[Path]) -> list[Evaluation]:
    """Read rows to be scored by from tables of any kind: of ``{"input": …, "output": …}`` the input, else all cells.

    Raises:
        DataError: no such table, or a line that is no row.
    """
    found: list[Evaluation] = []
    for path in paths:
        table = open_table(path, AS_FOUND)
        for record in table.records:
            if record.problem is None and not record.blank:
                cells: Any = record.cells.get("input") if table.nested else dict(record.cells)
                found.append(Evaluation(path, record.line, "\n".join(texts_in(cells))))
    return found


def find_leaks(
    rows: Sequence[Row], evaluation: Sequence[Evaluation], *, words: int = WORDS, overlap: float = OVERLAP
) -> Leaks:
    """Find training rows whose input holds at least ``overlap`` of the runs of ``words`` words of an evaluation row.

    Case, width and punctuation do not matter; numbers do. Outputs are left out of account: labels are alike everywhere.

    >>> seen = Evaluation(Path("test.jsonl"), 3, "Where is my parcel?")
    >>> [leak] = find_leaks([Row(7, {"text": "where is my parcel"}, {}), Row(8, {"text": "no"}, {})], [seen]).rows
    >>> leak.line, leak.of, leak.share
    (7, 3, 1.0)
    """
    runs = [set(_runs(one.text, words)) for one in evaluation]
    where: dict[Run, list[int]] = defaultdict(list)
    for place, own in enumerate(runs):
        for run in own:
            where[run].append(place)
    found: list[Leak] = []
    given: set[int] = set()
    for row in rows:
        shared: Counter[int] = Counter()
        for run in set(_runs("\n".join(texts_in(row.input)), words)):
            shared.update(where.get(run, ()))
        shares = {place: count / len(runs[place]) for place, count in shared.items()}
        over = [place for place, share in shares.items() if share >= overlap]
        if over:
            given.update(over)
            most = min(over, key=lambda place: (-shares[place], place))
            found.append(Leak(row.line, evaluation[most].path, evaluation[most].line, shares[most]))
    counts = Counter(evaluation[place].path for place in given)
    return Leaks(tuple(found), {path: counts[path] for path in dict.fromkeys(one.path for one in evaluation)})


def _runs(text: str, words: int) -> Iterator[Run]:
    """The runs of so many words; a shorter text is one, and one without words is none."""
    found = _WORD.findall(same_form(text))
    if found:
        for start in range(max(1, len(found) - words + 1)):
            yield tuple(found[start : start + words])


__all__ = ["OVERLAP", "WORDS", "Evaluation", "Leak", "Leaks", "find_leaks", "read_evaluation"]

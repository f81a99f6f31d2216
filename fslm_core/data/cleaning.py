"""Training rows without repeats and without what is to be scored by; every row that goes is named with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import DataError, UsageError
from ..folders import put_files
from .leaks import OVERLAP, WORDS, Leak, find_leaks, read_evaluation
from .repeats import Repeat, find_repeats
from .rows import Row, read_rows

Duplicates = Literal["keep", "equal", "near"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What goes.

    Attributes:
        duplicates: nothing, rows equal to an earlier one, or rows like an earlier one with the same output.
        near: the least similarity of inputs that are alike, 0.5 to 1.
        evaluation: files of rows to be scored by, which no training row may give away.
        words: how many words make a run.
        overlap: the share of an evaluation row's runs that gives it away.
    """

    duplicates: Duplicates = "equal"
    near: float = 0.9
    evaluation: tuple[Path, ...] = ()
    words: int = WORDS
    overlap: float = OVERLAP


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What became of rows, by their lines.

    Attributes:
        kept: in their order.
        repeats: with the row that stays; a row that leaks is not among them.
        given_away: file to the number of its rows that were given away.
    """

    kept: tuple[int, ...]
    repeats: tuple[Repeat, ...]
    leaks: tuple[Leak, ...]
    given_away: dict[str, int]

    def plain(self) -> dict[str, Any]:
        """As JSON data, files by their names."""
        return {
            "kept": len(self.kept),
            "repeats": [{"line": r.line, "of": r.of, "similarity": round(r.similarity, 4)} for r in self.repeats],
            "leaks": [
                {"line": x.line, "file": x.path.name, "of": x.of, "share": round(x.share, 4)} for x in self.leaks
            ],
            "given_away": self.given_away,
        }


def clean(rows: Sequence[Row], rules: Rules) -> Cleaned:
    """Find what goes: first what leaks, then what repeats what is left.

    Raises:
        DataError: an evaluation file cannot be read, or all of its rows are given away.
    """
    evaluation = read_evaluation(rules.evaluation)
    leaks = find_leaks(rows, evaluation, words=rules.words, overlap=rules.overlap)
    for path, given in leaks.given_away.items():
        if given == sum(one.path == path for one in evaluation):
            raise DataError(
                "every row to be scored by is among the rows to train on",
                where=str(path),
                found=f"{given:,} rows given away by {len(leaks.rows):,}",
                expected="rows that were held out",
                hint="name the file of held-out rows, or divide the rows anew with `fslm data prepare`",
            )
    leaking = {leak.line for leak in leaks.rows}
    rest = [row for row in rows if row.line not in leaking]
    repeats: list[Repeat] = []
    if rules.duplicates != "keep":
        repeats = find_repeats(rest, rules.near if rules.duplicates == "near" else 1.0)
    gone = {repeat.line for repeat in repeats}
    kept = tuple(row.line for row in rest if row.line not in gone)
    return Cleaned(kept, tuple(repeats), leaks.rows, {path.name: n for path, n in leaks.given_away.items()})


def clean_file(source: Path, out: Path | None, rules: Rules) -> Cleaned:
    """Clean a file of ``{"input": …, "output": …}`` lines; the lines that stay are written as they are.

    Args:
        out: another ``.jsonl`` file, written whole or not at all; None writes nothing.

    Raises:
        DataError: a file cannot be read or written, or is no such file.
        UsageError: ``out`` is one of the files that are read.
    """
    taken: Iterable[Path] = (source, *rules.evaluation)
    if out is not None and out.resolve() in {path.resolve() for path in taken}:
        raise UsageError(
            "the rows would be written in place of rows that are read", where="--out", hint="name another file"
        )
    made = clean(list(read_rows(source)), rules)
    if out is not None:
        lines = source.read_bytes().split(b"\n")
        try:
            put_files({out: b"".join(lines[line - 1].rstrip(b"\r") + b"\n" for line in made.kept)})
        except OSError as error:
            raise DataError(
                f"the rows cannot be written: {error.strerror or error}",
                where=str(out),
                hint="choose another place, or make room there",
            ) from None
    return made


__all__ = ["Cleaned", "Duplicates", "Rules", "clean", "clean_file"]

"""Rows of labels joined to old rows: which line comes from where, and the preference pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TrainError
from ..schema import dumps, plain_data
from ..stage import Stage
from ..store import Label
from .collecting import THERE, Collected, New, text_of
from .pairs import pair_line
from .rows import Problems, Row, read_rows


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of an old file; ``text`` and ``target`` tell what it asks and answers."""

    number: int
    line: bytes
    text: str
    target: str


@dataclass(frozen=True, slots=True)
class Old:
    path: Path
    sha256: str
    lines: tuple[_Line, ...]

    @classmethod
    def read(cls, path: Path, stage: Stage[Any, Any]) -> Old:
        """Old rows, checked against the stage, and their lines as they are."""
        if not path.is_file():
            raise TrainError(
                "there are no old rows to join", where=str(path), hint="name their file, or leave --join out"
            )
        problems = Problems()
        rows = read_rows(path, stage, problems)
        problems.refuse(where=str(path))
        raw = path.read_bytes().splitlines()
        lines = (_Line(row.number, raw[row.number - 1], text_of(row), row.target) for row in rows.rows)
        return cls(path, rows.sha256, tuple(lines))


class Joined:
    """Old rows and new ones in one file, and what is to be told of them."""

    def __init__(self, made: Collected, old: Old | None) -> None:
        self.made, self.old = made, old
        self.replaced: list[_Line] = []
        there: set[str] = set()
        kept: list[bytes] = []
        for line in old.lines if old is not None else ():
            newer = made.by_input.get(line.text)
            if newer is not None and newer.row.target != line.target:
                self.replaced.append(line)
                continue
            kept.append(line.line)
            if newer is not None:
                there.add(line.text)
        self.kept = len(kept)
        self.new: dict[str, New] = {}
        for text, new in sorted(made.by_input.items(), key=lambda item: item[1].label.when):
            if text in there:
                made.skip(new.label, THERE)
            else:
                self.new[text] = new
        lines = [*kept, *(self._line(new.row) for new in self.new.values())]
        self.rows = len(lines)
        self.text = b"".join(line + b"\n" for line in lines)

    @staticmethod
    def _line(row: Row) -> bytes:
        return dumps({"input": plain_data(row.input), "output": plain_data(row.output)}).encode()

    def pairs(self, stage: Stage[Any, Any]) -> dict[str, Label]:
        """Preference pairs as lines, and the label that each comes from."""
        found: dict[str, Label] = {}
        for new in self.made.by_input.values():
            if new.rejected is not None:
                found.setdefault(pair_line(stage, new.row, new.rejected), new.label)
        return dict(sorted(found.items(), key=lambda item: item[1].when))

    def lineage(self, pairs: Mapping[str, Label]) -> dict[str, Any]:
        """Where each line comes from."""
        at = {text: self.kept + place for place, text in enumerate(self.new, start=1)}
        old = None
        if self.old is not None:
            replaced = [{"line": line.number, "by": at.get(line.text)} for line in self.replaced]
            old = {"name": self.old.path.name, "sha256": self.old.sha256, "rows": self.kept, "replaced": replaced}
        return {
            "old": old,
            "rows": [{"line": at[text], **_source(new.label)} for text, new in self.new.items()],
            "pairs": [{"line": place, **_source(label)} for place, label in enumerate(pairs.values(), start=1)],
            "skipped": [{**_source(label), "why": why, "found": found} for label, why, found in self.made.skipped],
        }


def _source(label: Label) -> dict[str, Any]:
    return {
        "run": label.run,
        "stack": label.stack,
        "step": label.step,
        "node": label.node,
        "label": "right" if label.right else "wrong" if label.correction is None else "corrected",
        "labelled": label.when,
    }


__all__ = ["Joined", "Old"]

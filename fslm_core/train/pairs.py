"""Preference pairs: an input, the answer that is better, and the one that is worse, checked against the stage.

A line is ``{"stage": …, "input": {…}, "prompt": …, "chosen": …, "rejected": …}``, both answers as canonical JSON texts.
The prompt is there for other programs; what is trained on is rendered from the input, as in a run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TrainError
from ..folders import put_files
from ..schema import dumps, loads, plain_data
from ..stage import Stage
from .rows import Problems, Row, checked

_KEYS = {"stage", "input", "chosen", "rejected"}
EXPECTED = '{"stage": …, "input": {…}, "chosen": "…", "rejected": "…"} for this stage, with two different answers'


@dataclass(frozen=True, slots=True)
class Pair:
    """``row`` holds the input and the better answer; ``rejected`` is the worse one's canonical text."""

    row: Row
    rejected: str


@dataclass(frozen=True, slots=True)
class Pairs:
    """A file of checked pairs and its SHA-256, hex."""

    path: Path
    pairs: tuple[Pair, ...]
    sha256: str


def read_pairs(path: Path, stage: Stage[Any, Any]) -> Pairs:
    """Read a file of pairs and check each against the stage.

    Raises:
        TrainError: the file cannot be read or holds no pair, or pairs are none, or of another stage.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise TrainError(
            f"the pairs cannot be read: {error.strerror}",
            where=str(path),
            hint="make them with `fslm trace export-training STAGE --out ROWS --preferences PAIRS`",
        ) from None
    problems = Problems()
    found: list[Pair] = []
    for number, line in enumerate(raw.splitlines(), start=1):
        if line.strip():
            pair = _pair(line, number, stage)
            if isinstance(pair, str):
                problems.add(path, number, pair)
            else:
                found.append(pair)
    problems.refuse(where=str(path), expected=EXPECTED)
    if not found:
        raise TrainError(
            "the file holds no pairs",
            where=str(path),
            expected=EXPECTED,
            hint="correct some messages with `fslm trace fix`, then export them again",
        )
    return Pairs(path, tuple(found), hashlib.sha256(raw).hexdigest())


def _pair(line: bytes, number: int, stage: Stage[Any, Any]) -> Pair | str:
    """The pair that a line is, or what is wrong with it."""
    try:
        data = loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    if not isinstance(data, dict) or not data.keys() >= _KEYS:
        return "not an object with stage, input, chosen and rejected"
    if data["stage"] != stage.name:
        return f"a pair for the stage {data['stage']}"
    answers: list[Any] = []
    for name in ("chosen", "rejected"):
        try:
            answers.append(loads(data[name]))
        except (ValueError, TypeError, RecursionError):
            return f"{name} is not JSON text"
    row = checked({"input": data["input"], "output": answers[0]}, number, stage)
    if isinstance(row, str):
        return row.replace("output:", "chosen:")
    rejected = dumps(answers[1])
    return "chosen and rejected are the same" if rejected == row.target else Pair(row, rejected)


def write_pairs(path: Path, pairs: Iterable[Pair], stage: Stage[Any, Any]) -> None:
    """Write pairs as a file that :func:`read_pairs` reads, whole or not at all.

    Raises:
        TrainError: the file cannot be written.
    """
    lines = [pair_line(stage, pair.row, pair.rejected) for pair in pairs]
    try:
        put_files({path: "".join(f"{line}\n" for line in lines)}, private=True)
    except OSError as error:
        raise TrainError(
            f"the pairs cannot be written: {error.strerror or error}",
            where=str(path),
            hint="choose another place, or make room there",
        ) from None


def pair_line(stage: Stage[Any, Any], row: Row, rejected: str) -> str:
    """A pair as a line of JSON, without its end."""
    prompt = "\n\n".join(text for _, text in stage.render(row.input).turns)
    return dumps(
        {
            "stage": stage.name,
            "input": plain_data(row.input),
            "prompt": prompt,
            "chosen": row.target,
            "rejected": rejected,
        }
    )


__all__ = ["EXPECTED", "Pair", "Pairs", "pair_line", "read_pairs", "write_pairs"]

"""Which of the teacher's samples are kept, and why the others are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..schema import dumps
from .rows import empty

Json = dict[str, Any]

FAILED = "the teacher gave no answer"
JUNK = "nothing valid was written"
EMPTY = "nothing but blanks was written"
CONTRADICTS = "it contradicts what the row says of the message"
REFUSED = "a plugin's check refuses it"
DISAGREE = "the samples disagree"
STRAYS = "the row's output does not follow from it"
UNFED = "a step before it has no message"


def candidates(
    samples: Sequence[Json | None], known: Json, agree_on: Sequence[str], share: float
) -> tuple[list[Json], str | None]:
    """The samples that may be kept, the first of them first.

    Args:
        samples: all that were asked for, None where nothing valid was written.
        known: fields that the row itself gives.
        agree_on: fields in which at least ``share`` of all samples has to say the same.

    Returns:
        The candidates, and where there are none, why.

    >>> candidates([{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "z"}], {}, ["a"], 0.6)
    ([{'a': 1, 'b': 'x'}, {'a': 1, 'b': 'y'}], None)
    >>> candidates([{"a": 1}, {"a": 2}], {}, ["a"], 0.6)[1]
    'the samples disagree'
    """
    valid = [sample for sample in samples if sample is not None]
    if not valid:
        return [], JUNK
    full = [sample for sample in valid if not empty(sample)]
    if not full:
        return [], EMPTY
    fitting = [sample for sample in full if all(sample.get(name) == value for name, value in known.items())]
    if not fitting:
        return [], CONTRADICTS
    said = [dumps([sample[name] for name in agree_on]) for sample in fitting]
    most, count = Counter(said).most_common(1)[0]
    if agree_on and count / len(samples) < share:
        return [], DISAGREE
    return [sample for sample, text in zip(fitting, said, strict=True) if text == most], None


__all__ = [
    "CONTRADICTS",
    "DISAGREE",
    "EMPTY",
    "FAILED",
    "JUNK",
    "REFUSED",
    "STRAYS",
    "UNFED",
    "candidates",
]

"""What passes between the stages: a question comes in, an answer with its steps goes out."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, field_validator

from .finding import find, implied
from .steps import MOST_STEPS, choices, shown

MOST_NUMBERS = 12
"""Different numbers of one question, those that a word such as ``dozen`` stands for included."""

_VALUE = r"[0-9]{1,12}(\.[0-9]{1,6})?"
Value = Annotated[str, Field(pattern=f"^{_VALUE}$", max_length=19)]
Written = Annotated[str, Field(pattern=rf"^([xy]|{_VALUE})[-+*/]([xy]|{_VALUE})$", max_length=39)]


class Question(BaseModel):
    """A word problem in English."""

    question: Annotated[str, Field(min_length=1, max_length=2000)]

    @field_validator("question")
    @classmethod
    def _can_be_calculated(cls, question: str) -> str:
        found, also = list(find(question)), implied(question)
        if len(found) + len(also) < 2:
            raise ValueError(f"the question has {'one number' if found else 'no number'} to calculate with, not two")
        if len({number.value for number in found} | set(also)) > MOST_NUMBERS:
            raise ValueError(f"the question has more than {MOST_NUMBERS} different numbers")
        for number in found:
            if number.value >= 10**12 or "/" in shown(number.value):
                written = question[number.start : number.end]
                raise ValueError(f"the number {written[:20]!r} has too many digits: at most 12, and 6 after the point")
        return question


class Number(BaseModel):
    """A number of the question: its value as digits, and where in the question it is written, in digits or words."""

    value: Value
    start: int
    end: int


class Numbered(BaseModel):
    """A question with its numbers found, each of them written in digits and in one form.

    Attributes:
        asked: the sentence that asks.
        told: all others; empty where there are none.
        numbers: in order.
        implied: what words such as ``dozen`` and ``twice`` bring along.
    """

    asked: str
    told: str
    numbers: list[Number]
    implied: list[Value]

    @property
    def values(self) -> list[str]:
        """The values a step may use: those of the numbers in order, then the implied ones."""
        return [*(number.value for number in self.numbers), *self.implied]

    @property
    def first(self) -> list[str]:
        """What these numbers allow as the first step."""
        return choices(self.values, 0)

    @property
    def second(self) -> list[str]:
        """What they allow as the second."""
        return choices(self.values, 1)

    @property
    def third(self) -> list[str]:
        """What they allow as the third."""
        return choices(self.values, 2)


class Equation(BaseModel):
    """One to three steps such as ``4*9`` and ``92-x``; ``x`` is what the first step gave, ``y`` the second."""

    steps: Annotated[list[Written], Field(min_length=1, max_length=MOST_STEPS)]


class Answer(BaseModel):
    """The answer, and how it was reached: ``4 * 9 = 36``, ``92 - 36 = 56``."""

    answer: float
    steps: list[str]


__all__ = ["MOST_NUMBERS", "Answer", "Equation", "Number", "Numbered", "Question"]

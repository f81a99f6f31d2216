"""What passes between the four models: a question with its choices comes in, the index of one choice goes out."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, field_validator

MOST_OF_A_QUESTION = 2000
"""Characters, as in what follows."""
MOST_OF_A_CHOICE = 200
MOST_OF_FACTS = 240
MOST_OF_REASONING = 200

Choice = Annotated[str, Field(min_length=1, max_length=MOST_OF_A_CHOICE)]
Word = Annotated[str, Field(min_length=1, max_length=24)]


class Question(BaseModel):
    """A question in English, and the answers to choose from."""

    question: Annotated[str, Field(min_length=1, max_length=MOST_OF_A_QUESTION)]
    choices: Annotated[list[Choice], Field(min_length=2, max_length=8)]

    @field_validator("choices")
    @classmethod
    def _differ(cls, choices: list[str]) -> list[str]:
        if len(set(choices)) < len(choices):
            raise ValueError("two of the choices are the same")
        return choices


class Topic(BaseModel):
    """What the question is about: its topic in a word, and up to three words that help to recall facts."""

    topic: Word
    words: Annotated[list[Word], Field(max_length=3)]


class Recalling(Question, Topic):
    """What the second model reads."""


class Facts(BaseModel):
    """What is known of it, in one to three short sentences."""

    facts: Annotated[str, Field(min_length=1, max_length=MOST_OF_FACTS)]


class Reckoning(Question, Facts):
    """What the third model reads."""


class Reasoning(BaseModel):
    """What follows from the facts, in a sentence or two."""

    reasoning: Annotated[str, Field(min_length=1, max_length=MOST_OF_REASONING)]


class Deciding(Question):
    """What the fourth model reads; what is not known is empty."""

    facts: Annotated[str, Field(max_length=MOST_OF_FACTS)]
    reasoning: Annotated[str, Field(max_length=MOST_OF_REASONING)]


class Chosen(BaseModel):
    """One of the choices, word for word."""

    choice: Choice


class Picking(Question, Chosen):
    """What the index is looked up in."""


class Answer(BaseModel):
    """The index of the choice, from 0."""

    answer: Annotated[int, Field(ge=0, le=7)]


__all__ = [
    "MOST_OF_A_CHOICE",
    "MOST_OF_A_QUESTION",
    "MOST_OF_FACTS",
    "MOST_OF_REASONING",
    "Answer",
    "Chosen",
    "Deciding",
    "Facts",
    "Picking",
    "Question",
    "Reasoning",
    "Recalling",
    "Reckoning",
    "Topic",
]

"""What passes between the stages: a dialogue comes in, a call note goes out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

Domain = Literal[
    "appointment", "bank", "bus", "calendar", "car", "event", "film",
    "flight", "home", "hotel", "music", "restaurant", "ride",
]  # fmt: skip
Outcome = Literal["done", "failed", "asked"]
Value = Annotated[str, Field(min_length=1, max_length=80)]
Count = Annotated[int, Field(ge=1, le=99)]


class Dialogue(BaseModel):
    """What was said, a line a turn, each begun with ``Customer:`` or ``Agent:``."""

    text: Annotated[str, Field(min_length=1)]


class Service(BaseModel):
    """What a call was about and how it ended; ``asked`` is a call in which nothing was to be done."""

    domain: Domain
    outcome: Outcome


class Facts(BaseModel):
    """Whom or what, where and when, as said last; null where nobody said it."""

    name: Value | None
    place: Value | None
    origin: Value | None
    date: Value | None
    time: Value | None
    people: Count | None


class NotedDialogue(Facts, Service, Dialogue):
    """A dialogue together with what is known of it."""


class Summary(BaseModel):
    """The call in two to four sentences."""

    summary: Annotated[str, Field(min_length=1, max_length=360)]


class Note(Summary, Facts, Service):
    """The whole call note."""


__all__ = ["Dialogue", "Facts", "Note", "NotedDialogue", "Service", "Summary"]

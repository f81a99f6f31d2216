"""What passes between the steps of a turn, and what a dialogue remembers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field, computed_field

from .schema import Record, Service, Slot, Task
from .values import DONT_CARE, NONE, spans

Move = Literal["tell", "accept", "refuse", "others", "close"]
ActName = Literal["REQUEST", "CONFIRM", "OFFER", "INFORM", "SUCCESS", "FAILURE", "SUGGEST", "MORE", "GOODBYE"]
Name = Annotated[str, Field(min_length=1, max_length=40)]
MOST_OF_A_VALUE = 60
"""Characters."""
Value = Annotated[str, Field(min_length=1, max_length=MOST_OF_A_VALUE)]
LONGEST_REPLY = 300
"""Characters."""
Row = dict[str, str]


class Turn(BaseModel):
    """One turn of the user.

    Attributes:
        text: what the user says.
        service: the service it is about: a schema as data, or the name of one in the catalogue; left out, all
            services of the catalogue are on offer.
        records: calls and what they gave, which then serve all calls; left out, the catalogue's rows do.
        today: the date that ``tomorrow`` is reckoned from, as ``2026-03-01``; left out, the clock's.
    """

    text: Annotated[str, Field(min_length=1, max_length=1000)]
    service: Service | str | None = None
    records: list[Record] | None = None
    today: str | None = None


class Call(BaseModel):
    """A typed call of a service: what is to be done, with which values."""

    intent: str
    parameters: Row


class Dialogue(BaseModel):
    """What a dialogue remembers from turn to turn.

    Attributes:
        service: the service that is talked about.
        intent: what the user wants at present.
        slots: what is settled so far, as it was said.
        said: the assistant's last utterance.
        act: its last act.
        proposed: what accepting that act settles: what was offered, or is to be confirmed.
        called: the last call.
        rows: what it gave.
        place: the row that was offered last.
        turns: the last utterances of both.
    """

    service: str = ""
    intent: str = NONE
    slots: Row = {}
    said: str = ""
    act: str = ""
    proposed: Row = {}
    called: Call | None = None
    rows: list[Row] = []
    place: int = 0
    turns: Annotated[list[str], Field(max_length=8)] = []


class Choice(BaseModel):
    """An intent that may be meant, and what it is."""

    name: str
    description: str


class Opened(BaseModel):
    """The services that may be meant, and their intents."""

    choices: list[Choice]
    services: list[Service]


class Heard(BaseModel):
    """A turn as the stage that looks for its intent reads it."""

    text: str
    said: str
    now: str
    choices: list[Choice]

    @property
    def names(self) -> list[str]:
        return [*(choice.name for choice in self.choices), NONE]


class Understood(BaseModel):
    """What the user wants, and what the turn does: accept or refuse what was proposed, ask for others, close, tell."""

    intent: Annotated[str, Field(min_length=1, max_length=60)]
    move: Move


class Tasked(BaseModel):
    """What the intent takes and gives, of its service's schema."""

    task: Task


def sayable(text: str, slots: Sequence[Slot]) -> list[str]:
    """What the slots' values can be after this was said."""
    listed = [value for slot in slots for value in slot.values]
    return [value for value in dict.fromkeys([DONT_CARE, *listed, *spans(text)]) if len(value) <= MOST_OF_A_VALUE]


class Asked(BaseModel):
    """A turn as the stage that looks for slots reads it."""

    text: str
    said: str
    task: Task

    @property
    def settable(self) -> list[str]:
        return [slot.name for slot in self.task.slots]

    @property
    def sayable(self) -> list[str]:
        """The values there can be: those of slots that have a list of them, and what was said."""
        return sayable(self.text, self.task.slots)

    @property
    def askable(self) -> list[str]:
        return self.task.gives

    @computed_field  # type: ignore[prop-decorator]
    @property
    def extra(self) -> list[str]:
        """What may be asked that is not among the slots."""
        return [name for name in self.task.gives if name not in self.settable]


class Filled(BaseModel):
    """A slot and its value as it was said; ``dontcare`` where any will do."""

    slot: Name
    value: Value


class Told(BaseModel):
    """What this turn says: slots with their values, and what it asks to know."""

    told: Annotated[list[Filled], Field(max_length=5)]
    asked: Annotated[list[Name], Field(max_length=4)]


class Settled(BaseModel):
    """The slots after the turn, those still missing, and what was asked."""

    slots: Row
    missing: list[str]
    asked: list[str]


class Served(BaseModel):
    """The call that was made in this turn, if any, and the rows that are at hand."""

    call: Call | None
    rows: list[Row]
    place: int


class Situation(BaseModel):
    """All that the next act depends on."""

    text: str
    task: Task
    move: Move
    missing: list[str]
    asked: list[str]
    call: Call | None
    rows: list[Row]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def options(self) -> list[str]:
        """The acts that there are now."""
        if self.call is not None:
            return ["FAILURE"] if not self.rows else ["SUCCESS" if self.task.does else "OFFER"]
        if not self.task.intent:
            return ["MORE", "GOODBYE"]
        found = []
        if self.asked and self.rows:
            found.append("INFORM")
        if self.missing:
            found.append("REQUEST")
        elif self.task.does:
            found.append("CONFIRM")
        if self.rows and not self.task.does and not self.missing:
            found.append("OFFER")
            if self.task.next:
                found.append("SUGGEST")
        return [*found, "MORE", "GOODBYE"]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def names(self) -> list[str]:
        """The slots that the act may be about."""
        if self.options == ["OFFER"] or (self.rows and not self.missing and not self.task.does):
            return self.task.gives
        return [] if self.call is not None else self.missing

    @computed_field  # type: ignore[prop-decorator]
    @property
    def outcome(self) -> str:
        """What came of a call, in a word."""
        return "no call" if self.call is None else f"{len(self.rows)} found" if self.rows else "failed"


class Act(BaseModel):
    """What the assistant does next, and the slots it asks for or offers."""

    act: ActName
    about: Annotated[list[Name], Field(max_length=4)]


class Fact(BaseModel):
    """Something to be said; ``?`` as its value where it is to be asked."""

    slot: str
    value: str


class Content(BaseModel):
    """An act with all that is to be said, and what accepting it would settle."""

    act: ActName
    subject: str
    facts: list[Fact]
    proposed: Row
    place: int


class Reply(BaseModel):
    """The turn in plain language."""

    reply: Annotated[str, Field(min_length=1, max_length=LONGEST_REPLY)]


class Saying(BaseModel):
    """An act as the stage that puts it into words reads it."""

    act: ActName
    subject: str
    facts: list[Fact]


class Answer(BaseModel):
    """What the user is told, and the call that was made."""

    reply: str
    call: Call | None


__all__ = [
    "Act", "Answer", "Asked", "Call", "Choice", "Content", "Dialogue", "Fact", "Filled", "Heard", "Opened", "Reply",
    "Row", "Saying", "Served", "Settled", "Situation", "Tasked", "Told", "Turn", "Understood",
]  # fmt: skip

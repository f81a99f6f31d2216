"""A service's schema: what can be wanted of it, and which slots that takes. It arrives as data."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

Name = Annotated[str, Field(min_length=1, max_length=40)]
Word = Annotated[str, Field(min_length=1, max_length=60)]


class Slot(BaseModel):
    """A slot; ``values`` are all there are, or empty where it takes any text."""

    name: Name
    values: list[Word] = []


class Intent(BaseModel):
    """Something that can be wanted of a service.

    Attributes:
        name: one word, unique among the services on offer.
        description: a short sentence, which the model reads.
        does: whether it changes something, and so is confirmed first.
        needs: the slots that it cannot do without.
        takes: other slots, each with the value that is taken where nobody says one; ``dontcare`` for any.
        gives: the slots of what it finds.
    """

    name: Word
    description: Annotated[str, Field(max_length=160)]
    does: bool = False
    needs: list[Name] = []
    takes: dict[Name, str] = {}
    gives: list[Name] = []


class Service(BaseModel):
    """A service: its slots and its intents."""

    name: Name
    slots: list[Slot]
    intents: Annotated[list[Intent], Field(min_length=1)]

    def task(self, intent: Intent) -> Task:
        """What the intent takes and gives, with the slots' values."""
        known = {slot.name: slot for slot in self.slots}
        acts = [other.name for other in self.intents if other.does and other.name != intent.name]
        return Task(
            service=self.name,
            intent=intent.name,
            does=intent.does,
            slots=[known.get(name, Slot(name=name)) for name in (*intent.needs, *intent.takes)],
            needs=intent.needs,
            defaults=intent.takes,
            gives=intent.gives,
            inputs=sorted({name for each in self.intents for name in (*each.needs, *each.takes)}),
            next=acts[0] if acts and not intent.does else None,
        )


class Task(BaseModel):
    """One intent with its part of the schema; all empty where nothing is wanted.

    Attributes:
        inputs: the slots that any intent of the service takes.
        next: what is suggested once this is found: an intent that does something.
    """

    service: str = ""
    intent: str = ""
    does: bool = False
    slots: list[Slot] = []
    needs: list[Name] = []
    defaults: dict[Name, str] = {}
    gives: list[Name] = []
    inputs: list[Name] = []
    next: str | None = None


class Record(BaseModel):
    """A call and what it gave."""

    intent: str
    parameters: dict[str, str]
    results: list[dict[str, str]]


class Catalogue(BaseModel):
    """Services, and the rows that serve them: service to rows."""

    services: list[Service]
    rows: dict[str, list[dict[str, str]]] = {}


__all__ = ["Catalogue", "Intent", "Record", "Service", "Slot", "Task"]

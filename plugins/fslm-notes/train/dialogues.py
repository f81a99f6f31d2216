"""Schema-guided dialogues, and the call note that each one's annotation amounts to.

A dialogue's note is worked out from its annotation alone: the state of the slots, the calls made and what the agent
told. Values are taken as somebody in the dialogue said them last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wording import ASKED, COUNTED, DETAILS, ROLES, WISHES, Words

DOMAINS = {
    "Banks": "bank", "Buses": "bus", "Calendar": "calendar", "Events": "event", "Flights": "flight", "Homes": "home",
    "Hotels": "hotel", "Media": "film", "Movies": "film", "Music": "music", "RentalCars": "car",
    "Restaurants": "restaurant", "RideSharing": "ride", "Services": "appointment",
}  # fmt: skip
"""A service's name without its number, to the domain. Alarm, Travel and Weather occur in no training dialogue."""

NUMBERS = {
    word: number
    for number, word in enumerate(("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), 1)
}
RELATIVE = ("today", "tomorrow", "day after", "the day after", "next", "this", "later")
"""A date that begins like one of these takes no \"on\"."""
DONT_CARE = "dontcare"
SPEAKERS = {"U": "Customer", "S": "Agent"}


@dataclass(frozen=True)
class Note:
    """A dialogue's text and what a note on it should say."""

    id: str
    service: str
    text: str
    domain: str
    outcome: str
    facts: dict[str, str | int | None]
    summary: str


def notes(path: Path) -> Iterator[Note]:
    """The notes of a file of dialogues whose domain is one of ours."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            note = note_of(json.loads(line))
            if note is not None:
                yield note


def note_of(dialogue: dict[str, Any]) -> Note | None:
    """The note on one dialogue; None where its domain is none of ours or nothing was asked for."""
    (service,) = dialogue["services"]
    domain = DOMAINS.get(service.partition("_")[0])
    turns = [Turn(turn["who"], turn["text"], turn["frames"][0]) for turn in dialogue["turns"]]
    intent = main_intent(turns)
    if domain is None or intent is None:
        return None
    slots = last_said(turns)
    facts, people = facts_of(slots), counted(slots)
    outcome = outcome_of(turns)
    return Note(
        id=dialogue["id"],
        service=service,
        text="\n".join(f"{SPEAKERS[turn.who]}: {' '.join(turn.text.split())}" for turn in turns),
        domain=domain,
        outcome=outcome,
        facts={**facts, "people": people},
        summary=" ".join(sentences(intent, facts, people, slots, answers(turns), outcome)),
    )


@dataclass(frozen=True)
class Turn:
    """What one of the two said, and its annotation."""

    who: str
    text: str
    frame: dict[str, Any]

    @property
    def actions(self) -> list[tuple[str, str, list[str]]]:
        return [(act, slot, values) for act, slot, values in self.frame["actions"]]


def main_intent(turns: list[Turn]) -> str | None:
    """What the call was about in the end: the last thing done or tried, else the last look-up, else the last wish."""
    calls = [turn.frame["call"]["method"] for turn in turns if turn.frame.get("call")]
    done = [method for method in calls if method in WISHES and WISHES[method].does]
    wishes = [turn.frame.get("intent") for turn in turns if turn.frame.get("intent") in WISHES]
    return next(iter((done or calls or wishes)[-1:]), None)


def last_said(turns: list[Turn]) -> dict[str, str]:
    """Each slot the customer settled, with its value as said last by the customer or as the agent last read it back."""
    settled: dict[str, str] = {}
    said: dict[str, str] = {}
    for turn in turns:
        settled |= turn.frame.get("slots", {})
        for act, slot, values in turn.actions:
            if values and act in (("INFORM",) if turn.who == "U" else ("CONFIRM",)):
                said[slot] = values[0]
    return {slot: said.get(slot, value) for slot, value in settled.items() if said.get(slot, value) != DONT_CARE}


def facts_of(slots: dict[str, str]) -> dict[str, str | None]:
    """The five texts of a note; the first slot of a role that the dialogue has fills it."""
    return {role: next((slots[slot] for slot in names if slot in slots), None) for role, names in ROLES.items()}


def counted(slots: dict[str, str]) -> int | None:
    """How many people, seats or tickets it was about."""
    for slot in COUNTED:
        if slot in slots:
            return number(slots[slot])
    return None


def number(value: str) -> int | None:
    """A count in digits or words, 1 to 99.

    >>> number("two"), number("3 people"), number("many")
    (2, 3, None)
    """
    digits = re.search(r"\d+", value)
    found = int(digits[0]) if digits else NUMBERS.get(value.lower().strip())
    return found if found is not None and 1 <= found <= 99 else None


def outcome_of(turns: list[Turn]) -> str:
    """``done`` or ``failed`` by what the agent last said of it, ``asked`` where nothing was to be done."""
    told = [act for turn in turns for act, _, _ in turn.actions if act in ("NOTIFY_SUCCESS", "NOTIFY_FAILURE")]
    return {"NOTIFY_SUCCESS": "done", "NOTIFY_FAILURE": "failed"}[told[-1]] if told else "asked"


def answers(turns: list[Turn]) -> list[tuple[str, str]]:
    """What the customer asked to know and was told, each once, in the order of the answers."""
    asked: set[str] = set()
    told: dict[str, str] = {}
    for turn in turns:
        asked |= set(turn.frame.get("requested", ()))
        for act, slot, values in turn.actions if turn.who == "S" else ():
            if act in ("INFORM", "OFFER") and slot in asked and values:
                told.pop(slot, None)
                told[slot] = values[0]
    return list(told.items())


def sentences(
    intent: str,
    facts: dict[str, str | None],
    people: int | None,
    slots: dict[str, str],
    told: list[tuple[str, str]],
    outcome: str,
) -> Iterator[str]:
    """The note in words: what was wanted, with which particulars, what was told, how it ended."""
    wish = WISHES[intent]
    yield f"The customer {wish.wanted}{''.join(phrases(wish, facts, people))}."
    particulars = [
        (DETAILS[slot], slots[slot]) for slot in DETAILS if slot in slots and slots[slot] not in facts.values()
    ]
    if particulars:
        yield f"Particulars: {', '.join(spoken(name, value) for name, value in particulars)}."
    if told:
        words = [(ASKED.get(slot, slot.replace("_", " ")), value) for slot, value in told]
        yield f"The agent told them: {', '.join(spoken(name, value) for name, value in words)}."
    ends = {"done": f"{wish.noun} {wish.done}", "failed": f"{wish.noun} failed", "asked": "Nothing was booked"}
    yield f"{ends[outcome]}."


def phrases(wish: Words, facts: dict[str, str | None], people: int | None) -> Iterator[str]:
    """The particulars that every domain has, each with its preposition."""
    for role in ("name", "origin", "place", "date", "time"):
        if value := facts[role]:
            bare = role == "date" and value.lower().startswith(RELATIVE)
            yield f" {value}" if bare else f" {wish.prepositions[role]} {value}"
    if people:
        yield f" for {people}"


def spoken(name: str, value: str) -> str:
    """One particular in words.

    >>> spoken("phone number", "555-0100"), spoken("pets", "False")
    ('phone number 555-0100', 'pets no')
    """
    return f"{name} {({'True': 'yes', 'False': 'no'}).get(value, value)}"


__all__ = ["DOMAINS", "Note", "note_of", "notes"]

"""The steps that are rules: what is on offer, what is settled, which call is made, what is said, what is remembered."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from pydantic import BaseModel, Field

from fslm_core import tool
from fslm_core.errors import InputError

from . import backend
from .messages import (
    Call,
    Choice,
    Content,
    Dialogue,
    Fact,
    Filled,
    Opened,
    Row,
    Served,
    Settled,
    Tasked,
)  # fmt: skip
from .schema import Record, Service, Task
from .values import DONT_CARE, canonical, snapped


class Opening(BaseModel):
    """Which service a turn is about, as far as it is known."""

    service: Service | str | None
    before: str


@tool("assistant.open", version="1")
def open_turn(opening: Opening) -> Opened:
    """The intents that are on offer: those of the named service, or of all in the catalogue."""
    if isinstance(opening.service, Service):
        services = [opening.service]
    else:
        services = backend.catalogue().services
        if opening.service is not None:
            services = [known for known in services if known.name == opening.service]
            if not services:
                raise InputError(
                    "there is no such service in the catalogue",
                    where="assistant.open",
                    found=opening.service,
                    expected=", ".join(known.name for known in backend.catalogue().services),
                    hint="name one of them, or pass the service's schema as data",
                )
    choices = [Choice(name=it.name, description=it.description) for service in services for it in service.intents]
    return Opened(choices=choices, services=services)


class Wanted(BaseModel):
    """An intent, and the services it may belong to."""

    intent: str
    services: list[Service]


@tool("assistant.task", version="1", pure=True)
def task(wanted: Wanted) -> Tasked:
    """The intent's part of its service's schema."""
    found = [(s, intent) for s in wanted.services for intent in s.intents if intent.name == wanted.intent]
    return Tasked(task=found[0][0].task(found[0][1]) if found else Task())


class Before(BaseModel):
    """What a turn says, and what was settled before it."""

    task: Task
    move: str
    told: list[Filled] | None
    asked: list[str] | None
    service: str
    slots: Row
    proposed: Row


@tool("assistant.settle", version="1", pure=True)
def settle(before: Before) -> Settled:
    """The slots after the turn: what was accepted, then what was said; a value that a slot cannot have is left out."""
    task = before.task
    slots = dict(before.slots) if task.service in ("", before.service) else {}
    if before.move == "accept":
        slots |= {name: value for name, value in before.proposed.items() if name in task.inputs or not task.intent}
    values = {slot.name: slot.values for slot in task.slots}
    for filled in before.told or []:
        value = filled.value
        if filled.slot in values and values[filled.slot] and value != DONT_CARE:
            value = snapped(value, values[filled.slot]) or ""
        if value:
            slots[filled.slot] = value
    return Settled(
        slots=slots,
        missing=[name for name in task.needs if name not in slots],
        asked=list(dict.fromkeys(before.asked or [])),
    )


class Ready(BaseModel):
    """All that decides whether a call is made, and what it is."""

    task: Task
    move: str
    told: list[Filled] | None
    slots: Row
    missing: list[str]
    intent_before: str
    act_before: str
    proposed: Row
    called: Call | None
    rows: list[Row]
    place: int
    records: list[Record] | None
    today: str | None


@tool("assistant.call", version="1")
def call(ready: Ready) -> Served:
    """Make the service call when it is due: what looks something up at once, what changes something once confirmed."""
    task = ready.task
    if due(ready):
        made = Call(intent=task.intent, parameters=parameters(task, ready.slots, day(ready.today)))
        rows = backend.serve(task.service, task.does, made, ready.records, day(ready.today))
        return Served(call=made, rows=rows, place=0)
    others = ready.move == "others" and len(ready.rows) > ready.place + 1
    return Served(call=None, rows=ready.rows, place=ready.place + others)


def due(ready: Ready) -> bool:
    """Whether the call is to be made in this turn."""
    if not ready.task.intent or ready.missing:
        return False
    if ready.task.does:
        proposed = ready.act_before == "CONFIRM" or (ready.act_before == "FAILURE" and bool(ready.proposed))
        return proposed and ready.move == "accept" and ready.intent_before == ready.task.intent
    if ready.intent_before != ready.task.intent or ready.called is None or ready.called.intent != ready.task.intent:
        return True
    return bool(ready.told) and ready.move != "accept"


def parameters(task: Task, slots: Row, today: date) -> Row:
    """The call's parameters: the slots that the intent takes, each in its one form."""
    return {
        slot.name: canonical(slots[slot.name], today)
        for slot in task.slots
        if slots.get(slot.name, DONT_CARE) != DONT_CARE
    }


def day(text: str | None) -> date:
    """The day that a turn is reckoned from."""
    return date.fromisoformat(text) if text else date.today()


class Chosen(BaseModel):
    """An act, and all that may be said with it."""

    act: Annotated[str, Field(max_length=20)]
    about: list[str]
    task: Task
    told: list[Filled] | None
    slots: Row
    missing: list[str]
    asked: list[str]
    call: Call | None
    rows: list[Row]
    place: int
    act_before: str
    proposed: Row


@tool("assistant.fill", version="1", pure=True)
def fill(chosen: Chosen) -> Content:
    """Put values to the act: of the row that was found, of what is settled."""
    task = chosen.task
    row = chosen.rows[chosen.place] if chosen.place < len(chosen.rows) else {}
    known = {**chosen.slots, **row}
    changed = [filled.slot for filled in chosen.told or []] if chosen.act_before == "CONFIRM" else []
    names: dict[str, list[str]] = {
        "REQUEST": [name for name in chosen.about if name in chosen.missing] or chosen.missing[:1],
        "CONFIRM": changed or [slot.name for slot in task.slots],
        "OFFER": [name for name in chosen.about if name in row] or list(row)[:2],
        "INFORM": chosen.asked,
        "SUCCESS": chosen.asked,
    }
    facts = {name: "?" if chosen.act == "REQUEST" else known.get(name, "") for name in names.get(chosen.act, [])}
    if chosen.act == "CONFIRM":
        facts = {name: value or task.defaults.get(name, "") for name, value in facts.items()}
        facts = {name: value for name, value in facts.items() if value != DONT_CARE}
    if chosen.act == "OFFER" and chosen.call is not None and len(chosen.rows) > 1:
        facts["count"] = str(len(chosen.rows))
    said = [Fact(slot=name, value=value) for name, value in facts.items() if value]
    return Content.model_validate(
        {
            "act": chosen.act,
            "subject": (task.next or "") if chosen.act == "SUGGEST" else task.intent,
            "facts": said,
            "proposed": proposal(
                chosen.act, {f.slot: f.value for f in said}, task.inputs, chosen.act_before, chosen.proposed
            ),
            "place": chosen.place,
        }
    )


def proposal(act: str, facts: Row, inputs: list[str], act_before: str, proposed: Row) -> Row:
    """What accepting an act settles: what is offered or to be confirmed; an answer leaves it as it was.

    >>> proposal("CONFIRM", {"time": "7 pm"}, ["city", "time"], "CONFIRM", {"city": "Fairhaven", "time": "6 pm"})
    {'city': 'Fairhaven', 'time': '7 pm'}
    """
    given = {name: value for name, value in facts.items() if name in inputs}
    if act == "CONFIRM":
        return {**(proposed if act_before == act else {}), **given}
    if act in ("OFFER", "FAILURE"):
        return given
    return proposed if act == "INFORM" else {}


class Done(BaseModel):
    """A turn that is over."""

    text: str
    reply: str
    act: str
    intent: str
    task: Task
    slots: Row
    call: Call | None
    rows: list[Row]
    place: int
    proposed: Row
    turns: list[str]
    service: str
    called: Call | None


@tool("assistant.remember", version="1", pure=True)
def remember(done: Done) -> Dialogue:
    """What the dialogue knows after the turn."""
    return Dialogue(
        service=done.task.service or done.service,
        intent=done.intent,
        slots=done.slots,
        said=done.reply,
        act=done.act,
        proposed=done.proposed,
        called=done.call or done.called,
        rows=done.rows[:5],
        place=done.place,
        turns=[*done.turns, done.text, done.reply][-8:],
    )


__all__ = ["call", "fill", "open_turn", "parameters", "proposal", "remember", "settle", "task"]

"""Schema-guided dialogues as turns: what was known before each, and what every step should make of it.

All of it is read off the data set's annotation; what was settled before a turn is worked out by the plugin's own
tools, so that the rows are fed as in the stack.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from fslm_assistant.messages import Call, Dialogue, Row
from fslm_assistant.schema import Intent, Record, Service, Slot, Task
from fslm_assistant.tools import proposal
from fslm_assistant.values import NONE

TODAY = date(2019, 3, 1)
"""The day on which all dialogues take place."""
ACTS = {
    "OFFER": "OFFER", "REQUEST": "REQUEST", "CONFIRM": "CONFIRM", "INFORM": "INFORM", "NOTIFY_SUCCESS": "SUCCESS",
    "NOTIFY_FAILURE": "FAILURE", "OFFER_INTENT": "SUGGEST", "REQ_MORE": "MORE", "GOODBYE": "GOODBYE",
}  # fmt: skip
FIRST = (
    "NOTIFY_SUCCESS", "NOTIFY_FAILURE", "OFFER", "CONFIRM", "REQUEST", "INFORM", "OFFER_INTENT", "REQ_MORE", "GOODBYE",
)  # fmt: skip
"""Of a turn with several acts, the one that counts."""
ACCEPTS = ("SELECT", "AFFIRM", "AFFIRM_INTENT")
REFUSES = ("NEGATE", "NEGATE_INTENT")
CLOSES = ("THANK_YOU", "GOODBYE")


@dataclass(frozen=True)
class GoldTurn:
    """One turn of the user and the assistant's answer to it, as annotated.

    Attributes:
        before: what the dialogue knew.
        slots: the state of the slots after the turn.
        facts: what the answer says, slot to value.
        records: all calls of the dialogue.
    """

    dialogue: str
    service: Service
    before: Dialogue
    text: str
    intent: str
    move: str
    told: list[dict[str, str]]
    asked: list[str]
    slots: Row
    call: Call | None
    rows: list[Row]
    act: str
    about: list[str]
    facts: list[dict[str, str]]
    subject: str
    reply: str
    records: list[Record]

    @property
    def task(self) -> Task:
        found = [intent for intent in self.service.intents if intent.name == self.intent]
        return self.service.task(found[0]) if found else Task()

    @property
    def missing(self) -> list[str]:
        return [name for name in self.task.needs if name not in self.slots]


def services(path: Path) -> dict[str, Service]:
    """The schemas of a file, by the service's name."""
    return {raw["service_name"]: service_of(raw) for raw in json.loads(path.read_text("utf-8"))}


def service_of(raw: dict[str, Any]) -> Service:
    """One service's schema in the plugin's form."""
    return Service(
        name=raw["service_name"],
        slots=[Slot(name=s["name"], values=s["possible_values"] if s["is_categorical"] else []) for s in raw["slots"]],
        intents=[
            Intent(
                name=intent["name"],
                description=intent["description"],
                does=intent["is_transactional"],
                needs=intent["required_slots"],
                takes=intent["optional_slots"],
                gives=intent["result_slots"],
            )
            for intent in raw["intents"]
        ],
    )


def dialogues(path: Path, schemas: dict[str, Service]) -> Iterator[list[GoldTurn]]:
    """The dialogues of a file, each as its turns."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            raw = json.loads(line)
            yield list(turns_of(raw, schemas[raw["services"][0]]))


def turns_of(raw: dict[str, Any], service: Service) -> Iterator[GoldTurn]:
    """The turns of one dialogue."""
    records = [
        Record(intent=call["method"], parameters=call["parameters"], results=turn["frames"][0].get("results", []))
        for turn in raw["turns"]
        if (call := turn["frames"][0].get("call"))
    ]
    before = Dialogue(service=service.name)
    pairs = zip(raw["turns"][::2], raw["turns"][1::2], strict=False)
    for user, system in pairs:
        turn = turn_of(raw["id"], service, before, user, system, records)
        yield turn
        before = after(turn)


def turn_of(
    dialogue: str,
    service: Service,
    before: Dialogue,
    user: dict[str, Any],
    system: dict[str, Any],
    records: list[Record],
) -> GoldTurn:
    said, answered = user["frames"][0], system["frames"][0]
    text = " ".join(user["text"].split())
    acts = {act for act, _, _ in answered["actions"]}
    act = next(name for name in FIRST if name in acts)
    made = answered.get("call")
    works = "NOTIFY_FAILURE" not in acts
    facts = facts_of(answered["actions"], act)
    intent = said["intent"]
    return GoldTurn(
        dialogue=dialogue,
        service=service,
        before=before,
        text=text,
        intent=intent,
        move=move_of({act for act, _, _ in said["actions"]}),
        told=told_of(said["actions"], text),
        asked=sorted(said["requested"]),
        slots=said["slots"],
        call=Call(intent=made["method"], parameters=made["parameters"]) if made else None,
        rows=(answered.get("results", []) if works else []) if made else before.rows,
        act=ACTS[act],
        about=[f["slot"] for f in facts if f["slot"] != "count"] if act in ("REQUEST", "OFFER") else [],
        facts=facts,
        subject=next(
            (v[0] for a, _, v in answered["actions"] if a == "OFFER_INTENT"), intent if intent != NONE else ""
        ),
        reply=" ".join(system["text"].split()),
        records=records,
    )


def move_of(acts: set[str]) -> str:
    """What the user's turn does, of its acts."""
    for move, names in (("accept", ACCEPTS), ("refuse", REFUSES), ("others", ("REQUEST_ALTS",)), ("close", CLOSES)):
        if acts & set(names):
            return move
    return "tell"


def told_of(actions: list[Any], text: str) -> list[dict[str, str]]:
    """The slots that a turn gives values to, in the order in which it says them."""
    said = [(slot, values) for act, slot, values in actions if act in ("INFORM", "SELECT") and slot and values]
    told = {slot: " ".join(values[0].split()) for slot, values in said}

    def place(value: str) -> int:
        return text.lower().find(value.lower()) % (len(text) + 1)

    return [{"slot": slot, "value": told[slot]} for slot in sorted(told, key=lambda slot: (place(told[slot]), slot))]


def facts_of(actions: list[Any], act: str) -> list[dict[str, str]]:
    """What the assistant's turn says: of a confirmed call what was asked, of a request the slots alone."""
    with_it = {"NOTIFY_SUCCESS": ("INFORM",), "NOTIFY_FAILURE": ("OFFER",), "OFFER": ("OFFER", "INFORM_COUNT")}
    kept = with_it.get(act, (act,))
    if act in ("OFFER_INTENT", "REQ_MORE", "GOODBYE"):
        return []
    return [
        {"slot": slot, "value": values[0] if values and act != "REQUEST" else "?"}
        for a, slot, values in actions
        if a in kept and slot
    ]


def after(turn: GoldTurn) -> Dialogue:
    """What the dialogue knows after a turn, as annotated."""
    before, place = turn.before, turn.before.place
    if turn.call is not None:
        place = 0
    elif turn.act == "OFFER":
        place = min(place + 1, max(len(turn.rows) - 1, 0))
    inputs = sorted({name for i in turn.service.intents for name in (*i.needs, *i.takes)})
    facts = {fact["slot"]: fact["value"] for fact in turn.facts}
    return Dialogue(
        service=turn.service.name,
        intent=turn.intent,
        slots=turn.slots,
        said=turn.reply,
        act=turn.act,
        proposed=proposal(turn.act, facts, inputs, before.act, before.proposed),
        called=turn.call or before.called,
        rows=turn.rows,
        place=place,
        turns=[*before.turns, turn.text, turn.reply][-8:],
    )


__all__ = ["TODAY", "GoldTurn", "dialogues", "services", "turns_of"]

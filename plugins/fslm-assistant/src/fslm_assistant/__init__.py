"""A task-oriented assistant: intent, slots under the service's schema, a typed call, an act, a reply.

The schema arrives as data. It narrows what the stages may write, so a service that no training dialogue had is served
by the same adapters.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from fslm_core import SLM, Again, Instead, Repair, Stack, Stage, Step, files, hookimpl
from fslm_core.message import Problem

from .messages import Act, Answer, Asked, Dialogue, Heard, Reply, Saying, Situation, Told, Turn, Understood
from .tools import call, fill, open_turn, remember, settle, task
from .wording import plain, unfaithful

here = files(__name__)


def adapted(name: str) -> SLM:
    return SLM(base="smollm2-135m", adapter=here / name / "adapter")


intent = Stage(
    "assistant.intent",
    input=Heard,
    output=Understood,
    prompt=here / "intent/prompt.jinja",
    model=adapted("intent"),
    narrow={"intent": "names"},
    description="What the user wants of the services on offer, and what the turn does.",
)
slots = Stage(
    "assistant.slots",
    input=Asked,
    output=Told,
    prompt=here / "slots/prompt.jinja",
    model=adapted("slots"),
    narrow={"told.slot": "settable", "told.value": "sayable", "asked": "askable"},
    description="The slots that the turn gives values to, and those it asks for.",
)
act = Stage(
    "assistant.act",
    input=Situation,
    output=Act,
    prompt=here / "act/prompt.jinja",
    model=adapted("act"),
    narrow={"act": "options", "about": "names"},
    description="What the assistant does next, of what there is to do.",
)
reply = Stage(
    "assistant.reply",
    input=Saying,
    output=Reply,
    prompt=here / "reply/prompt.jinja",
    model=adapted("reply"),
    description="The act in plain language.",
)
worded = Repair(
    "assistant.worded",
    reply,
    remedies=[Again(2, temperature=0.7), Instead(plain)],
    description="The act in plain language: its values, all of them, and no other numbers.",
)

BEFORE = {"service": "session.service", "slots": "session.slots", "proposed": "session.proposed"}
CALLED = {
    "slots": "settle.slots",
    "intent_before": "session.intent",
    "act_before": "session.act",
    "rows": "session.rows",
    "place": "session.place",
    "proposed": "session.proposed",
}
SAID = {
    "slots": "settle.slots",
    "asked": "settle.asked",
    "rows": "call.rows",
    "place": "call.place",
    "call": "call.call",
    "act": "act.act",
    "act_before": "session.act",
    "proposed": "session.proposed",
}
AFTER = {
    "act": "act.act",
    "intent": "intent.intent",
    "slots": "settle.slots",
    "rows": "call.rows",
    "call": "call.call",
    "place": "fill.place",
    "proposed": "fill.proposed",
    "service": "session.service",
    "turns": "session.turns",
}

assistant = Stack(
    "assistant",
    input=Turn,
    output=Answer,
    steps=[
        Step(open_turn, name="open", bind={"service": "input.service", "before": "session.service"}),
        Step(intent, bind={"now": "session.intent"}),
        Step(task, bind={"intent": "intent.intent"}),
        Step(slots, when="intent.intent != 'NONE'"),
        Step(settle, bind=BEFORE),
        Step(call, bind=CALLED),
        Step(act, bind={"asked": "settle.asked", "rows": "call.rows", "call": "call.call"}),
        Step(fill, bind=SAID),
        Step(worded, name="reply", bind={"act": "fill.act"}),
        Step(remember, bind=AFTER),
    ],
    session=Dialogue,
    writes="remember",
    bind={"call": "call.call"},
    description="A turn of a task-oriented dialogue, under a service's schema that arrives as data.",
)


@hookimpl
def fslm_stages() -> list[Stage[Any, Any]]:
    return [intent, slots, act, reply, open_turn, task, settle, call, fill, plain, remember]


@hookimpl
def fslm_check_message(stage: Stage[Any, Any], message: BaseModel, input: BaseModel) -> list[Problem]:
    return list(unfaithful(message, input)) if isinstance(message, Reply) and isinstance(input, Saying) else []


@hookimpl
def fslm_stacks() -> list[Stack[Any, Any]]:
    return [assistant]

"""The control: one adapter that does the whole turn in one stage, on the same rows.

It reads the service's whole schema, for it does not know yet which intent is meant, and writes the reply with slots in
the place of values, for it does not know yet what the call will give. Its tools are those of the stack.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fslm_assistant import BEFORE, CALLED
from fslm_assistant.messages import Act, Dialogue, Reply, Told, Turn, Understood, sayable
from fslm_assistant.schema import Service
from fslm_assistant.tools import call, open_turn, settle, task
from fslm_assistant.values import NONE
from fslm_core import SLM, Stack, Stage, Step, hookimpl

here = Path(__file__).parent


class WholeHeard(BaseModel):
    """A turn, and all that the services on offer take and give."""

    text: str
    said: str
    now: str
    services: list[Service]

    @property
    def names(self) -> list[str]:
        return [*(intent.name for service in self.services for intent in service.intents), NONE]

    @property
    def settable(self) -> list[str]:
        intents = [intent for service in self.services for intent in service.intents]
        return list(dict.fromkeys(name for intent in intents for name in (*intent.needs, *intent.takes)))

    @property
    def sayable(self) -> list[str]:
        return sayable(self.text, [slot for service in self.services for slot in service.slots])

    @property
    def slot_names(self) -> list[str]:
        return list(dict.fromkeys(slot.name for service in self.services for slot in service.slots))


class WholeTurn(Reply, Act, Told, Understood):
    """All that the four stages write, in their order."""


whole = Stage(
    "control.turn",
    input=WholeHeard,
    output=WholeTurn,
    prompt=here / "prompt.jinja",
    model=SLM(base="smollm2-135m", adapter=here / "adapter"),
    narrow={
        "intent": "names",
        "told.slot": "settable",
        "told.value": "sayable",
        "asked": "slot_names",
        "about": "slot_names",
    },
    description="A whole turn in one stage.",
)


class Called(BaseModel):
    """What the turn came to."""

    slots: dict[str, str]


control = Stack(
    "control",
    input=Turn,
    output=Called,
    steps=[
        Step(open_turn, name="open", bind={"service": "input.service", "before": "session.service"}),
        Step(whole, name="intent", bind={"now": "session.intent"}),
        Step(task, bind={"intent": "intent.intent"}),
        Step(settle, bind=BEFORE),
        Step(call, bind=CALLED),
    ],
    session=Dialogue,
    writes="settle",
    bind={"slots": "settle.slots"},
)


@hookimpl
def fslm_stages() -> list[Stage[Any, Any]]:
    return [whole]

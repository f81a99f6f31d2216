"""Read by mypy, never run: a stack as an author writes it, and what the type checker makes of its runs.

``tests/unit/test_typing.py`` holds what ``reveal_type`` shows against the comments, and sees that what is ignored here
is an error where it is not ignored.
"""

from __future__ import annotations

from typing import Literal, reveal_type

from pydantic import BaseModel

from fslm_core import SLM, Engine, Fallback, Stack, Stage, Step, Vote, tool


class Enquiry(BaseModel):
    text: str


class Ticket(BaseModel):
    intent: Literal["track_order", "cancel_order"]
    value: str | None


triage_stage = Stage("support.triage", input=Enquiry, output=Ticket, prompt="{{ text }}", model=SLM("smollm2-135m"))
triage = Stack("support", input=Enquiry, output=Ticket, steps=[Step(triage_stage, when="input.text")])


@tool("support.shout", version="1")
def shout(message: Enquiry) -> Enquiry:
    return Enquiry(text=message.text.upper())


voting = Vote("support.voting", triage_stage, n=3, by="intent", temperature=0.7)
safe = Fallback("support.safe", [voting], value=Ticket(intent="track_order", value=None), output=Ticket)


def use(engine: Engine) -> None:
    reveal_type(triage_stage)  # fslm_core.stage.Stage[sample.Enquiry, sample.Ticket]
    reveal_type(triage)  # fslm_core.stack.stack.Stack[sample.Enquiry, sample.Ticket]
    reveal_type(voting)  # fslm_core.shapes.vote.Vote[Any, Any]
    reveal_type(safe)  # fslm_core.shapes.fallback.Fallback[Any, sample.Ticket]
    run = engine.run(triage, Enquiry(text="where is it?"))
    reveal_type(run)  # fslm_core.engine.run.Run[sample.Ticket]
    reveal_type(run.output.intent)  # Literal['track_order'] | Literal['cancel_order']
    reveal_type(run.output.value)  # str | None
    reveal_type(engine.run(triage, {"text": "where is it?"}).output)  # sample.Ticket
    reveal_type(engine.run("support", {"text": "where is it?"}).output)  # Any
    for outcome in engine.map(triage, [Enquiry(text="a"), Enquiry(text="b")]):
        reveal_type(outcome.output)  # sample.Ticket


async def use_async(engine: Engine) -> None:
    reveal_type((await engine.arun(triage, Enquiry(text="a"))).output)  # sample.Ticket
    async for outcome in engine.amap(triage, [{"text": "a"}]):
        reveal_type(outcome.output.intent)  # Literal['track_order'] | Literal['cancel_order']


def mistakes(engine: Engine) -> None:
    run = engine.run(triage, Enquiry(text="a"))
    run.output.intention  # type: ignore[attr-defined]  # noqa: B018
    run.output.value.upper()  # type: ignore[union-attr]
    engine.run(triage, Ticket(intent="track_order", value=None))  # type: ignore[misc]
    engine.run(triage, "text")  # type: ignore[call-overload]
    Stage("a", input=Enquiry, output="Ticket", prompt="", model=SLM("b"))  # type: ignore[arg-type]

"""A stack: steps with one input and one output, each beginning when what it needs is there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel

from ..errors import StackError
from ..message import Message, Skipped
from ..schema import schema_id_of
from ..stage import Decoding
from .session import new_state, session_findings
from .shape import Node, Place, Result, Shape, Step
from .together import together
from .wiring import INPUT, OUTPUT, SESSION, Supplier, Target

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)


class Stack(Shape[In, Out]):
    """A typed arrangement of steps with one input and one output model.

    Steps that do not need each other run at once. A stack may stand at a step of another.

    Args:
        name: in a plugin, its entry-point name or that name and a dot first.
        input: the model of what a run is given.
        output: the model of what it returns; its fields are bound by the same rules as a step's.
        steps: stages, other shapes, or steps, in order.
        bind: output field to ``step.field``.
        description: one sentence for people.
        session: the model of a state that the stack remembers from one run of a session to the next; every field has a
            default. Steps and the output may take its fields, from the supplier ``session``.
        writes: the one step that writes it: fields of its output are the new state's, by name; all others stay as they
            are. Where it is passed over, nothing is written.
        session_bind: field of the state to ``STEP.field`` of the writer, ``input.field`` or ``session.field``.

    Raises:
        StackError: no step, two steps of one name, a bad name, a session that is no model, or a step named ``session``
            beside it.

    >>> from fslm_core import tool
    >>> class Text(BaseModel):
    ...     text: str
    >>> class Loud(BaseModel):
    ...     loud: str
    >>> @tool("demo.shout", version="1")
    ... def shout(message: Text) -> Loud:
    ...     return Loud(loud=message.text.upper())
    >>> demo = Stack("demo", input=Text, output=Loud, steps=[shout])
    >>> {step: {field: str(source) for field, source in by.items()} for step, by in demo.wiring.sources.items()}
    {'shout': {'text': 'input.text'}, 'output': {'loud': 'shout.loud'}}
    """

    kind = "stack"

    def __init__(
        self,
        name: str,
        *,
        input: type[In],
        output: type[Out],
        steps: Sequence[Step | Node],
        bind: Mapping[str, str] | None = None,
        description: str = "",
        session: type[BaseModel] | None = None,
        writes: str | Sequence[str] = (),
        session_bind: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, input=input, output=output, steps=steps, bind=bind, description=description)
        self.session = session
        self.writes = (writes,) if isinstance(writes, str) else tuple(writes)
        self.session_bind = dict(session_bind or {})
        if session is not None and not (isinstance(session, type) and issubclass(session, BaseModel)):
            raise StackError(
                "session is not a pydantic model",
                where=f"stack {name}",
                found=session,
                hint="pass the class of the state: session=State",
            )
        if session is not None and SESSION in {step.name for step in self.steps}:
            raise StackError(
                "a step has the name by which the session is asked for",
                where=f"stack {name}",
                found=SESSION,
                hint="pass Step(…, name='…') with another name",
            )

    def targets(self) -> Iterator[Target]:
        """Each step, which may take from input, session and the steps before; the output, from all; the next state."""
        known = {INPUT: Supplier(self.input)}
        if self.session is not None:
            known[SESSION] = Supplier(self.session)
        for step in self.steps:
            yield Target.of_step(step, known)
            known[step.name] = Supplier(step.node.output, step.may_be_skipped)
        yield Target(OUTPUT, self.output, self.bind, known, "Stack(bind=…)")
        if self.session is not None:
            yield new_state(self, self.session)

    def facts(self) -> dict[str, Any]:
        """Its session, where it has one: the model, and who writes it."""
        if self.session is None:
            return {}
        return {"session": self.session.__name__, "writes": ", ".join(self.writes)}

    def plan(self) -> Iterator[str]:
        """As of any shape, and the schema of its session."""
        yield from super().plan()
        if self.session is not None:
            yield f"session {schema_id_of(self.session)}"

    def findings(self) -> Iterator[str]:
        """What is wrong with its session."""
        yield from session_findings(self)

    def _decoding(self, step: Step) -> Decoding | None:
        """How the stage at a step writes, where not as it says itself."""
        return None

    async def run(self, place: Place) -> Result[Out]:
        """Run every step as soon as those it needs have ended, and bind the output."""
        known: dict[str, Message[BaseModel] | Skipped] = dict(place.given)
        ended = {step.name: asyncio.Event() for step in self.steps}

        async def one(step: Step) -> None:
            for name in self.wiring.needs(step.name):
                await ended[name].wait()
            known[step.name] = await place.step(step, known, decoding=self._decoding(step))
            ended[step.name].set()

        await together(one(step) for step in self.steps)
        result = place.result(known)
        if self.session is None or isinstance(known[self.writes[0]], Skipped):
            return result
        return replace(result, state=place.result(known, SESSION, self.session).content)


__all__ = ["Stack"]

"""One of several steps, chosen by a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, Field

from ..errors import StackError, StageFailedError
from ..lazy import lazy
from ..message import Message, Skipped
from ..prompt import Expression
from ..schema import dumps
from ..stack import (
    INPUT,
    Arrow,
    Node,
    Place,
    Result,
    Shape,
    Step,
    Supplier,
    Target,
    condition_of,
    labels_at,
    output_of,
    seen,
)
from .types import In, Out


class Choice(BaseModel):
    """What a route decided: the value it went by, as text, and the step it chose."""

    value: str = Field(max_length=1000)
    step: str = Field(max_length=200)
    default: bool


class Route(Shape[In, Out]):
    """Runs one of several steps: the one whose case is the value of ``by``, else the default.

    Every step is given the route's input (and what ``router`` said), bound by name as in a stack; the output is bound
    from the step that ran. All of them are checked, whichever will run.

    Args:
        name: dotted lower-case words.
        by: a sandboxed Jinja expression over ``input`` and the router's step: a field (``input.category``), or more
            (``'long' if input.text|length > 400 else 'short'``). The router's only field if not given.
        router: a stage (or shape) that is asked first.
        cases: value to step. A value that is not text is compared as JSON: ``true``, ``3``, ``null``.
        default: the step for every other value.
        input: the model; that of the router, or of the first case, if not given.
        output: the model; that of the first case if not given.
        bind: output field to ``step.field``.

    Raises:
        StackError: no default, no case, or nothing to go by.

    >>> from fslm_core import tool
    >>> class Ticket(BaseModel):
    ...     kind: str
    ...     text: str
    >>> class Reply(BaseModel):
    ...     reply: str
    >>> @tool("desk.refund", version="1")
    ... def refund(ticket: Ticket) -> Reply:
    ...     return Reply(reply="It is on its way.")
    >>> @tool("desk.person", version="1")
    ... def person(ticket: Ticket) -> Reply:
    ...     return Reply(reply="Somebody will call you.")
    >>> desk = Route("desk", by="input.kind", cases={"refund": refund}, default=person)
    >>> from fslm_core import Engine, Stack
    >>> stack = Stack("demo", input=Ticket, output=Reply, steps=[desk])
    >>> with Engine(trace=False) as engine:
    ...     run = engine.run(stack, {"kind": "refund", "text": "Where is my money?"})
    >>> run.output.reply, list(run.messages)
    ('It is on its way.', ['desk.choice', 'desk.refund', 'desk'])
    """

    kind = "route"
    decisions = ("choice",)

    def __init__(
        self,
        name: str,
        *,
        by: str | None = None,
        router: Step | Node | None = None,
        cases: Mapping[str, Step | Node],
        default: Step | Node,
        input: type[In] | None = None,
        output: type[Out] | None = None,
        bind: Mapping[str, str] | None = None,
        description: str = "",
    ) -> None:
        where = f"route {name}"
        if default is None:
            raise StackError(
                "a route needs a default", where=where, hint="pass default=…, the step for all other values"
            )
        if not cases:
            raise StackError("a route needs a case", where=where, hint="pass cases={value: step}")
        made: dict[int, Step] = {}
        self.cases = {value: _step(step, made) for value, step in cases.items()}
        self.default = _step(default, made)
        self.router = None if router is None else _step(router, made)
        self.by = by if by is not None else _only_field(self.router, where)
        branches = list(dict.fromkeys([*self.cases.values(), self.default]))
        super().__init__(
            name,
            input=input if input is not None else (self.router or branches[0]).node.input,
            output=output if output is not None else branches[0].node.output,
            steps=[*([self.router] if self.router else []), *branches],
            bind=bind,
            description=description,
        )

    @property
    def branches(self) -> tuple[Step, ...]:
        """The steps of which one runs."""
        return tuple(step for step in self.steps if step is not self.router)

    def facts(self) -> dict[str, Any]:
        """Its expression, and which value leads where."""
        cases = {value: step.name for value, step in self.cases.items()}
        return {"by": self.by, "cases": cases, "default": self.default.name}

    def asks(self) -> frozenset[str]:
        """The router, where its expression looks at what it said."""
        return self._by.names

    @lazy
    def _by(self) -> Expression:
        return Expression(self.by)

    def labels(self) -> Iterator[str]:
        """What it goes by."""
        yield f"by: {self.by}"

    def arrows(self) -> Iterator[Arrow]:
        """From what it goes by to the choice, and from there to each branch, with the values that lead there."""
        for name in sorted(self._by.names):
            yield Arrow(name, "choice")
        for step in self.branches:
            values = [value for value, case in self.cases.items() if case is step]
            others = ["any other"] if step is self.default else []
            yield Arrow("choice", step.name, " or ".join([*map(dumps, values), *others]))

    def targets(self) -> Iterator[Target]:
        """The router; each branch, which may take from what it said; and the output of each."""
        known = {INPUT: Supplier(self.input)}
        if self.router is not None:
            yield Target.of_step(self.router, known)
            known[self.router.name] = Supplier(self.router.node.output, self.router.may_be_skipped)
        for step in self.branches:
            yield Target.of_step(step, known)
        for step in self.branches:
            own = {step.name: Supplier(step.node.output, step.may_be_skipped), **known}
            yield Target(output_of(step), self.output, self._own(step), own, "bind", prefers=step.name)

    def findings(self) -> Iterator[str]:
        """What is wrong with the expression, and cases that can never come."""
        known = {INPUT: Supplier(self.input)}
        if self.router is not None:
            known[self.router.name] = Supplier(self.router.node.output, self.router.may_be_skipped)
        _, faults = condition_of(self.by, known, "by")
        yield from faults
        labels = None if faults else labels_at(self.by, known)
        for value in self.cases if labels is not None else ():
            if value not in map(_key, labels or ()):
                yield (f"case {value!r} can never come: {self.by} is one of {', '.join(map(_key, labels or ()))}")

    async def run(self, place: Place) -> Result[Out]:
        """Ask the router if there is one, choose, and run what was chosen."""
        known: dict[str, Message[Any] | Skipped] = dict(place.given)
        if self.router is not None:
            known[self.router.name] = await place.step(self.router, known)
        expression = self._by
        models = self.wiring.models
        values = {name: seen(known[name], models[name]) for name in expression.names}
        value = _key(expression.value(values, f"{place.where()}, by"))
        step = self.cases.get(value, self.default)
        if len(value) > 1000:
            raise StageFailedError(
                f"the value to go by has {len(value)} characters, too many to be a case",
                where=place.where(),
                hint="go by a field with few values, or by an expression that names a case",
            )
        asked = [message for name in sorted(expression.names) if isinstance(message := known[name], Message)]
        await place.decided("choice", Choice(value=value, step=step.name, default=value not in self.cases), asked)
        known[step.name] = await place.step(step, known)
        return place.result(known, output_of(step))


def _step(given: Step | Node, made: dict[int, Step]) -> Step:
    """A step for what was given; one for what is given twice."""
    if isinstance(given, Step):
        return given
    return made.setdefault(id(given), Step(given))


def _only_field(router: Step | None, where: str) -> str:
    fields = list(router.node.output.model_fields) if router is not None else []
    if router is None or len(fields) != 1:
        raise StackError(
            "a route needs a value to go by",
            where=where,
            found=f"a router with {len(fields)} fields" if router is not None else None,
            hint="pass by='input.field', or an expression",
        )
    return f"{router.name}.{fields[0]}"


def _key(value: Any) -> str:
    return value if isinstance(value, str) else dumps(value)


__all__ = ["Choice", "Route"]

"""A planner picks the next stage among declared tools, reads what came of it, and goes on until it is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from ...errors import SchemaError, StackError
from ...schema import normalise
from ...stack import INPUT, OUTPUT, Arrow, Node, Place, Result, Shape, Step, Supplier, Target, stages_of
from ...stage import SLM, Decoding, Stage
from .passage import Passage
from .plan import (
    ARGUMENTS,
    AVAILABLE,
    FINISH,
    NEXT,
    PLAN,
    PROGRESS,
    Progress,
    ToolCard,
    arguments_of,
    card_of,
    plan_of,
    prompt_of,
    refuse_names,
    request_of,
    signature_of,
)
from .record import times

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)

MOST_ROUNDS = 1000


class _Available(BaseModel):
    available: list[str] | None


class Agent(Shape[In, Out]):
    """Asks its planner which tool to call next, calls it, puts what came into the record, until the planner finishes.

    Any stage or shape is a tool, by its step's name, its description and its input. The planner can write nothing but
    one of the tools with its arguments, or ``finish`` with the fields of the output; the grammar sees to that.

    Args:
        name: dotted lower-case words; the planner that is made is the stage ``NAME.plan``.
        input, output: the models.
        tools: stages, shapes or steps. What a step binds (``bind={"customer": "input.customer"}``) the planner does
            not write; besides ``input``, another tool's name stands for what that gave last, null before.
        model: what runs the planner that is made.
        prompt: its template; it may use the input's fields and ``record``, ``omitted``, ``tools`` and ``available``
            (see :class:`Progress`). Without it a plain one is made.
        decoding: how it writes.
        variants: other models for it by name.
        planner: a node of your own in its place, whose output has the field ``next`` of :func:`plan_model`.
        available: ``input.field``, a list of tool names: only these may be chosen this time; null for all of them.
        most: rounds, each of them one plan. The last one of all can only finish, or calls nothing more.
        each: how often one tool may be called; the grammar of later rounds does not hold it any more.
        tokens: that everything in the agent may read and write together; looked at before each plan.
        seconds: that all of it may take.
        exhausted: what happens where a bound is reached: ``fail``, or ``finish``: one more plan, which can only finish.
        on_tool_error: ``tell`` the planner and go on, or ``fail``. A deadline or a person's turn always ends it.
        record: characters of the record that a prompt holds; older calls are left out.
        bind: output field to ``input.field`` or ``tool.field``; all others are the arguments of ``finish``.

    Raises:
        StackError: no tool, two of one name, one named ``finish``, a bound out of range, or no model for the planner.

    >>> from typing import Annotated
    >>> from pydantic import Field
    >>> from fslm_core import tool
    >>> class Question(BaseModel):
    ...     question: str
    >>> class Sum(BaseModel):
    ...     a: int
    ...     b: int
    >>> class Answer(BaseModel):
    ...     total: int
    >>> @tool("demo.add", version="1")
    ... def add(sum: Sum) -> Answer:
    ...     'Adds two numbers.'
    ...     return Answer(total=sum.a + sum.b)
    >>> agent = Agent("demo.agent", input=Question, output=Answer, tools=[add], model=SLM("smollm2-135m"))
    >>> agent.planner
    Stage('demo.agent.plan', Request -> Plan)
    >>> from fslm_core import Stack
    >>> from fslm_core.testing import run_stack
    >>> adds = {"next": {"tool": "add", "arguments": {"a": 1, "b": 2}}}
    >>> ends = {"next": {"tool": "finish", "arguments": {"total": 3}}}
    >>> stack = Stack("demo", input=Question, output=Answer, steps=[agent])
    >>> done = run_stack(stack, {"question": "1 + 2?"}, replies={"demo.agent.plan": [adds, ends]})
    >>> done.output.total, list(done.messages)
    (3, ['agent.plan[0]', 'agent.add[0]', 'agent.plan[1]', 'agent.ending', 'agent'])
    """

    kind = "agent"
    decisions = ("ending", "failed")
    supplies = (PROGRESS, ARGUMENTS)

    def __init__(
        self,
        name: str,
        *,
        input: type[In],
        output: type[Out],
        tools: Sequence[Step | Node],
        model: SLM | None = None,
        prompt: Path | str | None = None,
        decoding: Decoding = Decoding(),  # noqa: B008 (frozen)
        variants: Mapping[str, SLM] | None = None,
        planner: Node | None = None,
        available: str | None = None,
        most: int = 8,
        each: int | None = None,
        tokens: int | None = None,
        seconds: float | None = None,
        exhausted: Literal["fail", "finish"] = "fail",
        on_tool_error: Literal["tell", "fail"] = "tell",
        record: int = 4000,
        bind: Mapping[str, str] | None = None,
        description: str = "",
    ) -> None:
        where = f"agent {name}"
        self.tools = tuple(tool if isinstance(tool, Step) else Step(tool) for tool in tools)
        if not self.tools:
            raise StackError("an agent needs a tool", where=where, hint="pass tools=[…] with at least one stage")
        refuse_names(self.tools, where)
        self.available, self.most, self.each, self.tokens, self.seconds = available, most, each, tokens, seconds
        self.exhausted, self.on_tool_error, self.record = exhausted, on_tool_error, record
        self._refuse_bounds(where)
        for label, kind in (("input", input), ("output", output)):
            if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
                raise StackError(f"{label} is not a pydantic model", where=where, found=kind, hint=f"{label}=MyModel")
        self.arguments = {step.name: arguments_of(step.node.input, step.name, step.bind) for step in self.tools}
        self.arguments[FINISH] = arguments_of(output, FINISH, bind or {})
        self.cards = {step.name: card_of(step, self.arguments[step.name]) for step in self.tools}
        if planner is None:
            planner = self._stage(name, input, output, model, prompt, decoding, variants, where)
        elif model is not None or prompt is not None or variants:
            raise StackError(
                "a planner of your own brings its model and its prompt", where=where, hint="leave them out here"
            )
        self.plans = Step(planner, name=PLAN)
        super().__init__(
            name, input=input, output=output, steps=[self.plans, *self.tools], bind=bind, description=description
        )

    def _refuse_bounds(self, where: str) -> None:
        rules = [
            ("most", 1 <= self.most <= MOST_ROUNDS, self.most, f"1 to {MOST_ROUNDS} rounds"),
            ("each", self.each is None or self.each >= 1, self.each, "at least 1, or None"),
            ("tokens", self.tokens is None or self.tokens >= 1, self.tokens, "at least 1, or None"),
            ("seconds", self.seconds is None or self.seconds > 0, self.seconds, "more than 0, or None"),
            ("exhausted", self.exhausted in ("fail", "finish"), self.exhausted, "'fail' or 'finish'"),
            ("on_tool_error", self.on_tool_error in ("tell", "fail"), self.on_tool_error, "'tell' or 'fail'"),
            ("record", self.record >= 100, self.record, "at least 100 characters"),
        ]
        for name, holds, found, expected in rules:
            if not holds:
                raise StackError(
                    f"{name} is out of range", where=where, found=found, expected=expected, hint=f"change {name}=…"
                )

    def _stage(
        self,
        name: str,
        input: type[In],
        output: type[Out],
        model: SLM | None,
        prompt: Path | str | None,
        decoding: Decoding,
        variants: Mapping[str, SLM] | None,
        where: str,
    ) -> Stage[Any, Any]:
        if model is None:
            raise StackError(
                "an agent's planner needs a model",
                where=where,
                hint="pass model=SLM(…), or a stage of your own: planner=…",
            )
        finish = signature_of(self.arguments[FINISH])
        if prompt is None:
            narrowed = self.available is not None
            prompt = prompt_of(input, list(self.cards.values()), finish, narrowed=narrowed)
        writable = {tool: kind for tool, kind in self.arguments.items() if _fault(kind) is None}
        return Stage(
            f"{name}.{PLAN}",
            input=request_of(input, list(self.cards.values()), where),
            output=plan_of(writable or {FINISH: arguments_of(output, FINISH, output.model_fields)}),
            prompt=prompt,
            model=model,
            decoding=decoding,
            variants=variants,
            narrow={NEXT: AVAILABLE},
            description=f"What {name} does next.",
        )

    @property
    def planner(self) -> Stage[Any, Any]:
        """The planner, for plugins to offer among their stages.

        Raises:
            StackError: it is a shape.
        """
        return self.plans.stage

    # -- what is bound -----------------------------------------------------------------------------------------

    def targets(self) -> Iterator[Target]:
        """The planner, from the input and the progress; each tool and the output, from the arguments that were written;
        and which tools may be chosen, where the input says so."""
        given = {INPUT: Supplier(self.input)}
        last = {step.name: Supplier(step.node.output, True, by_name=True) for step in self.tools}
        yield Target.of_step(self.plans, {PROGRESS: Supplier(Progress), **given}, prefers=PROGRESS)
        for step in self.tools:
            known = {ARGUMENTS: Supplier(self.arguments[step.name]), **given, **last}
            yield Target.of_step(step, known, prefers=ARGUMENTS)
        known = {ARGUMENTS: Supplier(self.arguments[FINISH]), **given, **last}
        yield Target(OUTPUT, self.output, self.bind, known, "bind", prefers=ARGUMENTS)
        if self.available is not None:
            yield Target(AVAILABLE, _Available, {AVAILABLE: self.available}, given, "Agent(available=…)")

    def asks(self) -> frozenset[str]:
        """Planner and tools: what they say goes into the record."""
        return frozenset(step.name for step in self.steps)

    def findings(self) -> Iterator[str]:
        """Tools whose arguments no grammar can express or bound, and what a planner of an author's own lacks."""
        for step in self.tools:
            if (fault := _fault(self.arguments[step.name])) is not None:
                yield (
                    f"step {step.name}: a planner cannot write its arguments: {fault};"
                    f" or bind what it shall not write: Step(…, bind={{'…': 'input.…'}})"
                )
        if (fault := _fault(self.arguments[FINISH])) is not None:
            yield f"step {OUTPUT}: a planner cannot write it: {fault}; or bind it: Agent(…, bind={{'…': 'input.…'}})"
        elif all(_fault(model) is None for model in self.arguments.values()):
            yield from self._planner_faults()

    def _planner_faults(self) -> Iterator[str]:
        wanted = _next_of(plan_of(self.arguments))
        place = f"step {PLAN}: the planner {self.plans.node.name}"
        if wanted is not None and _next_of(self.plans.node.output) not in (wanted, None):
            yield (
                f"{place} must write a field {NEXT!r} that is one of the tools with its arguments, or finish: make its"
                " output with plan_model(tools, output, base=…), of the same tools and what the agent binds"
            )
        for stage in stages_of(self.plans):
            writes = stage.tool is None and _next_of(stage.output) == wanted
            if writes and stage.narrow.get(NEXT) != AVAILABLE:
                yield (
                    f"{place} can write tools that are not to be had: give {stage.name} the input field"
                    f" `{AVAILABLE}: list[str]` and narrow={{{NEXT!r}: {AVAILABLE!r}}}"
                )
        if "record" not in self.plans.node.input.model_fields:
            yield f"{place} never sees what came of its calls: give it the input field `record: list[Turn]`"

    # -- what people see ---------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Its tools by name, its bounds and its policies."""
        return {
            "tools": {name: [card.description, card.arguments] for name, card in self.cards.items()},
            "available": self.available,
            "most": self.most,
            "each": self.each,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "exhausted": self.exhausted,
            "on_tool_error": self.on_tool_error,
            "record": self.record,
        }

    def labels(self) -> Iterator[str]:
        """Its bounds and policies."""
        bounds = [f"{self.most} rounds"]
        bounds += [f"each tool {times(self.each)}"] if self.each is not None else []
        bounds += [f"{self.tokens} tokens"] if self.tokens is not None else []
        bounds += [f"{self.seconds:g} s"] if self.seconds is not None else []
        yield f"at most: {', '.join(bounds)}, then {self.exhausted}"
        yield f"on_tool_error: {self.on_tool_error}"
        if self.available is not None:
            yield f"available: {self.available}"

    def arrows(self) -> Iterator[Arrow]:
        """From the planner to what it chose, from the tools back to what it is told, and to the ending."""
        yield Arrow(PLAN, ARGUMENTS, NEXT)
        for step in self.tools:
            yield Arrow(step.name, PROGRESS, "record")
        yield Arrow(PLAN, "ending", FINISH)

    def tool(self, name: str) -> Step:
        """The tool of this name."""
        return next(step for step in self.tools if step.name == name)

    def cards_of(self, names: Sequence[str]) -> list[ToolCard]:
        """The cards of some tools."""
        return [self.cards[name] for name in names if name in self.cards]

    async def run(self, place: Place) -> Result[Out]:
        """Plan, act and read until the planner finishes or a bound is reached."""
        return await Passage(self, place).go()


def _fault(model: type[BaseModel]) -> str | None:
    """Why a model has no bounded schema, on one line; None where it has one."""
    try:
        normalise(model)
    except SchemaError as error:
        where = (error.where or "").partition(".")[2]
        return "; ".join(filter(None, (f"{where}: {error.what}" if where else error.what, error.hint)))
    return None


def _next_of(plan: type[BaseModel]) -> Any:
    """The schema of what a plan says comes next: nothing where it has no such field, None where it has no schema."""
    try:
        return normalise(plan).tree["properties"].get(NEXT, {})
    except SchemaError:
        return None  # told where the planner's own schema is looked at


__all__ = ["MOST_ROUNDS", "Agent"]

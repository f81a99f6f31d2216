"""What stands at a step: a stage, or a shape, which arranges steps of its own."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

from pydantic import BaseModel

from ..errors import BackendError, FslmError, PromptError, SchemaError, StackError, StageFailedError
from ..lazy import lazy
from ..message import Message, Skipped, Usage
from ..schema import schema_id_of
from ..stage import NAME, Decoding, Stage
from .known import Known
from .wiring import INPUT, OUTPUT, Supplier, Target, Wirer, Wiring

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)

MOST_LEVELS = 32
"""Shapes within shapes; a stack itself is the first."""

OnError: TypeAlias = Literal["fail", "skip"]

FAILURES: tuple[type[FslmError], ...] = (StageFailedError, BackendError, PromptError, SchemaError)
"""What a step's own work can end in: all that a policy may pass over, or a shape may answer with another step. A
deadline, a full disk or a person's turn is none of it."""


class Step:
    """A stage's place in a stack, or a shape's.

    Args:
        node: what runs here: a stage, a stack, or another shape.
        name: unique in the stack, without dots; the last word of the node's name if not given.
        bind: input field to ``step.field`` (or ``input.field``), deeper paths allowed.
        when: a Jinja expression over ``input`` and earlier steps; the step is skipped where it is false.
        on_error: ``fail`` ends the run with the step's error; ``skip`` passes the step over, and whoever binds its
            fields gets null. For something else in its place see :class:`~fslm_core.shapes.Fallback`.

    Raises:
        StackError: a name with a dot, or ``input`` or ``output``.

    >>> from fslm_core import tool
    >>> class Text(BaseModel):
    ...     text: str
    >>> @tool("demo.shout", version="1")
    ... def shout(message: Text) -> Text:
    ...     return Text(text=message.text.upper())
    >>> Step(shout, name="louder", bind={"text": "input.text"}, when="input.text != ''")
    Step('demo.shout', name='louder')
    """

    def __init__(
        self,
        node: Node,
        *,
        name: str | None = None,
        bind: Mapping[str, str] | None = None,
        when: str | None = None,
        on_error: OnError = "fail",
    ) -> None:
        if not isinstance(node, Stage | Shape):
            raise StackError(
                "what stands at a step is a stage, a stack or another shape",
                where="Step(…)",
                found=type(node).__name__,
                hint="make a function a stage with @tool",
            )
        self.node = node
        self.name = name if name is not None else node.name.rpartition(".")[2].replace("-", "_")
        self.bind = dict(bind or {})
        self.when = when
        self.on_error = on_error
        if not self.name.isidentifier() or self.name in (INPUT, OUTPUT):
            raise StackError(
                "a step's name is one word",
                where=f"step of {node.name}",
                found=self.name,
                expected=f"letters, digits and '_', and not {INPUT!r} or {OUTPUT!r}",
                hint="pass Step(…, name='…')",
            )
        if on_error not in ("fail", "skip"):
            raise StackError(
                "a step has no such policy for errors",
                where=f"step {self.name}",
                found=on_error,
                expected="'fail' or 'skip'",
                hint="for another node in its place, wrap it: Fallback(name, [node, other])",
            )

    @property
    def stage(self) -> Stage[Any, Any]:
        """The stage that runs here.

        Raises:
            StackError: a shape does.
        """
        if not isinstance(self.node, Stage):
            raise StackError(
                f"at this step stands a {self.node.kind}, not a stage",
                where=f"step {self.name}",
                hint="look at step.node; its own steps are in step.node.steps",
            )
        return self.node

    @property
    def may_be_skipped(self) -> bool:
        """Whether its fields may be null for whoever binds them."""
        return self.when is not None or self.on_error == "skip"

    def __repr__(self) -> str:
        return f"Step({self.node.name!r}, name={self.name!r})"


@dataclass(frozen=True, slots=True)
class Result(Generic[Out]):
    """What a shape gives.

    Attributes:
        content: an instance of its output model.
        parents: the ``node_id`` of every message its fields came from.
        confidence: per field, 0 to 1, of those where it is known.
        abstained: those of its fields that come from a field of a message that was not sure of it.
        alternatives: for those, what else that message might have said.
        state: of a stack with a session, the new state; None where its writer was passed over.
    """

    content: Out
    parents: tuple[str, ...] = ()
    confidence: Mapping[str, float] | None = None
    abstained: tuple[str, ...] = ()
    alternatives: Mapping[str, tuple[tuple[Any, float], ...]] = field(default_factory=dict)
    state: BaseModel | None = None


@dataclass(frozen=True, slots=True)
class Arrow:
    """What leads from one part of a shape to another besides the fields that are bound, for drawings.

    Attributes:
        source, target: a step's name, ``input``, ``output``, one of the shape's ``decisions``, or any other name for
            something that only hands on, as a map's ``item``.
        label: when it leads there, or with what; may be empty.
    """

    source: str
    target: str
    label: str = ""


class Place(ABC):
    """Where in a run a shape is at work, and all it may do there. The engine makes it.

    Attributes:
        path: the steps from the stack's to this one's, joined by dots; empty for the stack itself.
        given: what comes from outside: the shape's ``input``, and what the run holds besides.
        used: what everything below this place has cost so far, failed attempts too.
    """

    path: str
    given: Mapping[str, Message[Any]]
    used: Usage

    @property
    def input(self) -> Any:
        """The shape's own input, an instance of its model."""
        return self.given[INPUT].content

    @abstractmethod
    async def step(
        self,
        step: Step,
        known: Known,
        *,
        index: int | tuple[int, ...] | None = None,
        decoding: Decoding | None = None,
        judge: Callable[[Message[Any]], Message[Any]] | None = None,
        target: str | None = None,
    ) -> Message[Any] | Skipped:
        """Run one of the shape's steps: see whether it runs, bind its fields, do its work, tell and record what came.

        Args:
            known: what it may take its fields from.
            index: which time, for steps that run several times; it stands in the path: ``vote.intent[2]``, and of two
                numbers ``digest.fold[0][2]``.
            decoding: in place of the stage's own.
            judge: marks the message before it is told and recorded.
            target: binds its fields as this target of the shape says; the one of the step's name if not given.

        Raises:
            FslmError: what went wrong, unless the step's policy is to be skipped.
        """

    @abstractmethod
    def result(self, known: Known, target: str = OUTPUT, model: type[BaseModel] | None = None) -> Result[Any]:
        """The shape's output, its fields bound as the wiring's ``target`` says.

        Args:
            model: what is made, where it is not the output.

        Raises:
            StageFailedError: what was given makes no valid output.
        """

    @abstractmethod
    async def decided(
        self, name: str, content: BaseModel, parents: Sequence[Message[Any]] = (), *, index: int | None = None
    ) -> Message[Any]:
        """Tell and record a decision of the shape: a message named after it, as ``desk.choice``.

        Args:
            index: which time, for what is decided several times: ``agent.failed[2]``.
        """

    @abstractmethod
    def say(self, content: BaseModel, parents: Sequence[Message[Any]] = ()) -> Message[Any]:
        """A message for :data:`Known` that nobody else is told of: it only hands on what ``parents`` said.

        Without ``parents`` it stands for the shape's own input.
        """

    @abstractmethod
    def tokenizer(self, base: str) -> Any:
        """The ``tokenizers.Tokenizer`` of a checkpoint that is among the shape's ``tokenizers``; it is at hand."""

    @abstractmethod
    def where(self) -> str:
        """The place as errors name it."""


class Shape(ABC, Generic[In, Out]):
    """An arrangement of steps that stands, as a stage does, at a step. A kind of shape is a class of this one.

    Args:
        name: dotted lower-case words.
        input: the model of what it is given; the first step's where None.
        output: the model of what it gives; the first step's where None.
        steps: stages, shapes, or steps.
        bind: output field to ``step.field``.
        description: one sentence for people.

    Attributes:
        kind: what people call it.
        decisions: the names under which it tells its decisions; no step of it has one of them.
        supplies: the names under which its steps take what the shape itself hands them, as a loop's ``last``; no step
            of it has one of them.
        tokenizers: the checkpoints whose tokenizers it works with; they are got when a stack is made ready.
        works_alone: whether it may have no step at all.
        session: of a stack, the model of the state that it keeps from run to run, if it keeps any.

    Raises:
        StackError: no step, two steps of one name, a bad name, or more than 32 levels.
    """

    kind: ClassVar[str]
    decisions: ClassVar[tuple[str, ...]] = ()
    supplies: ClassVar[tuple[str, ...]] = ()
    works_alone: ClassVar[bool] = False
    tokenizers: tuple[str, ...] = ()
    session: type[BaseModel] | None = None

    def __init__(
        self,
        name: str,
        *,
        input: type[In] | None,
        output: type[Out] | None,
        steps: Sequence[Step | Node],
        bind: Mapping[str, str] | None = None,
        description: str = "",
    ) -> None:
        self.name = name
        self.description = description
        self.bind = dict(bind or {})
        where = f"{self.kind} {name}"
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise StackError(
                f"a {self.kind}'s name is dotted lower-case words",
                where=f"{type(self).__name__}(…)",
                found=name,
                expected="letters, digits, '-', '_' and dots, as in 'support.triage'",
                hint="begin it with the plugin's name",
            )
        self.steps = tuple(s if isinstance(s, Step) else Step(s) for s in steps)
        if not self.steps and not self.works_alone:
            raise StackError(f"a {self.kind} needs a step", where=where, hint="pass steps=[…] with at least one stage")
        self.input: type[In] = input if input is not None else self.steps[0].node.input
        self.output: type[Out] = output if output is not None else self.steps[0].node.output
        for label, model in (("input", self.input), ("output", self.output)):
            if not (isinstance(model, type) and issubclass(model, BaseModel)):
                raise StackError(
                    f"{label} is not a pydantic model",
                    where=where,
                    found=model,
                    hint=f"pass the class: {label}=MyModel",
                )
        names = [step.name for step in self.steps]
        if twins := sorted({n for n in names if names.count(n) > 1}):
            raise StackError(
                "two steps have one name",
                where=where,
                found=", ".join(twins),
                hint="pass Step(…, name='…') for one of them",
            )
        if taken := sorted(set(names) & {*self.decisions, *self.supplies}):
            raise StackError(
                f"a step has a name under which the {self.kind} itself says something",
                where=where,
                found=", ".join(taken),
                hint="pass Step(…, name='…') with another name",
            )
        self.levels: int = 1 + max((s.node.levels for s in self.steps if isinstance(s.node, Shape)), default=0)
        if self.levels > MOST_LEVELS:
            raise StackError(
                "shapes are nested too deep",
                where=where,
                found=f"{self.levels} levels",
                expected=f"at most {MOST_LEVELS}",
                hint="put steps beside each other in one stack",
            )

    def __repr__(self) -> str:
        models = f"{self.input.__name__} -> {self.output.__name__}"
        return f"{type(self).__name__}({self.name!r}, {models}, {len(self.steps)} steps)"

    @property
    def stages(self) -> tuple[Stage[Any, Any], ...]:
        """The stages of its steps, those of inner shapes too, each once, in order."""
        return tuple(dict.fromkeys(stage for step in self.steps for stage in stages_of(step)))

    @lazy
    def wiring(self) -> Wiring:
        """How its steps are wired.

        Raises:
            CheckError: a field nobody supplies, several suppliers, a type that does not fit, a template variable that
                is no field, a schema that cannot be expressed or has no bound, a bad ``when``. All of it at once.
        """
        return Wirer(self).wire()

    def targets(self) -> Iterator[Target]:
        """Whatever has fields to be bound: each step, then the output, each with who may supply them.

        Here: every step takes from the shape's input, and any one of them may give the output, which is then bound as
        the target ``output of STEP`` says. Who is passed over gives none.
        """
        given = {INPUT: Supplier(self.input)}
        for step in self.steps:
            yield Target.of_step(step, given)
        for step in self.steps:
            yield self.answer(step, {step.name: Supplier(step.node.output), **given})

    def answer(self, step: Step, known: Mapping[str, Supplier]) -> Target:
        """The target that makes the shape's output where this step is the one to give it.

        Args:
            known: who may supply its fields, the step itself among them.
        """
        return Target(output_of(step), self.output, self._own(step), known, "bind", prefers=step.name)

    def _own(self, step: Step) -> Mapping[str, str]:
        """The explicit bindings of the output that concern this step or none."""
        others = {s.name for s in self.steps} - {step.name}
        return {name: path for name, path in self.bind.items() if path.partition(".")[0] not in others}

    def facts(self) -> dict[str, Any]:
        """What decides what it does besides its steps, as JSON data: for people, drawings and fingerprints."""
        return {}

    @property
    def samples(self) -> bool:
        """Whether it has stages write at a temperature that is not their own."""
        return False

    def asks(self) -> frozenset[str]:
        """The names of the steps whose messages the shape itself looks at: they are of use though nobody binds them."""
        return frozenset()

    def labels(self) -> Iterator[str]:
        """Its facts for people, a line each, as drawings and ``fslm check`` show them; what arrows say is left out."""
        for name, value in self.facts().items():
            if value is not None:
                told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
                yield f"{name}: {told}"

    def arrows(self) -> Iterator[Arrow]:
        """What chooses, repeats or hands on in it, for drawings. A decision that is named here is drawn as one.

        It is asked of shapes whose wiring passed.
        """
        yield from ()

    def plan(self) -> Iterator[str]:
        """All that decides what it does, the models that write left aside, as text that changes with it."""
        yield f"{self.kind} {json.dumps(self.facts(), sort_keys=True, default=repr)}"
        yield from (schema_id_of(self.input), schema_id_of(self.output))
        for step in self.steps:
            policy = "" if step.on_error == "fail" else f" on error {step.on_error}"
            yield f"{step.name} = {step.node.name} when {step.when!r}{policy}"
            if isinstance(step.node, Shape):
                yield from (f"{step.name}: {part}" for part in step.node.plan())
        for target, sources in self.wiring.sources.items():
            yield from (f"{target}.{name} < {source}" for name, source in sorted(sources.items()))

    def findings(self) -> Iterator[str]:
        """What is wrong with it besides its wiring, one sentence each; each begins with ``step NAME: `` if it can."""
        yield from ()

    @abstractmethod
    async def run(self, place: Place) -> Result[Out]:
        """Do it.

        Raises:
            FslmError: what went wrong.
        """


Node: TypeAlias = Stage[Any, Any] | Shape[Any, Any]


def output_of(step: Step) -> str:
    """The name of the target that makes a shape's output of this step's message."""
    return f"{OUTPUT} of {step.name}"


def places(shape: Shape[Any, Any], path: str = "") -> Iterator[tuple[str, Step]]:
    """Every step of a shape and of the shapes within it, with its path from here."""
    for step in shape.steps:
        here = f"{path}.{step.name}" if path else step.name
        yield here, step
        if isinstance(step.node, Shape):
            yield from places(step.node, here)


def stages_of(step: Step) -> tuple[Stage[Any, Any], ...]:
    """The stages that may run at a step: its own, or those of the shape that stands there."""
    return step.node.stages if isinstance(step.node, Shape) else (step.node,)


__all__ = [
    "FAILURES",
    "MOST_LEVELS",
    "Arrow",
    "Node",
    "OnError",
    "Place",
    "Result",
    "Shape",
    "Step",
    "output_of",
    "places",
    "stages_of",
]

"""Steps tried one after another, cheap ones first, until one of them is sure; else a person is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, Field

from ..errors import ReviewNeeded, StackError, StageFailedError
from ..message import Message, Skipped
from ..stack import INPUT, Arrow, Node, Place, Result, Shape, Step, Supplier, Target, output_of
from .doubt import doubts, marked, scaled
from .types import In, Out

Then: TypeAlias = Literal["review", "keep", "fail"]


class Tried(BaseModel):
    """A step that was tried: the fields it abstained on, and, of fields that were asked for, the scaled confidence."""

    step: str = Field(max_length=200)
    abstained: list[str]
    confidence: dict[str, float]


class Verdict(BaseModel):
    """What a cascade decided: the step whose answer it took (null where a person is to decide), and what was tried."""

    step: str | None = Field(max_length=200)
    sure: bool
    tried: list[Tried]


class Cascade(Shape[In, Out]):
    """Tries its steps in order until one of them is sure enough of the fields that matter.

    A message whose confidence in one of these fields is below its threshold *abstains*: it keeps its value, is marked
    (``Message.abstained``, ``Message.alternatives``), and the next step is tried. A field whose confidence is not known
    is abstained on, too: a backend without log-probabilities, or a tool that returns no ``Scored``, is never taken to
    be sure. A step that shall have the last word whatever it says is left out of ``abstain_below``, whose keys may name
    one step: ``{"small.intent": 0.8}``.

    Every step is given the cascade's input, bound by name as in a stack, and may bind what the steps before it said; a
    field that both have is taken from the input. The output is bound from the step that answered. A step that is
    skipped says nothing, and the next is tried.

    Args:
        name: dotted lower-case words.
        steps: stages, shapes or steps, the cheapest first.
        abstain_below: the least confidence wanted, 0 to 1, of a ``field`` of every step's output, or of a
            ``step.field``, which goes before.
        temperature: by the same keys: the confidence is scaled by it before it is compared, as
            :func:`~fslm_core.shapes.scaled` does. ``fslm calibrate`` finds both. ``Message.confidence`` is not scaled.
        then: what to do where the last step abstains: ``review``: the run ends, and a person decides
            (:class:`~fslm_core.errors.ReviewNeeded`); ``keep``: its answer is the output, marked; ``fail``: an error.
        input, output: the models; those of the first step if not given.
        bind: output field to ``step.field``.

    Raises:
        StackError: no step, nothing to go by, or no such ``then``.

    >>> from typing import Literal
    >>> from fslm_core import Engine, Scored, Stack, tool
    >>> class Letter(BaseModel):
    ...     text: str
    >>> class Kind(BaseModel):
    ...     kind: Literal["complaint", "praise"]
    >>> @tool("demo.rule", version="1")
    ... def rule(letter: Letter) -> Scored[Kind]:
    ...     sure = "broken" in letter.text
    ...     return Scored(Kind(kind="complaint" if sure else "praise"), {"kind": 0.99 if sure else 0.5})
    >>> @tool("demo.slow", version="1")
    ... def slow(letter: Letter) -> Scored[Kind]:
    ...     return Scored(Kind(kind="praise"), {"kind": 0.9 if "thanks" in letter.text else 0.6})
    >>> triage = Cascade("demo.triage", [rule, slow], abstain_below={"kind": 0.8})
    >>> stack = Stack("demo", input=Letter, output=Kind, steps=[triage])
    >>> with Engine(trace=False) as engine:
    ...     runs = [engine.run(stack, {"text": text}) for text in ("It is broken", "Many thanks", "Well")]
    >>> [(run.status, list(run.messages)) for run in runs[:2]]  # doctest: +NORMALIZE_WHITESPACE
    [('succeeded', ['triage.rule', 'triage.verdict', 'triage']),
     ('succeeded', ['triage.rule', 'triage.slow', 'triage.verdict', 'triage'])]
    >>> runs[2].status, runs[2].error.step, runs[2].messages["triage.slow"].abstained
    ('review', 'triage.slow', ('kind',))
    """

    kind = "cascade"
    decisions = ("verdict",)

    def __init__(
        self,
        name: str,
        steps: Sequence[Step | Node],
        *,
        abstain_below: Mapping[str, float],
        temperature: Mapping[str, float] | None = None,
        then: Then = "review",
        input: type[In] | None = None,
        output: type[Out] | None = None,
        bind: Mapping[str, str] | None = None,
        description: str = "",
    ) -> None:
        super().__init__(name, input=input, output=output, steps=steps, bind=bind, description=description)
        self.abstain_below = dict(abstain_below)
        self.temperature = dict(temperature or {})
        self.then: Then = then
        if not self.abstain_below:
            raise StackError(
                "a cascade needs a field to go by",
                where=f"cascade {name}",
                hint="pass abstain_below={'field': 0.8}; fslm calibrate finds the threshold",
            )
        if then not in ("review", "keep", "fail"):
            raise StackError(
                "a cascade can do no such thing where its last step abstains",
                where=f"cascade {name}",
                found=then,
                expected="'review', 'keep' or 'fail'",
                hint="pass then='review', and a person decides",
            )

    def facts(self) -> dict[str, Any]:
        """Its thresholds and temperatures, and what comes where nobody is sure."""
        return {"abstain_below": self.abstain_below, "temperature": self.temperature, "then": self.then}

    def labels(self) -> Iterator[str]:
        """How sure a message has to be, and what comes where none is."""
        for key, least in self.abstain_below.items():
            heat = self.temperature.get(key)
            yield f"{key}: abstains below {least:g}" + (f", temperature {heat:g}" if heat is not None else "")

    def arrows(self) -> Iterator[Arrow]:
        """From each step to the one that is tried where it abstains, and from the last to what is decided."""
        for step, after in zip(self.steps, self.steps[1:], strict=False):
            yield Arrow(step.name, after.name, "unsure")
        yield Arrow(self.steps[-1].name, "verdict", f"unsure: {self.then}")

    def targets(self) -> Iterator[Target]:
        """Each step, which may take from the input and what was said before it; and the output of each."""
        known = {INPUT: Supplier(self.input)}
        for step in self.steps:
            yield Target.of_step(step, known, prefers=INPUT)
            known[step.name] = Supplier(step.node.output, step.may_be_skipped)
        for step in self.steps:
            own = {step.name: Supplier(step.node.output), INPUT: Supplier(self.input)}
            yield Target(output_of(step), self.output, self._own(step), own, "bind", prefers=step.name)

    def findings(self) -> Iterator[str]:
        """What is wrong with its thresholds and temperatures."""
        for argument, given in (("abstain_below", self.abstain_below), ("temperature", self.temperature)):
            for key, value in given.items():
                yield from self._key_faults(argument, key)
                number = isinstance(value, int | float) and not isinstance(value, bool)
                if argument == "abstain_below" and not (number and 0 <= value <= 1):
                    yield f"abstain_below[{key!r}] is {value!r}, and a threshold is a number from 0 to 1"
                if argument == "temperature" and not (number and 0 < value < float("inf")):
                    yield f"temperature[{key!r}] is {value!r}, and a temperature is a number above 0"
        asked = {(step.name, field) for step in self.steps for field in self.thresholds(step)}
        for key in self.temperature:
            if not any(key in (field, f"{step}.{field}") for step, field in asked):
                yield f"temperature[{key!r}] has no effect: abstain_below does not have that field"

    def _key_faults(self, argument: str, key: str) -> Iterator[str]:
        head, dot, field = key.rpartition(".")
        steps = [step for step in self.steps if not dot or step.name == head]
        if not steps:
            yield f"{argument} names {key!r}, but there is no step {head!r}; there are {', '.join(self._names())}"
        for step in steps:
            if field not in step.node.output.model_fields:
                has = ", ".join(step.node.output.model_fields)
                yield f"{argument} names {key!r}, but the output of step {step.name} has {has}"

    def _names(self) -> list[str]:
        return [step.name for step in self.steps]

    def thresholds(self, step: Step) -> dict[str, float]:
        """The least confidence wanted of each field of a step's message."""
        return _for_step(step, self.abstain_below)

    def temperatures(self, step: Step) -> dict[str, float]:
        """The temperature of each field of a step's message, where one is given."""
        return _for_step(step, self.temperature)

    def doubts(self, step: Step, message: Message[Any]) -> tuple[str, ...]:
        """The fields of a step's message that are too unsure."""
        return doubts(message, self.thresholds(step), self.temperatures(step))

    async def run(self, place: Place) -> Result[Out]:
        """Try one step after another."""
        known: dict[str, Message[Any] | Skipped] = dict(place.given)
        tried: dict[Step, Message[Any]] = {}
        sure = False
        for step in self.steps:
            known[step.name] = said = await place.step(step, known, judge=partial(self._judged, step))
            if isinstance(said, Message):
                tried[step] = said
                sure = not self.doubts(step, said)
            if sure:
                break
        last = next(reversed(tried), None)
        taken = last if sure or self.then == "keep" else None
        records = [self._record(step, said) for step, said in tried.items()]
        verdict = Verdict(step=taken.name if taken else None, sure=sure, tried=records)
        await place.decided("verdict", verdict, list(tried.values()))
        if taken is None:
            raise self._unsure(place, tried[last] if last else None)
        return place.result(known, output_of(taken))

    def _judged(self, step: Step, message: Message[Any]) -> Message[Any]:
        return marked(message, self.doubts(step, message))

    def _record(self, step: Step, message: Message[Any]) -> Tried:
        heat, known = self.temperatures(step), message.confidence or {}
        asked = {field: scaled(known[field], heat.get(field, 1.0)) for field in self.thresholds(step) if field in known}
        return Tried(step=step.name, abstained=list(self.doubts(step, message)), confidence=asked)

    def _unsure(self, place: Place, message: Message[Any] | None) -> ReviewNeeded | StageFailedError:
        """The error of a cascade in which nobody was sure; it quotes names and no values."""
        if self.then == "review":
            fields = message.abstained if message is not None else ()
            return ReviewNeeded(
                "no step was sure enough, so a person is to decide",
                where=place.where(),
                step=message.step if message is not None else None,
                fields=fields,
                found=f"unsure of {', '.join(fields)}" if fields else "every step was skipped",
                hint="look at what it would have said, its confidence and its alternatives, and decide",
            )
        return StageFailedError(
            "no step was sure enough" if self.then == "fail" else "every step was skipped",
            where=place.where(),
            hint="pass then='keep' to take the last answer all the same, or then='review' to have a person decide",
        )


def _for_step(step: Step, given: Mapping[str, float]) -> dict[str, float]:
    """By field, what is said of this step: ``step.field`` goes before ``field``."""
    found = {key: value for key, value in given.items() if "." not in key}
    own = {key.rpartition(".")[2]: value for key, value in given.items() if key.rpartition(".")[0] == step.name}
    return {**found, **own}


__all__ = ["Cascade", "Then", "Tried", "Verdict"]

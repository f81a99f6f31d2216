"""What is done where a message was refused: remedy after remedy, within one budget."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, Field

from ..errors import FslmError, StackError, StageFailedError
from ..message import Message, Skipped
from ..schema import loads
from ..stack import INPUT, OUTPUT, Arrow, Node, Place, Result, Shape, Step, Supplier, Target, output_of
from ..stage import Decoding
from .arguments import constant, positive, whole
from .failures import attempts_in, code_of, problems_in
from .remedies import MOST_PROBLEMS, MOST_TRIES, REFUSED, Again, Ask, Instead, Refused, Remedy, refused_by, told
from .sampling import writes
from .types import In, Out

MOST_TOKENS = 1_000_000_000

Spent: TypeAlias = Literal["remedies", "tries", "tokens", "seconds"]


class Try(BaseModel):
    """One try: its step, the remedy it is part of, and, where it gave nothing, the error's code and problems' kinds."""

    step: str
    remedy: Literal["first", "again", "ask", "instead"]
    code: str | None = None
    kinds: list[str] = Field(default=[], max_length=MOST_PROBLEMS)


class Repaired(BaseModel):
    """How a repair went.

    Attributes:
        tries: each of them, in order; the last one's message is the output, unless it was given up.
        gave_up: what was used up when it was; None where a message was accepted.
        value: whether the declared value is the output.
    """

    tries: list[Try] = Field(max_length=MOST_TRIES)
    gave_up: Spent | None = None
    value: bool = False


class Repair(Shape[In, Out]):
    """Runs a step, and where its message is refused, tries one remedy after another until one gives a valid message.

    A message is refused by its model's validators or by a plugin's check, or it was cut off. What else goes wrong (the
    backend, a template) passes through: that is a :class:`~fslm_core.Fallback`'s. Every try is recorded under its own
    index, ``write[0]``, ``write[1]`` and so on, and has its own seed; a stage's own ``attempts`` are tries, too. The
    message ``repair`` says what was tried.

    The budgets hold over all tries together: no try begins when one is spent, and what is at work when the seconds are
    over is stopped. Where nothing helped, or a budget is spent, ``value`` is given, or, without it, an error that says
    what was spent.

    Args:
        name: dotted lower-case words.
        step: what is run first.
        remedies: what to do next, in order.
        value: an instance of the output model, for when nothing helped.
        tries: at most so many, the first among them.
        tokens: read and written, of all tries.
        seconds: for all tries.
        input, output: the models; those of ``step`` if not given.
        bind: output field to ``step.field``.

    Raises:
        StackError: a budget out of its range, or a value that is none.

    >>> from pydantic import field_validator
    >>> from fslm_core import SLM, Engine, Stack, Stage
    >>> class Order(BaseModel):
    ...     text: str
    ...     problems: list[str] = []
    >>> class Code(BaseModel):
    ...     code: str = Field(max_length=9)
    ...     @field_validator("code")
    ...     @classmethod
    ...     def known(cls, code: str) -> str:
    ...         if not code.startswith("A"):
    ...             raise ValueError("codes begin with an A")
    ...         return code
    >>> prompt = "The code in: {{ text }}{% for p in problems %} Mind: {{ p }}.{% endfor %}"
    >>> code = Stage("orders.code", input=Order, output=Code, prompt=prompt, model=SLM("smollm2-135m", tuned=True))
    >>> careful = Repair("orders.careful", code, remedies=[Again(2, temperature=0.7), Ask("problems")], tokens=2000)
    >>> stack = Stack("orders", input=Order, output=Code, steps=[careful])
    >>> from fslm_core.backends.scripted import ScriptedBackend
    >>> def written(request):
    ...     return '{"code":"A7"}' if "Mind" in str(request.prompt) else '{"code":"7"}'
    >>> with Engine(trace=False, backend=ScriptedBackend({"orders.code": written})) as engine:
    ...     run = engine.run(stack, {"text": "Send me an A7"})
    >>> run.output.code, [t.remedy for t in run.messages["careful.repair"].content.tries]
    ('A7', ['first', 'again', 'again', 'ask'])
    """

    kind = "repair"
    decisions = ("repair",)
    supplies = (REFUSED,)

    def __init__(
        self,
        name: str,
        step: Step | Node,
        *,
        remedies: Sequence[Remedy],
        value: Out | None = None,
        tries: int | None = None,
        tokens: int | None = None,
        seconds: float | None = None,
        input: type[In] | None = None,
        output: type[Out] | None = None,
        bind: Mapping[str, str] | None = None,
        description: str = "",
    ) -> None:
        where = f"repair {name}"
        self.remedies = tuple(remedies)
        for remedy in self.remedies:
            if not isinstance(remedy, Again | Ask | Instead):
                raise StackError(
                    "that is no remedy",
                    where=where,
                    found=type(remedy).__name__,
                    expected="Again(…), Ask(…) or Instead(…)",
                    hint="write Instead(step) for another step",
                )
        others = [remedy.step for remedy in self.remedies if isinstance(remedy, Instead)]
        super().__init__(name, input=input, output=output, steps=[step, *others], bind=bind, description=description)
        self.value = constant(value, self.output, where)
        self.tries = None if tries is None else whole(tries, "tries", where, most=MOST_TRIES)
        self.tokens = None if tokens is None else whole(tokens, "tokens", where, most=MOST_TOKENS)
        self.seconds = positive(seconds, "seconds", where, "leave it out for the run's own deadline")

    @property
    def first(self) -> Step:
        """What is run first."""
        return self.steps[0]

    @property
    def asked(self) -> tuple[str, ...]:
        """The fields of its input in which the first step is told of problems."""
        return tuple(dict.fromkeys(remedy.field for remedy in self.remedies if isinstance(remedy, Ask)))

    def plan_of_tries(self) -> tuple[_Plan, ...]:
        """Every try there can be, in order."""
        tries = [*_times(self.first, "first")]
        for remedy in self.remedies:
            match remedy:
                case Again(times, temperature):
                    tries += _times(self.first, "again", times, temperature)
                case Ask(_, times, temperature):
                    tries += _times(self.first, "ask", times, temperature)
                case Instead():
                    tries += _times(remedy.step, "instead")
        return tuple(tries)

    @property
    def samples(self) -> bool:
        """Whether a remedy has a temperature of its own."""
        return any(isinstance(r, Again | Ask) and r.temperature is not None for r in self.remedies)

    def facts(self) -> dict[str, Any]:
        """Its remedies, its budgets and its value."""
        return {
            "remedies": [repr(remedy) for remedy in self.remedies],
            "tries": self.tries,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "value": None if self.value is None else loads(self.value),
        }

    def labels(self) -> Iterator[str]:
        """Its budgets; the remedies are drawn."""
        yield from (f"at most {value} {name}" for name, value in self._budgets() if value is not None)

    def _budgets(self) -> Iterator[tuple[str, float | None]]:
        yield from (("tries", self.tries), ("tokens", self.tokens), ("seconds", self.seconds))

    def arrows(self) -> Iterator[Arrow]:
        """From step to step, with the remedies between."""
        step = self.first
        if self.asked:
            yield Arrow(step.name, REFUSED, "problems")
        for remedy in self.remedies:
            other = remedy.step if isinstance(remedy, Instead) else step
            yield Arrow(step.name, other.name, f"refused: {told(remedy)}")
            step = other if isinstance(remedy, Instead) else self.first
        if self.value is not None:
            yield Arrow(step.name, OUTPUT, f"refused: {self.value}")

    def targets(self) -> Iterator[Target]:
        """Each step, which may take what was wrong before; and the output of each."""
        given = {INPUT: Supplier(self.input)}
        known = {**given, REFUSED: Supplier(Refused, by_name=True)}
        asked = {name: f"{REFUSED}.problems" for name in self.asked}
        for step in self.steps:
            bind = {**asked, **step.bind} if step is self.first else step.bind
            yield replace(Target.of_step(step, known), bind=bind)
        for step in self.steps:
            yield self.answer(step, {step.name: Supplier(step.node.output), **given})

    def findings(self) -> Iterator[str]:
        """Remedies that cannot help."""
        first = self.first
        if not self.remedies and self.value is None:
            yield "it has no remedy; pass remedies=[Again(2)], or value=…"
        if (count := len(self.plan_of_tries())) > MOST_TRIES:
            yield f"its remedies are {count} tries; at most {MOST_TRIES} are made"
        if first.may_be_skipped:
            yield f"step {first.name}: what is repaired is not passed over; give the repair's own step its policy"
        if not writes(first) and any(isinstance(remedy, Again | Ask) for remedy in self.remedies):
            yield f"step {first.name}: only a stage with a model can be asked again; use Instead(…)"
            return
        for name in self.asked:
            yield from self._told_of(name)

    def _told_of(self, name: str) -> Iterator[str]:
        """What is wrong with the field that shall hold the problems; its type is the wiring's to judge."""
        stage = self.first.stage
        if name not in stage.input.model_fields:
            has = ", ".join(stage.input.model_fields)
            yield f"Ask({name!r}) names no field of {stage.input.__name__} (it has {has})"
        elif name in self.first.bind and self.first.bind[name].partition(".")[0] != REFUSED:
            yield f"Ask({name!r}): the step binds that field to {self.first.bind[name]!r}"
        else:
            try:
                unseen = name not in stage.template.variables
            except FslmError:  # the wiring tells of it
                return
            if unseen:
                yield f"Ask({name!r}): the template of {stage.name} does not use it, so the model would not see it"

    async def run(self, place: Place) -> Result[Out]:
        """Try after try."""
        said = _Said()
        ends = None if self.seconds is None else asyncio.get_running_loop().time() + self.seconds
        for index, plan in enumerate(self.plan_of_tries()):
            said.gave_up = self._spent(index, place, ends)
            result = await self._try(place, plan, index, said, ends) if said.gave_up is None else None
            if result is not None:
                return result
            if said.gave_up is not None:
                break
        return await self._give_up(place, said)

    async def _try(self, place: Place, plan: _Plan, index: int, said: _Said, ends: float | None) -> Result[Out] | None:
        """The output, or None where there is none; ``said`` then tells why."""
        known = self._known(place, plan, said.last)
        try:
            async with asyncio.timeout_at(ends) as clock:
                made = await place.step(plan.step, known, index=index, decoding=plan.decoding)
            result = None if isinstance(made, Skipped) else self._result(place, plan.step, made)
        except StageFailedError as error:
            said.refused(plan, index, error)
            return None
        except TimeoutError:
            if not clock.expired():
                raise
            said.gave_up = "seconds"
            said.tries.append(plan.tried(index, "stopped"))
            return None
        said.tries.append(plan.tried(index, code_of(made) if isinstance(made, Skipped) else None))
        if isinstance(made, Message):
            await place.decided("repair", Repaired(tries=said.tries), [made])
        return result

    def _result(self, place: Place, step: Step, made: Message[Any]) -> Result[Out]:
        return place.result({**place.given, step.name: made}, output_of(step))

    def _spent(self, index: int, place: Place, ends: float | None) -> Spent | None:
        """The budget that has no room for another try; a first one there always is."""
        if index == 0:
            return None
        if self.tries is not None and index >= self.tries:
            return "tries"
        if self.tokens is not None and _tokens(place) >= self.tokens:
            return "tokens"
        return "seconds" if ends is not None and asyncio.get_running_loop().time() >= ends else None

    def _known(self, place: Place, plan: _Plan, last: StageFailedError | None) -> dict[str, Message[Any] | Skipped]:
        shown = last if plan.remedy in ("ask", "instead") else None
        return {**place.given, REFUSED: place.say(refused_by(shown))}

    async def _give_up(self, place: Place, said: _Said) -> Result[Out]:
        spent = said.gave_up or "remedies"
        await place.decided("repair", Repaired(tries=said.tries, gave_up=spent, value=self.value is not None))
        if self.value is not None:
            return Result(self.output.model_validate_json(self.value, by_name=True))
        count, tokens = len(said.tries), _tokens(place)
        ended = {
            "remedies": "nothing helped",
            "tries": f"its budget of {self.tries} tries is spent",
            "tokens": f"its budget of {self.tokens} tokens is spent",
            "seconds": f"its budget of {self.seconds:g} seconds is spent" if self.seconds is not None else "",
        }[spent]
        raise StageFailedError(
            f"no valid message after {count} {'try' if count == 1 else 'tries'} and {tokens} tokens: {ended}",
            where=place.where(),
            problems=problems_in([said.last] if said.last is not None else []),
            attempts=attempts_in(said.errors),
            hint="its message 'repair' in the trace says what was tried; allow more, add a remedy, or a value=…",
        ) from said.last


@dataclass(frozen=True, slots=True)
class _Plan:
    """One try that there may be."""

    step: Step
    remedy: Literal["first", "again", "ask", "instead"]
    decoding: Decoding | None = None

    def tried(self, index: int, code: str | None, kinds: Sequence[str] = ()) -> Try:
        """It, as the decision tells of it."""
        return Try(step=f"{self.step.name}[{index}]", remedy=self.remedy, code=code, kinds=list(kinds))


@dataclass(slots=True)
class _Said:
    """What came of the tries so far."""

    tries: list[Try] = field(default_factory=list)
    errors: list[StageFailedError] = field(default_factory=list)
    gave_up: Spent | None = None

    @property
    def last(self) -> StageFailedError | None:
        return self.errors[-1] if self.errors else None

    def refused(self, plan: _Plan, index: int, error: StageFailedError) -> None:
        kinds = list(dict.fromkeys(problem.kind for problem in error.problems))[:MOST_PROBLEMS]
        self.errors.append(error)
        self.tries.append(plan.tried(index, error.code, kinds))


def _times(
    step: Step,
    remedy: Literal["first", "again", "ask", "instead"],
    times: int | None = None,
    temperature: float | None = None,
) -> list[_Plan]:
    """So many tries of a step, each with one attempt; as many as the stage's own attempts if not said."""
    if not writes(step):
        return [_Plan(step, remedy)]
    own = step.stage.decoding
    wanted = replace(own, temperature=own.temperature if temperature is None else temperature, attempts=1)
    return [_Plan(step, remedy, None if wanted == own else wanted)] * (own.attempts if times is None else times)


def _tokens(place: Place) -> int:
    return place.used.prompt + place.used.output


__all__ = ["Repair", "Repaired", "Spent", "Try"]

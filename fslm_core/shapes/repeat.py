"""The same again, until it will do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, Field

from ..errors import StackError, StageFailedError
from ..lazy import lazy
from ..message import Message, Skipped
from ..prompt import Expression
from ..stack import INPUT, OUTPUT, Arrow, Node, Place, Result, Shape, Step, Supplier, Target, condition_of, seen
from .arguments import whole
from .sampling import varies
from .types import In, Out

LAST = "last"
ROUND = "round"
MOST_ROUNDS = 1000

Exhausted: TypeAlias = Literal["fail", "keep"]


class Round(BaseModel):
    """Which round it is; the first is 1."""

    number: int = Field(ge=1, le=MOST_ROUNDS)


class Rounds(BaseModel):
    """How a loop ended: after how many rounds, and whether ``until`` held."""

    rounds: int = Field(ge=1, le=MOST_ROUNDS)
    held: bool


class Repeat(Shape[In, Out]):
    """Runs its body again until an expression holds, and at most so often.

    The body is one step; a :class:`~fslm_core.Stack` where it takes several. In each round it takes its fields from the
    shape's input, but for those that ``carry`` names: from the second round on they come from what the body said in the
    round before. A field may also be bound to ``last.field``, which is null in the first round, or to
    ``round.number``. The rounds' paths are ``write[0]``, ``write[1]`` and so on; the output is what the last one said,
    and the message ``rounds`` says how many there were.

    Args:
        name: dotted lower-case words.
        step: the body.
        until: a sandboxed Jinja expression over ``input``, ``last`` (what the body said in this round) and
            ``round.number``.
        most: the bound, 1 to 1000 rounds. There is no loop without one.
        carry: field of the body's input to field of what it says.
        exhausted: ``fail`` if ``until`` holds in none of the rounds, or ``keep`` what the last one said.
        input, output: the models; the body's if not given.
        bind: output field to ``step.field``, or ``round.number``.

    Raises:
        StackError: no bound, or an argument out of its range.

    >>> from fslm_core import tool
    >>> class Number(BaseModel):
    ...     value: int
    >>> @tool("maths.half", version="1", pure=True)
    ... async def half(number: Number) -> Number:
    ...     return Number(value=number.value // 2)
    >>> halving = Repeat("maths.halving", half, until="last.value < 10", most=20, carry={"value": "value"})
    >>> from fslm_core import Engine, Stack
    >>> stack = Stack("maths", input=Number, output=Number, steps=[halving], bind={"value": "halving.value"})
    >>> with Engine(trace=False) as engine:
    ...     run = engine.run(stack, {"value": 100})
    >>> run.output.value, list(run.messages)[-3:], run.messages["halving.rounds"].content.rounds
    (6, ['halving.half[3]', 'halving.rounds', 'halving'], 4)
    """

    kind = "repeat"
    decisions = ("rounds",)
    supplies = (LAST, ROUND)

    def __init__(
        self,
        name: str,
        step: Step | Node,
        *,
        until: str,
        most: int | None = None,
        carry: Mapping[str, str] | None = None,
        exhausted: Exhausted = "fail",
        input: type[In] | None = None,
        output: type[Out] | None = None,
        bind: Mapping[str, str] | None = None,
        description: str = "",
    ) -> None:
        super().__init__(name, input=input, output=output, steps=[step], bind=bind, description=description)
        where = f"repeat {name}"
        if most is None:
            raise StackError(
                "a cycle without a bound",
                where=where,
                expected=f"at most {MOST_ROUNDS} rounds",
                hint="pass most=4, or however many rounds it may take",
            )
        self.most = whole(most, "most", where, most=MOST_ROUNDS)
        if exhausted not in ("fail", "keep"):
            raise StackError(
                "a repeat has no such policy for its end",
                where=where,
                found=exhausted,
                expected="'fail' or 'keep'",
                hint="leave it out for 'fail'",
            )
        self.until = until
        self.carry = dict(carry or {})
        self.exhausted: Exhausted = exhausted

    @property
    def body(self) -> Step:
        """What is repeated."""
        return self.steps[0]

    @property
    def _again(self) -> str:
        """The target that the body is from the second round on."""
        return f"{self.body.name} again"

    def facts(self) -> dict[str, Any]:
        """Until when, how often at most, and what is carried on."""
        return {"until": self.until, "most": self.most, "carry": self.carry, "exhausted": self.exhausted}

    def asks(self) -> frozenset[str]:
        """The body, as ``last``."""
        return frozenset({self.body.name})

    def labels(self) -> Iterator[str]:
        """Its bound, and what there is at its end."""
        yield f"at most {self.most} rounds"
        if self.exhausted == "keep":
            yield "then the last is kept"

    def arrows(self) -> Iterator[Arrow]:
        """Back to the body, and out."""
        yield Arrow(self.body.name, "rounds")
        carries = bool(self.carry) or any(path.partition(".")[0] == LAST for path in self.body.bind.values())
        yield Arrow("rounds", LAST if carries else self.body.name, f"not ({self.until})")
        yield Arrow("rounds", OUTPUT, self.until)

    def targets(self) -> Iterator[Target]:
        """The body in its first round, and in every other; the output."""
        body, said = self.body, self.body.node.output
        given = {INPUT: Supplier(self.input), ROUND: Supplier(Round, by_name=True)}
        starts = {name: f"{INPUT}.{name}" for name in self.carry if name in self.input.model_fields}
        none_yet = {**given, LAST: Supplier(said, may_be_skipped=True, by_name=True)}
        yield Target(body.name, body.node.input, {**starts, **body.bind}, none_yet, "bind", body)
        before = {**given, LAST: Supplier(said, body.may_be_skipped, by_name=True)}
        carried = {name: f"{LAST}.{path}" for name, path in self.carry.items()}
        yield Target(self._again, body.node.input, {**starts, **body.bind, **carried}, before, "bind or carry", body)
        end = {body.name: Supplier(said, body.may_be_skipped), **given}
        yield Target(OUTPUT, self.output, self.bind, end, "bind", prefers=body.name)

    def findings(self) -> Iterator[str]:
        """An end that cannot come, and rounds that are all the same."""
        known = {
            INPUT: Supplier(self.input),
            LAST: Supplier(self.body.node.output, self.body.may_be_skipped),
            ROUND: Supplier(Round),
        }
        condition, faults = condition_of(self.until, known, "until")
        yield from faults
        if condition is not None and not condition.names & {LAST, ROUND}:
            yield f"until={self.until!r} asks neither for {LAST!r} nor for {ROUND!r}, so it is the same in every round"
        looks = {path.partition(".")[0] for path in self.body.bind.values()}
        if self.body.when is not None and (asked := condition_of(self.body.when, known, "when")[0]) is not None:
            looks |= asked.names
        if not self.carry and not looks & {LAST, ROUND} and not varies(self.body):
            yield (
                f"step {self.body.name}: every round would be given the same and say the same;"
                " carry something on (carry={'field': 'field'}), or sample"
            )

    async def run(self, place: Place) -> Result[Out]:
        """Round after round."""
        body = self.body
        known: dict[str, Message[Any] | Skipped] = dict(place.given)
        known[LAST] = Skipped(place.path, "", "the first round")
        held, number, target = False, 0, body.name
        while not held and number < self.most:
            number += 1
            known[ROUND] = place.say(Round(number=number))
            said = await place.step(body, known, index=number - 1, target=target)
            known[LAST] = known[body.name] = said
            held, target = self._holds(place, known), self._again
        parents = [said] if isinstance(said, Message) else []
        await place.decided("rounds", Rounds(rounds=number, held=held), parents)
        if not held and self.exhausted == "fail":
            raise StageFailedError(
                f"it would not do after {number} rounds: {self.until}",
                where=place.where(),
                hint="allow more with most=…, keep the last with exhausted='keep', or mend the expression",
            )
        return place.result(known)

    @lazy
    def _end(self) -> Expression:
        return Expression(self.until)

    def _holds(self, place: Place, known: Mapping[str, Message[Any] | Skipped]) -> bool:
        models: dict[str, type[BaseModel]] = {INPUT: self.input, LAST: self.body.node.output, ROUND: Round}
        values = {name: seen(known[name], models[name]) for name in self._end.names}
        return self._end.holds(values, f"{place.where()}, until")


__all__ = ["Exhausted", "Repeat", "Round", "Rounds"]

"""Several say, and the answer that most of them gave is taken."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, Field

from ..errors import FslmError, StackError, StageFailedError, shorten
from ..message import Message, Skipped
from ..schema import dumps, plain_data
from ..stack import (
    FAILURES,
    OUTPUT,
    Arrow,
    Node,
    Place,
    Result,
    Shape,
    Step,
    output_of,
    together,
)
from ..stage import Stage
from .arguments import whole
from .failures import attempts_in, problems_in
from .sampling import MOST_SAMPLES, Sampler, at_temperature
from .types import In, Out

Tie: TypeAlias = Literal["first", "confident", "fail"]
_TIES = ("first", "confident", "fail")
_SHOWN = 200
"""Characters of an answer that a ballot shows."""


class Answer(BaseModel):
    """One answer of a vote: its text, cut where it is long, who gave it, and what it weighs."""

    value: str = Field(max_length=_SHOWN)
    members: list[int] = Field(max_length=MOST_SAMPLES)
    weight: float


class Ballot(BaseModel):
    """How a vote went.

    Attributes:
        members: who was asked: a step, with its index where it was asked several times. Everything else goes by the
            place in this list.
        answers: what was said, in the order in which it was first said.
        silent: who gave no valid message, was passed over, or abstained.
        winner: whose message is the output; None where there is none.
        share: of all votes (or weight), what the winner's answer got.
        tie: whether another answer got as much.
    """

    members: list[str] = Field(max_length=MOST_SAMPLES)
    answers: list[Answer] = Field(max_length=MOST_SAMPLES)
    silent: list[int] = Field(max_length=MOST_SAMPLES)
    winner: int | None
    share: float
    tie: bool


class Vote(Sampler[In, Out]):
    """Asks one step several times, or several steps, all at once, and takes the answer that most of them gave.

    Each sample has a seed of its own. Answers are the same where their fields have the same canonical JSON. The output
    is that of the first, by order and not by time, who gave the winning answer; the confidence of the fields voted on
    is the share of the votes that it got. Who fails, is passed over, or abstains on a field voted on has no vote. The
    message ``ballot`` says how it went.

    Args:
        name: dotted lower-case words.
        steps: one step, or several, in order.
        n: how often each of them is asked.
        by: the field, or fields, of the output that are voted on; all of them if not given.
        weighted: a vote weighs what its fields' confidence is (their product, of several), and not 1.
        tie: ``first`` takes the answer that was given first, ``confident`` that of the most confident member, ``fail``
            ends in an error.
        quorum: at least so many must vote; more than half of them if not given.
        temperature: stages write at this one in place of their own. A greedy stage would say the same every time.
        input, output: the models; those of the first step if not given.
        bind: output field to ``step.field``.

    Raises:
        StackError: an argument out of its range.

    >>> from fslm_core import tool
    >>> class Letter(BaseModel):
    ...     text: str
    >>> class Kind(BaseModel):
    ...     kind: str
    >>> def by(word: str) -> Stage[Letter, Kind]:
    ...     @tool(f"letters.by-{word}", version="1", pure=True)
    ...     def judge(letter: Letter) -> Kind:
    ...         return Kind(kind="complaint" if word in letter.text else "other")
    ...     return judge
    >>> panel = Vote("letters.panel", [by("broken"), by("late"), by("money")], by="kind")
    >>> from fslm_core import Engine, Stack
    >>> stack = Stack("letters", input=Letter, output=Kind, steps=[panel])
    >>> with Engine(trace=False) as engine:
    ...     run = engine.run(stack, {"text": "It is broken and came late"})
    >>> run.output.kind, round(run.confidence["kind"], 2)
    ('complaint', 0.67)
    >>> [answer.members for answer in run.messages["panel.ballot"].content.answers]
    [[0, 1], [2]]
    """

    kind = "vote"
    decisions = ("ballot",)

    def __init__(
        self,
        name: str,
        steps: Sequence[Step | Node] | Step | Node,
        *,
        n: int = 1,
        by: str | Sequence[str] | None = None,
        weighted: bool = False,
        tie: Tie = "first",
        quorum: int | None = None,
        temperature: float | None = None,
        input: type[In] | None = None,
        output: type[Out] | None = None,
        bind: Mapping[str, str] | None = None,
        description: str = "",
    ) -> None:
        several = [steps] if isinstance(steps, Step | Stage | Shape) else steps
        super().__init__(name, input=input, output=output, steps=several, bind=bind, description=description)
        where = f"vote {name}"
        self.n = whole(n, "n", where, most=MOST_SAMPLES)
        self.by = (by,) if isinstance(by, str) else None if by is None else tuple(by)
        self.weighted = weighted
        if tie not in _TIES:
            raise StackError(
                "a vote has no such policy for a tie",
                where=where,
                found=tie,
                expected=", ".join(map(repr, _TIES)),
                hint="leave it out for 'first'",
            )
        self.tie: Tie = tie
        self.quorum = None if quorum is None else whole(quorum, "quorum", where, most=MOST_SAMPLES)
        self._at(temperature)

    @property
    def members(self) -> tuple[tuple[Step, int | None], ...]:
        """Who is asked, in order: each step, with an index where it is asked several times."""
        return tuple((step, i if self.n > 1 else None) for step in self.steps for i in range(self.n))

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of the output that are voted on."""
        return tuple(self.output.model_fields) if self.by is None else self.by

    @property
    def needed(self) -> int:
        """How many must vote."""
        return len(self.members) // 2 + 1 if self.quorum is None else self.quorum

    def facts(self) -> dict[str, Any]:
        """How often each is asked, what is voted on, and how it is counted."""
        return {
            "n": self.n,
            "by": None if self.by is None else list(self.by),
            "weighted": self.weighted,
            "tie": self.tie,
            "quorum": self.needed,
            "temperature": self.temperature,
        }

    def labels(self) -> Iterator[str]:
        """What is voted on, and what comes of a tie."""
        yield f"on {', '.join(self.fields)}"
        yield f"{self.needed} of {len(self.members)} must vote; a tie: {self.tie}"
        if self.temperature is not None:
            yield f"temperature {self.temperature:g}"

    def arrows(self) -> Iterator[Arrow]:
        """From each member to the ballot, and from there on."""
        for step in self.steps:
            yield Arrow(step.name, "ballot", f"{self.n} times" if self.n > 1 else "")
        yield Arrow("ballot", OUTPUT, "the most" if not self.weighted else "the most, by confidence")

    def findings(self) -> Iterator[str]:
        """Votes that cannot be lost, or cannot be held."""
        count = len(self.members)
        if count < 2:
            yield "a vote of one is none; pass n=3, or several steps"
        if count > MOST_SAMPLES:
            yield f"{len(self.steps)} steps asked {self.n} times are {count} members; at most {MOST_SAMPLES} vote"
        if self.needed > count:
            yield f"quorum={self.quorum} is more than the {count} who vote"
        if not self.fields:
            yield "it is voted on no field; name one with by='…'"
        for name in self.by or ():
            if name not in self.output.model_fields:
                has = ", ".join(self.output.model_fields)
                yield f"by names {name!r}, which is no field of {self.output.__name__} (it has {has})"
        yield from self._idle_temperature()
        for step in self.steps:
            yield from self._alike(step, self.n)

    async def run(self, place: Place) -> Result[Out]:
        """Ask all of them at once, count, and take the answer that won."""
        heard = await together(self._hear(place, step, index) for step, index in self.members)
        count = self._count(heard, place)
        voters = [heard[i].message for i in count.voters]
        await place.decided("ballot", self._ballot(heard, count), [m for m in voters if m is not None])
        if count.fault is not None:
            failed = [voice.error for voice in heard if voice.error is not None]
            raise StageFailedError(
                count.fault,
                where=place.where(),
                problems=problems_in(failed),
                attempts=attempts_in(failed),
                hint="its message 'ballot' in the trace says who said what",
            ) from next(iter(failed), None)
        assert count.winner is not None
        won = heard[count.winner].result
        assert won is not None
        shares = dict.fromkeys(self.fields, count.share)
        return replace(won, confidence={**(won.confidence or {}), **shares})

    async def _hear(self, place: Place, step: Step, index: int | None) -> _Voice:
        try:
            said = await place.step(step, place.given, index=index, decoding=at_temperature(step, self.temperature))
            if isinstance(said, Skipped):
                return _Voice()
            result: Result[Any] = place.result({**place.given, step.name: said}, output_of(step))
        except FAILURES as error:
            return _Voice(error=error)
        data = plain_data(result.content)
        if set(result.abstained) & set(self.fields):
            return _Voice(said)
        return _Voice(said, result, dumps([data[name] for name in self.fields]))

    def _weight(self, result: Result[Any], place: Place) -> float:
        """A vote's weight: the confidence of the fields voted on."""
        if not self.weighted:
            return 1.0
        known = result.confidence or {}
        if lacks := [name for name in self.fields if name not in known]:
            raise StageFailedError(
                f"the votes cannot be weighed: a member gave no confidence of {lacks[0]!r}",
                where=place.where(),
                hint="use a backend with log-probabilities and tools that return Scored(…), or leave out weighted=True",
            )
        return math.prod(known[name] for name in self.fields)

    def _count(self, heard: Sequence[_Voice], place: Place) -> _Count:
        answers: dict[str, list[int]] = {}
        for i, voice in enumerate(heard):
            if voice.answer is not None:
                answers.setdefault(voice.answer, []).append(i)
        weights = {i: self._weight(voice.result, place) for i, voice in enumerate(heard) if voice.result is not None}
        totals = {answer: math.fsum(weights[i] for i in of) for answer, of in answers.items()}
        count = _Count(answers, totals)
        if len(weights) < self.needed:
            count.fault = f"{len(weights)} of {len(heard)} gave a vote; {self.needed} are needed"
            return count
        leaders = [a for a, total in totals.items() if math.isclose(total, max(totals.values()))]
        count.tie = len(leaders) > 1
        if count.tie and self.tie == "fail":
            count.fault = f"the vote is a tie of {len(leaders)} answers"
            return count
        won = leaders[0]
        if count.tie and self.tie == "confident":
            won = max(leaders, key=lambda answer: max(self._sureness(heard[i]) for i in answers[answer]))
        count.winner = answers[won][0]
        whole_weight = math.fsum(totals.values())
        count.share = totals[won] / whole_weight if whole_weight > 0 else 0.0
        return count

    def _sureness(self, voice: _Voice) -> float:
        """A member's confidence of what is voted on; 0 where it is not known."""
        known = (voice.result.confidence if voice.result is not None else None) or {}
        return math.prod(known.get(name, 0.0) for name in self.fields)

    def _ballot(self, heard: Sequence[_Voice], count: _Count) -> Ballot:
        return Ballot(
            members=[step.name if index is None else f"{step.name}[{index}]" for step, index in self.members],
            answers=[
                Answer(value=shorten(answer[1:-1], _SHOWN), members=of, weight=count.totals[answer])
                for answer, of in count.answers.items()
            ],
            silent=[i for i, voice in enumerate(heard) if voice.answer is None],
            winner=count.winner,
            share=count.share,
            tie=count.tie,
        )


@dataclass(frozen=True, slots=True)
class _Voice:
    """What came of asking one member: its message, the output it would make, and its answer as text."""

    message: Message[Any] | None = None
    result: Result[Any] | None = None
    answer: str | None = None
    error: FslmError | None = None


@dataclass(slots=True)
class _Count:
    """Who gave which answer, what each weighs, and which won; ``fault`` says why none did."""

    answers: Mapping[str, list[int]]
    totals: Mapping[str, float]
    winner: int | None = None
    share: float = 0.0
    tie: bool = False
    fault: str | None = None

    @property
    def voters(self) -> list[int]:
        return sorted(i for of in self.answers.values() for i in of)


__all__ = ["Answer", "Ballot", "Tie", "Vote"]

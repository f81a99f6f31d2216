"""Several candidates, of which the one that a scorer likes best is taken."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, Field

from ..errors import FslmError, StackError, StageFailedError
from ..message import Message, Skipped
from ..stack import (
    FAILURES,
    INPUT,
    OUTPUT,
    Arrow,
    Node,
    Place,
    Result,
    Source,
    Step,
    Supplier,
    Target,
    annotation_at,
    fetch,
    fits,
    together,
)
from .arguments import whole
from .failures import attempts_in, problems_in
from .sampling import MOST_SAMPLES, Sampler, at_temperature
from .types import In, Out

CANDIDATE = "candidate"
"""Under this name the scorer takes what it is to score."""

Best: TypeAlias = Literal["most", "least"]


class Scores(BaseModel):
    """What each candidate scored, in order; null where there is no candidate, or no score of it.

    Attributes:
        winner: whose message is the output; None where none has a score.
    """

    scores: list[float | None] = Field(max_length=MOST_SAMPLES)
    winner: int | None


class BestOf(Sampler[In, Out]):
    """Asks one step several times, has each candidate scored, and takes the one with the best score.

    All candidates are made at once, each with a seed of its own, and each is scored as soon as it is there. The scorer
    is a stage, a tool or a shape; its fields are bound by name from ``candidate`` and the shape's input. What is no
    number never wins, and of equal scores the earliest candidate's does. A candidate that fails, or that the scorer
    fails on, is left out. The message ``scores`` says how it went.

    Args:
        name: dotted lower-case words.
        step: what makes the candidates.
        n: how many.
        scorer: what scores them.
        by: the score, a number, as ``judge.score``, where ``judge`` is the scorer's step; its only number if not given.
        best: whether the ``most`` or the ``least`` is best.
        temperature: the candidates are written at this one in place of the stage's own.
        input, output: the models; those of ``step`` if not given.
        bind: output field to ``step.field``, of the candidate's step or the scorer's.

    Raises:
        StackError: an argument out of its range, or no one score to go by.

    >>> from fslm_core import Scored, tool
    >>> class Ask(BaseModel):
    ...     word: str
    >>> class Rhyme(BaseModel):
    ...     rhyme: str
    >>> class Pair(BaseModel):
    ...     word: str
    ...     rhyme: str
    >>> class Score(BaseModel):
    ...     score: int
    >>> words = iter(["table", "flight", "light"])
    >>> @tool("rhymes.make", version="1")
    ... async def make(ask: Ask) -> Rhyme:
    ...     return Rhyme(rhyme=next(words))
    >>> @tool("rhymes.score", version="1", pure=True)
    ... async def score(pair: Pair) -> Score:
    ...     return Score(score=sum(a == b for a, b in zip(pair.word[::-1], pair.rhyme[::-1])))
    >>> best = BestOf("rhymes.best", make, n=3, scorer=score)
    >>> from fslm_core import Engine, Stack
    >>> stack = Stack("rhymes", input=Ask, output=Rhyme, steps=[best])
    >>> with Engine(trace=False) as engine:
    ...     run = engine.run(stack, {"word": "night"})
    >>> run.output.rhyme, run.messages["best.scores"].content.scores
    ('flight', [0.0, 4.0, 4.0])
    """

    kind = "best of"
    decisions = ("scores",)
    supplies = (CANDIDATE,)

    def __init__(
        self,
        name: str,
        step: Step | Node,
        *,
        n: int,
        scorer: Step | Node,
        by: str | None = None,
        best: Best = "most",
        temperature: float | None = None,
        input: type[In] | None = None,
        output: type[Out] | None = None,
        bind: Mapping[str, str] | None = None,
        description: str = "",
    ) -> None:
        super().__init__(name, input=input, output=output, steps=[step, scorer], bind=bind, description=description)
        where = f"best of {name}"
        self.maker, self.scorer = self.steps
        self.n = whole(n, "n", where, least=2, most=MOST_SAMPLES, hint="of one there is no best; pass n=4")
        if best not in ("most", "least"):
            raise StackError(
                "what is best is out of range",
                where=where,
                found=best,
                expected="'most' or 'least'",
                hint="leave it out for 'most'",
            )
        self.best: Best = best
        self.by = by if by is not None else _only_number(self.scorer, where)
        self._at(temperature)

    def facts(self) -> dict[str, Any]:
        """How many, by what, and at which temperature."""
        return {"n": self.n, "by": self.by, "best": self.best, "temperature": self.temperature}

    def labels(self) -> Iterator[str]:
        """Its temperature; the rest is drawn."""
        if self.temperature is not None:
            yield f"temperature {self.temperature:g}"

    def asks(self) -> frozenset[str]:
        """The scorer."""
        return frozenset({self.scorer.name})

    def arrows(self) -> Iterator[Arrow]:
        """From the candidates to the scorer, and from the scores on."""
        yield Arrow(self.maker.name, CANDIDATE, f"{self.n} times")
        yield Arrow(self.scorer.name, "scores", self.by)
        yield Arrow("scores", OUTPUT, f"the {self.best}")

    def targets(self) -> Iterator[Target]:
        """The candidates' step; the scorer, which may take from a candidate; and the output, from both."""
        given = {INPUT: Supplier(self.input)}
        yield Target.of_step(self.maker, given)
        yield Target.of_step(self.scorer, {CANDIDATE: Supplier(self.maker.node.output), **given})
        both = {step.name: Supplier(step.node.output) for step in self.steps}
        yield Target(OUTPUT, self.output, self.bind, {**both, **given}, "bind", prefers=self.maker.name)

    def findings(self) -> Iterator[str]:
        """A score that is no number, a scorer that does not look, candidates that are all the same."""
        judged = {self.scorer.name: Supplier(self.scorer.node.output, self.scorer.may_be_skipped)}
        found = annotation_at(self.by, judged)
        if found is None:
            has = ", ".join(f"{self.scorer.name}.{field}" for field in self.scorer.node.output.model_fields)
            yield f"by={self.by!r} is nothing that the scorer says; it says {has}"
        elif not _is_number(found):
            yield f"by={self.by!r} is no number, so there is no best"
        if not self._looks():
            yield f"step {self.scorer.name}: it takes nothing from {CANDIDATE!r}, so all would score the same"
        yield from self._idle_temperature()
        yield from self._alike(self.maker, self.n)

    def _looks(self) -> bool:
        """Whether the scorer is given anything of a candidate."""
        named = any(path.partition(".")[0] == CANDIDATE for path in self.scorer.bind.values())
        free = set(self.scorer.node.input.model_fields) - set(self.scorer.bind)
        return named or bool(free & set(self.maker.node.output.model_fields))

    async def run(self, place: Place) -> Result[Out]:
        """Make and score all of them at once, and take the best."""
        tries = await together(self._try(place, index) for index in range(self.n))
        scored = {i: one.score for i, one in enumerate(tries) if one.score is not None}
        best = max if self.best == "most" else min
        winner = best(scored, key=scored.__getitem__, default=None)
        content = Scores(scores=[None if one.score is None else float(one.score) for one in tries], winner=winner)
        await place.decided("scores", content, [one.judged for one in tries if one.judged is not None])
        if winner is None:
            failed = [one.error for one in tries if one.error is not None]
            raise StageFailedError(
                f"none of {self.n} candidates has a score",
                where=place.where(),
                problems=problems_in(failed),
                attempts=attempts_in(failed),
                hint="look at the candidates and at the scorer's messages in the trace",
            ) from next(iter(failed), None)
        won = tries[winner]
        assert won.said is not None and won.judged is not None
        return place.result({**place.given, self.maker.name: won.said, self.scorer.name: won.judged})

    async def _try(self, place: Place, index: int) -> _Try:
        try:
            decoding = at_temperature(self.maker, self.temperature)
            said = await place.step(self.maker, place.given, index=index, decoding=decoding)
            if isinstance(said, Skipped):
                return _Try()
            judged = await place.step(self.scorer, {**place.given, CANDIDATE: said}, index=index)
        except FAILURES as error:
            return _Try(error=error)
        if isinstance(judged, Skipped):
            return _Try(said)
        head, *path = self.by.split(".")
        return _Try(said, judged, _number(fetch(Source(head, tuple(path)), {head: judged})))


@dataclass(frozen=True, slots=True)
class _Try:
    """A candidate, what the scorer said of it, and its score; or what went wrong."""

    said: Message[Any] | None = None
    judged: Message[Any] | None = None
    score: float | None = None
    error: FslmError | None = None


def _number(value: object) -> float | None:
    """A score that can win, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer that no float can hold
        return None


def _is_number(annotation: Any) -> bool:
    return fits(annotation, float | None) and not fits(annotation, None)


def _only_number(scorer: Step, where: str) -> str:
    fields = scorer.node.output.model_fields
    numbers = [name for name, field in fields.items() if _is_number(field.annotation)]
    if len(numbers) != 1:
        raise StackError(
            "a best-of needs one score to go by",
            where=where,
            found=f"a scorer with {len(numbers)} numbers ({', '.join(numbers)})" if numbers else "a scorer with none",
            hint=f"pass by='{scorer.name}.FIELD'",
        )
    return f"{scorer.name}.{numbers[0]}"


__all__ = ["Best", "BestOf", "Scores"]

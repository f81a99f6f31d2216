"""Votes, best-ofs and loops give what the plainest code for the same gives."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from fslm_core import BestOf, Engine, Fallback, Repair, Repeat, Scored, Stack, Stage, Step, Vote, tool
from fslm_core.errors import RunFailed
from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings
from fslm_core.stack import Node

MEMBERS = 5


class Heard(BaseModel):
    """What each of five says, null for who fails, and how sure each is."""

    said: list[str | None]
    sure: list[float]


class Word(BaseModel):
    word: str
    by: int


class Number(BaseModel):
    value: int


class Steps(BaseModel):
    value: int
    end: int


class Items(BaseModel):
    scores: list[float | None]


class Item(BaseModel):
    at: int
    score: float | None


class Score(BaseModel):
    score: float | None


def member(i: int) -> Stage[Heard, Word]:
    @tool(f"t.m{i}", version="1")
    async def say(heard: Heard) -> Scored[Word]:
        word = heard.said[i]
        if word is None:
            raise ValueError("nothing to say")
        return Scored(Word(word=word, by=i), {"word": heard.sure[i]})

    return say


PANEL = [member(i) for i in range(MEMBERS)]


@tool("t.half", version="1", pure=True)
async def half(number: Number) -> Number:
    return Number(value=number.value // 2)


@tool("t.score", version="1", pure=True)
async def score(item: Item) -> Score:
    return Score(score=item.score)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(trace=False, host=PluginHost(Settings(), installed=False)) as opened:
        yield opened


def stack(node: Any, input: type[BaseModel], output: type[BaseModel]) -> Stack[Any, Any]:
    bind = {name: f"it.{name}" for name in output.model_fields}
    return Stack("t", input=input, output=output, steps=[Step(node, name="it")], bind=bind)


heard = st.builds(
    Heard,
    said=st.lists(st.sampled_from(["a", "b", "c", None]), min_size=MEMBERS, max_size=MEMBERS),
    sure=st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=MEMBERS, max_size=MEMBERS),
)
VOTES = {
    (weighted, tie): stack(
        Vote("t.vote", PANEL, by="word", weighted=weighted, tie=tie, quorum=2),
        Heard,
        Word,
    )
    for weighted in (False, True)
    for tie in ("first", "confident", "fail")
}


def elected(given: Heard, weighted: bool, tie: str) -> tuple[str, int, float] | None:
    """Who wins, who said it first, and what share of the votes it got; None where there is no winner."""
    voters = [i for i, word in enumerate(given.said) if word is not None]
    if len(voters) < 2:
        return None
    totals: Counter[str] = Counter()
    for i in voters:
        totals[str(given.said[i])] += given.sure[i] if weighted else 1  # type: ignore[assignment]
    leaders = [word for word, total in totals.items() if total == max(totals.values())]
    if len(leaders) > 1 and tie == "fail":
        return None
    won = leaders[0]
    if tie == "confident":
        won = max(leaders, key=lambda word: max(given.sure[i] for i in voters if given.said[i] == word))
    whole = sum(totals.values())
    return won, given.said.index(won), totals[won] / whole if whole else 0.0


@settings(max_examples=60)
@given(heard=heard, weighted=st.booleans(), tie=st.sampled_from(["first", "confident", "fail"]))
def test_a_vote_counts_as_one_would_by_hand(engine: Engine, heard: Heard, weighted: bool, tie: str) -> None:
    expected = elected(heard, weighted, tie)
    try:
        run = engine.run(VOTES[weighted, tie], heard)
    except RunFailed:
        assert expected is None
        return
    assert expected is not None
    assert (run.output.word, run.output.by) == expected[:2]
    assert math.isclose((run.confidence or {})["word"], expected[2])


HALVINGS = {
    (most, keep): stack(
        Repeat(
            "t.loop",
            half,
            until="last.value <= input.end",
            most=most,
            carry={"value": "value"},
            exhausted="keep" if keep else "fail",
            input=Steps,
        ),
        Steps,
        Number,
    )
    for most in (1, 2, 5, 9)
    for keep in (False, True)
}


@settings(max_examples=60)
@given(
    value=st.integers(-50, 2000),
    end=st.integers(-1, 100),
    most=st.sampled_from([1, 2, 5, 9]),
    keep=st.booleans(),
)
def test_a_loop_does_as_a_while_does(engine: Engine, value: int, end: int, most: int, keep: bool) -> None:
    last, rounds = value // 2, 1
    while last > end and rounds < most:
        last, rounds = last // 2, rounds + 1
    try:
        run = engine.run(HALVINGS[most, keep], {"value": value, "end": end})
    except RunFailed as failed:
        assert last > end and not keep
        assert len(failed.run.messages) == rounds + 1
        return
    assert run.output.value == last and (last <= end or keep)
    assert len(run.messages) == rounds + 2


@settings(max_examples=40)
@given(
    scores=st.lists(st.one_of(st.none(), st.integers(-3, 3)), min_size=3, max_size=3),
    most=st.booleans(),
)
def test_the_best_is_the_first_of_the_best(engine: Engine, scores: list[float | None], most: bool) -> None:
    turn = iter(range(3))

    @tool("t.take", version="1")
    async def take(items: Items) -> Item:
        at = next(turn)
        return Item(at=at, score=items.scores[at])

    made = stack(BestOf("t.best", take, n=3, scorer=score, best="most" if most else "least"), Items, Item)
    known = [(i, one) for i, one in enumerate(scores) if one is not None]
    try:
        run = engine.run(made, {"scores": scores})
    except RunFailed:
        assert not known
        return
    best = (max if most else min)(one for _, one in known)
    assert run.output.score == best
    assert run.output.at == next(i for i, one in known if one == best)


def test_thirty_levels_of_them(engine: Engine) -> None:
    node: Node = half
    for level in range(30):
        step = Step(node, name="in")
        kinds: list[Node] = [
            Fallback(f"t.f{level}", [step], value=Number(value=-1)),
            Repair(f"t.r{level}", step, remedies=[], value=Number(value=-2)),
            Repeat(f"t.p{level}", step, until="last.value < 1", most=1, exhausted="keep", carry={"value": "value"}),
        ]
        node = kinds[level % 3]
    run = engine.run(stack(node, Number, Number), {"value": 8})
    assert run.output.value == 4
    assert max(step.count("in") for step in run.messages) == 30

"""A plugin for the tests of the command line: stacks in which every kind of shape stands."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from fslm_core import SLM, Scored, Stack, Stage, Step, hookimpl, tool
from fslm_core.shapes import (
    Again,
    Agent,
    BestOf,
    Cascade,
    Chunks,
    Fallback,
    LongText,
    Map,
    Reduce,
    Repair,
    Repeat,
    Route,
    Split,
    Vote,
)


class Said(BaseModel):
    text: str = Field(max_length=200)


class Label(BaseModel):
    label: Literal["good", "bad"]


class Size(BaseModel):
    size: int


class Words(BaseModel):
    words: list[str] = Field(max_length=50)


class Word(BaseModel):
    word: str = Field(max_length=40)


class Sizes(BaseModel):
    sizes: list[int] = Field(max_length=50)


class Named(BaseModel):
    label: Literal["good", "bad"]
    size: int


class Whole(BaseModel):
    label: Literal["good", "bad"]
    size: int
    best: Literal["good", "bad"] | None
    total: int
    small: int


class Total(BaseModel):
    total: int


@tool("zoo.words", version="1", pure=True)
async def words(said: Said) -> Words:
    """Take a text apart."""
    return Words(words=said.text.split())


@tool("zoo.length", version="1", pure=True)
async def length(word: Word) -> Size:
    """Count letters; fail at "boom"."""
    if word.word == "boom":
        raise ValueError("no such word")
    return Size(size=len(word.word))


@tool("zoo.add", version="1", pure=True)
async def add(sizes: Sizes) -> Total:
    """Add up."""
    return Total(total=sum(sizes.sizes))


@tool("zoo.size", version="1", pure=True)
async def size(said: Said) -> Size:
    """Count letters; fail at "boom"."""
    if "boom" in said.text:
        raise ValueError("too loud")
    return Size(size=len(said.text))


@tool("zoo.half", version="1", pure=True)
async def half(given: Size) -> Size:
    """Halve it."""
    return Size(size=given.size // 2)


@tool("zoo.guess", version="1", pure=True)
async def guess(said: Said) -> Scored[Label]:
    """Guess, and be sure of some."""
    return Scored(Label(label="good"), {"label": 0.9 if "good" in said.text else 0.4})


@tool("zoo.taste", version="1", pure=True)
async def taste(given: Label) -> Size:
    """Like what is good."""
    return Size(size=int(given.label == "good"))


label = Stage(
    "zoo.label", input=Said, output=Label, prompt="Text: {{ text }}", model=SLM(base="smollm2-135m", tuned=True)
)

naming = Stack("zoo.naming", input=Said, output=Named, steps=[label, size])
route = Route(
    "zoo.route",
    by="'long' if input.text|length > 20 else 'short'",
    cases={"long": naming},
    default=Step(Stack("zoo.brief", input=Said, output=Named, steps=[Step(naming, name="naming")]), name="brief"),
)
vote = Vote("zoo.vote", [label, guess], by="label", quorum=1)
triage = Cascade("zoo.triage", [guess, label], abstain_below={"guess.label": 0.8}, then="keep")
sure = Fallback("zoo.sure", [size], value=Size(size=0))
halving = Repeat("zoo.halving", half, until="last.size < 4", most=9, carry={"size": "size"})
each = Map(
    "zoo.each",
    length,
    over="words",
    item="word",
    into="sizes",
    pick="size",
    on_error="skip",
    input=Words,
    output=Sizes,
)
total = Reduce("zoo.total", add, over="sizes", into="total", pick="total", fan=50, input=Sizes, output=Total)
best = BestOf("zoo.best", label, n=2, scorer=taste, temperature=0.7)
careful = Repair("zoo.careful", label, remedies=[Again(1, temperature=0.7)], tries=2)

zoo = Stack(
    "zoo",
    input=Said,
    output=Whole,
    steps=[
        route,
        vote,
        triage,
        sure,
        words,
        each,
        total,
        Step(halving, bind={"size": "sure.size"}),
        Step(best, on_error="skip"),
        Step(careful, when="vote.label == 'good'"),
    ],
    bind={
        "label": "vote.label",
        "size": "route.size",
        "best": "best.label",
        "total": "total.total",
        "small": "halving.size",
    },
    description="Every kind of shape that needs no checkpoint, side by side.",
)
nested = Stack("zoo.nested", input=Said, output=Named, steps=[route])
cut = Stack("zoo.cut", input=LongText, output=Chunks, steps=[Split("zoo.split", tokens=40, overlap=10)])
agent = Stack(
    "zoo.helper",
    input=Said,
    output=Total,
    steps=[
        Agent("zoo.agent", input=Said, output=Total, tools=[length, add], model=SLM(base="smollm2-135m", tuned=True))
    ],
)


@hookimpl
def fslm_stages() -> list[object]:
    return [words, length, add, size, half, guess, taste, label]


@hookimpl
def fslm_stacks() -> list[object]:
    return [zoo, nested, cut, agent]

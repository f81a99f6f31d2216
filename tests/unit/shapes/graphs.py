"""Random small graphs: as plain data, and as the stacks that the engine runs.

A graph is drawn as plain data (:class:`Leaf`, :class:`Nest`, :class:`Choose`, …), which :class:`Builder` makes real and
a naive walker can read. Every stage takes ``a`` and ``b`` and gives ``value``, all of them integers or null. Tools and
the scripted backend give way to others as often as a drawn seed says, so what may run at once ends in any order.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from hypothesis import strategies as st
from pydantic import BaseModel

from fslm_core import SLM, Scored, Stack, Stage, Step, tool
from fslm_core.backends.protocol import Chunk, Generation, Request
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.shapes import Cascade, Fallback, Map, Reduce, Repeat, Route, Vote
from fslm_core.stack import Node

Value: TypeAlias = "int | None"


class Pair(BaseModel):
    a: int | None
    b: int | None


class Num(BaseModel):
    value: int | None


class Items(BaseModel):
    items: list[int | None]
    b: int | None


class Made(BaseModel):
    items: list[int | None]


# -- a graph as data -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    """A stage: a tool or a model, that fails on some inputs; ``sure`` is for what asks for its confidence."""

    id: int
    by: Literal["tool", "slm"]
    fails: int

    def value(self, a: Value, b: Value) -> Value:
        n = self._mixed(a, b)
        return None if n % 7 == 0 else n % 50

    def fault(self, a: Value, b: Value) -> bool:
        return bool(self.fails) and self._mixed(a, b) % self.fails == 0

    def sure(self, a: Value, b: Value) -> bool:
        return self._mixed(b, a) % 2 == 0

    def _mixed(self, a: Value, b: Value) -> int:
        return ((-1 if a is None else a) * 31 + (-1 if b is None else b) * 17 + self.id * 101) % 1009


@dataclass(frozen=True)
class At:
    """A step: its sources (``input.a``, ``s0.value``) by field, its condition, its policy."""

    name: str
    node: Any
    bind: tuple[tuple[str, str], ...] = ()
    when: tuple[str, int] | None = None
    skips: bool = False

    @property
    def condition(self) -> str | None:
        return None if self.when is None else f"{self.when[0]} is none or {self.when[0]} % {self.when[1]} != 0"


@dataclass(frozen=True)
class Nest:
    id: int
    steps: tuple[At, ...]
    output: str


@dataclass(frozen=True)
class Choose:
    id: int
    router: At | None
    cases: tuple[At, ...]
    default: At


@dataclass(frozen=True)
class Stand:
    """A fallback."""

    id: int
    steps: tuple[At, ...]
    value: int | None


@dataclass(frozen=True)
class Poll:
    """A vote."""

    id: int
    steps: tuple[At, ...]


@dataclass(frozen=True)
class Loop:
    """A repeat."""

    id: int
    body: At
    divisor: int
    most: int
    keep: bool


@dataclass(frozen=True)
class Each:
    """A map over what a tool makes of the input, folded to one number."""

    id: int
    count: int
    body: At
    fold: Leaf
    fan: int


@dataclass(frozen=True)
class Doubt:
    """A cascade of tools."""

    id: int
    steps: tuple[At, ...]
    keep: bool


Shape: TypeAlias = "Nest | Choose | Stand | Poll | Loop | Each | Doubt"


@st.composite
def graphs(draw: st.DrawFn) -> Nest:
    """A stack of at most three levels below the first."""
    ids = itertools.count(1)

    def leaf(*, only_tool: bool = False) -> Leaf:
        by: Literal["tool", "slm"] = "tool" if only_tool else draw(st.sampled_from(["tool", "tool", "slm"]))
        return Leaf(next(ids), by, draw(st.sampled_from([0, 0, 2, 2, 3])))

    def node(depth: int) -> Any:
        if depth == 0:
            return leaf()
        made = draw(st.sampled_from([None, *makers]))
        return leaf() if made is None else made(depth - 1)

    def at(name: str, what: Any, **rest: Any) -> At:
        return At(name, what, skips=draw(st.integers(0, 2)) == 0, **rest)

    def several(depth: int, least: int, most: int, **rest: Any) -> tuple[At, ...]:
        return tuple(at(f"s{n}", node(depth), **rest) for n in range(draw(st.integers(least, most))))

    def nest(depth: int) -> Nest:
        own, known, steps = next(ids), ["input.a", "input.b"], []
        for n in range(draw(st.integers(1, 4))):
            sources = st.sampled_from(known)
            when = draw(st.none() | st.tuples(sources, st.integers(2, 4)))
            bind = (("a", draw(sources)), ("b", draw(sources)))
            steps.append(at(f"s{n}", node(depth), bind=bind, when=when))
            known.append(f"s{n}.value")
        return Nest(own, tuple(steps), draw(st.sampled_from(known)))

    def choose(depth: int) -> Choose:
        own, router = next(ids), at("router", leaf()) if draw(st.booleans()) else None
        cases = several(depth, 1, 2)
        return Choose(own, router, cases, at("rest", node(depth)))

    def stand(depth: int) -> Stand:
        return Stand(next(ids), several(depth, 2, 3), draw(st.none() | st.integers(0, 9)))

    def poll(depth: int) -> Poll:
        return Poll(next(ids), several(depth, 2, 4))

    def loop(depth: int) -> Loop:
        own, body = next(ids), at("s0", node(depth))
        return Loop(own, body, draw(st.integers(2, 4)), draw(st.integers(1, 4)), draw(st.booleans()))

    def each(depth: int) -> Each:
        own, when = next(ids), draw(st.none() | st.just(("item.a", 3)))
        body = at("s0", node(depth), when=when)
        return Each(own, draw(st.integers(0, 4)), body, leaf(only_tool=True), draw(st.integers(2, 3)))

    def doubt(depth: int) -> Doubt:
        steps = tuple(at(f"s{n}", leaf(only_tool=True)) for n in range(draw(st.integers(1, 3))))
        return Doubt(next(ids), steps, draw(st.booleans()))

    makers: list[Callable[[int], Any]] = [nest, choose, stand, poll, loop, each, doubt]
    return nest(draw(st.integers(1, 3)))


# -- the stack that the engine runs ----------------------------------------------------------------------------------


class Builder:
    """Makes real nodes of drawn ones; what they do gives way to others as ``dice`` says.

    Args:
        stuck: the time of giving way, counted from 1, that never ends; ``told`` is called then.

    Attributes:
        at_work: tools and answers that have begun and not ended.
    """

    def __init__(self, dice: random.Random, stuck: int = 0, told: Callable[[], object] = lambda: None) -> None:
        self.dice = dice
        self.leaves: dict[str, Leaf] = {}
        self.at_work = 0
        self._left, self._told = stuck, told

    @contextmanager
    def working(self) -> Iterator[None]:
        self.at_work += 1
        try:
            yield
        finally:
            self.at_work -= 1

    async def give_way(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._told()
            await asyncio.Event().wait()
        for _ in range(self.dice.randrange(5)):
            await asyncio.sleep(0)

    def node(self, drawn: Any) -> Node:
        return getattr(self, type(drawn).__name__.lower())(drawn)  # type: ignore[no-any-return]

    def step(self, drawn: At) -> Step:
        policy: Any = "skip" if drawn.skips else "fail"
        bind = dict(drawn.bind)
        return Step(self.node(drawn.node), name=drawn.name, bind=bind, when=drawn.condition, on_error=policy)

    def leaf(self, drawn: Leaf) -> Stage[Any, Any]:
        name = f"ref.leaf{drawn.id}"
        self.leaves[name] = drawn
        if drawn.by == "slm":
            model = SLM("smollm2-135m", tuned=True)
            return Stage(name, input=Pair, output=Num, prompt="{{ a }} {{ b }}", model=model)

        @tool(name, version="1")
        async def function(pair: Pair) -> Scored[Num]:
            with self.working():
                await self.give_way()
            if drawn.fault(pair.a, pair.b):
                raise ValueError("not this one")
            sure = 0.9 if drawn.sure(pair.a, pair.b) else 0.1
            return Scored(Num(value=drawn.value(pair.a, pair.b)), {"value": sure})

        return function

    def nest(self, drawn: Nest) -> Stack[Any, Any]:
        steps = [self.step(step) for step in drawn.steps]
        return Stack(f"ref.n{drawn.id}", input=Pair, output=Num, steps=steps, bind={"value": drawn.output})

    def choose(self, drawn: Choose) -> Node:
        return Route(
            f"ref.n{drawn.id}",
            by="(router.value or 0) % 3" if drawn.router else "(input.a or 0) % 3",
            router=None if drawn.router is None else self.step(drawn.router),
            cases={str(n): self.step(step) for n, step in enumerate(drawn.cases)},
            default=self.step(drawn.default),
            input=Pair,
            output=Num,
        )

    def stand(self, drawn: Stand) -> Node:
        value = None if drawn.value is None else Num(value=drawn.value)
        return Fallback(f"ref.n{drawn.id}", [self.step(s) for s in drawn.steps], value=value, input=Pair, output=Num)

    def poll(self, drawn: Poll) -> Node:
        return Vote(f"ref.n{drawn.id}", [self.step(s) for s in drawn.steps], by="value", input=Pair, output=Num)

    def loop(self, drawn: Loop) -> Node:
        return Repeat(
            f"ref.n{drawn.id}",
            self.step(drawn.body),
            until=f"last.value is none or last.value % {drawn.divisor} == 0",
            most=drawn.most,
            carry={"a": "value"},
            exhausted="keep" if drawn.keep else "fail",
            input=Pair,
            output=Num,
        )

    def each(self, drawn: Each) -> Node:
        name = f"ref.n{drawn.id}"

        @tool(f"{name}.make", version="1")
        async def make(pair: Pair) -> Items:
            return Items(items=made(drawn, pair.a), b=pair.b)

        @tool(f"{name}.fold", version="1")
        async def fold(group: Made) -> Num:
            with self.working():
                await self.give_way()
            return Num(value=folded(drawn, group.items))

        every = Map(
            f"{name}.every",
            self.step(drawn.body),
            over="items",
            item="a",
            into="items",
            pick="value",
            concurrency=2,
            input=Items,
            output=Made,
        )
        one = Reduce(
            f"{name}.one",
            fold,
            over="items",
            into="value",
            pick="value",
            fan=drawn.fan,
            default=1,
            input=Made,
            output=Num,
        )
        steps: list[Step | Node] = [
            make,
            Step(every, name="every", bind={"items": "make.items", "b": "input.b"}),
            Step(one, bind={"items": "every.items"}),
        ]
        return Stack(name, input=Pair, output=Num, steps=steps)

    def doubt(self, drawn: Doubt) -> Node:
        return Cascade(
            f"ref.n{drawn.id}",
            [self.step(step) for step in drawn.steps],
            abstain_below={"value": 0.5},
            then="keep" if drawn.keep else "fail",
            input=Pair,
            output=Num,
        )


def made(drawn: Each, a: Value) -> list[Value]:
    return [None if (n + drawn.id) % 5 == 0 else (a or 0) + n for n in range(drawn.count)]


def folded(drawn: Each, items: list[Value]) -> Value:
    return sum(item or 0 for item in items) % 40 + drawn.fold.id % 3


class Chancy(ScriptedBackend):
    """Answers a stage by what its prompt says, after giving way to others as often as chance has it."""

    builder: Builder

    async def open(self, request: Request) -> AsyncIterator[Chunk | Generation]:
        builder = self.builder
        with builder.working():
            await builder.give_way()
            async for piece in super().open(request):
                yield piece
                await builder.give_way()

    def _next(self, request: Request) -> str:
        leaf = self.builder.leaves[request.model.stage]
        a, b = map(json.loads, (request.prompt.text("user") or "").split())
        if leaf.fault(a, b):
            return '{"value":"none of that"}'
        value = leaf.value(a, b)
        return f'{{"value":{"null" if value is None else value}}}'

"""One step for every item of a list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, Field, RootModel

from ..errors import StackError
from ..message import Message, Skipped
from ..schema import plain_data
from ..stack import INPUT, OUTPUT, Arrow, Node, OnError, Place, Result, Shape, Step, Supplier, Target, each
from .arguments import whole
from .lists import MOST, element_of, field_of, held, holder, items_at, names
from .types import In, Out

_TOLD = 100
"""Items left out that are told one by one."""


class LeftOut(BaseModel):
    """One item that a map left out: its position in the list, and why.

    ``why`` is the code of the error that its step ended in, or ``when`` where the step's condition was false.
    """

    position: int = Field(ge=0)
    why: str = Field(max_length=100)


class Skips(BaseModel):
    """The items that a map left out: how many, and the first hundred of them."""

    count: int = Field(ge=0)
    first: list[LeftOut] = Field(max_length=_TOLD)


class Map(Shape[In, Out]):
    """Runs one step for every item of a list, several at once; the results are a list in the items' order.

    The step takes its fields from ``item`` and from the map's ``input``, by the rules of every stack. ``item`` has the
    item itself, under the name given as ``item=``; its fields, where it is a pydantic model; and its ``position``,
    counted from 0. What ``item`` has comes before what ``input`` has. For several steps an item, pass a Stack.

    The output's field ``into`` is bound to the list of results, its other fields to the input, by name. An empty list
    gives an empty list. The messages are ``notes.note[0]``, ``notes.note[1]`` and so on.

    Args:
        name: dotted lower-case words.
        step: what runs for every item. Items for which its ``when`` is false are left out.
        over: the list field of ``input``.
        item: under which name the item is supplied.
        into: the list field of ``output``.
        pick: the field of the step's output that goes into the list; the whole output if not given.
        concurrency: how many at once.
        most: a longer list is an error, before any work.
        on_error: ``fail``: the first step that fails ends the map; ``skip``: its item is left out. What was left out,
            and why, is told in the message ``skipped``. The step's own policy if not given.
        input, output: the models.
        bind: output field to ``input.field``.

    Raises:
        StackError: a field that is not there or no list, a bound out of range, or an item whose name is taken.

    >>> from fslm_core import tool
    >>> class Page(BaseModel):
    ...     lines: list[str]
    >>> class Line(BaseModel):
    ...     line: str
    ...     position: int
    >>> class Size(BaseModel):
    ...     words: int
    >>> class Sizes(BaseModel):
    ...     sizes: list[int]
    >>> @tool("page.size", version="1")
    ... def size(line: Line) -> Size:
    ...     return Size(words=len(line.line.split()) + 100 * line.position)
    >>> sizes = Map("sizes", size, over="lines", item="line", into="sizes", pick="words", input=Page, output=Sizes)
    >>> from fslm_core import Engine, Stack
    >>> page = Stack("page", input=Page, output=Sizes, steps=[sizes])
    >>> with Engine(trace=False) as engine:
    ...     run = engine.run(page, {"lines": ["to be", "or not to be"]})
    >>> run.output.sizes, sorted(run.messages)
    ([2, 104], ['sizes', 'sizes.size[0]', 'sizes.size[1]'])
    """

    kind = "map"
    decisions = ("skipped",)
    supplies = ("item",)

    def __init__(
        self,
        name: str,
        step: Step | Node,
        *,
        over: str,
        item: str = "item",
        into: str,
        pick: str | None = None,
        concurrency: int = 8,
        most: int = MOST,
        on_error: OnError | None = None,
        input: type[In],
        output: type[Out],
        bind: Mapping[str, str] | None = None,
        description: str = "",
    ) -> None:
        body = step if isinstance(step, Step) else Step(step)
        if on_error is not None:
            body = Step(body.node, name=body.name, bind=body.bind, when=body.when, on_error=on_error)
        self.over, self.item, self.into, self.pick = over, item, into, pick
        self.concurrency, self.most = concurrency, most
        super().__init__(name, input=input, output=output, steps=[body], bind=bind, description=description)
        where = f"map {name}"
        whole(concurrency, "concurrency", where)
        whole(most, "most", where, least=0)
        element = element_of(self.input, over, where, "over")
        element_of(self.output, into, where, "into")
        result = body.node.output if pick is None else field_of(body.node.output, pick, where, "pick")
        self._fields = _own_fields(element)
        given = _supplied(self._fields, element, item, where)
        self._item, self._items = holder("Item", given), holder("Items", {into: list[result]})  # type: ignore[valid-type]
        self._item_data, self._items_data = holder("Item", names(given)), holder("Items", names([into]))

    @property
    def body(self) -> Step:
        """The step that runs for every item."""
        return self.steps[0]

    def facts(self) -> dict[str, Any]:
        """Its lists, the item's name, and how long a list may be. How many run at once changes no result."""
        return {"over": self.over, "item": self.item, "into": self.into, "pick": self.pick, "most": self.most}

    def labels(self) -> Iterator[str]:
        """What it goes through and gathers."""
        picked = f"the {self.pick} of each" if self.pick is not None else "all"
        yield f"for each {self.item} of {self.over}, {self.concurrency} at once"
        yield f"into {self.into}: {picked}"

    def arrows(self) -> Iterator[Arrow]:
        """From the input to each item."""
        yield Arrow(INPUT, "item", f"each of {self.over}")

    def targets(self) -> Iterator[Target]:
        """The step, which takes from the item and the input; and the output, which takes the list of results."""
        given = {INPUT: Supplier(self.input)}
        yield Target.of_step(self.body, {"item": Supplier(self._item), **given}, prefers="item")
        known = {self.body.name: Supplier(self._items), **given}
        yield Target(OUTPUT, self.output, self.bind, known, "Map(bind=…)", prefers=self.body.name)

    async def run(self, place: Place) -> Result[Out]:
        """Run the step for every item, tell which were left out, and gather the results."""

        async def one(position: int, item: Any) -> Message[Any] | Skipped:
            own = {name: item[name] for name in self._fields}
            data = held(self._item_data, {"position": position, **own, self.item: item})
            return await place.step(self.body, {**place.given, "item": place.say(data)}, index=position)

        said = await each(items_at(place, self.over, self.most), one, self.concurrency)
        messages = [message for message in said if isinstance(message, Message)]
        if len(messages) < len(said):
            await place.decided("skipped", _skips(said))
        data = held(self._items_data, {self.into: [self._result(message) for message in messages]})
        return place.result({**place.given, self.body.name: place.say(data, messages)})

    def _result(self, message: Message[Any]) -> Any:
        data = plain_data(message.content, self.pick)
        return data if self.pick is None else data[self.pick]


def _own_fields(element: Any) -> dict[str, Any]:
    """The fields of an item that is a pydantic model, by name and type."""
    if isinstance(element, type) and issubclass(element, BaseModel) and not issubclass(element, RootModel):
        return {name: info.annotation for name, info in element.model_fields.items()}
    return {}


def _supplied(own: Mapping[str, Any], element: Any, item: str, where: str) -> dict[str, Any]:
    """What an item supplies: its position, its own fields, and itself."""
    if item in own or item == "position" or not item.isidentifier() or item.startswith("_"):
        raise StackError(
            "the item cannot have this name",
            where=where,
            found=item,
            expected="a word, not 'position', that no field of the item has",
            hint="pass item='…' with another name",
        )
    return {"position": int, **own, item: element}


def _skips(said: list[Message[Any] | Skipped]) -> Skips:
    out = [(position, skipped) for position, skipped in enumerate(said) if isinstance(skipped, Skipped)]
    first = [LeftOut(position=position, why=skipped.code or "when") for position, skipped in out[:_TOLD]]
    return Skips(count=len(out), first=first)


__all__ = ["LeftOut", "Map", "Skips"]

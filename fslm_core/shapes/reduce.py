"""A list folded into one, a few items at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..errors import StackError, StageFailedError
from ..message import Message
from ..schema import plain_data
from ..stack import INPUT, OUTPUT, Arrow, Node, Place, Result, Shape, Step, Supplier, Target, each, fits
from ..stack.fitting import show
from .arguments import whole
from .lists import MOST, element_of, field_of, held, holder, items_at, names
from .types import In, Out

_Said = tuple[Any, Message[Any]]
"""An item as JSON data, and the message it came from."""


class Reduce(Shape[In, Out]):
    """Folds a list into one by a step that makes one of a few: in levels, until one is left.

    The step is given up to ``fan`` items that follow one another, as the list field ``over`` of ``group``, besides the
    reduction's ``input``, by the rules of every stack; what ``group`` has comes before what ``input`` has. It gives
    what an item is. A level is cut into as few groups as can be, as even as can be, so n items take log(n)/log(fan)
    levels, rounded up, and the order is kept throughout. A group of one passes as it is; so does a list of one, for
    which the step does not run.

    The output's field ``into`` is bound to what is left, its other fields to the input, by name. The messages are
    ``digest.fold[0][0]`` (level, group), ``digest.fold[0][1]`` and so on.

    Args:
        name: dotted lower-case words.
        step: makes one of a few.
        over: the list field of ``input``.
        into: the field of ``output``.
        pick: the field of the step's output that is the one; the whole output if not given.
        fan: items in a group, at least 2.
        default: what an empty list gives; an empty list is an error if not given.
        concurrency: how many groups of a level at once.
        most: a longer list is an error, before any work.
        input, output: the models.
        bind: output field to ``input.field``.

    Raises:
        StackError: a field that is not there or no list, a bound out of range, a default that does not fit, or a step
            that may be skipped: what it was given would be lost.

    >>> from pydantic import BaseModel
    >>> from fslm_core import tool
    >>> class Parts(BaseModel):
    ...     parts: list[str]
    >>> class Whole(BaseModel):
    ...     whole: str
    >>> @tool("demo.join", version="1")
    ... def join(group: Parts) -> Whole:
    ...     return Whole(whole="(" + " ".join(group.parts) + ")")
    >>> joined = Reduce("joined", join, over="parts", into="whole", pick="whole", fan=2, input=Parts, output=Whole)
    >>> from fslm_core import Engine, Stack
    >>> demo = Stack("demo", input=Parts, output=Whole, steps=[joined])
    >>> with Engine(trace=False) as engine:
    ...     run = engine.run(demo, {"parts": ["a", "b", "c"]})
    >>> run.output.whole, list(run.messages)
    ('((a b) c)', ['joined.join[0][0]', 'joined.join[1][0]', 'joined'])
    """

    kind = "reduce"
    supplies = ("group",)

    def __init__(
        self,
        name: str,
        step: Step | Node,
        *,
        over: str,
        into: str,
        pick: str | None = None,
        fan: int = 4,
        default: Any = ...,
        concurrency: int = 8,
        most: int = MOST,
        input: type[In],
        output: type[Out],
        bind: Mapping[str, str] | None = None,
        description: str = "",
    ) -> None:
        self.over, self.into, self.pick, self.fan, self.default = over, into, pick, fan, default
        self.concurrency, self.most = concurrency, most
        super().__init__(name, input=input, output=output, steps=[step], bind=bind, description=description)
        where = f"reduce {name}"
        whole(fan, "fan", where, least=2)
        whole(concurrency, "concurrency", where)
        whole(most, "most", where, least=0)
        self._element = element_of(self.input, over, where, "over")
        field_of(self.output, into, where, "into")
        self._result = self.body.node.output if pick is None else field_of(self.body.node.output, pick, where, "pick")
        if self.body.may_be_skipped:
            raise StackError(
                "a step that may be skipped cannot reduce, for what it was given would be lost",
                where=where,
                found="when=…" if self.body.when is not None else "on_error='skip'",
                hint="wrap it in a Fallback, or say on_error='skip' where the whole reduction stands",
            )
        if default is not ...:
            self.default = _fitting(default, self._element, where)
        self._group, self._one = holder("Group", {over: list[self._element]}), holder("One", {into: self._element})  # type: ignore[name-defined]
        self._group_data, self._one_data = holder("Group", names([over])), holder("One", names([into]))

    @property
    def body(self) -> Step:
        """The step that makes one of a few."""
        return self.steps[0]

    def facts(self) -> dict[str, Any]:
        """Its list, how many items make one, and what an empty list gives."""
        facts = {"over": self.over, "into": self.into, "pick": self.pick, "fan": self.fan, "most": self.most}
        return facts if self.default is ... else {**facts, "default": self._default}

    def labels(self) -> Iterator[str]:
        """How it folds."""
        yield f"{self.over} into {self.into}, up to {self.fan} at a time"
        if self.default is not ...:
            yield f"an empty list gives {self._default!r}"

    def arrows(self) -> Iterator[Arrow]:
        """From the input to a group, and from what was made of one to the next level's."""
        yield Arrow(INPUT, "group", f"up to {self.fan} of {self.over}")
        yield Arrow(self.body.name, "group", "until one is left")

    def targets(self) -> Iterator[Target]:
        """The step, which takes from the group and the input; and the output, which takes what is left."""
        given = {INPUT: Supplier(self.input)}
        yield Target.of_step(self.body, {"group": Supplier(self._group), **given}, prefers="group")
        known = {self.body.name: Supplier(self._one), **given}
        yield Target(OUTPUT, self.output, self.bind, known, "Reduce(bind=…)", prefers=self.body.name)

    def findings(self) -> Iterator[str]:
        """What the step makes has to be what it takes."""
        if not fits(self._result, self._element):
            made = self.body.name + ("" if self.pick is None else f".{self.pick}")
            yield (
                f"step {self.body.name}: what it makes of a group has to be an item of {self.over}, which is"
                f" {show(self._element)}, but {made} is {show(self._result)}"
            )

    async def run(self, place: Place) -> Result[Out]:
        """Fold, level by level, and bind what is left."""
        items = items_at(place, self.over, self.most)
        if not items and self.default is ...:
            raise StageFailedError(
                f"{self.over} is empty, and there is no default",
                where=place.where(),
                hint="pass default=… to Reduce, or run it only where there are items: Step(…, when=…)",
            )
        given = place.given[INPUT]
        level: list[_Said] = [(item, given) for item in items] or [(self._default, given)]
        depth = 0
        while len(level) > 1:
            level = await self._folded(place, level, depth)
            depth += 1
        ((left, source),) = level
        data = held(self._one_data, {self.into: left})
        return place.result({**place.given, self.body.name: place.say(data, [source])})

    async def _folded(self, place: Place, level: list[_Said], depth: int) -> list[_Said]:
        """One level: each group made one, at once."""

        async def one(number: int, group: list[_Said]) -> _Said:
            if len(group) == 1:
                return group[0]
            data = held(self._group_data, {self.over: [item for item, _ in group]})
            known = {**place.given, "group": place.say(data, [source for _, source in group])}
            message = await place.step(self.body, known, index=(depth, number))
            assert isinstance(message, Message)  # it is never skipped
            made = plain_data(message.content, self.pick)
            return (made if self.pick is None else made[self.pick]), message

        return await each(_groups(level, self.fan), one, self.concurrency)

    @property
    def _default(self) -> Any:
        """The default as JSON data."""
        return TypeAdapter(self._element).dump_python(self.default, mode="json", by_alias=False)


def _groups(items: list[_Said], fan: int) -> list[list[_Said]]:
    """As few groups of at most ``fan`` as can be, as even as can be."""
    count = -(-len(items) // fan)
    least, more = divmod(len(items), count)
    groups, start = [], 0
    for number in range(count):
        end = start + least + (number < more)
        groups.append(items[start:end])
        start = end
    return groups


def _fitting(default: Any, element: Any, where: str) -> Any:
    try:
        return TypeAdapter(element).validate_python(default, by_name=True)
    except ValidationError as error:
        raise StackError(
            "the default is not what an item is",
            where=where,
            found=default,
            expected=show(element),
            hint=f"mend default=…: {error.errors()[0]['msg']}",
        ) from None


__all__ = ["Reduce"]

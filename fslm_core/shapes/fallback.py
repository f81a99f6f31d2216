"""One step after another, until one of them answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

from ..errors import FslmError, StageFailedError
from ..message import Message
from ..schema import loads
from ..stack import FAILURES, Arrow, Node, Place, Result, Shape, Step, output_of
from .arguments import constant
from .failures import code_of
from .types import In, Out

MOST_STEPS = 100


class Failed(BaseModel):
    """A step that gave nothing: its error's code, or ``skipped``."""

    step: str
    code: str


class Answered(BaseModel):
    """Who answered in the end; None where it was the declared value, or nobody."""

    step: str | None
    value: bool
    failed: list[Failed] = Field(max_length=MOST_STEPS)


class Fallback(Shape[In, Out]):
    """Runs the first step; where it fails, the next; and so on, to a declared value where there is one.

    Only a step's own failure leads on: no valid message, a tool that raised, a backend or a template that failed; and a
    step whose ``when`` is false is passed over. A deadline, a store that cannot be written or a person's turn ends the
    run as ever. Where nobody answers, the last error is the shape's. The message ``answer`` says who answered, and with
    which codes the others failed.

    Args:
        name: dotted lower-case words.
        steps: in order.
        value: an instance of the output model, for when none of them answers.
        input, output: the models; those of the first step if not given.
        bind: output field to ``step.field``.

    Raises:
        StackError: ``value`` is no valid instance of the output model.

    >>> from fslm_core import tool
    >>> class Place(BaseModel):
    ...     town: str
    >>> class Weather(BaseModel):
    ...     weather: str
    >>> @tool("weather.station", version="1")
    ... def station(place: Place) -> Weather:
    ...     raise OSError("it does not answer")
    >>> @tool("weather.almanac", version="1")
    ... def almanac(place: Place) -> Weather:
    ...     return Weather(weather="Rain, most likely")
    >>> weather = Fallback("weather.any", [station, almanac])
    >>> from fslm_core import Engine, Stack
    >>> stack = Stack("weather", input=Place, output=Weather, steps=[weather])
    >>> with Engine(trace=False) as engine:
    ...     run = engine.run(stack, {"town": "Bergen"})
    >>> run.output.weather, run.messages["any.answer"].content
    ('Rain, most likely', Answered(step='almanac', value=False, failed=[Failed(step='station', code='tool')]))
    """

    kind = "fallback"
    decisions = ("answer",)

    def __init__(
        self,
        name: str,
        steps: Sequence[Step | Node],
        *,
        value: Out | None = None,
        input: type[In] | None = None,
        output: type[Out] | None = None,
        bind: Mapping[str, str] | None = None,
        description: str = "",
    ) -> None:
        super().__init__(name, input=input, output=output, steps=steps, bind=bind, description=description)
        self.value = constant(value, self.output, f"fallback {name}")

    def facts(self) -> dict[str, Any]:
        """Its value; its steps are in the order in which they stand in for each other."""
        return {"value": None if self.value is None else loads(self.value)}

    def labels(self) -> Iterator[str]:
        """Its value; the order is drawn."""
        if self.value is not None:
            yield f"then: {self.value}"

    def arrows(self) -> Iterator[Arrow]:
        """From each step to the one that stands in for it."""
        for step, other in zip(self.steps, self.steps[1:], strict=False):
            yield Arrow(step.name, other.name, "if it fails")

    def findings(self) -> Iterator[str]:
        """Nothing to fall back on, or too much."""
        if len(self.steps) == 1 and self.value is None:
            yield "there is nothing to fall back on; pass another step, or value=…"
        if len(self.steps) > MOST_STEPS:
            yield f"{len(self.steps)} steps; at most {MOST_STEPS} stand in for each other"

    async def run(self, place: Place) -> Result[Out]:
        """One after another."""
        failed: list[Failed] = []
        last: FslmError | None = None
        for step in self.steps:
            try:
                said = await place.step(step, place.given)
                if isinstance(said, Message):
                    result: Result[Out] = place.result({**place.given, step.name: said}, output_of(step))
                    await place.decided("answer", Answered(step=step.name, value=False, failed=failed), [said])
                    return result
            except FAILURES as error:
                last = error
                failed.append(Failed(step=step.name, code=code_of(error)))
            else:
                failed.append(Failed(step=step.name, code=code_of(said)))
        await place.decided("answer", Answered(step=None, value=self.value is not None, failed=failed))
        if self.value is not None:
            return Result(self.output.model_validate_json(self.value, by_name=True))
        raise last or StageFailedError(
            "every step was passed over",
            where=place.where(),
            hint="give the last step no condition, or the fallback a value=…",
        )


__all__ = ["Answered", "Failed", "Fallback"]

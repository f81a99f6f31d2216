"""What shapes that ask one step several times have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..stack import Shape, Step
from ..stage import Decoding, Stage
from .arguments import positive
from .types import In, Out

MOST_SAMPLES = 100
"""Members of a vote, or candidates."""


class Sampler(Shape[In, Out]):
    """A shape that runs a step several times on one input.

    Attributes:
        temperature: the one its stages write at; their own if None.
    """

    temperature: float | None = None

    @property
    def samples(self) -> bool:
        """Whether it has a temperature of its own."""
        return self.temperature is not None

    def _at(self, temperature: float | None) -> None:
        hint = "0.7 is usual; leave it out to write at the stage's own"
        self.temperature = positive(temperature, "temperature", f"{self.kind} {self.name}", hint)

    def _alike(self, step: Step, times: int) -> Iterator[str]:
        """What is wrong with asking this step so often."""
        if times > 1 and not varies(step, self.temperature):
            yield (
                f"step {step.name}: it would say the same {times} times, for nothing in it is sampled;"
                " pass temperature=0.7, or ask it once"
            )

    def _idle_temperature(self) -> Iterator[str]:
        """Says where the temperature is of no use."""
        if self.temperature is not None and not any(map(writes, self.steps)):
            yield "temperature is for stages that write with a model, and no step of it is one; leave it out"


def writes(step: Step) -> bool:
    """Whether a stage with a model stands at the step."""
    return isinstance(step.node, Stage) and step.node.tool is None


def at_temperature(step: Step, temperature: float | None) -> Decoding | None:
    """The decoding of a step's stage at another temperature; None where its own holds."""
    if temperature is None or not writes(step):
        return None
    return replace(step.stage.decoding, temperature=temperature)


def varies(step: Step, temperature: float | None = None) -> bool:
    """Whether a step can say something else when it is run again on the same input.

    >>> from pydantic import BaseModel
    >>> from fslm_core import SLM
    >>> class Text(BaseModel):
    ...     text: str
    >>> said = Step(Stage("demo.say", input=Text, output=Text, prompt="{{ text }}", model=SLM("smollm2-135m")))
    >>> varies(said), varies(said, 0.7)
    (False, True)
    """
    node = step.node
    if isinstance(node, Shape):
        own = node.temperature if isinstance(node, Sampler) else None
        return any(varies(inner, own) for inner in node.steps)
    if node.tool is not None:
        return not node.tool.pure
    return (temperature or node.decoding.temperature) > 0


__all__ = ["MOST_SAMPLES", "Sampler", "at_temperature", "varies", "writes"]

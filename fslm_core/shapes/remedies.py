"""What may be done where a message was refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pydantic import BaseModel, Field

from ..errors import StageFailedError, shorten
from ..stack import Node, Step
from .arguments import positive, whole

REFUSED = "refused"
"""Under this name a step takes what was wrong with the message before."""
MOST_TRIES = 100
MOST_PROBLEMS = 10
"""Problems that a step is shown."""
_LONGEST_PROBLEM = 200
"""Characters of each."""


@dataclass(frozen=True, slots=True)
class Again:
    """Sample the same prompt again, with other seeds.

    >>> Again(2, temperature=0.7).times
    2
    """

    times: int = 1
    temperature: float = 0.7

    def __post_init__(self) -> None:
        whole(self.times, "times", "Again(…)", most=MOST_TRIES)
        positive(self.temperature, "temperature", "Again(temperature=…)", "a greedy stage would write the same again")


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask again, with the problems in the prompt.

    Args:
        field: of the stage's input, a ``list[str]`` that is empty by default and that its template renders. It is
            given at most ten problems of at most 200 characters; in a first try, and where the same is sampled again,
            it is empty.
        times: each time with what was wrong with the try before.
        temperature: of these tries; the stage's own if None.
    """

    field: str = "problems"
    times: int = 1
    temperature: float | None = None

    def __post_init__(self) -> None:
        whole(self.times, "times", "Ask(…)", most=MOST_TRIES)
        positive(self.temperature, "temperature", "Ask(temperature=…)", "leave it out for the stage's own")


class Instead:
    """Let another step do it. It is given the same input; it may bind ``refused.problems`` and ``refused.written``."""

    def __init__(self, step: Step | Node) -> None:
        self.step = step if isinstance(step, Step) else Step(step)

    def __repr__(self) -> str:
        return f"Instead({self.step!r})"


Remedy: TypeAlias = Again | Ask | Instead


class Refused(BaseModel):
    """What was wrong with the message before, and its text; empty and null where there is none yet."""

    problems: list[str] = Field(default=[], max_length=MOST_PROBLEMS)
    written: str | None = None


def refused_by(error: StageFailedError | None) -> Refused:
    """What a step is shown of a message that was refused; nothing where there is none."""
    if error is None:
        return Refused()
    problems = [shorten(str(problem), _LONGEST_PROBLEM) for problem in error.problems[:MOST_PROBLEMS]]
    return Refused(problems=problems, written=error.attempts[-1].raw if error.attempts else None)


def told(remedy: Remedy) -> str:
    """A remedy in a few words.

    >>> told(Again(2)), told(Ask())
    ('again 2 times at 0.7', 'ask with problems')
    """
    match remedy:
        case Again(times, temperature):
            return f"again{_often(times)} at {temperature:g}"
        case Ask(field, times, temperature):
            return f"ask with {field}{_often(times)}" + ("" if temperature is None else f" at {temperature:g}")
    return f"{remedy.step.name} instead"


def _often(times: int) -> str:
    return "" if times == 1 else f" {times} times"


__all__ = [
    "MOST_PROBLEMS",
    "MOST_TRIES",
    "REFUSED",
    "Again",
    "Ask",
    "Instead",
    "Refused",
    "Remedy",
    "refused_by",
    "told",
]

"""What a run is to the one who asked for it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel

from ..errors import EngineStateError, FslmError
from ..message import Message, Skipped, Usage

Out = TypeVar("Out", bound=BaseModel)
Status = Literal["running", "succeeded", "failed", "cancelled", "review"]
"""How a run stands; ``review``: it ended at a question that a person is to decide."""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(slots=True)
class Run(Generic[Out]):
    """One passage of one input through a stack.

    Attributes:
        id: sorts by time; ``fslm trace show ID`` shows the run.
        messages: what each step gave, by step name, in the order in which they ended.
        error: why it has no output, or None. Where its status is ``review``, it is the
            :class:`~fslm_core.errors.ReviewNeeded` that says what is to be decided.
        seconds: from its start to its end.
        lost: what steps cost that gave no message.
        session: the id of the session that it is a turn of; empty where it is none, or one that is not kept.
        state: the session's state after it; None where its stack has no session, and where it did not succeed.
        parent: the id of the run that it replays; empty where it replays none.
    """

    id: str
    stack: str
    input: Message[Any]
    seed: int = 0
    status: Status = "running"
    messages: dict[str, Message[Any] | Skipped] = field(default_factory=dict)
    result: Message[Out] | None = None
    error: FslmError | None = None
    seconds: float = 0.0
    session: str = ""
    state: BaseModel | None = None
    lost: Usage = field(default_factory=Usage)
    parent: str = ""

    @property
    def output(self) -> Out:
        """The validated output.

        Raises:
            FslmError: the run's error, if it has no output.
        """
        if self.result is None:
            raise self.error or EngineStateError(
                f"the run has no output: it is {self.status}",
                where=f"run {self.id}",
                hint="ask for the output of a run that succeeded",
            )
        return self.result.content

    @property
    def usage(self) -> Usage:
        """What all its steps cost together, those that failed among them."""
        return sum((m.usage for m in self.messages.values() if isinstance(m, Message)), self.lost)

    @property
    def confidence(self) -> Mapping[str, float] | None:
        """The output's confidence per field, as carried over from the steps that supplied them."""
        return self.result.confidence if self.result else None


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Out]):
    """What became of one input of a ``map``: a run that succeeded, or an error (and the run, where one began).

    A run that waits for a person's review has both, too: its error is a :class:`~fslm_core.errors.ReviewNeeded`.
    """

    index: int
    run: Run[Out] | None
    error: FslmError | None = None

    @property
    def output(self) -> Out:
        """The validated output.

        Raises:
            FslmError: the error, if there is one.
        """
        if self.error is not None:
            raise self.error
        assert self.run is not None
        return self.run.output


def new_run_id() -> str:
    """A new id of 26 letters and digits that sorts by its millisecond (the layout of https://github.com/ulid/spec)."""
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))


__all__ = ["Outcome", "Run", "Status", "new_run_id"]

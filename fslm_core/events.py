"""What happens in a run, as values. Observers, ``stream`` and the recorder all see the same events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .errors import FslmError
from .message import Attempt, Message, Origin, Skipped


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run began; it is in the store before its first step starts."""

    run: str
    stack: str
    input: Message[Any]
    seed: int
    at: float
    backend: str = ""
    fingerprints: dict[str, str] = field(default_factory=dict)
    """Step name to stage fingerprint."""


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step's inputs are ready and its work was handed to the backend."""

    run: str
    step: str
    node_id: str


@dataclass(frozen=True, slots=True)
class TextWritten:
    """A step wrote a piece of its output; not yet validated."""

    run: str
    step: str
    text: str


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """An attempt gave no valid message. ``started`` is Unix seconds, as in ``Message``."""

    run: str
    step: str
    node_id: str
    attempt: Attempt
    origin: Origin | None = None
    parents: tuple[str, ...] = ()
    started: float = 0.0


@dataclass(frozen=True, slots=True)
class StepSkipped:
    """A step's ``when`` was false."""

    run: str
    skipped: Skipped


@dataclass(frozen=True, slots=True)
class MessageEmitted:
    """A step gave a valid message."""

    run: str
    message: Message[Any]


@dataclass(frozen=True, slots=True)
class RunFinished:
    """A run ended: ``succeeded``, ``failed`` or ``cancelled``. The store has it before anyone is told."""

    run: str
    stack: str
    status: str
    at: float
    seconds: float
    output: Message[Any] | None = None
    error: FslmError | None = None


Event = RunStarted | StepStarted | TextWritten | AttemptFailed | StepSkipped | MessageEmitted | RunFinished

__all__ = [
    "AttemptFailed",
    "Event",
    "MessageEmitted",
    "RunFinished",
    "RunStarted",
    "StepSkipped",
    "StepStarted",
    "TextWritten",
]

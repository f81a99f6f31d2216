"""What happens in a run and to an engine, as values. Observers, ``stream`` and the recorder see the same events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import FslmError
from .message import Attempt, Marks, Message, Origin, Skipped


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
    marks: Marks | None = None
    """What the stack marks as sensitive; None where nobody has looked."""
    in_flight: int = 0
    """Runs of the engine at work, this one among them."""


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
    in_flight: int = 0
    """Runs of the engine still at work."""


@dataclass(frozen=True, slots=True)
class RunRefused:
    """A run was not let in, for ``in_flight`` runs were at work: the caller got ``EngineBusy``.

    ``run`` is the id it would have had; the trace knows nothing of it.
    """

    run: str
    stack: str
    at: float
    in_flight: int


@dataclass(frozen=True, slots=True)
class RecordsLost:
    """Events could not be written to the trace. ``count`` of them since the last such event; ``run`` is empty."""

    count: int
    run: str = ""


@dataclass(frozen=True, slots=True)
class EventsDropped:
    """Observers were too slow: ``count`` events were not shown to them since the last such event; ``run`` is empty."""

    count: int
    run: str = ""


@dataclass(frozen=True, slots=True)
class ShadowDrawn:
    """A candidate was drawn to run beside a step; it begins when the run has ended. ``stream`` does not show it."""

    run: str
    step: str
    node_id: str


@dataclass(frozen=True, slots=True)
class ShadowFinished:
    """What became of a candidate; it always follows its run's ``RunFinished``.

    Attributes:
        step: the step it ran beside.
        node_id: the candidate's own.
        status: ``ok``; ``failed``: no valid message; ``cancelled``: its run was, or the engine was closed;
            ``skipped``: as many as may be were drawn already.
        message: what it gave, where it is ``ok``.
        attempts: every try; of one that gave no text at all the problem's kind is ``error``.
        same: whether it said what the step said; None where one of the two gave no message.
        fields: the same field by field; empty where there is nothing to compare.
        started: Unix seconds, as in ``Message``.
    """

    run: str
    step: str
    node_id: str
    status: Literal["ok", "failed", "cancelled", "skipped"]
    origin: Origin
    message: Message[Any] | None = None
    attempts: tuple[Attempt, ...] = ()
    same: bool | None = None
    fields: dict[str, bool] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    started: float = 0.0


RunEvent = RunStarted | StepStarted | TextWritten | AttemptFailed | StepSkipped | MessageEmitted | RunFinished
"""What happens in a run: what ``stream`` yields and the trace keeps."""
Event = RunEvent | ShadowDrawn | ShadowFinished | RunRefused | RecordsLost | EventsDropped
"""What observers see."""

__all__ = [
    "AttemptFailed",
    "Event",
    "EventsDropped",
    "MessageEmitted",
    "RecordsLost",
    "RunEvent",
    "RunFinished",
    "RunRefused",
    "RunStarted",
    "ShadowDrawn",
    "ShadowFinished",
    "StepSkipped",
    "StepStarted",
    "TextWritten",
]

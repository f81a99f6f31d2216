"""What happens in a run and to an engine, as values. Observers, ``stream`` and the recorder see the same events."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_core import from_json

from .errors import FslmError
from .message import Attempt, Marks, Message, Origin, Skipped

_NUMBER = re.compile(r"[-+.eE0-9]+\Z")


def _last(data: Any) -> Any:
    """What was written last of JSON data."""
    while data and isinstance(data, dict | list):
        data = data[-1] if isinstance(data, list) else next(reversed(data.values()))
    return data


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
    parent: str = ""
    """The run that it replays."""


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step's inputs are ready and its work was handed to the backend.

    ``kind`` is ``stage``, or that of the shape that stands there: ``route``, ``map``, ``agent`` and so on.
    """

    run: str
    step: str
    node_id: str
    kind: str = "stage"


@dataclass(frozen=True, slots=True)
class TextWritten:
    """A step wrote a piece of its output; not yet validated, and begun anew where an attempt fails.

    What was written up to here is made when it is asked for: a consumer that asks at every piece reads a message of n
    pieces n times, one that asks now and then does not. All events of one attempt share its pieces.

    >>> pieces = ['{"topic":"lo', 'an","amount":1', '200}']
    >>> events = [TextWritten("R", "step", text, pieces=pieces, count=n) for n, text in enumerate(pieces, 1)]
    >>> [event.fields for event in events]
    [{'topic': 'lo'}, {'topic': 'loan'}, {'topic': 'loan', 'amount': 1200}]

    Attributes:
        step: the step's path, with indices: ``notes.note[17]``.
        text: the piece.
        attempt: which try, from 0; what earlier ones wrote came to nothing.
        pieces: of this attempt, this one and those before; there may be later ones behind.
        count: how many of them there were up to here.
    """

    run: str
    step: str
    text: str
    attempt: int = 0
    pieces: Sequence[str] = field(default=(), repr=False, compare=False)
    count: int = field(default=0, repr=False, compare=False)

    @property
    def so_far(self) -> str:
        """All the attempt has written up to here."""
        return "".join(self.pieces[: self.count])

    @property
    def fields(self) -> dict[str, Any]:
        """What it has written by field, as JSON data: fields that are whole, and text that still grows.

        A number is there when something follows it, for it may go on until then. Nothing is validated; empty where no
        object has begun.
        """
        text = self.so_far
        try:
            found = from_json(text, allow_partial="trailing-strings")
            if text[-1:].isdigit() and isinstance(_last(found), int | float):
                found = from_json(_NUMBER.sub("", text), allow_partial="trailing-strings")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


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
    """A run ended: ``succeeded``, ``failed``, ``cancelled`` or ``review``. The store has it before anyone is told."""

    run: str
    stack: str
    status: str
    at: float
    seconds: float
    output: Message[Any] | None = None
    error: FslmError | None = None
    in_flight: int = 0
    """Runs of the engine still at work."""
    state: BaseModel | None = None
    """Of a run that succeeded, the state of its session after it; None where its stack has no session."""


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

"""What passes between steps: a validated output, where it came from, and how it was made."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel

from .prompt import Prompt

CANDIDATE = "~candidate"
"""What follows a step's name, in a node's, and a stage's, in a request, where a candidate is meant; no name has a ~."""

_ON_ERROR = "on_error: "
LEFT_OUT = "left out"
"""Stands in the place of the condition of a step that somebody left out in a replay."""
_INDEX = re.compile(r"\[\d+\]")

T = TypeVar("T", bound=BaseModel)
T_co = TypeVar("T_co", bound=BaseModel, covariant=True)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with an output.

    Attributes:
        kind: ``json``, ``schema``, ``validator``, ``length``, ``refused`` (by a plugin's check), ``tool``; and, of a
            candidate that gave no text at all, ``error``.
        text: what is wrong, one sentence.
        field: the dotted path of the field it is about, or None.
        source: the plugin that refused it, or None for the engine itself.
    """

    kind: str
    text: str
    field: str | None = None
    source: str | None = None

    def __str__(self) -> str:
        return f"{self.field}: {self.text}" if self.field else self.text


@dataclass(frozen=True, slots=True)
class Usage:
    """What a message cost. Tokens and forwards are counted, never estimated; times are seconds, measured.

    ``cached`` prompt tokens were not computed again; ``forced`` output tokens were dictated by the grammar.
    Usages add up: ``a + b``.

    Attributes:
        queued: from the request to its place in a batch: tokenising, and waiting.
        prefill: reading the prompt, up to the first token.
        decode: writing.
        seconds: all of it, the four other times included.
        render: narrowing the schema to the input, and rendering the prompt; once a step, in its first attempt.
        validate: parsing what was written, and the checks of model and plugins.
    """

    prompt: int = 0
    cached: int = 0
    output: int = 0
    forced: int = 0
    forwards: int = 0
    queued: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    seconds: float = 0.0
    render: float = 0.0
    validate: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, n) + getattr(other, n) for n in self.__slots__))


@dataclass(frozen=True, slots=True)
class TokenTrace:
    """One attempt token by token; the arrays run in step (see ``Generation`` in the backend protocol)."""

    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    logprobs: tuple[float, ...] | None
    forced: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a step: what was asked, what came back, and what was wrong with it.

    ``prompt`` is None for a tool stage, whose ``raw`` is the canonical JSON of what the function returned, or empty.
    """

    index: int
    prompt: Prompt | None
    raw: str
    problems: tuple[Problem, ...] = ()
    usage: Usage = Usage()
    tokens: TokenTrace | None = None
    truncated: int = 0
    finish_reason: str = "stop"
    runners_up: tuple[tuple[str, float] | None, ...] = ()
    """For each token of ``tokens`` the text of the second likeliest and its log-probability, None where the grammar
    left no choice; empty where the backend does not tell."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who made a message: the stage, its distribution and version, its model, the backend with device and precision.

    ``input`` and ``output`` are the stage's models: a store that redacts asks them which fields are sensitive,
    and where they are None it hides all data.
    """

    stage: str
    plugin: str | None = None
    version: str | None = None
    model: str | None = None
    backend: str | None = None
    tuned: bool = True
    fingerprint: str = ""
    input: type[BaseModel] | None = None
    output: type[BaseModel] | None = None


@dataclass(frozen=True, slots=True)
class Marks:
    """Which fields of a stack's messages are sensitive: by the step's path without indices, dotted paths.

    Attributes:
        given: of what each step is given, and, as ``output``, of the stack's output.
        made: of what each step makes, and, as ``input``, of the stack's input.
    """

    given: Mapping[str, frozenset[str]]
    made: Mapping[str, frozenset[str]]

    def __bool__(self) -> bool:
        """Whether anything at all is marked."""
        return any(self.given.values()) or any(self.made.values())


@dataclass(frozen=True, slots=True)
class Message(Generic[T_co]):
    """The validated output of a step.

    Attributes:
        step: the step's path in its stack: its name, behind those of the shapes it is within, with an index where it
            runs several times (``pages[3].summary``); ``input`` for the message that starts a run.
        content: the pydantic instance.
        parents: the ``node_id`` of every message a bound field came from.
        attempts: every try, the last of which gave ``content``.
        usage: the sum over attempts.
        confidence: per top-level field, the product over its decided tokens of the probability given to the
            chosen token among those the grammar allowed; None where unknown.
        work_key: says "the same work"; used by caches.
        content_id: says "the same content"; a store keeps it once.
        node_id: this very message, in this very run.
        narrowed: the normalised JSON Schema as narrowed for this input, or None if it was not.
        abstained: the fields whose confidence was below what their step asks for; see
            :class:`~fslm_core.shapes.Cascade`.
        alternatives: for fields of labels that were abstained on, other labels and their probability, the likeliest
            first; see :func:`~fslm_core.shapes.alternatives_of`.
        reused: the ``node_id`` of the earlier run's message that it was taken from; see ``Engine.replay``.
        edited: the fields that somebody changed in it.
    """

    step: str
    content: T_co
    node_id: str
    content_id: str
    work_key: str = ""
    parents: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    usage: Usage = Usage()
    confidence: Mapping[str, float] | None = None
    origin: Origin | None = None
    narrowed: Mapping[str, Any] | None = None
    started: float = 0.0
    """Unix seconds when the step began."""
    abstained: tuple[str, ...] = ()
    alternatives: Mapping[str, tuple[tuple[Any, float], ...]] = field(default_factory=dict)
    reused: str = ""
    edited: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Skipped:
    """A step that was passed over because its ``when`` was false, or because it failed and its policy is to be skipped.

    ``when`` is the expression; of a step that failed it is ``on_error: CODE``, with the error's code; of one that was
    left out in a replay, ``left out``.
    """

    step: str
    node_id: str
    when: str
    parents: tuple[str, ...] = field(default=())

    @classmethod
    def failed(cls, step: str, node_id: str, code: str) -> Self:
        """A step that failed with this code and says ``on_error="skip"``."""
        return cls(step, node_id, f"{_ON_ERROR}{code}")

    @property
    def code(self) -> str | None:
        """See :func:`failed_with`."""
        return failed_with(self.when)


def failed_with(when: str) -> str | None:
    """The code of the error a step was passed over for; ``None`` if its condition was false.

    >>> failed_with(Skipped.failed("look", "n1", "tool").when), failed_with("output.found")
    ('tool', None)
    """
    return when.removeprefix(_ON_ERROR) if when.startswith(_ON_ERROR) else None


def digest(*parts: str | bytes | None) -> str:
    """SHA-256 (hex) of the parts, each preceded by its length so that no two lists of parts collide.

    >>> digest("ab", "c") == digest("a", "bc")
    False
    """
    state = hashlib.sha256()
    for part in parts:
        raw = b"" if part is None else part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        state.update(b"-" if part is None else str(len(raw)).encode() + b":")
        state.update(raw)
    return state.hexdigest()


def node_id(run: str, step: str, index: int = 0, attempt: int = 0) -> str:
    """The name of one node: run, step path, index (for repeated steps) and attempt."""
    return f"{run}/{step}/{index}/{attempt}"


def plain_path(path: str) -> str:
    """A step's path without the indices of steps that run several times.

    >>> plain_path("pages[3].summary")
    'pages.summary'
    """
    return _INDEX.sub("", path)


def derive_seed(seed: int, step: str, index: int = 0, attempt: int = 0) -> int:
    """A 63-bit seed for one attempt, from the run's seed and the attempt's place, whatever order work is done in."""
    return int(digest(str(seed), step, str(index), str(attempt))[:16], 16) >> 1


__all__ = [
    "CANDIDATE",
    "LEFT_OUT",
    "Attempt",
    "Marks",
    "Message",
    "Origin",
    "Problem",
    "Skipped",
    "TokenTrace",
    "Usage",
    "derive_seed",
    "digest",
    "failed_with",
    "node_id",
    "plain_path",
]

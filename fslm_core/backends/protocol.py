"""What a backend is: it turns prompts into text, and knows nothing of stages or stacks.

A backend yields :class:`Chunk` while it writes and ends with one :class:`Generation`. Everything an
engine needs to say about the work is in :class:`Request`; what a backend can do is in
:class:`Capabilities`, which the static check enforces.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from ..prompt import Prompt

FinishReason = Literal["stop", "length"]
Overflow = Literal["error", "truncate"]


@dataclass(frozen=True, slots=True)
class ModelRef:
    """One model as a backend sees it: a checkpoint folder, and an adapter folder or none.

    Attributes:
        checkpoint: the checkpoint's name, for people and for caches.
        path: the verified local folder with ``config.json``, ``*.safetensors`` and ``tokenizer.json``;
            None for a backend that holds no weights itself.
        adapter: the PEFT folder; None runs the checkpoint as it is.
        adapter_sha256: of ``adapter_model.safetensors``, hex; None where there is no adapter.
        stage: the stage that asks, for error texts and for backends that choose a model by it.
    """

    checkpoint: str
    path: Path | None = None
    adapter: Path | None = None
    adapter_sha256: str | None = None
    stage: str = ""

    @property
    def key(self) -> tuple[str, Path | None, Path | None, str | None]:
        """Requests with equal keys may share a batch; the folder counts, for equal weights may be scaled otherwise."""
        return (self.checkpoint, self.path, self.adapter, self.adapter_sha256)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen. ``temperature`` 0 is greedy, and the others then have no effect."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One piece of work for a backend.

    Attributes:
        prompt: rendered spans; the backend joins them by the checkpoint's chat template.
        grammar: a JSON Schema as compact text that the output must match, or None for free text.
        max_tokens: upper bound on output tokens, the end token not counted.
        n: how many independent outputs; backends that offer only 1 say so in their capabilities.
        deadline: :func:`time.monotonic` seconds after which the work must stop, or None.
        priority: smaller goes first among those waiting.
        group: whose work it is; groups share the machine alike, whatever each of them asks for. Empty: its own.
        run: of which run it is a part; a run that was begun is ended before others are begun. Empty: its own.
        input: the content id of what the step was given, by which recorded answers are found again. Empty: unknown.
        on_overflow: what to do when prompt and ``max_tokens`` exceed the context: refuse, or shorten the
            data spans from their end and record it.
    """

    id: str
    prompt: Prompt
    model: ModelRef
    grammar: str | None
    max_tokens: int
    sampling: Sampling = Sampling()
    n: int = 1
    seed: int = 0
    deadline: float | None = None
    priority: int = 0
    group: str = ""
    run: str = ""
    on_overflow: Overflow = "error"
    input: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of output as it is written. ``index`` is below ``Request.n``."""

    text: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """Token and forward counts of one generation, as they were, not as estimated.

    ``output`` counts every token of the answer (its end excluded), ``forced`` those of them that the grammar
    left no choice in. ``forwards`` is how many forwards this row took part in.
    """

    prompt: int = 0
    cached: int = 0
    output: int = 0
    forced: int = 0
    forwards: int = 0


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds: tokenising and waiting for a place in a batch, reading the prompt (to the first token), writing."""

    queued: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished output, and how it came about.

    The arrays run in step, one entry per output token (the end token excluded):

    Attributes:
        tokens: token ids; empty where the backend has none.
        texts: the text of each token, such that ``"".join(texts) == text`` (a character split over tokens
            belongs to its last one).
        logprobs: natural log of the probability given to the chosen token among those the grammar
            allowed; None as a whole where the backend has none; 0.0 at forced places.
        runners_up: the second most likely allowed token (-1: its id is not known) and its log-probability, or None.
        runner_texts: the text that token would have added, or None; empty where the backend does not tell.
        forced: True where the grammar allowed one continuation only.
        finish_reason: ``stop`` at the model's or the grammar's end, ``length`` at ``max_tokens``.
        truncated: how many prompt tokens ``on_overflow="truncate"`` left out.
    """

    text: str
    index: int = 0
    tokens: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    logprobs: tuple[float, ...] | None = None
    runners_up: tuple[tuple[int, float] | None, ...] = ()
    forced: tuple[bool, ...] = ()
    finish_reason: FinishReason = "stop"
    truncated: int = 0
    counts: Counts = field(default_factory=Counts)
    times: Times = field(default_factory=Times)
    runner_texts: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend offers; the static check refuses a stack that needs more."""

    grammar: bool = True
    adapters: bool = True
    logprobs: bool = True
    score: bool = True
    n: int = 1
    streaming: bool = True
    sampling: bool = True
    weights: bool = True
    """True where the backend reads a local checkpoint folder (``ModelRef.path`` must be set)."""
    require: Callable[[], None] | None = None
    """Raises MissingExtraError where a package that it needs is not installed; asked before a checkpoint is fetched."""


@runtime_checkable
class Backend(Protocol):
    """What an engine talks to. All methods are safe to call from any event loop of one process."""

    name: str

    @property
    def capabilities(self) -> Capabilities:
        """What this backend offers."""
        ...

    async def warm(self, models: Sequence[ModelRef]) -> Sequence[str]:
        """Load ``models`` and whatever makes the first request as quick as the next.

        Returns:
            For each model where and in which number format it runs (``cpu float32``), as a trace records it; empty
            where the backend does not know.

        Raises:
            CheckpointError: weights that do not load.
            AdapterError: an adapter that does not fit its base exactly.
        """
        ...

    def open(self, request: Request) -> AsyncIterator[Chunk | Generation]:
        """Start ``request``: yields chunks, then ``request.n`` generations, then ends.

        Closing the iterator (or cancelling its task) stops the work within one forward.

        Raises:
            ContextOverflowError: the prompt does not fit.
            DeadlineExceeded: ``request.deadline`` passed.
            BackendError: anything else that went wrong.
        """
        ...

    async def score(self, request: Request, continuations: Sequence[str]) -> tuple[float, ...]:
        """Return the natural-log likelihood of each continuation after the request's prompt.

        The end token is not counted; the grammar is ignored.
        """
        ...

    async def aclose(self) -> None:
        """Stop everything and give the memory back. Idempotent."""
        ...


__all__ = [
    "Backend",
    "Capabilities",
    "Chunk",
    "Counts",
    "FinishReason",
    "Generation",
    "ModelRef",
    "Overflow",
    "Request",
    "Sampling",
    "Times",
]

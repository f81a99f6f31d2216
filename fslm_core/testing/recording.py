"""Generations of a real backend, recorded once where the weights are and replayed everywhere else.

A recording is JSON Lines: ``stage``, ``input`` (the content id of what the step was given), ``text`` (as the backend
wrote it) and ``finish_reason``, and, of a step that runs several times, ``at``: which time it was, as ``[2]``. Neither
the input nor the prompt is kept. Lines are sorted, so that a diff says which answers changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from .. import backends
from ..backends.protocol import Backend, Capabilities, Chunk, Counts, FinishReason, Generation, ModelRef, Request
from ..errors import BackendError, CapabilityError, UsageError
from ..plugins import PluginHost
from ..schema import loads
from ..stack import Stack
from ..stage import Stage
from .clean import clean_settings

_AGAIN = "record it where the weights are: `python -m pytest --fslm-update`, or fslm_core.testing.record(…)"
_INDEX = re.compile(r"\[[^\]]*\]")
Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Line:
    """One recorded generation; several of one stage, input and time are its attempts, in order."""

    stage: str
    input: str
    text: str
    finish_reason: FinishReason = "stop"
    at: str = ""

    @property
    def key(self) -> Key:
        """What it answers."""
        return self.stage, self.input, self.at


class Recording:
    """A backend that says again what another one said. It needs no weights and knows no other input.

    Args:
        path: the file, as :func:`record` wrote it.
        again: what to do for an input that is not in it, for the error's text.

    Raises:
        UsageError: the file is not there, or is no recording.
    """

    name = "recorded"

    def __init__(self, path: Path, *, again: str = _AGAIN) -> None:
        self.path = path
        self._again = again
        self._lines = _by_key(read(path, again))
        self._whenever = {key[:2]: self._lines[key] for key in sorted(self._lines, reverse=True)}

    @property
    def capabilities(self) -> Capabilities:
        """Grammar, adapters and sampling are those of the backend that was recorded; weights are not needed."""
        return Capabilities(logprobs=False, score=False, weights=False)

    async def warm(self, models: Sequence[ModelRef]) -> Sequence[str]:
        """Do nothing."""
        return [""] * len(models)

    async def open(self, request: Request) -> AsyncIterator[Chunk | Generation]:
        """Give the recorded generation for the request's stage, input and attempt; of a step that runs several times,
        that of the same time, or, where it was never so often, of the first.

        Raises:
            BackendError: there is none.
        """
        stage, input, at = _key(request)
        lines = self._lines.get((stage, input, at)) or self._whenever.get((stage, input))
        if lines is None:
            known = sum(stage == request.model.stage for stage, _ in self._whenever)
            raise BackendError(
                "this input was not recorded",
                where=f"{self.path}, stage {request.model.stage}",
                found=f"{known} other input{'s' * (known != 1)} of that stage",
                hint=self._again,
            )
        line = lines[min(_attempt(request), len(lines) - 1)]
        words = tuple(line.text.splitlines(keepends=True))
        for word in words:
            yield Chunk(word)
        yield Generation(
            text=line.text,
            texts=words,
            forced=(False,) * len(words),
            finish_reason=line.finish_reason,
            counts=Counts(output=len(words), forwards=1),
        )

    async def score(self, request: Request, continuations: Sequence[str]) -> tuple[float, ...]:
        """Raise: a recording has no likelihoods."""
        raise CapabilityError(
            "a recording cannot score", where=f"stage {request.model.stage}", hint="use the torch backend"
        )

    async def aclose(self) -> None:
        """Do nothing: it can be used again."""


class Recorder:
    """A backend that passes on what another one does, and keeps what it wrote.

    When it is closed, what it heard replaces what the file says of the same stages and inputs; the rest stays.
    """

    def __init__(self, backend: Backend, path: Path) -> None:
        self.name = backend.name
        self.path = path
        self._backend = backend
        self._heard: dict[Key, list[Line]] = {}

    @property
    def capabilities(self) -> Capabilities:
        """Those of the backend that is recorded."""
        return self._backend.capabilities

    async def warm(self, models: Sequence[ModelRef]) -> Sequence[str]:
        """Pass it on."""
        return await self._backend.warm(models)

    async def open(self, request: Request) -> AsyncIterator[Chunk | Generation]:
        """Pass it on, and keep the first generation."""
        pieces = cast("Any", self._backend.open(request))
        async with aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, Generation) and piece.index == 0:
                    stage, input, at = _key(request)
                    line = Line(stage, input, piece.text, piece.finish_reason, at)
                    self._heard.setdefault(line.key, [])[_attempt(request) :] = [line]
                yield piece

    async def score(self, request: Request, continuations: Sequence[str]) -> tuple[float, ...]:
        """Pass it on; scores are not recorded."""
        return await self._backend.score(request, continuations)

    async def aclose(self) -> None:
        """Write the file, and close the backend that was recorded."""
        before = _by_key(read(self.path, _AGAIN)) if self.path.exists() else {}
        if self._heard:
            write(self.path, before | self._heard)
        await self._backend.aclose()


def record(
    stack: Stack[Any, Any] | Stage[Any, Any],
    inputs: Iterable[Any],
    path: Path,
    *,
    backend: Backend | str = "torch",
    host: PluginHost | None = None,
) -> Path:
    """Run ``inputs`` on a real backend and write what each stage wrote to ``path``, beside what is there already.

    Args:
        stack: a stack, or a single stage.
        inputs: instances of its input model, or mappings.
        backend: what is recorded; ``torch`` needs the extra and the weights.

    Returns:
        ``path``, for ``replies=Recording(path)``.

    Raises:
        MissingExtraError: the backend's packages are not installed.
        UsageError: what lies at ``path`` is no recording.
    """
    from .engine import KitEngine

    with KitEngine([stack], backend=recorder(backend, path, host), host=host) as engine:
        for given in inputs:
            engine.outcome(stack, given)
    return path


def recorder(backend: Backend | str, path: Path, host: PluginHost | None = None) -> Recorder:
    """A backend, or the one of this name, that writes what it says to ``path`` when it is closed.

    Raises:
        UnknownNameError: there is no backend of that name.
        MissingExtraError: its packages are not installed.
    """
    if isinstance(backend, str):
        extra = host.backends if host is not None else None
        backend = backends.create(backend, clean_settings(path.parent), extra=extra)
    return Recorder(backend, path)


def read(path: Path, again: str = _AGAIN) -> Iterator[Line]:
    """The lines of a recording.

    Raises:
        UsageError: the file is not there, or a line is none of a recording.
    """
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"the recording cannot be read: {error.strerror}", where=str(path), hint=again) from None
    for number, text in enumerate(texts, start=1):
        try:
            yield Line(**loads(text))
        except (ValueError, TypeError, RecursionError) as error:
            raise UsageError(
                f"the line is not of a recording: {error}",
                where=f"{path}, line {number}",
                expected='{"stage": …, "input": …, "text": …, "finish_reason": …}',
                hint="remove the file and " + again,
            ) from None


def write(path: Path, lines: Mapping[Key, Sequence[Line]]) -> None:
    """Write a recording, sorted by stage, input and time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(
        json.dumps(
            {"stage": line.stage, "input": line.input, "text": line.text, "finish_reason": line.finish_reason}
            | ({"at": line.at} if line.at else {}),
            ensure_ascii=False,
        )
        + "\n"
        for key in sorted(lines)
        for line in lines[key]
    )
    path.write_text(text, encoding="utf-8")


def _by_key(lines: Iterable[Line]) -> dict[Key, list[Line]]:
    found: dict[Key, list[Line]] = {}
    for line in lines:
        found.setdefault(line.key, []).append(line)
    return found


def _key(request: Request) -> Key:
    """What a request asks: of which stage, for which input, and which time, by the indices in its step's path."""
    path = request.id.split("/")[1] if "/" in request.id else ""
    return request.model.stage, request.input, "".join(_INDEX.findall(path))


def _attempt(request: Request) -> int:
    """Which try at its step a request is, from 0: the last part of its id."""
    return int(request.id.rpartition("/")[2])


__all__ = ["Line", "Recorder", "Recording", "read", "record", "recorder", "write"]

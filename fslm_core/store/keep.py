"""What reaches the disk under each of the three modes: ``full``, ``redacted`` and ``none``.

One keeper serves one run. The full keeper keeps everything as it is; the redacted one blanks sensitive fields, and
whatever might hold their values, before anything is written; the third keeps shapes and no text. Scores, counts,
times and the names that programs are made of (stacks, steps, stages, fields, schemas) are always kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel

from ..errors import FslmError
from ..events import AttemptFailed
from ..message import Attempt, Marks, Message, Origin, Problem
from ..prompt import REDACTED, Prompt, Span
from ..schema import dumps, plain_data, schema_id_of, sensitive_fields
from .marks import made_at
from .privacy import Key, blank, names_of
from .redact import Alternatives, Redactor, bare_error, problem_as, spelt

ContentMode = Literal["full", "redacted", "none"]
Source: TypeAlias = Message[Any] | AttemptFailed
"""Whose try it was."""
_PLACES = 4
"""Decimals of a runner-up's log-probability: it is told to a ten-thousandth of itself."""


@dataclass(frozen=True, slots=True)
class KeptContent:
    """A row of ``contents``."""

    id: str
    schema_id: str
    model: str
    kind: ContentMode
    json: str


@dataclass(frozen=True, slots=True)
class KeptAttempt:
    """What is kept of an attempt's texts. A span is ``[role, static, field, text or None, characters]``."""

    prompt: list[list[Any]] | None
    raw: str | None
    problems: list[dict[str, Any]]
    tokens: dict[str, Any] | None


class Keeper:
    """Keeps everything as it is.

    Call :meth:`begin` with the run's input, and for each node :meth:`see`, then :meth:`content`, then the rest.
    """

    mode: ContentMode = "full"

    def begin(self, message: Message[Any], marks: Marks | None) -> None:
        """The run starts with this message; ``marks`` is what its stack marks as sensitive, if that is known."""

    def see(self, origin: Origin | None, *, failed: bool) -> None:
        """A node of this origin is about to be kept."""

    def content(self, message: Message[Any]) -> KeptContent:
        """The message's content; raises SchemaError where it cannot be written as JSON."""
        return self._content(message, message.content_id, dumps(plain_data(message.content)))

    def name(self, work_key: str) -> str:
        """A hash of somebody's values, as it may stand on disk."""
        return work_key

    def narrowed(self, message: Message[Any]) -> Any:
        """The narrowed schema."""
        return message.narrowed

    def confidence(self, message: Message[Any]) -> dict[str, float] | None:
        """The confidence by field; the engine's own has no other names, but a tool's function may write any."""
        return None if message.confidence is None else dict(message.confidence)

    def alternatives(self, message: Message[Any]) -> Alternatives:
        """What else the message might have said, by field: label and probability."""
        return message.alternatives

    def attempt(self, attempt: Attempt, source: Source, content: KeptContent | None) -> KeptAttempt:
        """One try of ``source``; ``content`` is what it gave, or None if it gave nothing valid."""
        return KeptAttempt(
            None if attempt.prompt is None else _spans(attempt.prompt),
            attempt.raw,
            [{name: getattr(p, name) for name in Problem.__slots__} for p in attempt.problems],
            _tokens(attempt, text=True),
        )

    def error(self, error: FslmError) -> dict[str, Any]:
        """Why the run failed."""
        return error.to_dict()

    def _content(self, message: Message[Any], name: str, text: str) -> KeptContent:
        model: type[BaseModel] = type(message.content)
        return KeptContent(name, _schema_id(model), model.__name__, self.mode, text)


class RedactedKeeper(Keeper):
    """Blanks sensitive fields, what was copied from them, and every text that might hold one.

    Until the run's input is seen nothing is known, and everything is taken to be sensitive.
    """

    mode = "redacted"

    def __init__(self, key: Key) -> None:
        self._key = key
        self._redactor = Redactor()

    def begin(self, message: Message[Any], marks: Marks | None) -> None:
        self._redactor.begin(message.content, marks)

    def see(self, origin: Origin | None, *, failed: bool) -> None:
        models = (origin.input, origin.output) if origin else (None,)
        if any(model is None or sensitive_fields(model) for model in models):
            self._redactor.touched = True
        if failed:
            self._redactor.knows_failure = origin is not None

    def content(self, message: Message[Any]) -> KeptContent:
        text = dumps(self._redactor.content(message.content, message.step))
        # What is hidden depends on the run, so equal contents may be kept apart: the name says which of them it is.
        return self._content(message, self._key.hash(self.mode, message.content_id, text), text)

    def name(self, work_key: str) -> str:
        return self._key.hash("work", work_key) if work_key else ""

    def narrowed(self, message: Message[Any]) -> Any:
        if message.narrowed is None:
            return None
        return self._redactor.narrowed(message.narrowed, type(message.content), message.step)

    def confidence(self, message: Message[Any]) -> dict[str, float] | None:
        return _by_field(message)

    def alternatives(self, message: Message[Any]) -> Alternatives:
        return self._redactor.alternatives(message.alternatives, type(message.content), message.step)

    def attempt(self, attempt: Attempt, source: Source, content: KeptContent | None) -> KeptAttempt:
        kept = super().attempt(attempt, source, content)
        if not self._redactor.touched:
            return kept
        output = source.origin.output if source.origin else None
        return KeptAttempt(
            None if attempt.prompt is None else _spans(self._prompt(attempt.prompt, source)),
            REDACTED if content is None else content.json,
            [problem_as(p, REDACTED, spelt(p.field, output)) for p in attempt.problems],
            _tokens(attempt, text=False),
        )

    def _prompt(self, prompt: Prompt, source: Source) -> Prompt:
        return Prompt(tuple(span if span.static else self._data(span, source) for span in prompt.spans))

    def _data(self, span: Span, source: Source) -> Span:
        model = source.origin.input if source.origin else None
        secrets = self._redactor.secrets
        if model is None or span.field not in model.model_fields:  # unknown, or computed from who knows what
            return Span(REDACTED, span.role, False, span.field)
        if any(path.partition(".")[0] == span.field for path in self._redactor.given(model, source.step)):
            secrets.add(span.text)
            return Span(REDACTED, span.role, False, span.field)
        return Span(secrets.scrub_text(span.text), span.role, False, span.field)

    def error(self, error: FslmError) -> dict[str, Any]:
        return self._redactor.error(error)


class ShapeKeeper(Keeper):
    """Keeps no text: of a value its type and length, of a prompt its spans' lengths, of an error its kind."""

    mode = "none"

    def __init__(self, key: Key) -> None:
        self._key = key
        self._marks = Marks({}, {})

    def begin(self, message: Message[Any], marks: Marks | None) -> None:
        self._marks = marks or Marks({}, {})

    def content(self, message: Message[Any]) -> KeptContent:
        model: type[BaseModel] = type(message.content)
        paths = made_at(self._marks, message.step, model)
        clean = blank(plain_data(message.content), paths)  # its very length may tell
        shape = dumps(shape_of(clean, names_of(model)))
        return self._content(message, self._key.hash(self.mode, message.content_id), shape)

    def name(self, work_key: str) -> str:
        return self._key.hash("work", work_key) if work_key else ""

    def narrowed(self, message: Message[Any]) -> Any:
        if message.narrowed is None:
            return None
        return {"hash": self._key.hash("narrowed", json.dumps(message.narrowed, sort_keys=True))}

    def confidence(self, message: Message[Any]) -> dict[str, float] | None:
        return _by_field(message)

    def alternatives(self, message: Message[Any]) -> Alternatives:
        return {}

    def attempt(self, attempt: Attempt, source: Source, content: KeptContent | None) -> KeptAttempt:
        output = source.origin.output if source.origin else None
        return KeptAttempt(
            None if attempt.prompt is None else _spans(attempt.prompt, text=False),
            None,
            [problem_as(p, "", spelt(p.field, output)) for p in attempt.problems],
            _tokens(attempt, text=False),
        )

    def error(self, error: FslmError) -> dict[str, Any]:
        return bare_error(error)


def keeper(mode: ContentMode, key: Key | None) -> Keeper:
    """A fresh keeper for one run; ``key`` is needed for every mode but ``full``."""
    if mode == "full":
        return Keeper()
    if key is None:
        raise AssertionError(f"the mode {mode!r} needs the store's key")
    return RedactedKeeper(key) if mode == "redacted" else ShapeKeeper(key)


def shape_of(data: Any, names: frozenset[str] = frozenset()) -> Any:
    """The shape of JSON data: types and lengths in place of values; only keys in ``names`` are spelt out.

    >>> shape_of({"text": "hello", "n": [1, None]}, frozenset({"text", "n"}))
    {'text': 'string[5]', 'n': ['number', 'null']}
    """
    if isinstance(data, dict):
        keys = (k if k in names else f"key {place}: string[{len(k)}]" for place, k in enumerate(data))
        return dict(zip(keys, (shape_of(v, names) for v in data.values()), strict=True))
    if isinstance(data, list):
        return [shape_of(v, names) for v in data]
    if data is None or isinstance(data, bool):
        return "null" if data is None else "boolean"
    return f"string[{len(data)}]" if isinstance(data, str) else "number"


@lru_cache(maxsize=1024)
def _schema_id(model: type[BaseModel]) -> str:
    return schema_id_of(model)


def _by_field(message: Message[Any]) -> dict[str, float] | None:
    """The confidence of fields the message has: any other name is something that somebody wrote."""
    fields = type(message.content).model_fields
    if message.confidence is None:
        return None
    return {name: score for name, score in message.confidence.items() if name in fields}


def _spans(prompt: Prompt, *, text: bool = True) -> list[list[Any]]:
    return [[s.role, s.static, s.field, s.text if text else None, len(s.text)] for s in prompt.spans]


def _tokens(attempt: Attempt, *, text: bool) -> dict[str, Any] | None:
    """An attempt token by token. ``runners`` is ``[place, text or None, log-probability]`` of each second likeliest."""
    trace = attempt.tokens
    if trace is None:
        return None
    kept: dict[str, Any] = {
        "tokens": trace.tokens if text else [],
        "texts": trace.texts if text else [],
        "logprobs": trace.logprobs,
        "forced": "".join("01"[forced] for forced in trace.forced),
    }
    runners = [
        [place, runner[0] if text else None, round(runner[1], _PLACES)]
        for place, runner in enumerate(attempt.runners_up)
        if runner is not None and isfinite(runner[1])
    ]
    return {**kept, "runners": runners} if runners else kept


__all__ = ["ContentMode", "Keeper", "KeptAttempt", "KeptContent", "keeper", "shape_of"]

"""Spans of an engine's runs, for OpenTelemetry: an observer that turns a run into a tree of spans when it has ended.

Names and attributes follow two conventions at once, so that general tools and those for language models both read
them: OpenTelemetry's for generative AI (https://github.com/open-telemetry/semantic-conventions-genai, in development: a
run is ``invoke_workflow``, an attempt of a stage ``chat``, a tool stage ``execute_tool``, an agent ``invoke_agent``)
and OpenInference (https://arize-ai.github.io/openinference/spec/). What neither names begins with ``fslm.``.

Text is left out unless it is asked for. What a stack marks as sensitive is left out even then, by the same rules as the
trace's ``redacted`` mode, unless everything is asked for.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..events import AttemptFailed, Event, MessageEmitted, RunFinished, RunStarted, StepSkipped, StepStarted
from ..message import Attempt, Message, Origin
from ..store import ContentMode, kind_of
from ..store.keep import Keeper, KeptContent, keeper
from ..store.privacy import Key
from .otel import missing

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider

_RUNS = 10_000
"""Runs that are held until they end; if more are at work, or ends were dropped, the oldest are given up."""
_IN_PROCESS = "torch"
"""Backends whose names begin so run the model in this process."""
Value = str | int | float | bool | list[str]
Attributes = dict[str, Value]


@dataclass
class _Part:
    """One span to be: a step, or one attempt of a stage."""

    path: str
    name: str
    start: float
    end: float
    attributes: Attributes
    client: bool = False
    error: str | None = None


@dataclass
class _Noted:
    """Something that has no length in time: a step that was passed over, a shape's decision."""

    path: str
    name: str
    at: float
    attributes: Attributes


@dataclass
class _Held:
    """A run whose end has not come yet."""

    started: RunStarted
    context: Any
    kept: Keeper
    kinds: dict[str, str] = field(default_factory=dict)
    parts: list[_Part] = field(default_factory=list)
    noted: list[_Noted] = field(default_factory=list)
    attributes: Attributes = field(default_factory=dict)

    @property
    def latest(self) -> float:
        """When the last thing that is known of it ended."""
        return max((part.end for part in self.parts), default=self.started.at)


class Spans:
    """Makes spans of one engine's runs: ``Engine(…, observers=[Spans()])``.

    A run's spans are children of the span that was current where it was asked for. They are made when it ends, with the
    times at which everything happened.

    ===============================  ==============================  ==================================================
    span                             stands for                      attributes, among others
    ===============================  ==============================  ==================================================
    ``invoke_workflow STACK``        a run                           ``gen_ai.workflow.name``, ``fslm.run.id``, status
    ``invoke_workflow SHAPE``        a shape within it               ``fslm.step``, ``fslm.shape``
    ``invoke_agent AGENT``           an agent                        ``gen_ai.agent.name``
    ``chat MODEL``                   one attempt of a model stage    ``gen_ai.request.model``, tokens, confidence
    ``execute_tool TOOL``            one attempt of a tool stage     ``gen_ai.tool.name``
    ===============================  ==============================  ==================================================

    Steps that were passed over, messages that a replay took over, and decisions of shapes are events of the span they
    belong to.

    Args:
        tracer_provider: where the spans go; the process's own by default.
        content: the texts they have: ``none``, ``redacted`` or ``full``, as ``trace.content`` has it.

    Raises:
        MissingExtraError: ``opentelemetry-api`` is not installed.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None, *, content: ContentMode = "none") -> None:
        self._tracer = _tracer(tracer_provider)
        self._content = content
        self._key = Key(os.urandom(32))
        self._held: OrderedDict[str, _Held] = OrderedDict()

    def __call__(self, event: Event) -> None:
        """Take in one event. Engines call it, on one thread, in the context of whoever asked for the run."""
        if isinstance(event, RunStarted):
            self._begin(event)
            return
        held = self._held.get(event.run)
        if held is None:
            return
        match event:
            case StepStarted():
                held.kinds[event.step] = event.kind
            case MessageEmitted():
                self._message(held, event.message)
            case AttemptFailed():
                held.kept.see(event.origin, failed=True)
                part = self._attempt(held, event.step, event.attempt, event.origin, event, None, event.started)
                part.error = kind_of(event.attempt.problems[0]) if event.attempt.problems else "failed"
                held.parts.append(part)
            case StepSkipped():
                said: Attributes = {"fslm.step": event.skipped.step, "fslm.when": event.skipped.when}
                held.noted.append(_Noted(event.skipped.step, "fslm.skipped", held.latest, said))
            case RunFinished():
                del self._held[event.run]
                self._make(held, event)
            case _:
                pass

    def _begin(self, event: RunStarted) -> None:
        from opentelemetry import context

        kept = keeper(self._content, None if self._content == "full" else self._key)
        kept.begin(event.input, event.marks)
        held = _Held(event, context.get_current(), kept)
        held.attributes = {
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.workflow.name": event.stack,
            "openinference.span.kind": "CHAIN",
            "fslm.run.id": event.run,
            "fslm.seed": str(event.seed),
            **({"fslm.run.parent": event.parent} if event.parent else {}),
            **self._text("input.value", kept.content(event.input)),
        }
        self._held[event.run] = held
        while len(self._held) > _RUNS:
            self._held.popitem(last=False)

    def _message(self, held: _Held, message: Message[Any]) -> None:
        held.kept.see(message.origin, failed=False)
        content = held.kept.content(message)
        if message.attempts:
            last = message.attempts[-1]
            before = message.usage.seconds - last.usage.seconds
            part = self._attempt(
                held, message.step, last, message.origin, message, content, message.started + max(0.0, before)
            )
            part.attributes |= {
                f"fslm.confidence.{name}": value for name, value in (held.kept.confidence(message) or {}).items()
            }
            held.parts.append(part)
        elif message.reused or message.edited:
            taken: Attributes = {
                "fslm.step": message.step,
                "fslm.reused": message.reused,
                **self._text("output.value", content),
            }
            taken |= {"fslm.edited": list(message.edited)} if message.edited else {}
            held.noted.append(_Noted(message.step, "fslm.taken", message.started, taken))
        elif message.step in held.kinds:
            held.parts.append(self._shape(held, message, content))
        else:
            session = getattr(message.content, "session", None)
            if message.step == "session.turn" and isinstance(session, str):
                held.attributes |= {"gen_ai.conversation.id": session, "session.id": session}
            said: Attributes = {"fslm.step": message.step, **self._text("output.value", content)}
            held.noted.append(_Noted(message.step, "fslm.decision", message.started, said))

    def _shape(self, held: _Held, message: Message[Any], content: KeptContent) -> _Part:
        kind = held.kinds[message.step]
        name = message.origin.stage if message.origin is not None else message.step
        agent = kind == "agent"
        attributes: Attributes = {
            "gen_ai.operation.name": "invoke_agent" if agent else "invoke_workflow",
            "gen_ai.agent.name" if agent else "gen_ai.workflow.name": name,
            "openinference.span.kind": "AGENT" if agent else "CHAIN",
            "fslm.step": message.step,
            "fslm.shape": kind,
            **self._text("output.value", content),
        }
        return _Part(message.step, f"{attributes['gen_ai.operation.name']} {name}", message.started, 0.0, attributes)

    def _attempt(
        self,
        held: _Held,
        step: str,
        attempt: Attempt,
        origin: Origin | None,
        source: Message[Any] | AttemptFailed,
        content: KeptContent | None,
        start: float,
    ) -> _Part:
        """One try at a step: of a model, or of a tool."""
        stage = origin.stage if origin is not None else step
        attributes: Attributes = {"fslm.step": step, "fslm.stage": stage, "fslm.attempt": attempt.index}
        end = start + attempt.usage.seconds
        if attempt.prompt is None:
            attributes |= {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": stage,
                "gen_ai.tool.type": "function",
                "openinference.span.kind": "TOOL",
                "tool.name": stage,
                **({} if content is None else self._text("output.value", content)),
            }
            return _Part(step, f"execute_tool {stage}", start, end, attributes)
        model = (origin.model if origin is not None else None) or "unknown"
        usage = attempt.usage
        attributes |= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "fslm",
            "gen_ai.request.model": model,
            "gen_ai.output.type": "json",
            "gen_ai.usage.input_tokens": usage.prompt,
            "gen_ai.usage.output_tokens": usage.output,
            "gen_ai.usage.cache_read.input_tokens": usage.cached,
            "gen_ai.response.finish_reasons": [attempt.finish_reason],
            "openinference.span.kind": "LLM",
            "llm.model_name": model,
            "llm.token_count.prompt": usage.prompt,
            "llm.token_count.completion": usage.output,
            "llm.token_count.total": usage.prompt + usage.output,
            "llm.token_count.prompt_details.cache_read": usage.cached,
            "fslm.tokens.forced": usage.forced,
            "fslm.forwards": usage.forwards,
            "fslm.queued": usage.queued,
        }
        if self._content != "none":
            attributes |= _said(held.kept, attempt, source, content)
        backend = (origin.backend if origin is not None else None) or ""
        return _Part(step, f"chat {model}", start, end, attributes, client=not backend.startswith(_IN_PROCESS))

    def _text(self, name: str, content: KeptContent) -> Attributes:
        """A message as OpenInference has it, where texts are asked for."""
        if self._content == "none":
            return {}
        return {name: content.json, name.replace("value", "mime_type"): "application/json"}

    def _make(self, held: _Held, event: RunFinished) -> None:
        """The whole tree; each span is ended when all within it are."""
        whole = _Part("", f"invoke_workflow {event.stack}", held.started.at, event.at, held.attributes)
        whole.attributes["fslm.run.status"] = event.status
        if event.output is not None:
            held.kept.see(None, failed=False)
            whole.attributes |= self._text("output.value", held.kept.content(event.output))
        if event.error is not None and event.status == "failed":
            whole.error = event.error.code
        shapes = {part.path: part for part in held.parts if "fslm.shape" in part.attributes}
        for path, shape in shapes.items():
            ends = [part.end for part in held.parts if _within(part.path, path)]
            shape.end = max([shape.start, *ends])
        made: dict[str, Span] = {"": self._start(whole, None, held.context)}
        places = {path: shape.start for path, shape in shapes.items()}
        opened = [whole]
        for part in sorted(held.parts, key=lambda part: (part.path.count("."), part.start)):
            parent = made[_owner(part.path, made)]
            span = self._start(part, parent, held.context)
            if part.path in places:
                made[part.path] = span
                opened.append(part)
            else:
                _end(span, part)
        for note in held.noted:
            made[_owner(note.path, made)].add_event(note.name, note.attributes, _nanoseconds(note.at) or None)
        for part in reversed(opened):
            _end(made[part.path], part)

    def _start(self, part: _Part, parent: Span | None, context: Any) -> Span:
        from opentelemetry.trace import SpanKind, set_span_in_context

        return self._tracer.start_span(
            part.name,
            context if parent is None else set_span_in_context(parent, context),
            SpanKind.CLIENT if part.client else SpanKind.INTERNAL,
            part.attributes,
            start_time=_nanoseconds(part.start),
        )


def _said(
    kept: Keeper, attempt: Attempt, source: Message[Any] | AttemptFailed, content: KeptContent | None
) -> Attributes:
    """What was asked and what was written, by both conventions."""
    texts = kept.attempt(attempt, source, content)
    turns: dict[str, str] = {}
    for role, _, _, text, _ in texts.prompt or ():
        turns[role] = turns.get(role, "") + (text or "")
    told = [
        {"role": role, "parts": [{"type": "text", "content": text}]} for role, text in turns.items() if role != "system"
    ]
    answer = texts.raw or ""
    wrote = {
        "role": "assistant",
        "parts": [{"type": "text", "content": answer}],
        "finish_reason": attempt.finish_reason,
    }
    made: Attributes = {
        "gen_ai.input.messages": json.dumps(told, ensure_ascii=False),
        "gen_ai.output.messages": json.dumps([wrote], ensure_ascii=False),
        "input.value": "\n".join(turns.values()),
        "output.value": answer,
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.content": answer,
    }
    if "system" in turns:
        made["gen_ai.system_instructions"] = json.dumps(
            [{"type": "text", "content": turns["system"]}], ensure_ascii=False
        )
    for place, (role, text) in enumerate(turns.items()):
        made[f"llm.input_messages.{place}.message.role"] = role
        made[f"llm.input_messages.{place}.message.content"] = text
    return made


def _within(path: str, shape: str) -> bool:
    return path.startswith((f"{shape}.", f"{shape}["))


def _owner(path: str, made: dict[str, Span]) -> str:
    """The path of the nearest shape around a step that has a span; empty for the run itself."""
    return next((above for above in _above(path) if above in made), "")


def _above(path: str) -> Iterator[str]:
    """``a.b[2]`` and ``a`` of ``a.b[2].c``, each without its last index too."""
    while "." in path:
        path = path.rpartition(".")[0]
        yield path
        if path.endswith("]"):
            yield path.rpartition("[")[0]


def _end(span: Span, part: _Part) -> None:
    from opentelemetry.trace import Status, StatusCode

    if part.error is not None:
        span.set_attribute("error.type", part.error)
        span.set_status(Status(StatusCode.ERROR, part.error))
    span.end(_nanoseconds(max(part.start, part.end)))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _tracer(provider: TracerProvider | None) -> Tracer:
    try:
        from opentelemetry import trace
    except ModuleNotFoundError as error:
        raise missing("spans of runs need") from error
    return trace.get_tracer("fslm", tracer_provider=provider)


__all__ = ["Spans"]

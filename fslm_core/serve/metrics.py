"""Counters and histograms of an engine, for OpenTelemetry: an observer that turns events into measurements.

Names follow OpenTelemetry's semantic conventions for generative AI where one fits (a run is a *workflow*, an attempt of
a stage an *operation*), https://github.com/open-telemetry/semantic-conventions-genai; the others begin with ``fslm.``.
Attributes are names that programs and plugins chose (stack, stage, model), codes and kinds. No text of a message is
among them, and of each attribute at most a hundred values are told apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..events import (
    AttemptFailed,
    Event,
    EventsDropped,
    MessageEmitted,
    RecordsLost,
    RunFinished,
    RunRefused,
    RunStarted,
)
from ..message import Attempt, Origin
from ..store import kind_of
from .otel import missing

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram, Meter, MeterProvider

OTHER = "_OTHER"
"""Stands for every value of an attribute beyond the first hundred."""
_VALUES = 100
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Finer than the conventions advise for workflows, whose least bound is one second: most runs here take less."""
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)

Attributes = dict[str, str]


class Metrics:
    """Measures one engine: ``Engine(…, observers=[Metrics()])``.

    ====================================  =========================  ==================================================
    instrument                            kind, unit                 attributes
    ====================================  =========================  ==================================================
    ``fslm.runs``                         counter, {run}             stack, status
    ``fslm.runs.in_flight``               up-down counter, {run}
    ``fslm.runs.refused``                 counter, {run}             stack
    ``gen_ai.workflow.duration``          histogram, s               stack, status, error.type
    ``gen_ai.client.operation.duration``  histogram, s               stage, model, error.type
    ``gen_ai.execute_tool.duration``      histogram, s               stage, error.type
    ``gen_ai.client.token.usage``         histogram, {token}         stage, model, token type: input, output
    ``fslm.tokens.cached``                counter, {token}           stage, model
    ``fslm.tokens.forced``                counter, {token}           stage, model
    ``fslm.operation.queued``             histogram, s               stage, model
    ``fslm.attempts.failed``              counter, {attempt}         stage, kind of the first problem
    ``fslm.trace.records.lost``           counter, {record}
    ``fslm.events.dropped``               counter, {event}
    ====================================  =========================  ==================================================

    Give each engine one of its own: what is in flight is told as changes, so engines and processes add up.

    Args:
        meter_provider: where the measurements go; the process's own by default.

    Raises:
        MissingExtraError: ``opentelemetry-api`` is not installed.
    """

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        meter = _meter(meter_provider)
        self._known: dict[str, set[str]] = {}
        self._in_flight = 0
        self._runs = meter.create_counter("fslm.runs", "{run}", "Runs that ended")
        self._flight = meter.create_up_down_counter("fslm.runs.in_flight", "{run}", "Runs at work")
        self._refused = meter.create_counter("fslm.runs.refused", "{run}", "Runs not let in: the engine was full")
        self._run_seconds = _seconds(meter, "gen_ai.workflow.duration", "Runs, from start to end")
        self._slm_seconds = _seconds(meter, "gen_ai.client.operation.duration", "Attempts of language-model stages")
        self._tool_seconds = _seconds(meter, "gen_ai.execute_tool.duration", "Attempts of tool stages")
        self._queued = _seconds(meter, "fslm.operation.queued", "Time that attempts waited in the backend")
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Tokens of one attempt",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self._cached = meter.create_counter("fslm.tokens.cached", "{token}", "Prompt tokens not computed again")
        self._forced = meter.create_counter("fslm.tokens.forced", "{token}", "Output tokens the grammar dictated")
        self._failed = meter.create_counter("fslm.attempts.failed", "{attempt}", "Attempts without a valid message")
        self._lost = meter.create_counter("fslm.trace.records.lost", "{record}", "Events the trace could not keep")
        self._dropped = meter.create_counter("fslm.events.dropped", "{event}", "Events no observer saw: they were slow")

    def __call__(self, event: Event) -> None:
        """Measure one event. Engines call it, on one thread."""
        match event:
            case RunStarted():
                self._carry(event.in_flight)
            case RunFinished():
                self._carry(event.in_flight)
                self._finished(event)
            case RunRefused():
                self._refused.add(1, {"gen_ai.workflow.name": self._one_of("stack", event.stack)})
            case MessageEmitted() if event.message.attempts:
                self._attempt(event.message.origin, event.message.attempts[-1], None)
            case AttemptFailed():
                problem = kind_of(event.attempt.problems[0]) if event.attempt.problems else OTHER
                self._failed.add(1, {**self._stage(event.origin), "fslm.problem.kind": self._one_of("kind", problem)})
                self._attempt(event.origin, event.attempt, problem)
            case RecordsLost():
                self._lost.add(event.count)
            case EventsDropped():
                self._dropped.add(event.count)
            case _:
                pass

    def _carry(self, in_flight: int) -> None:
        """Whatever events were dropped between, the sum is right again with the next."""
        self._flight.add(in_flight - self._in_flight)
        self._in_flight = in_flight

    def _finished(self, event: RunFinished) -> None:
        run = {"gen_ai.workflow.name": self._one_of("stack", event.stack), "fslm.run.status": event.status}
        self._runs.add(1, run)
        failed = {"error.type": event.error.code} if event.error is not None and event.status == "failed" else {}
        self._run_seconds.record(event.seconds, run | failed)

    def _attempt(self, origin: Origin | None, attempt: Attempt, problem: str | None) -> None:
        stage, usage = self._stage(origin), attempt.usage
        failed = {"error.type": self._one_of("kind", problem)} if problem else {}
        if attempt.prompt is None:
            tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": stage["fslm.stage"]}
            self._tool_seconds.record(usage.seconds, stage | tool | failed)
            return
        model = origin.model if origin is not None and origin.model else OTHER
        asked = stage | {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "fslm",
            "gen_ai.request.model": self._one_of("model", model),
        }
        self._slm_seconds.record(usage.seconds, asked | failed)
        self._queued.record(usage.queued, asked)
        self._tokens.record(usage.prompt, asked | {"gen_ai.token.type": "input"})
        self._tokens.record(usage.output, asked | {"gen_ai.token.type": "output"})
        self._cached.add(usage.cached, asked)
        self._forced.add(usage.forced, asked)

    def _stage(self, origin: Origin | None) -> Attributes:
        return {"fslm.stage": self._one_of("stage", origin.stage if origin is not None else OTHER)}

    def _one_of(self, kind: str, value: str) -> str:
        """The value, unless a hundred others of its kind came before it."""
        known = self._known.setdefault(kind, set())
        if value not in known and len(known) < _VALUES:
            known.add(value)
        return value if value in known else OTHER


def _meter(provider: MeterProvider | None) -> Meter:
    try:
        from opentelemetry import metrics
    except ModuleNotFoundError as error:
        raise missing("measuring an engine needs") from error
    return metrics.get_meter("fslm", meter_provider=provider)


def _seconds(meter: Meter, name: str, description: str) -> Histogram:
    return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=_SECONDS)


__all__ = ["OTHER", "Metrics"]

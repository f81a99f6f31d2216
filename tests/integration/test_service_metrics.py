"""What an engine's observers are told beside its runs, and what OpenTelemetry measures of it."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from pydantic import BaseModel

import fslm_core.engine.observers as observing
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.engine import Engine
from fslm_core.errors import EngineBusy, MissingExtraError, RunFailed
from fslm_core.events import AttemptFailed, Event, EventsDropped, RecordsLost, RunFinished, RunRefused, RunStarted
from fslm_core.message import Attempt, Problem
from fslm_core.plugins import PluginHost
from fslm_core.serve.metrics import OTHER, Metrics
from fslm_core.settings import Settings, load
from fslm_core.stack import Stack
from fslm_core.stage import SLM, Decoding, Stage, tool
from fslm_core.store.recorder import Recorder

SECRET = "the customer's own words"


class Text(BaseModel):
    text: str


class Flag(BaseModel):
    flag: bool


class Said(BaseModel):
    said: str


@tool("t.say", version="1")
def say(flag: Flag) -> Said:
    return Said(said=str(flag.flag))


flag = Stage(
    "t.flag",
    input=Text,
    output=Flag,
    prompt="Is it so? {{ text }}",
    model=SLM("smollm2-135m", tuned=True),
    decoding=Decoding(attempts=2, temperature=1.0),
)
stack = Stack("t", input=Text, output=Said, steps=[flag, say])


@pytest.fixture
def plain(tmp_path: Path) -> Settings:
    return load(files=(), data_dir=tmp_path)


def engine(plain: Settings, *answers: str, **more: Any) -> Engine:
    more.setdefault("trace", False)
    host = PluginHost(plain, installed=False)
    return Engine(settings=plain, host=host, backend=ScriptedBackend({"t.flag": answers or ['{"flag":true}']}), **more)


class Measured:
    """A reader of what was measured, by instrument and attributes."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader], shutdown_on_exit=False)

    def points(self) -> Iterator[tuple[str, dict[str, Any], Any]]:
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        yield metric.name, dict(point.attributes or {}), point

    def table(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Name to attribute values (in the order of their names) to value, or count of a histogram."""
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for name, attributes, point in self.points():
            assert isinstance(point, HistogramDataPoint | NumberDataPoint)
            value = point.count if isinstance(point, HistogramDataPoint) else point.value
            found.setdefault(name, {})[tuple(str(attributes[key]) for key in sorted(attributes))] = value
        return found


@pytest.fixture
def measured() -> Iterator[Measured]:
    found = Measured()
    yield found
    found.provider.shutdown()


MODEL = "smollm2-135m"


def test_a_run_is_measured_by_stack_stage_and_model(plain: Settings, measured: Measured) -> None:
    """Two runs: one whose first attempt fails, one without an output."""
    with engine(plain, "no", '{"flag":true}', "no", observers=[Metrics(measured.provider)]) as opened:
        good = opened.run(stack, {"text": SECRET})
        with pytest.raises(RunFailed):
            opened.run(stack, {"text": SECRET})
    table = measured.table()
    operation = ("t.flag", "chat", "fslm", MODEL)
    failed = ("json", *operation)
    assert table["fslm.runs"] == {("failed", "t"): 1, ("succeeded", "t"): 1}
    assert table["gen_ai.workflow.duration"] == {("stage-failed", "failed", "t"): 1, ("succeeded", "t"): 1}
    assert table["gen_ai.client.operation.duration"] == {failed: 3, operation: 1}
    assert table["gen_ai.execute_tool.duration"] == {("t.say", "execute_tool", "t.say"): 1}
    assert table["fslm.attempts.failed"] == {("json", "t.flag"): 3}
    assert table["gen_ai.client.token.usage"] == {(*operation, "input"): 4, (*operation, "output"): 4}
    assert table["fslm.operation.queued"] == {operation: 4}
    assert table["fslm.runs.in_flight"] == {(): 0}
    assert not {"fslm.runs.refused", "fslm.trace.records.lost", "fslm.events.dropped"} & set(table)
    sums = {
        attributes["gen_ai.token.type"]: point.sum
        for name, attributes, point in measured.points()
        if name == "gen_ai.client.token.usage"
    }
    assert sums["output"] == 4  # the script's words: one an attempt
    assert sums["input"] == 4 * good.usage.prompt / 2


def test_no_text_is_among_the_attributes(plain: Settings, measured: Measured) -> None:
    with engine(plain, SECRET, observers=[Metrics(measured.provider)]) as opened, pytest.raises(RunFailed):
        opened.run(stack, {"text": SECRET})
    values = {str(value) for _, attributes, _ in measured.points() for value in attributes.values()}
    assert values and not any(word in value for value in values for word in SECRET.split())


def test_a_kind_of_problem_that_a_plugin_made_up_is_no_attribute(measured: Measured) -> None:
    attempt = Attempt(0, None, "raw", problems=(Problem(SECRET, "refused"),))
    Metrics(measured.provider)(AttemptFailed("r", "flag", "n", attempt))
    (counted,) = measured.table()["fslm.attempts.failed"]
    assert "refused" in counted and SECRET not in counted


def test_the_values_of_an_attribute_are_bounded(measured: Measured) -> None:
    metrics = Metrics(measured.provider)
    for number in range(1000):
        metrics(RunFinished(str(number), f"stack{number}", "succeeded", 0.0, 0.1))
    runs = measured.table()["fslm.runs"]
    assert len(runs) == 101
    assert runs["succeeded", OTHER] == 900


def test_what_is_refused_is_told_and_measured(plain: Settings, measured: Measured) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @tool("t.wait", version="1")
    def wait(flag: Flag) -> Said:
        begun.set()
        assert go_on.wait(60)
        return Said(said="")

    waiting = Stack("waiting", input=Flag, output=Said, steps=[wait])
    seen: list[Event] = []
    with engine(plain, max_in_flight=1, observers=[Metrics(measured.provider), seen.append]) as opened:
        first = threading.Thread(target=opened.run, args=(waiting, {"flag": True}))
        first.start()
        assert begun.wait(60)
        for _ in range(3):
            with pytest.raises(EngineBusy):
                opened.run(waiting, {"flag": True})
        go_on.set()
        first.join()
    refused = [event for event in seen if isinstance(event, RunRefused)]
    assert [(event.stack, event.in_flight) for event in refused] == [("waiting", 1)] * 3
    assert len({event.run for event in refused} | {e.run for e in seen if isinstance(e, RunStarted)}) == 4
    assert measured.table()["fslm.runs.refused"] == {("waiting",): 3}


def test_what_observers_miss_is_told_when_they_catch_up(
    plain: Settings, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observing, "_CAPACITY", 2)
    begun, go_on = threading.Event(), threading.Event()
    seen: list[Event] = []

    def slow(event: Event) -> None:
        begun.set()
        assert go_on.wait(60)
        seen.append(event)

    with engine(plain, observers=[slow, Metrics(measured.provider)]) as opened:
        for _ in range(4):
            opened.run(stack, {"text": "a"})
        assert begun.wait(60)
        go_on.set()
    missed = sum(event.count for event in seen if isinstance(event, EventsDropped))
    shown = [event for event in seen if not isinstance(event, EventsDropped)]
    per_run = 7  # its start and end, two steps started, two messages, one text
    assert missed > 0 and missed + len(shown) == 4 * per_run
    assert measured.table()["fslm.events.dropped"] == {(): missed}


def test_what_the_trace_loses_is_told(plain: Settings, measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Recorder, group: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    lenient = plain.model_copy(update={"trace": plain.trace.model_copy(update={"on_failure": "continue"})})
    seen: list[Event] = []
    with engine(lenient, trace=True, observers=[Metrics(measured.provider), seen.append]) as opened:
        opened.run(stack, {"text": "a"})
        assert not any(isinstance(event, RecordsLost) for event in seen)
        monkeypatch.setattr(Recorder, "_commit", full)
        opened.run(stack, {"text": "a"})
    lost = sum(event.count for event in seen if isinstance(event, RecordsLost))
    assert lost == 4  # its start, two messages, its end
    assert measured.table()["fslm.trace.records.lost"] == {(): lost}


def test_observers_of_a_program_see_what_those_of_plugins_see(
    plain: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Event] = []

    def broken(event: Event) -> None:
        raise ValueError("this observer is broken")

    with caplog.at_level(logging.WARNING), engine(plain, observers=[broken, seen.append]) as opened:
        streamed = list(opened.stream(stack, {"text": "a"}))
    assert seen == streamed
    assert caplog.text.count("broken failed: ValueError") == 1


def test_without_the_api_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(MissingExtraError, match="opentelemetry-api"):
        Metrics()

"""Spans of runs, sent by OpenTelemetry's own exporter to a receiver that speaks OTLP over HTTP."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from pydantic import BaseModel, Field

from fslm_core import SLM, Agent, Engine, Map, Stack, Stage, Step, tool
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.errors import MissingExtraError, RunFailed
from fslm_core.serve.spans import Spans
from fslm_core.settings import load
from fslm_core.stage import Decoding

SECRET = "the customer's own words"


class Text(BaseModel):
    text: str = Field(max_length=200)


class Private(BaseModel):
    text: str = Field(max_length=200, json_schema_extra={"sensitive": True})


class Words(BaseModel):
    words: list[str] = Field(max_length=9)


class Word(BaseModel):
    word: str


class Mood(BaseModel):
    good: bool


class Loud(BaseModel):
    loud: str


class Louds(BaseModel):
    louds: list[Loud]


class Out(BaseModel):
    good: bool
    louds: list[Loud] | None


class Bounded(BaseModel):
    loud: str = Field(max_length=9)


@tool("t.bounded", version="1", pure=True)
def bounded(given: Bounded) -> Bounded:
    return given


@tool("t.split", version="1", pure=True)
def split(given: Text) -> Words:
    return Words(words=given.text.split())


@tool("t.loud", version="1", pure=True)
def loud(word: Word) -> Loud:
    if word.word == "boom":
        raise ValueError("too loud")
    return Loud(loud=word.word.upper())


mood = Stage(
    "t.mood",
    input=Text,
    output=Mood,
    prompt="{% block system %}Judge.{% endblock %}{% block user %}{{ text }}{% endblock %}",
    model=SLM("smollm2-135m", tuned=True),
    decoding=Decoding(attempts=2, temperature=1.0),
)
each = Map("t.each", loud, over="words", item="word", into="louds", input=Words, output=Louds)
steps: list[Any] = [mood, split, Step(each, name="each", when="mood.good")]
stack: Stack[Any, Any] = Stack("t", input=Text, output=Out, steps=steps)


class Receiver:
    """Takes in what is posted to ``/v1/traces``, as a collector does."""

    def __init__(self) -> None:
        spans = self.spans = []  # type: list[Any]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = ExportTraceServiceRequest.FromString(body)
                spans.extend(s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans)
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/v1/traces"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def provider(receiver: Receiver) -> Iterator[TracerProvider]:
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(receiver.address)))
    yield made
    made.shutdown()


def attributes(span: Any) -> dict[str, Any]:
    found = {}
    for pair in span.attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        found[pair.key] = [v.string_value for v in value.values] if kind == "array_value" else value
    return found


def backend(*answers: str) -> ScriptedBackend:
    said = iter(answers)
    return ScriptedBackend({"t.mood": lambda request: next(said)})


Run = Callable[..., None]


@pytest.fixture
def run(provider: TracerProvider, tmp_path: Path) -> Run:
    def go(text: str, *answers: str, content: Any = "none", stack: Stack[Any, Any] = stack) -> None:
        observer = Spans(provider, content=content)
        with Engine(backend=backend(*answers), settings=load(data_dir=tmp_path), observers=[observer]) as engine:
            engine.run(stack, {"text": text})

    return go


GOOD, BAD = json.dumps({"good": True}), json.dumps({"good": False})


def test_a_run_is_a_tree_of_spans(receiver: Receiver, run: Run) -> None:
    run(f"{SECRET} now", GOOD)
    (whole,), (chat,) = receiver.named("invoke_workflow t"), receiver.named("chat smollm2-135m")
    (shape,), louds = receiver.named("invoke_workflow t.each"), receiver.named("execute_tool t.loud")
    assert whole.parent_span_id == b"" and chat.parent_span_id == shape.parent_span_id == whole.span_id
    assert len(louds) == 5 and {span.parent_span_id for span in louds} == {shape.span_id}
    assert len({span.trace_id for span in receiver.spans}) == 1
    assert whole.start_time_unix_nano <= chat.start_time_unix_nano <= chat.end_time_unix_nano
    assert all(s.start_time_unix_nano <= s.end_time_unix_nano <= whole.end_time_unix_nano + 10**6 for s in louds)
    said = attributes(whole)
    assert said["gen_ai.operation.name"] == "invoke_workflow" and said["gen_ai.workflow.name"] == "t"
    assert said["openinference.span.kind"] == "CHAIN" and said["fslm.run.status"] == "succeeded"
    asked = attributes(chat)
    assert asked["gen_ai.request.model"] == asked["llm.model_name"] == "smollm2-135m"
    assert asked["gen_ai.usage.input_tokens"] == asked["llm.token_count.prompt"]
    assert asked["openinference.span.kind"] == "LLM" and asked["gen_ai.response.finish_reasons"] == ["stop"]
    assert attributes(shape)["fslm.shape"] == "map" and attributes(louds[0])["gen_ai.tool.name"] == "t.loud"


def test_no_text_is_sent_unless_it_is_asked_for(receiver: Receiver, run: Run) -> None:
    run(SECRET, GOOD)
    sent = "".join(str(span) for span in receiver.spans)
    assert "customer" not in sent and "CUSTOMER" not in sent and "Judge" not in sent


def test_with_content_both_conventions_have_it(receiver: Receiver, run: Run) -> None:
    run(SECRET, GOOD, content="full")
    said = attributes(receiver.named("chat smollm2-135m")[0])
    (told,), (wrote,) = json.loads(said["gen_ai.input.messages"]), json.loads(said["gen_ai.output.messages"])
    assert told == {"role": "user", "parts": [{"type": "text", "content": SECRET}]}
    assert wrote["parts"][0]["content"] == GOOD and wrote["finish_reason"] == "stop"
    assert json.loads(said["gen_ai.system_instructions"])[0]["content"] == "Judge."
    assert said["llm.input_messages.1.message.content"] == SECRET and said["output.value"] == GOOD
    whole = attributes(receiver.named("invoke_workflow t")[0])
    assert json.loads(whole["input.value"]) == {"text": SECRET} and json.loads(whole["output.value"])["good"] is True


def test_redacted_blanks_what_is_marked(receiver: Receiver, run: Run) -> None:
    private = Stage("t.mood", input=Private, output=Mood, prompt="{{ text }}", model=SLM("smollm2-135m", tuned=True))
    run(SECRET, GOOD, content="redacted", stack=Stack("p", input=Private, output=Mood, steps=[private]))
    sent = "".join(str(span) for span in receiver.spans)
    assert "customer" not in sent and "[redacted]" in sent


def test_failed_attempts_and_steps_passed_over_are_told(receiver: Receiver, run: Run) -> None:
    run("dull", "no json", BAD)
    first, second = receiver.named("chat smollm2-135m")
    assert attributes(first)["error.type"] == "json" and first.status.code == 2 and second.status.code == 0
    (whole,) = receiver.named("invoke_workflow t")
    (skipped,) = [event for event in whole.events if event.name == "fslm.skipped"]
    assert whole.start_time_unix_nano <= skipped.time_unix_nano <= whole.end_time_unix_nano + 10**6


def test_a_run_that_fails_is_an_error(receiver: Receiver, run: Run) -> None:
    with pytest.raises(RunFailed):
        run("boom", GOOD)
    (whole,) = receiver.named("invoke_workflow t")
    assert whole.status.code == 2 and attributes(whole)["error.type"] == "tool"
    assert receiver.named("execute_tool t.loud")[0].status.code == 2


def test_spans_hang_below_the_caller_s(receiver: Receiver, provider: TracerProvider, run: Run) -> None:
    tracer = trace.get_tracer("program", tracer_provider=provider)
    with tracer.start_as_current_span("request"):
        run("fine", GOOD)
    (request,), (whole,) = receiver.named("request"), receiver.named("invoke_workflow t")
    assert whole.parent_span_id == request.span_id and whole.trace_id == request.trace_id


def test_an_agent_is_one(receiver: Receiver, provider: TracerProvider) -> None:
    tools, prompt = [bounded], "{{ text }}"
    helper = Agent(
        "t.helper", input=Text, output=Bounded, tools=tools, model=SLM("smollm2-135m"), prompt=prompt, most=2
    )
    script = ScriptedBackend({"t.helper.plan": json.dumps({"next": {"tool": "finish", "arguments": {"loud": "A"}}})})
    with Engine(backend=script, trace=False, observers=[Spans(provider)]) as engine:
        engine.run(Stack("a", input=Text, output=Bounded, steps=[helper]), {"text": "a"})
    (agent,) = receiver.named("invoke_agent t.helper")
    assert attributes(agent)["openinference.span.kind"] == "AGENT"


def test_a_replay_names_its_parent(receiver: Receiver, provider: TracerProvider) -> None:
    with Engine(backend=backend(GOOD, GOOD), trace=False, observers=[Spans(provider)]) as engine:
        first = engine.run(stack, {"text": "a b"})
        engine.replay(first, edits={"mood.good": False}, stack=stack)
    again = receiver.named("invoke_workflow t")[-1]
    assert attributes(again)["fslm.run.parent"] == first.id
    assert [event.name for event in again.events].count("fslm.taken") == 2


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(MissingExtraError, match="opentelemetry-api"):
        Spans()

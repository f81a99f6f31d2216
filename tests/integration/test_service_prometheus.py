"""An engine's counters as Prometheus scrapes them, over a real socket while runs are at work."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from prometheus_client import start_http_server
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.engine import Engine
from fslm_core.errors import MissingExtraError, RunFailed
from fslm_core.plugins import PluginHost
from fslm_core.serve.prometheus import Prometheus
from fslm_core.settings import load
from fslm_core.stack import Stack
from fslm_core.stage import SLM, Decoding, Stage, tool

SECRET = "the customer's own words"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Text(BaseModel):
    text: str


class Flag(BaseModel):
    flag: bool


class Said(BaseModel):
    said: str


flag = Stage(
    "t.flag",
    input=Text,
    output=Flag,
    prompt="Is it so? {{ text }}",
    model=SLM("smollm2-135m", tuned=True),
    decoding=Decoding(attempts=1),
)


@pytest.fixture
def scraped() -> Iterator[Prometheus]:
    made = Prometheus()
    yield made
    made.close()


@contextmanager
def served(app: Any) -> Iterator[str]:
    """An ASGI application behind uvicorn, on a port of its own."""
    bound = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
    begun = threading.Event()
    startup = server.startup

    async def started(*given: Any, **more: Any) -> None:
        await startup(*given, **more)
        begun.set()

    server.startup = started  # type: ignore[method-assign]
    thread = threading.Thread(target=asyncio.run, args=(server.serve(sockets=[bound]),))
    thread.start()
    try:
        assert begun.wait(30)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/metrics"
    finally:
        server.should_exit = True
        thread.join()


def fetched(url: str, accept: str = "") -> str:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept} if accept else {})) as answer:
        assert answer.status == 200
        return str(answer.read().decode())


def samples(text: str, parse: Callable[[str], Any] = text_string_to_metric_families) -> Samples:
    return {(s.name, frozenset(s.labels.items())): s.value for family in parse(text) for s in family.samples}


def value(found: Samples, name: str, **labels: str) -> float | None:
    """The one sample of that name that has these labels among its own."""
    values = [v for (known, own), v in found.items() if known == name and labels.items() <= set(own)]
    assert len(values) < 2
    return values[0] if values else None


def engine(tmp_path: Path, *answers: str, **more: Any) -> Engine:
    plain = load(files=(), data_dir=tmp_path)
    host = PluginHost(plain, installed=False)
    return Engine(settings=plain, host=host, backend=ScriptedBackend({"t.flag": answers}), trace=False, **more)


def test_it_is_scraped_while_runs_are_at_work(tmp_path: Path, scraped: Prometheus) -> None:
    inside, leave = threading.Event(), threading.Event()

    @tool("t.say", version="1")
    def say(flag: Flag) -> Said:
        inside.set()
        assert leave.wait(30)
        return Said(said=str(flag.flag))

    stack = Stack("t", input=Text, output=Said, steps=[flag, say])
    with (
        served(scraped) as url,
        engine(tmp_path, '{"flag":true}', "no", '{"flag":true}', observers=[scraped.observer()]) as opened,
    ):
        running = threading.Thread(target=opened.run, args=(stack, {"text": SECRET}))
        running.start()
        assert inside.wait(30)
        now = samples(fetched(url))
        while value(now, "fslm_runs_in_flight") != 1 or value(now, "fslm_tokens_cached_total") is None:
            now = samples(fetched(url))  # observers are told a moment later
        assert value(now, "fslm_runs_total") is None
        leave.set()
        running.join()
        with pytest.raises(RunFailed):
            opened.run(stack, {"text": SECRET})
        opened.run(stack, {"text": SECRET})
        while sum(v for (name, _), v in samples(fetched(url)).items() if name == "fslm_runs_total") < 3:
            pass
        text = fetched(url)
    found = samples(text)
    assert value(found, "fslm_runs_total", fslm_run_status="succeeded", gen_ai_workflow_name="t") == 2
    assert value(found, "fslm_runs_total", fslm_run_status="failed") == 1
    assert value(found, "fslm_runs_in_flight") == 0
    assert value(found, "fslm_attempts_failed_total", fslm_problem_kind="json", fslm_stage="t.flag") == 1
    assert value(found, "gen_ai_execute_tool_duration_seconds_count", fslm_stage="t.say") == 2
    assert value(found, "gen_ai_client_token_usage_sum", gen_ai_token_type="output", fslm_stage="t.flag") == 3
    assert value(found, "gen_ai_workflow_duration_seconds_bucket", le="+Inf", fslm_run_status="succeeded") == 2
    assert not any(word in text for word in ("customer", "words"))


def test_the_format_is_what_the_scraper_asks_for(tmp_path: Path, scraped: Prometheus) -> None:
    @tool("t.echo", version="1")
    def echo(text: Text) -> Said:
        return Said(said=text.text)

    with (
        engine(tmp_path, observers=[scraped.observer()]) as one,
        engine(tmp_path, observers=[scraped.observer()]) as two,
    ):
        for opened in (one, two):
            opened.run(Stack("t", input=Text, output=Said, steps=[echo]), {"text": SECRET})
    with served(scraped) as url:
        opened_text = fetched(url, "application/openmetrics-text; version=1.0.0")
        assert opened_text.rstrip().endswith("# EOF")
        assert value(samples(opened_text, open_families), "fslm_runs_total") == 2  # engines add up
        server, thread = start_http_server(0, "127.0.0.1", registry=scraped.registry)
        plain = fetched(f"http://127.0.0.1:{server.server_port}/metrics")
        server.shutdown()
        server.server_close()
        thread.join()
    assert value(samples(plain), "fslm_runs_total") == 2 == value(samples(scraped.text()), "fslm_runs_total")


def test_many_may_scrape_at_once(tmp_path: Path, scraped: Prometheus) -> None:
    @tool("t.echo", version="1")
    def echo(text: Text) -> Said:
        return Said(said=text.text)

    with engine(tmp_path, observers=[scraped.observer()]) as opened:
        opened.run(Stack("t", input=Text, output=Said, steps=[echo]), {"text": SECRET})
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.extend(scraped.text() for _ in range(50))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 200 and all(text.count("\nfslm_runs_total{") == 1 for text in texts)


def test_two_are_told_apart_and_the_processes_own_registry_is_left_alone(scraped: Prometheus) -> None:
    other = Prometheus()
    with closing(other):
        assert other.registry is not scraped.registry
    other.close()
    assert "fslm" not in other.text() and "python_gc" not in scraped.text()


@pytest.mark.parametrize(
    "module", ["prometheus_client", "opentelemetry.exporter.prometheus", "opentelemetry.sdk.metrics"]
)
def test_without_the_extra_it_says_what_to_install(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match="telling Prometheus") as told:
        Prometheus()
    assert "fslm-core[prometheus]" in str(told.value) and module in str(told.value)

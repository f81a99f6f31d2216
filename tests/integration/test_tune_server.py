"""A teacher behind a real OpenAI-compatible server on this machine: what it is asked, and how its failures end."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fslm_core.errors import TrainError

from ..tuning import RECIPE, TOPICS, Demo, place, plan, rows

pytestmark = pytest.mark.torch


class Server:
    """Answers chat completions as ``write`` says; ``asked`` is what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.write: Callable[[dict[str, Any]], str] = self.knows
        self.status = 200
        self.closing = threading.Event()
        self.silent = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(body)
                if outer.silent:
                    outer.closing.wait()
                self.send_response(outer.status)
                self.end_headers()
                choice = {"index": 0, "delta": {"content": outer.write(body)}, "finish_reason": "stop"}
                usage = {"prompt_tokens": 11, "completion_tokens": 4}
                for event in ({"choices": [choice]}, {"choices": [], "usage": usage}):
                    self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.wfile.write(b"data: [DONE]\n\n")

            def do_GET(self) -> None:
                raw = json.dumps({"data": [{"id": "big-one"}]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    @staticmethod
    def knows(body: dict[str, Any]) -> str:
        text = body["messages"][-1]["content"]
        return json.dumps({"topic": next(topic for word, topic in TOPICS.items() if word in text)})

    def close(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.close()


@pytest.fixture
def recipe(tmp_path: Path, server: Server) -> Path:
    teacher = f"""
    [teacher]
    backend = "openai"
    model = "big-one"
    base_url = "{server.url}"
    [teacher.budget]
    call_seconds = 30
    """
    return place(tmp_path, rows(24, topics=False), RECIPE + teacher)


def test_a_server_teaches(recipe: Path, server: Server, tiny_model: Callable[..., Path]) -> None:
    made = plan(recipe, Demo(tiny_model("llama")))
    assert len(server.asked) == 4 and {body["model"] for body in server.asked} == {"big-one"}
    schema = server.asked[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["topic"]["enum"] == ["GOODS", "MONEY"]
    assert len({body["seed"] for body in server.asked}) == 4
    (teaching,) = made.teaching
    assert (teaching.calls, teaching.tokens) == (20, 20 * 15)


def test_junk_an_error_and_silence_are_failures(recipe: Path, server: Server, tiny_model: Callable[..., Path]) -> None:
    demo = Demo(tiny_model("llama"))
    server.write = lambda body: "I am but a server."
    with pytest.raises(TrainError, match="4 of 4") as caught:
        plan(recipe, demo)
    assert "stage-failed: 4" in str(caught.value)
    server.status = 500
    with pytest.raises(TrainError, match="4 of 4") as caught:
        plan(recipe, demo, overrides=["seed=5"])
    assert "backend: 4" in str(caught.value)
    server.status, server.silent = 200, True
    with pytest.raises(TrainError, match="4 of 4") as caught:
        plan(recipe, demo, overrides=["seed=5", "teacher.budget.call_seconds=0.2"])
    assert "deadline: 4" in str(caught.value)

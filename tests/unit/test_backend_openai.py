"""The openai backend against a real HTTP server on this machine, which plays what each test asks."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

import pytest

from fslm_core.backends.openai import OpenAIBackend
from fslm_core.backends.protocol import Chunk, Generation, ModelRef, Request, Sampling
from fslm_core.errors import BackendError, CapabilityError, ContextOverflowError, DeadlineExceeded, FslmError
from fslm_core.prompt import Prompt, Span
from fslm_core.settings import OpenAISettings

T = TypeVar("T")


class Server:
    """Answers every request with ``play(handler)`` and remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.play: Callable[[BaseHTTPRequestHandler], None] = lambda handler: stream(handler, *events("Good", " day"))
        self.hung_up = threading.Event()
        self.finish = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                outer.headers.append(dict(self.headers))
                outer.play(self)

            def do_GET(self) -> None:
                plain(self, 200, {"data": [{"id": "greet"}, {"id": "served-name"}]})

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def close(self) -> None:
        self.finish.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def plain(handler: BaseHTTPRequestHandler, status: int, body: object) -> None:
    raw = json.dumps(body).encode() if not isinstance(body, bytes) else body
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(raw)))
    handler.end_headers()
    handler.wfile.write(raw)


def begin(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True


def stream(handler: BaseHTTPRequestHandler, *lines: str) -> None:
    begin(handler)
    for line in lines:
        handler.wfile.write(line.encode() + b"\n\n")
        handler.wfile.flush()


def delta(text: str = "", index: int = 0, **more: Any) -> str:
    return "data: " + json.dumps({"choices": [{"index": index, "delta": {"content": text}, **more}]})


def entry(token: str, logprob: float, raw: bytes | None = None) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(raw if raw is not None else token.encode())}


def events(*texts: str, finish: str = "stop") -> list[str]:
    pieces = [delta(t, logprobs={"content": [entry(t, -0.25)]}) for t in texts]
    usage = {"prompt_tokens": 11, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 5}}
    tail = "data: " + json.dumps({"choices": [], "usage": usage})
    return [": a comment", *pieces, delta(finish_reason=finish), tail, "data: [DONE]"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    made = Server()
    yield made
    made.close()


def ask(**options: Any) -> Request:
    prompt = Prompt((Span("Be brief.", "system"), Span("Say ", "user"), Span("hello", "user", False, "text")))
    options = {"grammar": None, "max_tokens": 9, "seed": 4, "model": ModelRef("base", stage="greet"), **options}
    return Request("r", prompt, **options)


def run(work: Callable[[OpenAIBackend], Coroutine[Any, Any, T]], url: str, **settings: Any) -> T:
    async def main() -> T:
        backend = OpenAIBackend(OpenAISettings(base_url=url, **settings))
        try:
            return await work(backend)
        finally:
            await backend.aclose()

    return asyncio.run(main())


def pieces(server: Server, request: Request | None = None, **settings: Any) -> list[Chunk | Generation]:
    async def work(backend: OpenAIBackend) -> list[Chunk | Generation]:
        return [piece async for piece in backend.open(request or ask())]

    return run(work, server.url, **settings)


def refused(server: Server, request: Request | None = None, **settings: Any) -> FslmError:
    with pytest.raises(FslmError) as caught:
        pieces(server, request, **settings)
    assert caught.value.hint
    return caught.value


def test_it_streams_and_ends_with_what_the_server_told(server: Server) -> None:
    *chunks, last = pieces(server)
    assert chunks == [Chunk("Good"), Chunk(" day")]
    assert isinstance(last, Generation)
    assert (last.text, last.texts, last.logprobs) == ("Good day", ("Good", " day"), (-0.25, -0.25))
    assert last.forced == (False, False) and last.tokens == () and last.finish_reason == "stop"
    counts = last.counts
    assert (counts.prompt, counts.cached, counts.output, counts.forced, counts.forwards) == (11, 5, 2, 0, 0)


def test_what_is_sent(server: Server) -> None:
    grammar = '{"type":"object","properties":{"a":{"type":"integer"}}}'
    sampling = Sampling(temperature=0.7, top_p=0.9, top_k=5)
    pieces(server, ask(grammar=grammar, sampling=sampling), models={"greet": "served-name"})
    (body,) = server.asked
    assert body["model"] == "served-name"
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello"}]
    assert (body["temperature"], body["top_p"], body["top_k"], body["seed"], body["max_tokens"]) == (0.7, 0.9, 5, 4, 9)
    assert body["response_format"]["json_schema"] == {"name": "output", "schema": json.loads(grammar), "strict": True}
    assert body["logprobs"] is True and body["stream"] is True


def test_the_key_is_sent_and_never_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret-123")
    server.play = lambda handler: plain(handler, 401, {"error": {"message": "bad key secret-123"}})
    error = refused(server, api_key_env="MY_KEY")
    assert server.headers[0]["Authorization"] == "Bearer secret-123"
    assert "secret-123" not in str(error) and "MY_KEY" in str(error.hint)


def test_several_outputs(server: Server) -> None:
    def play(handler: BaseHTTPRequestHandler) -> None:
        ends = [delta(index=i, finish_reason="stop") for i in (1, 0)]
        stream(handler, delta("b", 1), delta("a", 0), *ends, "data: [DONE]")

    server.play = play
    generations = [p for p in pieces(server, ask(n=2)) if isinstance(p, Generation)]
    assert [(g.index, g.text, g.logprobs) for g in generations] == [(0, "a", None), (1, "b", None)]


def test_a_split_character_belongs_to_its_last_token_and_a_listed_end_is_left_out(server: Server) -> None:
    fox = "🦊".encode()
    listed = [entry("?", -0.1, fox[:2]), entry("?", -0.2, fox[2:]), entry("<end>", -0.3)]
    server.play = lambda h: stream(h, delta("🦊", logprobs={"content": listed}, finish_reason="stop"), "data: [DONE]")
    last = pieces(server)[-1]
    assert isinstance(last, Generation)
    assert (last.texts, last.logprobs) == (("", "🦊"), (-0.1, -0.2))


def test_the_runner_up_is_the_likeliest_token_that_was_not_taken(server: Server) -> None:
    fox = "🦊".encode()
    listed = [
        {**entry("ye", -0.7), "top_logprobs": [entry("ye", -0.7), entry("n", -0.9), entry("x", -4)]},
        {**entry("s", -1.5), "top_logprobs": [entry("p", -0.2), entry("s", -1.5)]},
        {**entry("!", -0.1), "top_logprobs": [entry("!", -0.1), entry("?", -3, fox[:2])]},
        {**entry(".", -0.1), "top_logprobs": []},
    ]
    server.play = lambda h: stream(
        h, delta("yes!.", logprobs={"content": listed}, finish_reason="stop"), "data: [DONE]"
    )
    last = pieces(server)[-1]
    assert isinstance(last, Generation)
    assert last.runner_texts == ("n", "p", None, None)
    assert last.runners_up == ((-1, -0.9), (-1, -0.2), None, None)


def test_length(server: Server) -> None:
    server.play = lambda handler: stream(handler, *events("Good", finish="length"))
    last = pieces(server)[-1]
    assert isinstance(last, Generation) and last.finish_reason == "length"


def test_no_server_says_where_and_what_to_do() -> None:
    async def work(backend: OpenAIBackend) -> None:
        async for _ in backend.open(ask()):
            pass

    with pytest.raises(BackendError) as caught:
        run(work, "http://127.0.0.1:9/v1")
    assert caught.value.where == "http://127.0.0.1:9/v1" and "base_url" in str(caught.value.hint)


@pytest.mark.parametrize("url", ["localhost:8000", "http://[", "ftp://example.org"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(BackendError):
        run(lambda backend: backend.warm([]), url)


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_a_refusal_carries_the_servers_words(server: Server, status: int) -> None:
    server.play = lambda handler: plain(handler, status, {"error": {"message": "the moon is wrong"}})
    error = refused(server)
    assert str(status) in error.what and "the moon is wrong" in str(error.found)


def test_a_prompt_too_long(server: Server) -> None:
    server.play = lambda handler: plain(handler, 400, {"error": {"code": "context_length_exceeded"}})
    assert isinstance(refused(server), ContextOverflowError)


@pytest.mark.parametrize(
    "lines",
    [
        ["data: {not json"],
        ["data: 7"],
        ["<html>hello</html>"],
        ['data: {"choices": 3}'],
        ['data: {"choices": [{"index": 5, "delta": {"content": "x"}}]}'],
        [delta("half")],
        [delta("x", finish_reason="content_filter"), "data: [DONE]"],
        ['data: {"error": {"message": "out of memory"}}'],
    ],
)
def test_a_stream_that_is_wrong(server: Server, lines: list[str]) -> None:
    server.play = lambda handler: stream(handler, *lines)
    assert isinstance(refused(server), BackendError)


def test_a_stream_that_breaks_off(server: Server) -> None:
    def play(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        handler.wfile.write(delta("half").encode() + b"\n\n")
        handler.close_connection = True

    server.play = play
    assert "broke off" in refused(server).what


def hold(server: Server) -> None:
    """Begin an answer, then write on slowly until the client hangs up."""

    def play(handler: BaseHTTPRequestHandler) -> None:
        begin(handler)
        try:
            handler.wfile.write(delta("a").encode() + b"\n\n")
            while not server.finish.wait(0.02):
                handler.wfile.write(b": still here\n\n")
        except OSError:
            server.hung_up.set()

    server.play = play


def test_closing_hangs_up(server: Server) -> None:
    hold(server)

    async def work(backend: OpenAIBackend) -> bool:
        stream = backend.open(ask())
        assert await anext(stream) == Chunk("a")
        await stream.aclose()  # type: ignore[attr-defined]
        return await asyncio.to_thread(server.hung_up.wait, 30)

    assert run(work, server.url)


def test_a_deadline_hangs_up(server: Server) -> None:
    hold(server)
    with pytest.raises(DeadlineExceeded):
        pieces(server, ask(deadline=time.monotonic() + 0.3))
    assert server.hung_up.wait(30)


def test_warming_finds_a_missing_model(server: Server) -> None:
    run(lambda backend: backend.warm([ModelRef("base", stage="greet")]), server.url)
    with pytest.raises(BackendError, match="no model 'other'") as caught:
        run(lambda backend: backend.warm([ModelRef("base", stage="other")]), server.url)
    assert "served-name" in str(caught.value.found)


def test_it_cannot_score(server: Server) -> None:
    with pytest.raises(CapabilityError):
        run(lambda backend: backend.score(ask(), ["x"]), server.url)

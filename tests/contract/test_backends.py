"""One suite over every backend: what an engine may rely on, whichever it was given."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fslm_core.backends.openai import OpenAIBackend
from fslm_core.backends.protocol import Backend, Chunk, Generation, ModelRef, Request, Sampling
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.errors import CapabilityError, DeadlineExceeded, EngineStateError
from fslm_core.prompt import Prompt, Span
from fslm_core.settings import OpenAISettings, TorchSettings

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"category": {"enum": ["ORDER", "REFUND"]}},
        "required": ["category"],
        "additionalProperties": False,
    }
)
Make = Callable[[], Backend]


class _Handler(BaseHTTPRequestHandler):
    """A server that always says the same, one output for each asked for."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        for index in range(body.get("n", 1)):
            for text in ('{"category":', '"ORDER"}'):
                logprobs = {"content": [{"token": text, "logprob": -0.5, "bytes": None}]}
                self._event(index, {"content": text}, logprobs=logprobs)
            self._event(index, {}, finish_reason="stop")
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, index: int, delta: dict[str, str], **more: Any) -> None:
        event = {"choices": [{"index": index, "delta": delta, **more}]}
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")

    def do_GET(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{http.server_address[1]}/v1"
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture(params=["scripted", "openai", pytest.param("torch", marks=pytest.mark.torch)])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a new backend of one kind."""
    if request.param == "scripted":
        return lambda: ScriptedBackend({"s": '{"category":"ORDER"}'})
    if request.param == "openai":
        url = request.getfixturevalue("server")
        return lambda: OpenAIBackend(OpenAISettings(base_url=url))
    from fslm_core.backends.torch.backend import TorchBackend

    return lambda: TorchBackend(TorchSettings(device="cpu"))


@pytest.fixture
def folder(make: Make, request: pytest.FixtureRequest) -> Path | None:
    """A checkpoint for the backends that hold weights."""
    if not make().capabilities.weights:
        return None
    found: Path = request.getfixturevalue("tiny_model")()
    return found


def ask(folder: Path | None, **options: Any) -> Request:
    prompt = Prompt((Span("Sort this: ", "user"), Span("where is my order?", "user", False, "text")))
    options = {"grammar": SCHEMA, "max_tokens": 40, "model": ModelRef("tiny", folder, stage="s"), **options}
    return Request("r", prompt, **options)


async def pieces(backend: Backend, request: Request) -> list[Chunk | Generation]:
    return [piece async for piece in backend.open(request)]


def play(make: Make, *requests: Request) -> list[list[Chunk | Generation]]:
    """What one backend answers to requests sent at once."""

    async def main() -> list[list[Chunk | Generation]]:
        backend = make()
        try:
            return await asyncio.gather(*(pieces(backend, r) for r in requests))
        finally:
            await backend.aclose()

    return asyncio.run(main())


def test_it_is_a_backend_with_a_name(make: Make) -> None:
    backend = make()
    assert isinstance(backend, Backend)
    assert backend.name and backend.name == make().name
    assert backend.capabilities == make().capabilities


def test_chunks_add_up_to_the_generation_that_ends_the_stream(make: Make, folder: Path | None) -> None:
    (answer,) = play(make, ask(folder))
    *chunks, last = answer
    assert isinstance(last, Generation)
    assert chunks and all(isinstance(c, Chunk) for c in chunks)
    assert "".join(c.text for c in chunks) == last.text
    assert json.loads(last.text)["category"] in ("ORDER", "REFUND")
    assert (last.finish_reason, last.index, last.truncated) == ("stop", 0, 0)


def test_arrays_run_in_step(make: Make, folder: Path | None) -> None:
    (answer,) = play(make, ask(folder))
    last = answer[-1]
    assert isinstance(last, Generation)
    count = len(last.texts)
    assert "".join(last.texts) == last.text
    assert len(last.forced) == count == last.counts.output
    assert last.counts.forced == sum(last.forced)
    for array in (last.tokens, last.runners_up, last.runner_texts):
        assert len(array) in (0, count)
    assert (last.logprobs is not None) == make().capabilities.logprobs
    for logprob, forced in zip(last.logprobs or (), last.forced, strict=bool(last.logprobs)):
        assert logprob <= 0.0 and (logprob == 0.0 or not forced)
    assert min(last.times.queued, last.times.prefill, last.times.decode) >= 0.0


def test_requests_at_once_get_an_answer_each(make: Make, folder: Path | None) -> None:
    texts = [answer[-1].text for answer in play(make, *[ask(folder)] * 5)]
    assert len(set(texts)) == 1 and json.loads(texts[0])


def test_n_outputs_have_an_index_each(make: Make, folder: Path | None) -> None:
    (answer,) = play(make, ask(folder, n=2, sampling=Sampling(temperature=1.0)))
    generations = {p.index: p for p in answer if isinstance(p, Generation)}
    assert sorted(generations) == [0, 1]
    for index, generation in generations.items():
        assert "".join(p.text for p in answer if isinstance(p, Chunk) and p.index == index) == generation.text


def test_giving_up_leaves_the_backend_well(make: Make, folder: Path | None) -> None:
    async def main() -> list[Chunk | Generation]:
        backend = make()
        stream: Any = backend.open(ask(folder))
        await anext(stream)
        await stream.aclose()
        task = asyncio.create_task(pieces(backend, ask(folder)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        try:
            return await pieces(backend, ask(folder))
        finally:
            await backend.aclose()

    assert isinstance(asyncio.run(main())[-1], Generation)


def test_a_deadline_in_the_past_is_told(make: Make, folder: Path | None) -> None:
    with pytest.raises(DeadlineExceeded):
        play(make, ask(folder, deadline=time.monotonic() - 1))


def test_several_event_loops_may_use_it_in_turn(make: Make, folder: Path | None) -> None:
    backend = make()
    texts = []
    for _ in range(2):
        answer = asyncio.run(pieces(backend, ask(folder)))
        texts.append(answer[-1].text)
    asyncio.run(backend.aclose())
    assert texts[0] == texts[1]


def test_closed_is_closed(make: Make, folder: Path | None) -> None:
    async def main() -> None:
        backend = make()
        await backend.aclose()
        await backend.aclose()
        with pytest.raises(EngineStateError):
            await pieces(backend, ask(folder))

    asyncio.run(main())


def test_scores_are_given_where_they_are_promised(make: Make, folder: Path | None) -> None:
    async def main() -> None:
        backend = make()
        try:
            if backend.capabilities.score:
                scores = await backend.score(ask(folder), ("ORDER", "REFUND", ""))
                assert len(scores) == 3 and scores[2] == 0.0 and max(scores) <= 0.0
            else:
                with pytest.raises(CapabilityError):
                    await backend.score(ask(folder), ("ORDER",))
        finally:
            await backend.aclose()

    asyncio.run(main())


def test_warming_is_harmless(make: Make, folder: Path | None) -> None:
    async def main() -> list[Chunk | Generation]:
        backend = make()
        await backend.warm([ModelRef("tiny", folder, stage="s")])
        try:
            return await pieces(backend, ask(folder))
        finally:
            await backend.aclose()

    assert isinstance(asyncio.run(main())[-1], Generation)

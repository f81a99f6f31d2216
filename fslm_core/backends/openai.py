"""``openai``: any server that speaks the OpenAI protocol, such as vLLM with an adapter for each stage.

Text is streamed as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html). What a
server does not tell is not made up: there are no token ids and no forward counts, no token is called forced,
and log-probabilities are the server's own, which for many servers are those before the grammar's mask.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from ..errors import BackendError, CapabilityError, ContextOverflowError, DeadlineExceeded, EngineStateError, shorten
from ..settings import OpenAISettings
from .protocol import Capabilities, Chunk, Counts, Generation, ModelRef, Request, Times

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
SILENCE = 300.0
"""Seconds without a byte after which a server counts as gone."""
_HINTS = {
    401: "put a valid key into the environment variable {key}",
    403: "put a valid key into the environment variable {key}",
    404: "check openai.base_url, and openai.models for the name under which the server has this stage",
    429: "lower the concurrency, or try again later",
}


class OpenAIBackend:
    """Asks a server. Each stage is asked for by the model name that ``settings.models`` gives it, or its own.

    Args:
        settings: where the server is, its model names, and the variable that holds the key.
    """

    name = "openai"

    def __init__(self, settings: OpenAISettings | None = None) -> None:
        self._settings = settings or OpenAISettings()
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx2.AsyncClient] = WeakKeyDictionary()
        self._closed = False

    @property
    def capabilities(self) -> Capabilities:
        """No scoring, no weights of our own; everything else is the server's to give."""
        return Capabilities(score=False, n=16, weights=False)

    async def warm(self, models: Sequence[ModelRef]) -> Sequence[str]:
        """Make sure that the server answers and, where it lists its models, has those asked for.

        Raises:
            BackendError: it does not answer, or lacks a model.
        """
        response = await self._send(self._client().build_request("GET", "models"), None)
        try:
            listed = json.loads(await response.aread()) if response.is_success else {}
            served = {entry["id"] for entry in listed["data"]} if listed.get("data") else None
        except (ValueError, LookupError, TypeError, AttributeError):
            served = None
        finally:
            await response.aclose()
        for model in models:
            if served is not None and (name := self._model(model)) not in served:
                raise BackendError(
                    f"the server has no model {name!r}",
                    where=model.stage or None,
                    found=", ".join(sorted(served)),
                    hint=f'name the one to use in fslm.toml: [openai.models] "{model.stage}" = "…"',
                )
        return [""] * len(models)

    async def open(self, request: Request) -> AsyncIterator[Chunk | Generation]:
        """Stream ``request`` from the server; see :meth:`fslm_core.backends.protocol.Backend.open`."""
        asked = self._client().build_request("POST", "chat/completions", json=self._body(request))
        start = time.monotonic()
        answers = [_Answer(index) for index in range(request.n)]
        usage: dict[str, Any] = {}
        response = await self._send(asked, request.deadline)
        try:
            await self._refuse_failure(response, request)
            events = _events(response.aiter_lines(), self._server)
            while (event := await _within(request.deadline, anext(events, None))) is not None:
                if event.get("error"):
                    raise self._refusal(json.dumps(event["error"], ensure_ascii=False), 500, request)
                usage = event.get("usage") or usage
                for choice in event.get("choices") or ():
                    answer = answers[choice.get("index", 0)]
                    if text := answer.add(choice):
                        yield Chunk(text, answer.index)
            for answer in answers:
                yield answer.generation(usage, start, time.monotonic(), self._server)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise BackendError(
                f"the server's answer is not what the protocol says: {type(error).__name__}: {error}",
                where=self._server,
                hint="check that openai.base_url is an OpenAI-compatible server",
            ) from None
        except _http().HTTPError as error:
            raise self._unreachable(error) from None
        finally:
            await response.aclose()

    async def score(self, request: Request, continuations: Sequence[str]) -> tuple[float, ...]:
        """Raise: the protocol has no way to ask for the likelihood of a given text."""
        raise CapabilityError(
            "the openai backend cannot score",
            where=f"stage {request.model.stage}",
            hint="use the torch backend for this stage",
        )

    async def aclose(self) -> None:
        """Close this loop's connections. Idempotent."""
        self._closed = True
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _client(self) -> httpx2.AsyncClient:
        """The client of this event loop: connections cannot be shared between loops."""
        if self._closed:
            raise EngineStateError("the backend is closed", where="the openai backend", hint="open a new engine")
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = self._new_client()
        return self._clients[loop]

    def _new_client(self) -> httpx2.AsyncClient:
        key = self._key()
        try:
            client: httpx2.AsyncClient = _http().AsyncClient(
                base_url=self._settings.base_url,
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=_http().Timeout(SILENCE, connect=10.0, pool=None),
                limits=_http().Limits(max_connections=None),
            )
        except (ValueError, _http().InvalidURL) as error:  # a header that cannot be sent, a URL that is none
            what = "the key or the address of the server cannot be used"
            hint = f"check openai.base_url in fslm.toml and the variable {self._settings.api_key_env}"
            raise BackendError(f"{what}: {type(error).__name__}", where=self._server, hint=hint) from None
        return client

    @property
    def _server(self) -> str:
        """The server's address as errors may show it: without a user name or a password."""
        return re.sub(r"(?<=//)[^/@]*@", "", self._settings.base_url)

    def _key(self) -> str:
        return os.environ.get(self._settings.api_key_env, "")

    def _model(self, model: ModelRef) -> str:
        return self._settings.models.get(model.stage, model.stage) or model.checkpoint

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self._model(request.model),
            "messages": [{"role": role, "content": text} for role, text in request.prompt.turns],
            "max_tokens": request.max_tokens,
            "temperature": sampling.temperature,
            "seed": request.seed % 2**63,
            "stream": True,
            "stream_options": {"include_usage": True},
            "logprobs": True,
            "top_logprobs": 2,
        }
        if sampling.temperature > 0:
            body["top_p"] = sampling.top_p
        if sampling.temperature > 0 and sampling.top_k > 0:
            body["top_k"] = sampling.top_k
        if request.n > 1:
            body["n"] = request.n
        if request.grammar is not None:
            schema = {"name": "output", "schema": json.loads(request.grammar), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    async def _send(self, asked: httpx2.Request, deadline: float | None) -> httpx2.Response:
        try:
            return await _within(deadline, self._client().send(asked, stream=True))
        except _http().HTTPError as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> BackendError:
        return BackendError(
            f"the server cannot be reached or broke off: {type(error).__name__}: {error}",
            where=self._server,
            hint="start the server, or set openai.base_url in fslm.toml",
        )

    async def _refuse_failure(self, response: httpx2.Response, request: Request) -> None:
        if not response.is_success:
            text = (await _within(request.deadline, response.aread())).decode("utf-8", "replace")
            raise self._refusal(text, response.status_code, request)

    def _refusal(self, text: str, status: int, request: Request) -> BackendError:
        """The error for what a server said. A key that it repeats is blanked."""
        text = text.replace(self._key() or "\0", "…")
        if "context_length" in text or "context length" in text:
            return ContextOverflowError(
                "the prompt does not fit the model's context",
                where=f"{self._server}, model {self._model(request.model)}",
                found=text,
                hint="shorten the input"
                + ("; this backend cannot truncate" if request.on_overflow == "truncate" else " or the template"),
            )
        return BackendError(
            f"the server refused the request with status {status}",
            where=f"{self._server}, model {self._model(request.model)}",
            found=text,
            hint=_HINTS.get(status, "see the server's log").format(key=self._settings.api_key_env),
        )


@dataclass(slots=True)
class _Answer:
    """One output as its pieces come in."""

    index: int
    texts: list[str] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)
    finish: str | None = None
    first: float = 0.0

    def add(self, choice: dict[str, Any]) -> str:
        """Take a piece and return its text."""
        text: str = (choice.get("delta") or {}).get("content") or ""
        if text:
            self.first = self.first or time.monotonic()
            self.texts.append(text)
        self.entries += (choice.get("logprobs") or {}).get("content") or ()
        self.finish = choice.get("finish_reason") or self.finish
        return text

    def generation(self, usage: dict[str, Any], start: float, end: float, server: str) -> Generation:
        """The whole output.

        Raises:
            BackendError: the server ended without saying that the answer is whole, or withheld it.
        """
        if self.finish not in ("stop", "length"):
            raise BackendError(
                "the server's answer broke off" if self.finish is None else "the server withheld its answer",
                where=server,
                found=self.finish,
                hint="try again, and see the server's log",
            )
        text = "".join(self.texts)
        entries = self._tokens(text)
        texts = _texts(entries)
        runners = tuple(map(_runner_up, entries))
        details = usage.get("prompt_tokens_details") or {}
        alone = usage.get("completion_tokens", 0) if self.index == 0 else 0
        return Generation(
            text=text,
            index=self.index,
            texts=texts,
            logprobs=tuple(min(0.0, float(entry["logprob"])) for entry in entries) if entries else None,
            forced=(False,) * len(texts),
            runners_up=tuple(runner and (-1, runner[1]) for runner in runners),
            runner_texts=tuple(runner and runner[0] for runner in runners),
            finish_reason="length" if self.finish == "length" else "stop",
            counts=Counts(
                prompt=usage.get("prompt_tokens", 0),
                cached=details.get("cached_tokens") or 0,
                output=len(texts) if texts else alone,
            ),
            times=Times(prefill=(self.first or end) - start, decode=end - (self.first or end)),
        )

    def _tokens(self, text: str) -> Sequence[dict[str, Any]]:
        """What the server told of each token; nothing where the tokens do not add up to the text."""
        for entries in (self.entries, self.entries[:-1]):  # some servers list the end token too
            if "".join(_texts(entries)) == text:
                return entries
        return ()


def _texts(entries: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Token texts; a character split over tokens belongs to its last."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return tuple(decoder.decode(bytes(e["bytes"])) if e.get("bytes") is not None else e["token"] for e in entries)


def _runner_up(entry: dict[str, Any]) -> tuple[str, float] | None:
    """The likeliest token that was not taken, with its log-probability; None where the server tells none, or half a
    character."""
    others = [other for other in entry.get("top_logprobs") or () if other.get("token") != entry["token"]]
    if not others:
        return None
    best = max(others, key=lambda other: float(other["logprob"]))
    text = "".join(_texts([best]))
    return (text, min(0.0, float(best["logprob"]))) if text and "\ufffd" not in text else None


async def _events(lines: AsyncIterator[str], server: str) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a stream of server-sent events, up to ``[DONE]``."""
    async for line in lines:
        name, _, value = line.partition(":")
        value = value.strip()
        if name == "data" and value == "[DONE]":
            return
        if name == "data":
            try:
                event = json.loads(value)
            except ValueError:
                event = None
            if not isinstance(event, dict):
                raise _malformed(line, server)
            yield event
        elif name not in ("", "event", "id", "retry"):
            raise _malformed(line, server)


def _malformed(line: str, server: str) -> BackendError:
    return BackendError(
        "the server sent a stream that cannot be read",
        where=server,
        found=shorten(line, 200),
        expected="server-sent events with JSON data",
        hint="check that openai.base_url is an OpenAI-compatible server that streams",
    )


async def _within(deadline: float | None, work: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic())):
            return await work
    except TimeoutError:
        raise DeadlineExceeded(
            "the time allowed has passed",
            where="the openai backend",
            hint="allow more time, or ask for fewer tokens",
        ) from None


def _http() -> Any:
    import httpx2

    return httpx2


__all__ = ["OpenAIBackend"]

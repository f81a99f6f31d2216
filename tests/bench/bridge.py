"""Another engine behind our backend protocol: a process that is told prompts and tells texts, in lines of JSON.

So that the same Engine walks the stack for everybody. What the bridge itself costs is measured with a process that only
echoes (:mod:`tests.bench.replay`), and printed.

The process is started as ``PYTHON PROGRAM --job JOB.json``. It says ``{"event": "ready", …}`` once, then answers every
``{"op": "submit", "id", "stage", "ids", "schema"}`` with ``{"event": "done", "id", "text", "tokens", …}`` in whatever
order, or with ``{"event": "failed", "id", "message"}``. ``reset`` clears prefix caches and answers ``{"event":
"reset"}``, ``stats`` answers ``{"event": "stats", …}``, ``close`` ends it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from fslm_core.backends.protocol import Capabilities, Chunk, Counts, Generation, ModelRef, Request, Times
from fslm_core.errors import BackendError

Encode = Callable[[Request], Sequence[int]]
_LINE = 1 << 24
"""The longest line that is read, bytes."""


class PeerBackend:
    """Forwards requests to another engine's process and awaits its texts.

    Args:
        command: the program, to which ``--job FILE`` is added.
        job: what it is told: ``base``, ``gguf``, ``stages`` (``name``, ``schema``, ``max_tokens``; the adapter is added
            here), ``arm``, ``threads``, ``work_dir``.
        encode: gives a request's prompt as token ids; called on a thread.
        environment: variables added to ours.

    Attributes:
        ready: what the process said when it was ready.
    """

    name = "peer"

    def __init__(
        self,
        command: Sequence[str],
        job: Mapping[str, Any],
        encode: Encode,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = list(command)
        self._job = dict(job)
        self._encode = encode
        self._environment = {**os.environ, **(environment or {})}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bridge")
        self._ids = itertools.count()
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = False
        self._complaint = ""
        self.ready: dict[str, Any] = {}

    @property
    def capabilities(self) -> Capabilities:
        """One greedy output, no log-probabilities."""
        return Capabilities(logprobs=False, score=False, streaming=False, sampling=False)

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._process.pid if self._process else None

    async def warm(self, models: Sequence[ModelRef]) -> Sequence[str]:
        """Start the process and wait until it is ready.

        Raises:
            BackendError: it ended before it was.
        """
        if self._process is None:
            self._loop = asyncio.get_running_loop()
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                "--job",
                str(self._write_job(models)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=self._environment,
                limit=_LINE,
            )
            awaited = self._expect("ready")
            self._reader = asyncio.create_task(self._read(self._process))
            self.ready = await awaited
        said = str(self.ready.get("engine", ""))
        return [f"{said} {self.ready.get('arm', '')}".strip()] * len(models)

    async def open(self, request: Request) -> AsyncIterator[Chunk | Generation]:
        """Submit the request and await its text."""
        ids = await asyncio.get_running_loop().run_in_executor(self._thread, self._encode, request)
        name = str(next(self._ids))
        asked = time.monotonic()
        submit = {"op": "submit", "id": name, "stage": request.model.stage, "ids": list(ids), "schema": request.grammar}
        done = await self._ask(name, submit)
        if done["event"] == "failed":
            raise BackendError(f"the peer failed: {done['message']}", where=request.model.stage, hint="see its log")
        yield _generation(done, len(ids), time.monotonic() - asked)

    async def reset(self) -> None:
        """Clear its prefix caches."""
        await self._ask("reset", {"op": "reset"})

    async def stats(self) -> dict[str, Any]:
        """What it counts."""
        return await self._ask("stats", {"op": "stats"})

    async def score(self, request: Request, continuations: Sequence[str]) -> tuple[float, ...]:
        """Not offered."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Ask it to end, and see to it."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            with suppress(OSError):
                process.stdin.write(b'{"op": "close"}\n')
                await process.stdin.drain()
            try:
                await asyncio.wait_for(process.wait(), 20)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._reader is not None:
            await self._reader
        self._thread.shutdown(wait=False)

    def _write_job(self, models: Sequence[ModelRef]) -> Path:
        adapters = {ref.stage: str(ref.adapter) for ref in models}
        stages = [{**stage, "adapter": adapters[stage["name"]]} for stage in self._job["stages"]]
        job = {**self._job, "base": str(models[0].path), "stages": stages}
        file = Path(job["work_dir"]) / f"job-{job['arm']}.json"
        file.write_text(json.dumps(job), encoding="utf-8")
        return file

    def _expect(self, name: str) -> asyncio.Future[dict[str, Any]]:
        self._waiting[name] = asyncio.get_running_loop().create_future()
        return self._waiting[name]

    async def _ask(self, name: str, what: Mapping[str, Any]) -> dict[str, Any]:
        """On whichever loop this is called: the process is spoken to on the loop that started it."""
        assert self._loop is not None
        if asyncio.get_running_loop() is not self._loop:
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._ask(name, what), self._loop))
        if self._ended or self._process is None or self._process.stdin is None:
            raise self._gone()
        answer = self._expect(name)
        try:
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            await self._process.stdin.drain()
            return await answer
        finally:
            self._waiting.pop(name, None)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            if not line.startswith(b"{"):
                continue  # an engine's own chatter
            event = json.loads(line)
            name = event.get("id", event["event"])
            if event["event"] == "error":
                self._complaint = str(event["message"])
            if (waits := self._waiting.get(str(name))) is not None and not waits.done():
                waits.set_result(event)
        self._ended = True
        for waits in self._waiting.values():
            if not waits.done():
                waits.set_exception(self._gone())

    def _gone(self) -> BackendError:
        return BackendError(
            f"the peer's process ended: {self._complaint or 'it did not say why'}",
            where=" ".join(self._command),
            hint="see what it wrote last",
        )


def _generation(done: Mapping[str, Any], prompt: int, seconds: float) -> Generation:
    tokens = done.get("tokens") or 0
    written = tokens if isinstance(tokens, int) else len(tokens)
    cached = int(done.get("prompt_tokens_cached") or 0)
    text = str(done["text"])
    return Generation(
        text=text,
        texts=(text,),
        forced=(False,),
        finish_reason="length" if done.get("finish_reason") == "length" else "stop",
        counts=Counts(prompt, cached, written, int(done.get("forced") or 0), int(done.get("forwards") or written)),
        times=Times(0.0, 0.0, seconds),
    )


__all__ = ["Encode", "PeerBackend"]

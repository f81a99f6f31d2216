"""How a peer and the benchmark talk: a job file, then one JSON object a line over standard input and output.

The benchmark starts ``python -m tests.bench.peers.<module> --job JOB.json`` in the peer's own environment and reads
``{"event": "ready", …}`` once the engine is loaded and warm. From then on it may write at any time:

``{"op": "submit", "id", "stage", "ids", "schema"?, "max_tokens"?}``
    token ids in, answered by ``{"event": "done", "id", "text", "tokens", "latency_s", "prompt_tokens_computed",
    "prompt_tokens_cached"}`` as soon as it is finished, in whatever order, or by ``{"event": "failed", "id",
    "message"}``. ``schema`` and ``max_tokens`` stand in for the stage's own.
``{"op": "reset", "tag"?}``
    forget every cached prompt, once nothing is in flight; answered by ``{"event": "reset"}``.
``{"op": "stats", "tag"?}``
    answered by ``{"event": "stats", "peak_rss_mb", …}``.
``{"op": "close"}``
    or the end of the input, ends the program. Both answers carry the ``tag`` they were asked with.

Standard output carries nothing else: whatever an engine prints of its own accord goes to standard error. Weights are
converted by a process of their own (``--prepare``), so that their making counts neither as memory nor as loading.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WARM_IDS = (1, 9690, 198, 64, 2, 198, 1, 4093, 198, 65, 66, 67, 68, 2, 198, 1, 520, 9531, 198)
"""A short chat of no meaning; ids of any vocabulary of a few thousand tokens."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the stack. ``schema`` is compact JSON Schema text, or None for free text."""

    name: str
    adapter: Path | None
    schema: str | None
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Job:
    """What to run and how.

    Attributes:
        base: checkpoint folder: ``config.json``, ``model.safetensors``, ``tokenizer.json``.
        gguf: the 4-bit file that ``base`` was made of, where there is one.
        arm: ``merged-…`` has each adapter's weights added to a copy of the base, ``adapter-…`` keeps one base.
        work_dir: where converted weights are kept between runs.
    """

    base: Path
    gguf: Path | None
    stages: tuple[Stage, ...]
    arm: str
    threads: int
    work_dir: Path

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read a job file."""
        data = json.loads(path.read_text(encoding="utf-8"))
        stages = tuple(
            Stage(s["name"], Path(s["adapter"]) if s.get("adapter") else None, s.get("schema"), int(s["max_tokens"]))
            for s in data["stages"]
        )
        work_dir = Path(data["work_dir"])
        work_dir.mkdir(parents=True, exist_ok=True)
        gguf = Path(data["gguf"]) if data.get("gguf") else None
        return cls(Path(data["base"]), gguf, stages, data["arm"], int(data.get("threads", 2)), work_dir)

    @property
    def way(self) -> str:
        """``merged`` or ``adapter``: the arm's first word."""
        return self.arm.split("-", 1)[0]

    @property
    def precision(self) -> str:
        """What follows the arm's first word."""
        return self.arm.split("-", 1)[1]

    @property
    def context(self) -> int:
        """Tokens that hold a prompt of 640 and the longest answer, in whole 256."""
        return -(-(640 + max(stage.max_tokens for stage in self.stages)) // 256) * 256

    def stage(self, name: str) -> Stage:
        """Return the stage of this name."""
        return next(stage for stage in self.stages if stage.name == name)


@dataclass(slots=True)
class Request:
    """One answer wanted. ``begun`` is when it was read, in :func:`time.perf_counter` seconds."""

    id: str
    stage: str
    ids: list[int]
    schema: str | None
    max_tokens: int
    begun: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer. ``computed`` and ``cached`` count prompt tokens; None where the engine does not tell."""

    text: str
    tokens: int
    computed: int | None = None
    cached: int | None = None


Tell = Callable[[Request, "Answer | Exception"], None]


class Engine(ABC):
    """One peer at work. ``tell`` may be called from any thread, once for each request."""

    label = "engine"
    """Name and version, for the tables."""

    def __init__(self, job: Job, tell: Tell) -> None:
        self.job = job
        self.tell = tell

    @classmethod
    def prepare(cls, job: Job) -> None:
        """Convert and keep the weights the arm needs; runs in a process of its own, before loading."""
        return None

    @abstractmethod
    def submit(self, request: Request) -> None:
        """Take a request without waiting for anything."""

    @abstractmethod
    def step(self) -> bool:
        """Do a little work on the serving thread; False if there is none (or others do it)."""

    def reset(self) -> None:
        """Forget cached prompts. Called with nothing in flight."""
        return None

    def pids(self) -> Sequence[int]:
        """Return the other processes whose memory counts."""
        return ()

    def settings(self) -> dict[str, Any]:
        """Return what is worth knowing about how this engine was set up."""
        return {}

    def close(self) -> None:
        """Stop."""
        return None


def peak_rss_mb(pids: Sequence[int] = ()) -> float:
    """Return the peak resident memory of this process and ``pids`` together, in MiB."""
    total = 0
    for pid in (os.getpid(), *pids):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
            total += int(status.partition("VmHWM:")[2].split()[0])
    return round(total / 1024, 1)


class _Server:
    """Reads operations, drives the engine, writes events."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.flying = 0
        self._writing = threading.Lock()
        self._counting = threading.Lock()
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def say(self, event: str, **facts: Any) -> None:
        line = json.dumps({"event": event, **facts}, ensure_ascii=False)
        with self._writing:
            self._out.write(line + "\n")
            self._out.flush()

    def tell(self, request: Request, answer: Answer | Exception) -> None:
        seconds = round(time.perf_counter() - request.begun, 6)
        with self._counting:
            self.flying -= 1
        if isinstance(answer, Exception):
            return self.say("failed", id=request.id, message=f"{type(answer).__name__}: {answer}")
        self.say(
            "done", id=request.id, text=answer.text, tokens=answer.tokens, latency_s=seconds,
            prompt_tokens_computed=answer.computed, prompt_tokens_cached=answer.cached,
        )  # fmt: skip

    def read(self) -> None:
        for line in sys.stdin:
            if line.strip():
                op = json.loads(line)
                op["begun"] = time.perf_counter()
                self.inbox.put(op)
        self.inbox.put({"op": "close"})

    def run(self, kind: type[Engine], prepare_s: float) -> None:
        began = time.perf_counter()
        engine = kind(self.job, self._warming)
        self._warm(engine)
        engine.tell = self.tell
        self.say(
            "ready", engine=engine.label, arm=self.job.arm, load_s=round(time.perf_counter() - began, 3),
            prepare_s=round(prepare_s, 3), peak_rss_mb=peak_rss_mb(engine.pids()), settings=engine.settings(),
        )  # fmt: skip
        threading.Thread(target=self.read, daemon=True).start()
        try:
            self._loop(engine)
        finally:
            engine.close()

    def _warm(self, engine: Engine) -> None:
        """One answer of every stage alone, then one of every stage together."""
        for stages in (*([s] for s in self.job.stages), self.job.stages):
            self._warmed: list[Answer | Exception] = []
            for stage in stages:
                most = min(stage.max_tokens, 24)
                engine.submit(Request(f"warm-{stage.name}", stage.name, list(WARM_IDS), stage.schema, most))
            while len(self._warmed) < len(stages):
                if not engine.step():
                    time.sleep(0.001)
            for answer in self._warmed:
                if isinstance(answer, Exception):
                    raise answer

    def _warming(self, request: Request, answer: Answer | Exception) -> None:
        self._warmed.append(answer)

    def _loop(self, engine: Engine) -> None:
        while True:
            worked = engine.step()
            while True:
                try:
                    op = self.inbox.get(block=not worked)
                except queue.Empty:
                    break
                worked = True  # there is something to do now: take what else waits, then do it
                if op["op"] == "close":
                    return
                self._serve(op, engine)

    def _serve(self, op: dict[str, Any], engine: Engine) -> None:
        name = op["op"]
        if name == "submit":
            with self._counting:
                self.flying += 1
            request = self._request(op)
            try:
                engine.submit(request)
            except Exception as error:
                self.tell(request, error)
        elif name == "reset":
            while self.flying:
                if not engine.step():
                    time.sleep(0.001)
            engine.reset()
            self.say("reset", tag=op.get("tag"))
        elif name == "stats":
            self.say("stats", tag=op.get("tag"), peak_rss_mb=peak_rss_mb(engine.pids()), settings=engine.settings())
        else:
            self.say("error", message=f"no operation {name!r}")

    def _request(self, op: dict[str, Any]) -> Request:
        stage = self.job.stage(op["stage"])
        schema = op.get("schema") or stage.schema
        return Request(
            op["id"], stage.name, op["ids"], schema, int(op.get("max_tokens") or stage.max_tokens), op["begun"]
        )


def main(choose: Callable[[Job], type[Engine]], module: str) -> None:
    """Run a peer's program.

    Args:
        choose: names the engine of a job's arm.
        module: the program's importable name, to prepare the weights in another process.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--prepare", action="store_true", help="convert the weights the arm needs, and stop")
    arguments = parser.parse_args()
    job = Job.read(arguments.job)
    kind = choose(job)
    if arguments.prepare:
        return kind.prepare(job)
    server = _Server(job)
    began = time.perf_counter()
    try:
        subprocess.run([sys.executable, "-m", module, "--job", str(arguments.job), "--prepare"], check=True)
        server.run(kind, time.perf_counter() - began)
    except Exception as error:
        traceback.print_exc()
        server.say("error", message=f"{type(error).__name__}: {error}")
        sys.stderr.flush()
        os._exit(2)  # some engines hang in their exit handlers after a failure
    os._exit(0)


__all__ = ["Answer", "Engine", "Job", "Request", "Stage", "Tell", "main", "peak_rss_mb"]

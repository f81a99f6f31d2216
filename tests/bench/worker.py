"""One engine in a process of its own: ``python -m tests.bench worker SPEC.json``, told what to do in lines of JSON.

The process is pinned to the benchmark's cores before anything is imported that makes threads. The stack is walked by an
ordinary :class:`fslm_core.Engine` without a trace, whatever backend stands behind it, so that the client costs the same
for everybody. Operations: ``load``, ``ask`` (inputs at a concurrency, with outputs and counts), ``time`` (the same
without), ``isolation``, ``memory``, ``close``.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fslm_core import Engine, Run, Stack, Usage
from fslm_core.backends.protocol import Backend, Generation, Request
from fslm_core.errors import FslmError, RunFailed, StageFailedError
from fslm_core.message import Attempt, Message
from fslm_core.schema import plain_data

from . import isolation
from .engines import EngineSpec
from .measure import closed_loop, family
from .problems import BenchError
from .recording import Encoder, Recorder, ReplayBackend
from .workloads import WORKLOADS

IN_FLIGHT = 4096


@dataclass(frozen=True)
class Job:
    """What a worker is told at its start.

    Attributes:
        cores: the processor cores it may use, with all that it starts.
        torch: settings of the torch backend that go before the engine's own.
        peer: command, environment and job of another engine's process.
        answers: the file of known answers, for the replays.
    """

    engine: EngineSpec
    workload: str
    cores: tuple[int, ...]
    torch: Mapping[str, Any]
    peer: Mapping[str, Any] | None = None
    answers: str | None = None

    @classmethod
    def read(cls, file: Path) -> Job:
        """Read a file that was written of :meth:`plain`."""
        told = json.loads(file.read_text(encoding="utf-8"))
        return cls(**{**told, "engine": EngineSpec.of(told["engine"]), "cores": tuple(told["cores"])})

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


class Worker:
    """The engine and what is done with it."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._stack: Stack[Any, Any] = WORKLOADS[job.workload].stack()
        self._recorder: Recorder | None = None
        self._engine: Engine | None = None
        self._usage = Usage()
        self._messages = 0

    async def load(self) -> dict[str, Any]:
        """Open the engine: everything up to where the first request can be taken."""
        began = time.perf_counter()
        await self._open()
        assert self._engine is not None
        origins = await asyncio.to_thread(self._engine.origins, self._stack)
        ready = getattr(self._inner, "ready", {})
        return {
            "load_s": ready.get("load_s", time.perf_counter() - began),
            "prepare_s": ready.get("prepare_s", 0.0),
            "runs": sorted({origin.backend or "" for origin in origins.values()}),
            "settings": ready.get("settings", {}),
        }

    async def _open(self) -> None:
        self._inner = make_backend(self._job, self._stack)
        self._recorder = Recorder(self._inner)
        self._engine = Engine([self._stack], backend=self._recorder, trace=False, max_in_flight=IN_FLIGHT)
        await self._engine.__aenter__()

    async def close(self) -> dict[str, Any]:
        """Close the engine."""
        if self._engine is not None:
            await self._engine.aclose()
        return {}

    async def ask(
        self, inputs: Sequence[Any], concurrency: int, patience: float = math.inf, record: bool = False
    ) -> dict[str, Any]:
        """Run the inputs and say what came of each; with ``record`` also every generation, token by token.

        Returns:
            ``rows`` (those answered before patience ended), and for each of all rows ``outputs`` (plain data, None
            where a run failed) and ``texts`` (by step); ``problems``, ``messages``, ``seconds``.
        """
        found: dict[int, Run[Any]] = {}

        async def one(place: tuple[int, Any]) -> bool:
            run = await self._run(place[1])
            found[place[0]] = run
            return run.result is not None

        assert self._recorder is not None
        self._recorder.kept = [] if record else None
        timing = await closed_loop(one, list(enumerate(inputs)), concurrency, patience)
        kept, self._recorder.kept = self._recorder.kept or [], None
        return {
            "rows": sorted(found),
            "outputs": [_output(found.get(index)) for index in range(len(inputs))],
            "texts": [_texts(found[index]) if index in found else {} for index in range(len(inputs))],
            "problems": [str(run.error) for run in found.values() if run.error is not None][:5],
            "messages": self._told(kept, found) if record else [],
            "seconds": timing.seconds,
        }

    async def time(self, inputs: Sequence[Any], concurrency: int, patience: float) -> dict[str, Any]:
        """A closed loop, and what it cost in tokens and forwards."""
        self._usage, self._messages = Usage(), 0

        async def one(value: Any) -> bool:
            run = await self._run(value)
            attempts = _attempts(run)
            self._usage = sum((attempt.usage for attempt in attempts), self._usage)
            self._messages += len(attempts)
            return run.result is not None

        timing = await closed_loop(one, inputs, concurrency, patience)
        return {**asdict(timing), "usage": asdict(self._usage), "messages": self._messages}

    async def isolation(self, inputs: Sequence[Any]) -> dict[str, Any]:
        """Whether the adapters are kept apart, tried on the prompts of these inputs."""
        assert self._recorder is not None
        self._recorder.kept = []
        for value in inputs:
            await self._run(value)
        kept, self._recorder.kept = self._recorder.kept, None
        requests: dict[str, list[Request]] = {step.stage.name: [] for step in self._stack.steps}
        for request, _ in kept:
            requests[request.model.stage].append(request)
        found = await isolation.check(self._text, self._reset, requests)
        return {**asdict(found), "verdict": found.verdict}

    async def margins(self, cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Nats between two tokens after a prompt and the beginning of an answer, by the generic executor in float32."""
        return {"margins": await asyncio.to_thread(_margins, self._stack, cases)}

    async def also(self, workload: str, inputs: Sequence[Any]) -> dict[str, Any]:
        """Run inputs through the stack of another workload in the same engine, which loads what it lacks."""
        assert self._engine is not None
        for value in inputs:
            await self._engine.arun(WORKLOADS[workload].stack(), value)
        return {}

    async def memory(self) -> dict[str, Any]:
        """Peak and present resident memory of whoever holds the model, MiB."""
        pid = getattr(self._inner, "pid", None) or os.getpid()
        return {"peak_rss_mb": _status(pid, "VmHWM"), "rss_mb": _status(pid, "VmRSS")}

    async def _run(self, value: Any) -> Run[Any]:
        """Run one input; an answer that is not valid is an answer, all else that goes wrong ends the benchmark."""
        assert self._engine is not None
        try:
            return await self._engine.arun(self._stack, value)
        except RunFailed as failed:
            if isinstance(failed.error, StageFailedError):
                return failed.run
            raise

    async def _text(self, request: Request) -> str:
        async for piece in self._inner.open(request):
            if isinstance(piece, Generation):
                return piece.text
        raise BenchError("the backend ended without an answer")

    async def _reset(self) -> None:
        """Empty every cache: ask for it, or open another engine."""
        if hasattr(self._inner, "reset"):
            await self._inner.reset()
        else:
            await self.close()
            await self._open()

    def _told(self, kept: Sequence[tuple[Request, Generation]], runs: Mapping[int, Run[Any]]) -> list[dict[str, Any]]:
        """Every generation with its row, step and prompt; requests name their run first."""
        rows = {run.id: index for index, run in runs.items()}
        encoder = Encoder(_checkpoint(kept))
        found = []
        for request, made in kept:
            run, step = request.id.split("/")[:2]
            stage = request.model.stage
            found.append(
                {
                    "row": rows[run],
                    "step": step,
                    "stage": stage,
                    "ids": encoder(request),
                    "tokens": made.tokens,
                    "forced": made.forced,
                    "text": made.text,
                    "logprobs": made.logprobs,
                    "runners_up": made.runners_up,
                }
            )
        return found


def make_backend(job: Job, stack: Stack[Any, Any]) -> Backend:
    """The backend of the job's engine.

    Raises:
        BenchError: this version has no such executor or precision.
    """
    spec = job.engine
    if spec.kind == "naive":
        from .naive import NaiveBackend

        return NaiveBackend(len(job.cores))
    if spec.kind == "torch":
        from fslm_core.backends.torch.backend import TorchBackend

        return TorchBackend(torch_settings({**spec.torch, **job.torch}, len(job.cores)))
    encoder = Encoder(_base())
    if spec.kind == "replay":
        assert job.answers is not None
        told = json.loads(Path(job.answers).read_text(encoding="utf-8"))
        return ReplayBackend({(stage, tuple(ids)): text for stage, ids, text in told}, encoder)
    from .bridge import PeerBackend

    assert job.peer is not None
    slms = {step.stage.name: step.stage for step in stack.steps if step.stage.tool is None}
    stages = [{"name": name, "schema": s.schema.text, "max_tokens": s.max_tokens} for name, s in slms.items()]
    return PeerBackend(job.peer["command"], {**job.peer["job"], "stages": stages}, encoder, job.peer["environment"])


def torch_settings(asked: Mapping[str, Any], threads: int) -> Any:
    """The torch backend's settings.

    Raises:
        BenchError: it has no such setting, or not that value.
    """
    from pydantic import ValidationError

    from fslm_core.settings import TorchSettings

    known = {name: value for name, value in asked.items() if name in TorchSettings.model_fields}
    absent = {name: value for name, value in asked.items() if name not in known and value != "generic"}
    try:
        if absent:
            raise BenchError(f"this version has no setting torch.{next(iter(absent))}")
        return TorchSettings.model_validate({"threads": threads, **known})
    except ValidationError as error:
        raise BenchError(f"not offered: {error.errors()[0]['msg']}") from None


def _margins(stack: Stack[Any, Any], cases: Sequence[Mapping[str, Any]]) -> list[float]:
    import torch

    from fslm_core.backends.protocol import ModelRef
    from fslm_core.backends.torch.generic import likelihood
    from fslm_core.backends.torch.models import Resident

    slms = {step.stage.name: step.stage.model for step in stack.steps if step.stage.model}
    path = _base()
    resident = Resident(path, torch.device("cpu"), "float32")
    margins = []
    for case in cases:
        slm = slms[case["stage"]]
        resident.use(ModelRef(slm.base, path, slm.adapter))
        prompt = (*case["ids"], *case["before"])
        first, second = (likelihood(resident, prompt, (token,)) for token in case["tokens"])
        margins.append(abs(first - second))
    return margins


def _base() -> Path:
    from fslm_core import settings
    from fslm_core.checkpoints import resolve

    return resolve("smollm2-135m", settings.load()).path


def _checkpoint(kept: Sequence[tuple[Request, Generation]]) -> Path:
    return next((request.model.path for request, _ in kept if request.model.path is not None), None) or _base()


def _output(run: Run[Any] | None) -> dict[str, Any] | None:
    return plain_data(run.result.content) if run is not None and run.result is not None else None


def _attempts(run: Run[Any]) -> list[Attempt]:
    """Everything that was written, what was refused included."""
    failed = run.error.attempts if isinstance(run.error, StageFailedError) else ()
    return [*(a for m in run.messages.values() if isinstance(m, Message) for a in m.attempts), *failed]


def _texts(run: Run[Any]) -> dict[str, str]:
    """What each step wrote, the step that failed among them."""
    texts = {name: m.attempts[-1].raw for name, m in run.messages.items() if isinstance(m, Message)}
    if isinstance(run.error, StageFailedError) and run.error.attempts:
        texts["(failed)"] = run.error.attempts[-1].raw
    return texts


def _status(pid: int, name: str) -> float:
    """A figure of the process and all it started, from the kernel's own count; MiB."""
    total = 0
    for process in family(pid):
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            continue
        total += int(status.partition(f"{name}:")[2].split()[0])
    return round(total / 1024, 1)


async def serve(job: Job, out: Any) -> None:
    """Do what the lines of standard input say, one after another; answer each with a line."""
    worker = Worker(job)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        told = json.loads(line)
        op = told.pop("op")
        try:
            answer = await getattr(worker, op)(**told)
        except (BenchError, FslmError) as error:
            traceback.print_exc()
            answer = {"error": str(error)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(answer, default=str) + "\n")
        out.flush()
        if op == "close":
            return


def main(file: str) -> None:
    """Run the worker. What libraries print goes to standard error."""
    job = Job.read(Path(file))
    os.sched_setaffinity(0, job.cores)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: standing still, it would outlive a killed harness
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    asyncio.run(serve(job, out))


__all__ = ["Job", "Worker", "main", "make_backend", "torch_settings"]

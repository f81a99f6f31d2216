"""The harness's hand on a worker: start it, tell it what to do, hold it still while others work, end it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import ROOT
from .measure import Timing, Watch, family
from .problems import BenchError
from .worker import Job

_LOG_LINES = 6


class Pilot:
    """One worker process. It stands still except between a call and its answer.

    Args:
        job: what it is told at its start.
        folder: where its job and its log go.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        self.job = job
        self.name = job.engine.name
        stem = self.name.replace(":", "-").replace("/", "-")
        self.log = folder / f"{stem}.log"
        file = folder / f"{stem}.json"
        file.write_text(json.dumps(job.plain()), encoding="utf-8")
        environment = {**os.environ, **_threads(len(job.cores)), "TRANSFORMERS_VERBOSITY": "error"}
        environment.setdefault("HF_HUB_OFFLINE", "1")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.bench", "worker", str(file)],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._still = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, op: str, **told: Any) -> dict[str, Any]:
        """Let it do one thing and wait for the answer; then it stands still again.

        Raises:
            BenchError: it could not, or it ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._move()
        try:
            self._process.stdin.write(json.dumps({"op": op, **told}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise BenchError(f"{self.name} ended with code {self._process.wait()}: {self._last_lines()}")
        self._hold()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchError(f"{self.name}: {answer['error']}")
        return answer

    def time(self, inputs: Sequence[Any], concurrency: int, patience: float) -> tuple[Timing, dict[str, Any]]:
        """A closed loop, with what others did to the cores meanwhile; also the answer as it came."""
        watch = Watch(self.job.cores, [self._process.pid])
        found = self.call("time", inputs=list(inputs), concurrency=concurrency, patience=patience)
        timing = Timing(tuple(found["latencies"]), found["seconds"], found["failed"], watch.foreign())
        return timing, found

    def close(self) -> None:
        """Ask it to end; if it does not, end it and what it started."""
        if self._process.poll() is not None:
            return
        self._move()
        started = family(self._process.pid)
        with suppress(subprocess.TimeoutExpired, OSError):
            self._process.communicate('{"op": "close"}\n', timeout=30)
        for process in started:
            if process.is_running():
                process.kill()
        self._process.wait()

    def _hold(self) -> None:
        processes = family(self._process.pid)
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        while any(_moves(process) for process in processes):
            time.sleep(0.001)  # a signal is sent at once, and taken when the kernel gets to it
        self._still = True

    def _move(self) -> None:
        if self._still:
            for process in reversed(family(self._process.pid)):
                process.send_signal(signal.SIGCONT)
        self._still = False

    def _last_lines(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return " / ".join(lines[-_LOG_LINES:])


def _moves(process: Any) -> bool:
    import psutil

    try:
        return process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def _threads(count: int) -> dict[str, str]:
    """Whatever number of threads the caller's environment asks for, workers use one for each core."""
    return {name: str(count) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


__all__ = ["Pilot"]

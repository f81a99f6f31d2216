"""llama.cpp's server: three servers of merged weights, or one with an adapter for each request.

Arms: ``merged-KIND`` and ``adapter-KIND`` with KIND one of q4_1, q4_0, q8_0, f16, bf16, f32. Prompts' common prefix
stays in a slot (``cache_prompt``); a slot that gets another adapter forgets it, and the cache of prompts in memory,
which is not keyed by adapter, is off.
"""

from __future__ import annotations

import http.client
import json
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tests.bench.peers import gguf_files
from tests.bench.peers.gbnf import grammar
from tests.bench.peers.protocol import Answer, Engine, Job, Request, Tell, main

SLOTS = 32

_lean = lru_cache(maxsize=None)(grammar)


class _Lane:
    """One server process and the threads that ask it."""

    def __init__(self, owner: LlamaCpp, model: Path, adapters: Sequence[Path]) -> None:
        job = owner.job
        self.socket = Path(tempfile.mkdtemp(prefix="peer-")) / "server.sock"  # a short path, as sockets want it
        slots = str(job.work_dir / "slots")
        Path(slots).mkdir(exist_ok=True)
        command = [
            str(Path(sys.executable).parent / "llama-server"), "-m", str(model), "--host", str(self.socket),
            "-t", str(job.threads), "-tb", str(job.threads), "-np", str(SLOTS), "-c", str(SLOTS * job.context),
            "--no-kv-unified", "--cont-batching", "--cache-ram", "0", "--slot-save-path", slots, "-ngl", "0",
            "--no-ui", "--offline", "--fit", "off", "-lv", "1", "--no-warmup", "--threads-http", str(SLOTS),
            *owner.extra,
        ]  # fmt: skip
        if adapters:
            command += ["--lora", ",".join(map(str, adapters)), "--lora-init-without-apply"]
        self.process = subprocess.Popen(command, stdout=sys.stderr)
        self.owner = owner
        self.waiting: queue.SimpleQueue[tuple[Request, dict[str, Any]] | None] = queue.SimpleQueue()
        self.threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(SLOTS)]

    def start(self) -> None:
        """Wait until the server answers.

        Raises:
            RuntimeError: it ended, or said nothing for two minutes.
        """
        for _ in range(1200):
            if self.process.poll() is not None:
                raise RuntimeError(f"llama-server ended with {self.process.returncode}")
            try:
                if _call(_Connection(self.socket), "GET", "/health", None).get("status") == "ok":
                    break
            except (OSError, ValueError, http.client.HTTPException):
                pass
            time.sleep(0.1)
        else:
            raise RuntimeError("llama-server does not answer")
        for thread in self.threads:
            thread.start()

    def _ask(self) -> None:
        connection = _Connection(self.socket)
        while (work := self.waiting.get()) is not None:
            request, body = work
            try:
                said = _call(connection, "POST", "/completion", body)
                if "content" not in said:
                    raise RuntimeError(str(said))
                answer = Answer(
                    said["content"], said["tokens_predicted"],
                    computed=said["timings"]["prompt_n"], cached=said["timings"]["cache_n"],
                )  # fmt: skip
                self.owner.tell(request, answer)
            except Exception as error:
                connection.close()
                self.owner.tell(request, error)

    def forget(self) -> None:
        """Erase every slot."""
        connection = _Connection(self.socket)
        for slot in range(SLOTS):
            said = _call(connection, "POST", f"/slots/{slot}?action=erase", {})
            if "error" in said:
                raise RuntimeError(str(said))

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait(10)
        shutil.rmtree(self.socket.parent, ignore_errors=True)


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket, kept open."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self._path))


def _call(connection: _Connection, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body)
    try:
        connection.request(method, path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
    except (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected):
        connection.close()  # the server ends connections that were idle for some seconds
        connection.request(method, path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
    said: dict[str, Any] = json.loads(response.read())
    return said


class LlamaCpp(Engine):
    """One lane for each merged model, or one lane for all adapters."""

    def __init__(self, job: Job, tell: Tell) -> None:
        super().__init__(job, tell)
        self.label = f"llama.cpp server (sources of llama-cpp-python {_version()})"
        self.extra: list[str] = []
        self.lanes: dict[str, _Lane] = {}
        if job.way == "merged":
            for stage in job.stages:
                self.lanes[stage.name] = _Lane(self, _model(job, stage.adapter), ())
        else:
            adapters = [gguf_files.adapter(job.base, s.adapter, job.work_dir) for s in job.stages if s.adapter]
            lane = _Lane(self, _model(job, None), adapters)
            self.lanes = {stage.name: lane for stage in job.stages}
        self.adapters = {s.name: n for n, s in enumerate(s for s in job.stages if s.adapter)}
        for lane in set(self.lanes.values()):
            lane.start()

    @classmethod
    def prepare(cls, job: Job) -> None:
        """Write the GGUF files."""
        for stage in job.stages:
            if job.way == "merged":
                _model(job, stage.adapter)
            elif stage.adapter:
                gguf_files.adapter(job.base, stage.adapter, job.work_dir)
        if job.way == "adapter":
            _model(job, None)

    def submit(self, request: Request) -> None:
        body: dict[str, Any] = {
            "prompt": request.ids, "n_predict": request.max_tokens, "temperature": 0.0, "samplers": ["top_k"],
            "top_k": 1, "cache_prompt": True, "stream": False, "return_tokens": False, "timings_per_token": False,
        }  # fmt: skip
        if request.schema is not None:
            body["grammar"] = _lean(request.schema)
        if self.job.way == "adapter":
            own = self.adapters.get(request.stage)
            body["lora"] = [{"id": n, "scale": float(n == own)} for n in range(len(self.adapters))]
        self.lanes[request.stage].waiting.put((request, body))

    def step(self) -> bool:
        """The servers work on their own."""
        return False

    def reset(self) -> None:
        for lane in set(self.lanes.values()):
            lane.forget()

    def pids(self) -> Sequence[int]:
        return [lane.process.pid for lane in set(self.lanes.values())]

    def settings(self) -> dict[str, Any]:
        return {
            "slots": SLOTS,
            "context": self.job.context,
            "servers": len(set(self.lanes.values())),
            "extra": self.extra,
        }

    def close(self) -> None:
        for lane in set(self.lanes.values()):
            lane.close()


def _version() -> str:
    """What the installer wrote beside the program."""
    return (Path(sys.executable).parent / "llama-server.version").read_text(encoding="utf-8").strip()


def _model(job: Job, adapter: Path | None) -> Path:
    return gguf_files.model(job.base, adapter, job.precision, job.gguf, job.work_dir)


if __name__ == "__main__":
    main(lambda job: LlamaCpp, "tests.bench.peers.llama_cpp")

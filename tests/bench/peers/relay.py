"""One process for each stage, for engines that hold one model in a process: a front that speaks the same protocol."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from tests.bench.peers import weights
from tests.bench.peers.protocol import Answer, Engine, Job, Request, Tell


class Child:
    """A peer's program with one stage, merged into its base."""

    def __init__(self, owner: Relay, stage: str) -> None:
        self.owner = owner
        self.flying: dict[str, Request] = {}
        self.answered = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-m", owner.module, "--job", str(owner.job_of(stage))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.pid = self._process.pid
        self.ready: dict[str, Any] = {}

    def start(self) -> None:
        """Wait until it is ready.

        Raises:
            RuntimeError: it is not going to be.
        """
        assert self._process.stdout is not None
        self.ready = json.loads(self._process.stdout.readline() or '{"event": "error", "message": "it ended"}')
        if self.ready["event"] != "ready":
            raise RuntimeError(self.ready["message"])
        threading.Thread(target=self._read, daemon=True).start()

    def say(self, op: str, **facts: Any) -> None:
        """Write one operation."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"op": op, **facts}) + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if "id" not in event:
                self.answered.set()
                continue
            request = self.flying.pop(event["id"])
            if event["event"] == "failed":
                self.owner.tell(request, RuntimeError(event["message"]))
                continue
            counts = event["prompt_tokens_computed"], event["prompt_tokens_cached"]
            self.owner.tell(request, Answer(event["text"], event["tokens"], *counts))
        for request in list(self.flying.values()):
            self.owner.tell(request, RuntimeError("the stage's process ended"))

    def close(self) -> None:
        """End it."""
        self.say("close")
        self._process.wait(30)


class Relay(Engine):
    """Passes each request to the process of its stage. ``module`` is the program that serves ``single-…`` arms."""

    module: ClassVar[str]

    def __init__(self, job: Job, tell: Tell) -> None:
        super().__init__(job, tell)
        self._children = {stage.name: Child(self, stage.name) for stage in job.stages}
        for child in self._children.values():
            child.start()
        self.label = str(next(iter(self._children.values())).ready["engine"])

    @classmethod
    def prepare(cls, job: Job) -> None:
        """Merge the adapters."""
        for stage in job.stages:
            weights.merged_folder(job.base, stage.adapter, job.work_dir)

    def job_of(self, name: str) -> Path:
        """Write the job of one stage's process."""
        stage = self.job.stage(name)
        work_dir = self.job.work_dir / f"{self.job.arm}-{name}"
        work_dir.mkdir(exist_ok=True)
        facts = {
            "base": str(weights.merged_folder(self.job.base, stage.adapter, self.job.work_dir)),
            "stages": [{"name": name, "adapter": None, "schema": stage.schema, "max_tokens": stage.max_tokens}],
            "arm": f"single-{self.job.precision}", "threads": self.job.threads, "work_dir": str(work_dir),
        }  # fmt: skip
        file = work_dir / "job.json"
        file.write_text(json.dumps(facts), encoding="utf-8")
        return file

    def submit(self, request: Request) -> None:
        child = self._children[request.stage]
        child.flying[request.id] = request
        child.say(
            "submit", id=request.id, stage=request.stage, ids=request.ids, schema=request.schema,
            max_tokens=request.max_tokens,
        )  # fmt: skip

    def step(self) -> bool:
        """The processes work on their own."""
        return False

    def reset(self) -> None:
        for child in self._children.values():
            child.answered.clear()
            child.say("reset")
        for child in self._children.values():
            child.answered.wait()

    def pids(self) -> Sequence[int]:
        return [child.pid for child in self._children.values()]

    def settings(self) -> dict[str, Any]:
        return {"processes": len(self._children), **next(iter(self._children.values())).ready["settings"]}

    def close(self) -> None:
        for child in self._children.values():
            child.close()


__all__ = ["Relay"]

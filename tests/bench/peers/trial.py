"""A few rows of the support stack through one arm of a peer, beside the generic backend's answers."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from . import Peer

Json = dict[str, Any]


class Client:
    """A peer's process, asked from one thread."""

    def __init__(self, peer: Peer, folder: Path, job: Mapping[str, Any]) -> None:
        file = Path(job["work_dir"]) / f"job-{peer.name}-{job['arm']}.json"
        file.write_text(json.dumps(job), encoding="utf-8")
        self._process = subprocess.Popen(
            [*peer.command(folder), "--job", str(file)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **peer.environment()},
        )  # fmt: skip
        self.ready = self.next()

    def say(self, op: str, **facts: Any) -> None:
        """Write one operation."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"op": op, **facts}) + "\n")
        self._process.stdin.flush()

    def next(self) -> Json:
        """Read one event.

        Raises:
            RuntimeError: the peer ended, or tells an error.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        event: Json = json.loads(line) if line else {"event": "error", "message": "it ended"}
        if event["event"] in ("error", "failed"):
            raise RuntimeError(event["message"])
        return event

    def close(self) -> None:
        """End it."""
        self.say("close")
        try:
            self._process.wait(60)
        finally:
            self._process.kill()


class Support:
    """The support stack as three prompts; stages run as soon as what they need is there."""

    def __init__(self) -> None:
        from transformers import AutoTokenizer

        from fslm_core.checkpoints import resolve
        from fslm_core.settings import Settings
        from fslm_support import category, details, intent

        self.stages = {stage.name: stage for stage in (category, intent, details)}
        self.base = resolve("smollm2-135m", Settings()).path
        self._tokenizer = AutoTokenizer.from_pretrained(self.base, local_files_only=True)

    def job(self, arm: str, work_dir: Path, gguf: Path | None, threads: int) -> Json:
        """The job file's content."""
        stages = [
            {"name": n, "adapter": str(s.model.adapter), "schema": s.schema.text, "max_tokens": s.max_tokens}
            for n, s in self.stages.items()
            if s.model is not None
        ]
        return {
            "base": str(self.base), "gguf": str(gguf) if gguf else None, "stages": stages,
            "arm": arm, "threads": threads,
            "work_dir": str(work_dir),
        }  # fmt: skip

    def first(self, row: int, text: str) -> Iterator[Json]:
        """The submission that starts a row."""
        yield self._submission(row, "support.category", {"text": text})

    def then(self, row: int, text: str, stage: str, said: str) -> Iterator[Json]:
        """What may be submitted after a stage has answered."""
        if stage == "support.category" and (category := json.loads(said)["category"]) != "OTHER":
            for name in ("support.intent", "support.details"):
                yield self._submission(row, name, {"text": text, "category": category})

    def _submission(self, row: int, name: str, fields: Json) -> Json:
        from fslm_core.backends.torch.encoding import encode

        stage: Any = self.stages[name]
        message = stage.input(**fields)
        ids = encode(stage.render(message), self._tokenizer, context=8192, max_tokens=stage.max_tokens).ids
        schema = stage.narrowed(message).text
        return {"id": f"{row}/{name}", "stage": name, "ids": list(ids), "schema": schema}


def answers(
    client: Client, support: Support, texts: list[str], together: int
) -> tuple[dict[str, str], list[float], float]:
    """Run the stack on every text, ``together`` rows at a time.

    Returns:
        Texts by ``row/stage``, each row's seconds, and the seconds of all.
    """
    said: dict[str, str] = {}
    open_: dict[int, set[str]] = {}
    began: dict[int, float] = {}
    seconds: list[float] = []
    rows = iter(enumerate(texts))
    start = time.perf_counter()

    def submit(row: int, submissions: Iterator[Json]) -> None:
        for submission in submissions:
            open_[row].add(submission["id"])
            client.say("submit", **submission)

    def begin() -> None:
        for row, text in rows:
            began[row], open_[row] = time.perf_counter(), set()
            submit(row, support.first(row, text))
            return

    for _ in range(together):
        begin()
    while open_:
        event = client.next()
        number, _, stage = event["id"].partition("/")
        row = int(number)
        said[event["id"]] = event["text"]
        submit(row, support.then(row, texts[row], stage, event["text"]))
        open_[row].discard(event["id"])
        if not open_[row]:
            del open_[row]
            seconds.append(time.perf_counter() - began[row])
            begin()
    return said, seconds, time.perf_counter() - start


def reference(support: Support, texts: list[str], work_dir: Path) -> dict[str, str]:
    """The generic backend's answers in float32, kept in ``work_dir``."""
    from fslm_core import Engine
    from fslm_core.schema import dumps
    from fslm_support import triage

    file = work_dir / "reference.json"
    known: Json = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if any(text not in known for text in texts):
        with Engine(stacks=[triage], trace=False) as engine:
            for text in texts:
                known[text] = engine.run(triage, {"text": text}).output.model_dump()
        file.write_text(json.dumps(known), encoding="utf-8")
    wanted: dict[str, str] = {}
    for row, text in enumerate(texts):
        ticket = known[text]
        for name, fields in _FIELDS.items():
            if name == "support.category" or ticket["category"] != "OTHER":
                wanted[f"{row}/{name}"] = dumps({field: ticket[field] for field in fields})
    return wanted


_FIELDS = {
    "support.category": ("category",),
    "support.intent": ("intent",),
    "support.details": ("entity_type", "entity_value"),
}


def trial(
    peer: Peer,
    folder: Path,
    arm: str,
    data: Path,
    work_dir: Path,
    gguf: Path | None,
    rows: int,
    many: int,
    threads: int,
) -> Json:
    """Return what was seen: agreement, milliseconds of a stack alone, stacks a second with 32 at a time."""
    work_dir.mkdir(parents=True, exist_ok=True)
    support = Support()
    texts = [json.loads(line)["text"] for line in data.read_text(encoding="utf-8").splitlines()]
    random.Random(0).shuffle(texts)
    texts, more = texts[:rows], texts[rows : rows + many]
    wanted = reference(support, texts, work_dir)
    client = Client(peer, folder, support.job(arm, work_dir, gguf, threads))
    said, seconds, _ = answers(client, support, texts, 1)
    differing = {name: (text, said.get(name)) for name, text in wanted.items() if said.get(name) != text}
    facts: Json = {"peer": peer.name, "arm": arm, "ready": client.ready, "same": len(wanted) - len(differing),
                   "of": len(wanted), "differing": dict(list(differing.items())[:5]),
                   "ms_a_stack": round(statistics.median(seconds) * 1000, 1)}  # fmt: skip
    client.say("reset")
    facts["reset"] = client.next()["event"]
    again, _, _ = answers(client, support, texts, 1)
    facts["same after reset"] = sum(again[name] == text for name, text in said.items())
    if many:
        _, _, total = answers(client, support, more, 32)
        facts["stacks_per_s_at_32"] = round(len(more) / total, 2)
    client.say("stats")
    facts["peak_rss_mb"] = client.next()["peak_rss_mb"]
    client.close()
    return facts


__all__ = ["Client", "Support", "answers", "trial"]

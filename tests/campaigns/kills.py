"""kill -9 at random moments of ``fslm run`` and ``fslm batch``: what was reported is there, what was cut off says so.

::

    python -m tests.campaigns.kills --kills 100 --json kills.json
    python -m tests.campaigns.kills --kills 20 --stack support      # with the real model

Every kill hits a process of its own, at a moment drawn over the time that an undisturbed one takes and a little more:
while it starts, while it works, while it closes. After each the trace is opened as the next command would, and

- its integrity check says ok, and no run is ``running``;
- every run that was reported (its result on standard output, or its row in the output of a batch) has ``succeeded``
  there, with its input, its steps and the very output that was reported;
- what else began is ``interrupted``, or ended without being reported.

A batch that was killed is resumed until it ends; its rows must be those of an undisturbed batch, each once, and no
journal may be left.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fslm_core.store import StoredRun, TraceStore
from tests.campaigns.household import Household, Kind, rows_of, settle, texts, without_ids, write_rows

_MARGIN = 1.15
"""Moments are drawn over this many times the length of an undisturbed process."""


class Broken(AssertionError):
    """A promise that was not kept."""


def require(kept: bool, promise: str) -> None:
    """Stop the campaign at a promise that was not kept."""
    if not kept:
        raise Broken(promise)


@dataclass
class Campaign:
    """The kills, and what they left."""

    home: Household
    kind: Kind
    rows: int
    chance: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    reported: dict[str, Any] = field(default_factory=dict)
    """The output that was reported of each run, by the run's id."""

    def prepare(self) -> None:
        """Measure undisturbed processes, and keep what an undisturbed batch gives."""
        self.lines = texts(self.kind, self.rows)
        write_rows(self.home.folder / "in.jsonl", self.lines, broken=self.kind == "tool")
        self.run_seconds = self._timed("run", self.home.stack, "undisturbed")
        self.batch_seconds = self._timed(*self._batch("undisturbed.jsonl"))
        self.expected = without_ids(rows_of(self.home.folder / "undisturbed.jsonl"))
        require([row["row"] for row in self.expected] == list(range(self.rows)), "an undisturbed batch is whole")

    def _timed(self, *arguments: str) -> float:
        began = time.monotonic()
        code, _, err = self.home.whole(*arguments)
        require(code in (0, 1), f"an undisturbed {arguments[0]} ends: {err}")
        return time.monotonic() - began

    def _batch(self, name: str, *options: str) -> tuple[str, ...]:
        concurrency = str(self.home.concurrency)
        return ("batch", self.home.stack, "in.jsonl", "--out", name, "--concurrency", concurrency, *options)

    def go(self, kills: int) -> None:
        """Kill that many processes, one of ``run`` to two of ``batch``."""
        batches = 0
        while self.counts["kills"] < kills:
            self.kill_run(f"run number {self.counts['run rounds']}")
            if self.counts["kills"] < kills:
                self.kill_batch(f"out-{batches}.jsonl", min(kills - self.counts["kills"], self.chance.randint(1, 5)))
                batches += 1

    def _kill(self, process: subprocess.Popen[bytes], seconds: float) -> tuple[bytes, bool]:
        """Kill the process at a random moment; what it said, and whether the kill came in time.

        More than half of the moments are drawn after what a run takes to start, which is most of its time.
        """
        begin = 0.8 * self.run_seconds if self.chance.random() < 0.6 else 0.0
        try:
            out, _ = process.communicate(timeout=self.chance.uniform(begin, seconds * _MARGIN))
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
        hit = process.returncode < 0
        self.counts["kills" if hit else "ended before the kill"] += 1
        return out, hit

    # -- run ----------------------------------------------------------------------------------------------------

    def kill_run(self, text: str) -> None:
        """Kill one ``fslm run``."""
        self.counts["run rounds"] += 1
        out, hit = self._kill(self.home.fslm("run", self.home.stack, text), self.run_seconds)
        self.check_trace()
        with TraceStore.open(self.home.trace, content="full") as store:
            mine = [run for row in store.runs(1) if (run := store.run(row.id)) and _text_of(run) == text]
        told = out.endswith(b"}\n")
        if told:
            require(len(mine) == 1 and mine[0].row.status == "succeeded", f"the reported run of {text!r} is there")
            require(mine[0].output is not None and mine[0].output.data == json.loads(out), "its output is the reported")
            self.counts["runs reported"] += 1
        if hit:
            moment = "closing" if told else "working" if mine else "starting"
            self.counts[f"run killed while {moment}"] += 1

    # -- batch --------------------------------------------------------------------------------------------------

    def kill_batch(self, name: str, kills: int) -> None:
        """Kill a batch again and again, then let it end."""
        out = self.home.folder / name
        before: list[dict[str, Any]] = []
        for _ in range(kills):
            process = self.home.fslm(
                *self._batch(name, *(["--resume"] if self.chance.random() < 0.9 or out.exists() else []))
            )
            _, hit = self._kill(process, self.batch_seconds)
            rows = rows_of(out)
            require(rows[: len(before)] == before, "rows that were reported stay")
            if hit:
                moment = "starting" if rows == before else "working" if len(rows) < self.rows else "closing"
                self.counts[f"batch killed while {moment}"] += 1
            self._note(rows[len(before) :])
            before = rows
            if not hit:
                break
        if _journal(out).exists() or not out.exists():
            code, _, err = self.home.whole(*self._batch(name, "--resume"))
            require(code in (0, 1), f"a killed batch is resumed to its end: {err}")
        rows = rows_of(out)
        require(rows[: len(before)] == before, "rows that were reported stay to the end")
        require([row["row"] for row in rows] == list(range(self.rows)), "each row is there once, in order")
        for row, expected in zip(without_ids(rows), self.expected, strict=True):
            require(row == expected, f"the rows are those of an undisturbed batch: {row} is not {expected}")
        left = [path.name for path in out.parent.glob(f"{name}*") if path != out and not path.name.endswith("lock")]
        require(not left, f"a finished batch leaves nothing beside its output: {left}")
        self._note(rows[len(before) :])
        self.counts["batches resumed to the end"] += 1

    def _note(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            self.counts["rows reported"] += 1
            if "output" in row:
                require(row["run"] not in self.reported, "no run is reported twice")
                self.reported[row["run"]] = row["output"]
        self.check_trace()

    # -- what must hold after every kill ------------------------------------------------------------------------

    def check_trace(self) -> None:
        """Open the trace as the next command would, and compare it with what was reported."""
        if not self.home.trace.exists():
            return
        with TraceStore.open(self.home.trace, content="full") as store:
            rows = {row.id: row.status for row in store.runs(1_000_000)}
            require("running" not in rows.values(), "no run of a process that is gone is said to be running")
            for id, output in self.reported.items():
                require(rows.get(id) == "succeeded", f"run {id}, which was reported, has succeeded: {rows.get(id)}")
                if output is not None:
                    run = store.run(id)
                    require(run.output is not None and run.output.data == output, f"run {id} has the reported output")
                    require(run.input is not None and bool(run.nodes), f"run {id} can be read whole")
                    self.reported[id] = None  # read once, it is only looked for from then on
        with closing(sqlite3.connect(self.home.trace)) as connection:
            require(connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok", "the database is whole")
        self.counts["integrity checks"] += 1
        self.statuses = Counter(rows.values())

    def record(self) -> dict[str, Any]:
        """The counts."""
        return {
            "stack": self.home.stack,
            "rows of a batch": self.rows,
            **dict(sorted(self.counts.items())),
            "runs in the trace": dict(sorted(self.statuses.items())),
            "seconds of an undisturbed run": round(self.run_seconds, 2),
            "seconds of an undisturbed batch": round(self.batch_seconds, 2),
        }


def _journal(out: Path) -> Path:
    return out.with_name(out.name + ".fslm-batch")


def _text_of(run: StoredRun) -> Any:
    return run.input.data["text"] if run.input is not None else None


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign; 0 where every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument("--stack", choices=("tool", "support"), default="tool")
    parser.add_argument("--rows", type=int, default=None, help="of a batch; 300 for the tools, 24 for the model")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the counts there")
    chosen = parser.parse_args(arguments)
    rows = chosen.rows or (300 if chosen.stack == "tool" else 24)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        home = settle(Path(folder), chosen.stack)
        campaign = Campaign(home, chosen.stack, rows, random.Random(chosen.seed))
        campaign.prepare()
        campaign.go(chosen.kills)
        record = {**campaign.record(), "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(record, indent=2))
    if chosen.json:
        chosen.json.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

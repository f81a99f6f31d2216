"""A power cut at random moments, simulated: the files as they are at one moment, torn where nothing was promised yet.

::

    python -m tests.campaigns.power_cut --cuts 200 --json power.json

**Trace.** A process writes runs and says which are finished. It is held still (SIGSTOP), what it has said is read, and
a while later it is held still again: then the database and its write-ahead log are copied, without the shared index,
which a restart does not have either. What the log gained between the two moments is cut off or garbled at a random
byte, for none of it was promised when the first moment's words were read. (Unless the log was begun anew or carried
into the database meanwhile: before that, SQLite syncs it.) The copy is opened as the next command would open it: its
integrity check must say ok, and every run that was said to be finished must have succeeded, with its output.

**Batch.** A batch is held still and its output and journal are copied. What each gained since the journal's last mark
is cut off or garbled at a random byte; the copy is resumed to its end and must give the rows of an undisturbed batch.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fslm_core.store import TraceStore
from tests.campaigns.household import rows_of, settle, texts, without_ids, write_rows
from tests.campaigns.kills import require

_WRITER = """
import asyncio, sys
from pydantic import BaseModel, Field
from fslm_core.events import MessageEmitted, RunFinished, RunStarted
from fslm_core.message import Attempt, Message, node_id
from fslm_core.schema import content_id
from fslm_core.store import TraceStore

class Note(BaseModel):
    text: str = Field(max_length=9000)

def message(run, step, text):
    note = Note(text=text)
    return Message(step, note, node_id(run, step), content_id(note), attempts=(Attempt(0, None, text),))

async def lane(recorder, name):
    number = 0
    while True:
        run = f"{name}-{number:06}"
        await recorder.record(RunStarted(run, "notes", message(run, "input", run), 0, float(number)))
        for step in ("a", "b"):
            await recorder.record(MessageEmitted(run, message(run, step, f"{run} {step} " + "y" * 2000)))
        await recorder.record(RunFinished(run, "notes", "succeeded", number + 1.0, 1.0, message(run, "output", run)))
        print(run, flush=True)
        number += 1

async def main(path):
    with TraceStore.open(path, content="full") as store:
        await asyncio.gather(*(lane(store.recorder(), f"lane{n}") for n in range(3)))

asyncio.run(main(sys.argv[1]))
"""


class Held:
    """A process that can be held still, and what it has said so far."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.said = b""

    def hold(self) -> None:
        """Stop it where it is; returns when it stands."""
        self.process.send_signal(signal.SIGSTOP)  # which also sees whether it has ended
        if self.process.returncode is None:
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self.listen()

    def go_on(self, seconds: float) -> None:
        """Let it work for a while, and listen."""
        self.process.send_signal(signal.SIGCONT)
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.listen(left)

    def listen(self, seconds: float = 0.0) -> None:
        """Read what it has said."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while select.select([descriptor], [], [], seconds)[0]:
            if not (block := os.read(descriptor, 1 << 16)):
                time.sleep(seconds)
                return
            self.said += block
            seconds = 0.0

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.communicate()


@dataclass
class Campaign:
    """The cuts, and what was found."""

    folder: Path
    chance: random.Random
    counts: Counter[str] = field(default_factory=Counter)

    # -- trace --------------------------------------------------------------------------------------------------

    def cut_traces(self, cuts: int) -> None:
        """Cut the power of a writer that often."""
        path = self.folder / "trace" / "trace.db"
        path.parent.mkdir()
        writer = Held(subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE))
        try:
            while not writer.said:
                writer.listen(0.1)
            for _ in range(cuts):
                writer.go_on(self.chance.uniform(0.0, 0.12))
                self.cut_trace(writer, path)
        finally:
            writer.end()

    def cut_trace(self, writer: Held, path: Path) -> None:
        """One cut: hold, read what was promised, go on a little, hold, copy, tear, open."""
        writer.hold()
        promised = writer.said.decode().split("\n")[:-1]
        log = Path(f"{path}-wal")
        sure, salt, before = written(log), salt_of(log), path.read_bytes()
        writer.go_on(self.chance.uniform(0.0, 0.02))
        writer.hold()
        copy = self.folder / "copy"
        copy.mkdir()
        for file in (path, log):
            shutil.copyfile(file, copy / file.name)
        synced = (copy / path.name).read_bytes() != before  # the log is synced before it is carried into the database
        if salt_of(log) == salt and not synced and log.stat().st_size > sure:
            self._tear(copy / log.name, sure)
        self._open(copy / path.name, promised)
        shutil.rmtree(copy)

    def _open(self, path: Path, promised: list[str]) -> None:
        with TraceStore.open(path, content="full") as store:
            rows = {row.id: row.status for row in store.runs(10_000_000)}
            lost = [run for run in promised if rows.get(run) != "succeeded"]
            require(not lost, f"every run that was finished is there: {lost[:3]} are not")
            require(set(rows.values()) <= {"succeeded", "running"}, "nothing else is said of a run")
            for run in promised[-3:]:
                output = store.run(run).output
                require(output is not None and output.data == {"text": run}, "its output can be read")
        with closing(sqlite3.connect(path)) as connection:
            require(connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok", "the database is whole")
        self.counts["traces opened after a cut"] += 1
        self.counts["finished runs looked for"] += len(promised)

    def _tear(self, file: Path, sure: int) -> None:
        """Cut off or garble what comes after ``sure`` bytes."""
        size = file.stat().st_size
        at = self.chance.randint(sure, size)
        how = self.chance.choice(("cut off", "zeroed", "garbled", "left as it is"))
        with file.open("r+b") as opened:
            if how == "cut off":
                opened.truncate(at)
            elif how != "left as it is":
                opened.seek(at)
                rest = size - at
                opened.write(bytes(rest) if how == "zeroed" else self.chance.randbytes(rest))
        self.counts[f"tails {how}"] += 1

    # -- batch --------------------------------------------------------------------------------------------------

    def cut_batches(self, cuts: int, rows: int) -> None:
        """Cut the power of a batch that often."""
        home = settle(self.folder, "tool")
        write_rows(self.folder / "in.jsonl", texts("tool", rows), broken=True)
        common = ("batch", home.stack, "in.jsonl", "--concurrency", "4")
        code, _, err = home.whole(*common, "--out", "undisturbed.jsonl")
        require(code in (0, 1), f"an undisturbed batch ends: {err}")
        # The batch that is held still may hold the lock of its trace; after a real cut nobody does.
        after = replace(home, environment={**home.environment, "FSLM_DATA_DIR": str(self.folder / "after")})
        expected = without_ids(rows_of(self.folder / "undisturbed.jsonl"))
        done = begun = 0
        while done < cuts:
            begun += 1
            out = self.folder / f"out-{begun}.jsonl"
            batch = Held(home.fslm(*common, "--out", out.name, stderr=subprocess.DEVNULL))
            try:
                while batch.process.poll() is None and not out.exists():
                    batch.listen(0.01)
                while done < cuts and batch.process.poll() is None:
                    batch.go_on(self.chance.uniform(0.05, 0.6))
                    batch.hold()
                    journal = out.with_name(out.name + ".fslm-batch")
                    if not (out.exists() and journal.exists()):
                        break
                    self._copy(out, journal, self.folder / f"copy-{done}.jsonl")
                    code, _, err = after.whole(*common, "--out", f"copy-{done}.jsonl", "--resume")
                    require(code in (0, 1), f"a batch is resumed after a cut: {err}")
                    found = without_ids(rows_of(self.folder / f"copy-{done}.jsonl"))
                    require(found == expected, "the rows are those of an undisturbed batch")
                    self.counts["batches resumed after a cut"] += 1
                    done += 1
            finally:
                batch.end()

    def _copy(self, out: Path, journal: Path, copy: Path) -> None:
        """Copy both files and tear what came after the last mark."""
        beside = copy.with_name(copy.name + ".fslm-batch")
        shutil.copyfile(journal, beside)
        shutil.copyfile(out, copy)
        lines = beside.read_bytes().splitlines(keepends=True)
        marks = [n for n, line in enumerate(lines) if line.startswith(b"synced") and line.endswith(b"\n")]
        last = marks[-1] if marks else 0
        rows = int(lines[last].split()[1]) if marks else 0
        ends = [int(line.split()[1]) for line in lines[1 : last + 1] if not line.startswith(b"synced")]
        self._tear(beside, sum(map(len, lines[: last + 1])))
        self._tear(copy, ends[rows - 1] if rows else 0)
        self.counts["rows kept over a cut"] += rows


def salt_of(log: Path) -> bytes:
    """What a write-ahead log is told from an older one by (https://sqlite.org/fileformat2.html#walformat)."""
    with log.open("rb") as file:
        return file.read(32)[16:24]


def written(log: Path) -> int:
    """How many bytes of a write-ahead log are of its present salt: frames behind them are older ones."""
    with log.open("rb") as file:
        header = file.read(32)
        if len(header) < 32:
            return 0
        (page,) = struct.unpack(">I", header[8:12])
        end = 32
        while len(frame := file.read(24)) == 24 and frame[8:16] == header[16:24]:
            file.seek(page, os.SEEK_CUR)
            end += 24 + page
    return end


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign; 0 where every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=200, help="of a process that writes a trace")
    parser.add_argument("--batch-cuts", type=int, default=20, help="of a batch; each is resumed to its end")
    parser.add_argument("--rows", type=int, default=1500, help="of a batch")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments and the tears")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the counts there")
    chosen = parser.parse_args(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), random.Random(chosen.seed))
        campaign.cut_traces(chosen.cuts)
        if chosen.batch_cuts:
            campaign.cut_batches(chosen.batch_cuts, chosen.rows)
    record: dict[str, Any] = {**dict(sorted(campaign.counts.items())), "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(record, indent=2))
    if chosen.json:
        chosen.json.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

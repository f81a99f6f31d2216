"""Real processes that are killed while they write, and two that write at once."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from fslm_core.errors import FslmError, StoreError
from fslm_core.events import MessageEmitted, RunFinished, RunStarted
from fslm_core.explain.show import show
from fslm_core.message import Attempt, Message, node_id
from fslm_core.schema import content_id
from fslm_core.store import TraceStore

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")

WRITER = """
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

def tell(word, run):
    print(word, run, flush=True)

async def lane(recorder, name, count):
    for number in range(count):
        run = f"{name}-{number:04}"
        await recorder.record(RunStarted(run, "notes", message(run, "input", "x" * 500), 0, float(number)))
        tell("started", run)
        for step in ("a", "b", "c"):
            await recorder.record(MessageEmitted(run, message(run, step, f"{run} {step} " + "y" * 3000)))
        await recorder.record(RunFinished(run, "notes", "succeeded", number + 1.0, 1.0, message(run, "output", run)))
        tell("finished", run)

async def main(path, name, count):
    with TraceStore.open(path, content="full") as store:
        if not count:
            await store.recorder().record(RunStarted(name, "notes", message(name, "input", "x"), 0, 1.0))
            tell("started", name)
            sys.stdin.read()
        await asyncio.gather(*(lane(store.recorder(), f"{name}{i}", count) for i in range(4)))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def killed_after(path: Path, name: str, lines: int) -> list[tuple[str, str]]:
    """What a writer said, of which it had said ``lines`` lines when it was killed."""
    process = writer(path, name, 1000)
    assert process.stdout
    said = [process.stdout.readline() for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    said += rest.splitlines(keepends=True)
    assert process.returncode == -signal.SIGKILL
    return [(word, run) for line in said if line.endswith("\n") for word, run in [line.split()]]


def test_what_was_said_to_be_there_is_there_after_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "trace.db"
    chance = random.Random(7)
    finished: set[str] = set()
    started: set[str] = set()
    for round_ in range(20):
        said = killed_after(path, f"p{round_:02}", chance.randint(1, 60))
        started |= {run for word, run in said if word == "started"}
        finished |= {run for word, run in said if word == "finished"}
        with TraceStore.open(path, content="full") as store:
            stored = {row.id: row.status for row in store.runs(limit=100_000)}
        assert started <= stored.keys()
        assert {stored[run] for run in finished} <= {"succeeded"}
        assert set(stored.values()) <= {"succeeded", "interrupted"}
    assert finished and "interrupted" in stored.values()
    with TraceStore.open(path, readonly=True) as reader:
        for run in finished:
            whole = reader.run(run)
            assert [node.step for node in whole.nodes] == ["a", "b", "c"]
            assert all(node.content and node.content.data["text"].startswith(run) for node in whole.nodes)
            assert whole.output and whole.output.data == {"text": run}


def test_a_living_process_keeps_its_runs(tmp_path: Path) -> None:
    path = tmp_path / "trace.db"
    process = writer(path, "p", 0)
    assert process.stdout and process.stdout.readline() == "started p\n"
    with TraceStore.open(path, content="full") as store:
        assert store.run("p").row.status == "running"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with TraceStore.open(path, readonly=True) as reader:  # seen at once, though nobody has marked it yet
        assert reader.run("p").row.status == "interrupted"
        assert statuses(path) == ["running"]
    with TraceStore.open(path, content="full"):
        assert statuses(path) == ["interrupted"]


def test_a_run_of_another_container_is_marked_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "trace.db"
    process = writer(path, "elsewhere", 0)
    assert process.stdout and process.stdout.readline() == "started elsewhere\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE runs SET owner = json_set(owner, '$.host', 'another')")
        connection.commit()
    with TraceStore.open(path, content="full") as store:
        store.recorder().record_sync(RunStarted("over", "notes", noted("over", "input", "x"), 0, 3.0))
        finish = RunFinished("over", "notes", "succeeded", 4.0, 1.0, noted("over", "output", "y"))
        assert store.run("elsewhere").row.status == "running"
        assert store.interrupt(["else", "over"]) == ("elsewhere", "over")
        assert store.run("elsewhere").row.status == "interrupted"
        store.recorder().record_sync(finish)  # it went on after all
        assert store.run("over").row.status == "succeeded"
        assert store.interrupt(["over", "elsewhere"]) == ()


def statuses(path: Path) -> list[str]:
    """What the file itself says."""
    connection = sqlite3.connect(path)
    try:
        return [status for (status,) in connection.execute("SELECT status FROM runs")]
    finally:
        connection.close()


def test_two_processes_write_one_database(tmp_path: Path) -> None:
    path = tmp_path / "trace.db"
    both = [writer(path, name, 10) for name in ("p", "q")]
    for process in both:
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert said.count("finished") == 40
    with TraceStore.open(path, readonly=True) as reader:
        rows = reader.runs(limit=1000)
    assert len(rows) == 80 and {row.status for row in rows} == {"succeeded"}


def test_a_process_that_comes_and_goes_leaves_the_log_of_one_at_work(tmp_path: Path) -> None:
    """The last to close a database unlinks its log: who is at work must hold the lock that says so."""
    path = tmp_path / "trace.db"
    at_work = writer(path, "stays", 0)
    assert at_work.stdout is not None
    assert at_work.stdout.readline().startswith("started")
    log = tmp_path / "trace.db-wal"
    before = log.stat().st_ino
    goes = writer(path, "goes", 2)
    said, _ = goes.communicate(timeout=120)
    assert goes.returncode == 0 and said.count("finished") == 8
    assert log.stat().st_ino == before
    at_work.kill()
    at_work.communicate()
    with TraceStore.open(path) as store:
        assert store.run("stays").row.status == "interrupted"


def damaged(whole: bytes, chance: random.Random) -> bytes:
    """The bytes of a file after something went wrong with the disk."""
    raw = bytearray(whole)
    how = chance.choice(("bit", "bytes", "cut", "zeros", "header", "schema"))
    if how == "bit":
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    elif how == "bytes":
        for _ in range(20):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
    elif how == "cut":
        del raw[chance.randrange(len(raw)) :]
    elif how == "zeros":
        at = chance.randrange(len(raw))
        raw[at : at + 2000] = bytes(len(raw[at : at + 2000]))
    else:
        raw[chance.randrange(100) if how == "header" else 100 + chance.randrange(3000)] = chance.randrange(256)
    return bytes(raw)


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_database_gives_a_store_error_or_an_answer(tmp_path: Path, seed: int) -> None:
    """Never another exception, which a user would see as a fault of fslm."""
    chance = random.Random(seed)
    path = tmp_path / "trace.db"
    with TraceStore.open(path, content="full") as store:
        for number in range(12):
            note = f"{number} " + "y" * 300
            store.recorder().record_sync(RunStarted(f"r{number}", "notes", noted(f"r{number}", "input", note), 0, 1.0))
            store.recorder().record_sync(MessageEmitted(f"r{number}", noted(f"r{number}", "a", note)))
            if number % 4:
                output = noted(f"r{number}", "output", note)
                store.recorder().record_sync(RunFinished(f"r{number}", "notes", "succeeded", 2.0, 1.0, output))
    whole = path.read_bytes()
    told = 0
    for number in range(25):
        copy = tmp_path / f"copy-{number}.db"
        copy.write_bytes(damaged(whole, chance))
        for readonly in (True, False):
            told += damage_told(copy, readonly=readonly)
    assert told


def damage_told(path: Path, *, readonly: bool) -> int:
    """How many errors are told when all of a database is read and, unless ``readonly``, written to."""
    told = 0
    try:
        with TraceStore.open(path, content="full", readonly=readonly) as store:
            for row in store.runs(1000):
                try:
                    show(store.run(row.id))
                except FslmError:
                    told += 1
            if not readonly:
                store.recorder().record_sync(RunStarted("new", "notes", noted("new", "input", "x"), 0, 3.0))
    except FslmError as error:
        assert isinstance(error, StoreError) and error.hint and error.where == str(path)
        told += 1
    return told


class Note(BaseModel):
    text: str = Field(max_length=9000)


def noted(run: str, step: str, text: str) -> Message[Note]:
    note = Note(text=text)
    return Message(step, note, node_id(run, step), content_id(note), attempts=(Attempt(0, None, text),))


ROOT = Path(__file__).parents[2]


def campaign(name: str, *options: str) -> Any:
    """Run a small share of a campaign, and return its counts."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.campaigns.{name}", *options], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_kill_9_at_random_moments_of_run_and_batch() -> None:
    counts = campaign("kills", "--kills", "5", "--rows", "40", "--seed", "2")
    assert counts["kills"] == 5
    assert counts["batches resumed to the end"] and counts["rows reported"] >= 40


def test_a_power_cut_keeps_what_was_said_to_be_finished() -> None:
    counts = campaign("power_cut", "--cuts", "8", "--batch-cuts", "1", "--rows", "60", "--seed", "3")
    assert counts["traces opened after a cut"] == 8 and counts["finished runs looked for"] > 8
    assert counts["batches resumed after a cut"] == 1

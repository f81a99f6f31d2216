"""Forgetting and pruning: no byte of a forgotten run is in any file of the store, and the other runs are whole."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from fslm_core.errors import StoreError, UnknownNameError, UsageError
from fslm_core.events import AttemptFailed, MessageEmitted, RunFinished, RunStarted
from fslm_core.message import Attempt, Message, Origin, Problem, TokenTrace, node_id
from fslm_core.prompt import Template
from fslm_core.schema import content_id
from fslm_core.store import ContentMode, Recorder, StoredRun, TraceStore
from fslm_core.store import forget as forgetting
from fslm_core.store.database import connect, transaction

LENGTHS = (0, 40, 700, 3900, 9000, 30_000)
"""Of the text beside the canary: within a cell, across a page's share, on overflow pages."""


class Note(BaseModel):
    text: str = Field(max_length=40_000)


ORIGIN = Origin("notes.say", input=Note, output=Note)
TEMPLATE = Template("Say {{ text }}")


def message(run: str, step: str, text: str, **rest: Any) -> Message[Any]:
    note = Note(text=text)
    return Message(step, note, node_id(run, step), content_id(note), **rest)


def write(recorder: Recorder, run: str, text: str, at: float, *, stack: str = "notes", end: bool = True) -> None:
    """A run that says ``text`` wherever a run can: input, prompt, raw text, tokens, problems, output, error."""
    raw = json.dumps({"text": text})
    tokens = TokenTrace((1,), (text,), None, (False,))
    quoted = Problem("validator", f"not {text}", None, None)
    tried = Attempt(0, TEMPLATE.render({"text": text}), raw, (quoted,), tokens=tokens)
    shared = message(run, "shared", "what every run says", origin=ORIGIN)
    recorder.record_sync(RunStarted(run, stack, message(run, "input", text), 0, at))
    recorder.record_sync(MessageEmitted(run, message(run, "say", text + "!", attempts=(tried,), origin=ORIGIN)))
    recorder.record_sync(MessageEmitted(run, shared))
    recorder.record_sync(AttemptFailed(run, "more", node_id(run, "more"), tried, ORIGIN))
    if end:
        error = StoreError("it failed", where=run, found=text)
        recorder.record_sync(RunFinished(run, stack, "failed", at + 1, 1.0, message(run, "output", text), error))


def canary(run: str) -> str:
    return f"canary-{run}-canary"


def told(run: str, seed: int) -> str:
    return canary(run) + " " + "x" * random.Random(seed).choice(LENGTHS)


def files(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(path.parent.rglob("*")) if file.is_file())


def found_in(path: Path, runs: list[str]) -> list[str]:
    """Which of the runs left a trace in the bytes of any file beside the database."""
    bytes_ = files(path)
    return [run for run in runs if canary(run).encode() in bytes_]


def sound(path: Path) -> bool:
    """Whether SQLite finds nothing wrong, and no row refers to one that is not there."""
    connection = sqlite3.connect(path)
    dangling = connection.execute(
        "SELECT (SELECT count(*) FROM nodes WHERE run NOT IN (SELECT id FROM runs))"
        " + (SELECT count(*) FROM attempts WHERE node NOT IN (SELECT id FROM nodes))"
        " + (SELECT count(*) FROM blobs WHERE node NOT IN (SELECT id FROM nodes))"
        " + (SELECT count(*) FROM nodes WHERE content_id NOT IN (SELECT id FROM contents))"
        " + (SELECT count(*) FROM runs WHERE input NOT IN (SELECT id FROM contents))"
    ).fetchone()[0]
    whole = connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    connection.close()
    return bool(whole and dangling == 0)


def fill(path: Path, count: int, *, mode: ContentMode = "full") -> list[str]:
    """Runs, a third of them of another stack; the recorder stays open no longer than it writes."""
    runs = [f"run{number:05}" for number in range(count)]
    with TraceStore.open(path, content=mode) as store:
        for number, run in enumerate(runs):
            write(
                store.recorder(), run, told(run, number), float(number), stack="other" if number % 3 == 0 else "notes"
            )
    return runs


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "trace.db"


@pytest.mark.parametrize("count", [1, 7, 120])
def test_nothing_of_a_forgotten_run_is_in_any_file_and_the_others_are_whole(path: Path, count: int) -> None:
    runs = fill(path, count)
    assert found_in(path, runs) == runs
    gone = random.Random(count).sample(runs, max(1, count // 2))
    kept = [run for run in runs if run not in gone]
    with TraceStore.open(path, readonly=True) as store:
        before = {run: store.run(run) for run in kept}
    with TraceStore.open(path) as store:
        done = store.forget(gone)
        assert {run: store.run(run) for run in kept} == before
        assert found_in(path, runs) == kept  # while the store is still open
    assert found_in(path, runs) == kept
    assert not any(run.encode() in files(path) for run in gone)
    assert sorted(done.runs) == sorted(gone) and done.contents == 2 * len(gone) + (not kept)
    assert done.bytes_after < done.bytes_before or count == 1
    assert sound(path)


def test_deleting_and_cutting_the_log_alone_would_leave_bytes(path: Path) -> None:
    """Why the file is written anew: copies stay in the unused parts of pages, whatever `secure_delete` overwrites."""
    chance = random.Random(1)
    runs = [f"{chance.getrandbits(60):015x}" for _ in range(300)]
    with TraceStore.open(path, content="full") as store:
        for number, run in enumerate(runs):
            write(store.recorder(), run, canary(run) + "x" * chance.choice((0, 40, 300)), float(number))
    gone = chance.sample(runs, 150)
    connection = connect(path, readonly=False)
    with transaction(connection):
        forgetting._delete(connection, gone)
    assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    connection.close()
    left = files(path)
    assert any(run.encode() in left for run in gone)
    with TraceStore.open(path) as store:
        store.forget()
    left = files(path)
    assert not any(run.encode() in left for run in gone)
    assert found_in(path, runs) == [run for run in runs if run not in gone]


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_store_forget import TraceStore, told, write

with TraceStore.open(Path(sys.argv[1]), content="full") as store:
    for number in range(40):
        run = f"there{number:05}"
        write(store.recorder(), run, told(run, number), 100.0 + number)
        print(run, flush=True)
"""


def test_another_process_writes_while_runs_are_forgotten(path: Path) -> None:
    runs = fill(path, 20)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout
    written = []
    with TraceStore.open(path) as store:
        with writer.stdout as said:
            for number, line in enumerate(said):
                written.append(line.strip())
                if number % 8 == 7:
                    store.forget([runs.pop(0), written.pop(0)])
        assert writer.wait() == 0
        left = [run.id for run in store.runs(limit=99)][::-1]
    everyone = [f"run{n:05}" for n in range(20)] + [f"there{n:05}" for n in range(40)]
    assert left == runs + written and len(left) == 50
    assert found_in(path, everyone) == left
    assert sound(path)


def test_forgetting_waits_for_no_recorder_and_a_recorder_goes_on(path: Path) -> None:
    """One process writes with an open log, while its runs are forgotten one by one by another connection."""
    with TraceStore.open(path, content="full") as store, TraceStore.open(path) as other:
        for number in range(30):
            write(store.recorder(), f"run{number:05}", told(f"run{number:05}", number), float(number))
            if number % 3 == 2:
                other.forget([f"run{number - 1:05}"])
                assert not found_in(path, [f"run{number - 1:05}"])
    assert found_in(path, [f"run{n:05}" for n in range(30)]) == [f"run{n:05}" for n in range(30) if n % 3 != 1]
    assert sound(path)


def test_a_message_that_another_run_has_too_stays(path: Path) -> None:
    with TraceStore.open(path, content="full") as store:
        for number, run in enumerate(("first", "second")):
            write(store.recorder(), run, "the very same", float(number))
        store.forget(["first"])
        second = store.run("second")
        assert second.input is not None and second.input.data == {"text": "the very same"}
        assert [run.id for run in store.runs()] == ["second"]
        done = store.forget(["second"])
    assert done.contents == 3  # the text, the text with its mark, and what every run says
    assert b"the very same" not in files(path)


@pytest.mark.parametrize("mode", ["redacted", "none"])
def test_runs_of_every_mode_can_be_forgotten(path: Path, mode: ContentMode) -> None:
    runs = fill(path, 5, mode=mode)
    with TraceStore.open(path) as store:
        store.forget(runs[:4])
        assert [run.id for run in store.runs()] == runs[4:]
    assert not any(run.encode() in files(path) for run in runs[:4])
    assert sound(path)


def test_a_run_under_way_is_refused_and_nothing_is_forgotten(path: Path) -> None:
    runs = fill(path, 3)
    with TraceStore.open(path, content="full") as store:
        write(store.recorder(), "going", told("going", 1), 9.0, end=False)
        store.recorder().flush()
        with pytest.raises(StoreError, match="under way") as refused:
            store.forget([runs[0], "going"])
        assert refused.value.found == "going"
        assert found_in(path, [*runs, "going"]) == [*runs, "going"]
        assert store.prune(keep=0).runs == tuple(runs)
        assert [run.id for run in store.runs()] == ["going"]
    with TraceStore.open(path) as store:
        assert store.forget(["going"]).runs == ("going",)  # its writer was closed: it is interrupted
    assert not found_in(path, [*runs, "going"])


def test_a_name_that_is_nobodys_forgets_nothing(path: Path) -> None:
    runs = fill(path, 3)
    with TraceStore.open(path) as store:
        for names in ([runs[0], "nobody"], [runs[0], "run"]):
            with pytest.raises(UnknownNameError):
                store.forget(names)
        assert len(store.runs()) == 3
    with TraceStore.open(path, readonly=True) as store, pytest.raises(StoreError, match="read only"):
        store.forget(runs)


def test_steps_whose_run_was_never_written_can_be_forgotten(path: Path) -> None:
    fill(path, 2)
    with TraceStore.open(path, content="full") as store:
        text = told("lost", 3)
        store.recorder().record_sync(MessageEmitted("lost", message("lost", "say", text, origin=ORIGIN, started=5.0)))
        store.recorder().flush()
        assert found_in(path, ["lost"])
        assert store.prune(older_than=10.0, dry_run=True).runs[-1] == "lost"
        store.forget(["lost"])
    assert not found_in(path, ["lost"])
    assert sound(path)


def test_prune_by_age_by_number_and_by_stack(path: Path) -> None:
    runs = fill(path, 12)
    others = runs[::3]

    with TraceStore.open(path) as store:

        def plan(**limits: Any) -> list[str]:
            return list(store.prune(dry_run=True, **limits).runs)

        assert plan(keep=5) == runs[:7]
        assert plan(keep=1, stack="other") == others[:3]
        assert plan(keep=0, stack="nobody") == []
        assert plan(older_than=0) == runs
        assert plan(older_than=0, keep=10) == runs[:2]
        assert plan(older_than=1e12) == []
        for wrong in ({}, {"keep": -1}, {"older_than": -0.1}):
            with pytest.raises(UsageError):
                plan(**wrong)
        assert len(store.runs()) == 12
        assert list(store.prune(keep=5).runs) == runs[:7]
        assert found_in(path, runs) == runs[7:]
        assert store.prune(keep=5).runs == ()
    assert sound(path)


def test_prune_by_size_forgets_the_oldest_until_the_file_is_small_enough(path: Path) -> None:
    runs = fill(path, 60)
    size = path.stat().st_size
    with TraceStore.open(path) as store:
        assert store.prune(larger_than=2 * size).runs == ()
        planned = store.prune(larger_than=size // 2, dry_run=True).runs
        done = store.prune(larger_than=size // 2)
        assert path.stat().st_size <= size // 2 and done.bytes_after == path.stat().st_size < done.bytes_before
        assert list(done.runs) == runs[: len(done.runs)] and done.runs[: len(planned)] == planned
        kept = [run.id for run in store.runs(limit=99)]
        assert 10 < len(kept) < 50 and kept == runs[: len(done.runs) - 1 : -1]
        assert list(store.prune(larger_than=0, keep=5).runs) == runs[len(done.runs) : 55]
        assert store.prune(larger_than=0, stack="nobody").runs == ()
        with pytest.raises(UsageError):
            store.prune(larger_than=-1)
    assert found_in(path, runs) == runs[55:] and sound(path)


def test_old_enough_is_counted_from_the_start_of_the_run(path: Path) -> None:
    runs = fill(path, 6)
    with TraceStore.open(path) as store, store._reading() as connection:
        chosen = forgetting.select(connection, older_than=10.0, now=13.0)
    assert list(chosen) == runs[:3]  # they began at 0, 1 and 2


KILLED = """
import os, signal, sys
from pathlib import Path
from fslm_core.store import forget

place, runs, kill_at = Path(sys.argv[1]), sys.argv[3:], int(sys.argv[2])
steps = 0

def die(*_):
    global steps
    steps += 1
    if steps == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return 0

real = forget.connect
def connect(*args, **options):
    connection = real(*args, **options)
    connection.set_progress_handler(die, 40)
    return connection

forget.connect = connect
forget.forget(place, runs)
print(steps)
"""


def killed(path: Path, at: int, runs: list[str]) -> int | None:
    """Forget in a process of its own that kills itself after so many rounds of work; the rounds if it lived."""
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), str(at), *runs], capture_output=True, text=True, check=False
    )
    assert ran.returncode in (0, -9), ran.stderr
    return None if ran.returncode else int(ran.stdout)


def snapshot(path: Path) -> Callable[[], None]:
    """Remember the files as they are; what is returned puts them back."""
    backup = {file.name: file.read_bytes() for file in path.parent.iterdir()}

    def restore() -> None:
        for file in path.parent.iterdir():
            file.unlink()
        for name, data in backup.items():
            (path.parent / name).write_bytes(data)

    return restore


def forgotten_after_a_kill(path: Path, at: int, gone: list[str], rest: list[str]) -> bool:
    """Kill a process that forgets; all is there or all is gone, and forgetting again completes it."""
    assert killed(path, at, gone) is None
    everyone = sorted([*gone, *rest])
    with TraceStore.open(path) as store:
        left = sorted(run.id for run in store.runs(limit=9999))
        assert left in (everyone, rest)
        store.forget(gone)
        assert sorted(run.id for run in store.runs(limit=9999)) == rest
        assert store.pending() == 0
    assert found_in(path, everyone) == rest
    assert sound(path)
    return left == rest


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_while_it_forgets_a_run_is_there_or_gone_and_the_next_call_completes_it(path: Path) -> None:
    runs = fill(path, 40)
    gone, rest = runs[::2], runs[1::2]
    restore = snapshot(path)
    rounds = killed(path, -1, gone)
    assert rounds is not None and rounds > 20
    assert found_in(path, runs) == rest
    for at, past in ((1, False), (rounds - 1, True)):
        restore()
        assert forgotten_after_a_kill(path, at, gone, rest) == past


@pytest.fixture
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Another process's transaction that sees the database as it was."""
    fill(path, 4)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM runs").fetchone()
    yield connection
    connection.close()


def test_a_reader_that_does_not_end_is_waited_for_and_then_told(path: Path, reading: sqlite3.Connection) -> None:
    runs = [f"run{number:05}" for number in range(4)]
    with TraceStore.open(path) as store:
        with pytest.raises(StoreError, match="not overwritten yet") as unfinished:
            store.forget(runs[:2], patience=0.2)
        assert "same command again" in str(unfinished.value)
        assert [run.id for run in store.runs()] == [runs[3], runs[2]] and store.pending() == 2
        reading.execute("ROLLBACK")
        store.forget(runs[:2], patience=0.2)  # gone already, and so no unknown name
        assert store.pending() == 0
    assert found_in(path, runs) == runs[2:]


def test_a_writer_that_does_not_end_is_an_error_and_nothing_is_forgotten(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = fill(path, 4)
    monkeypatch.setattr("fslm_core.store.database.BUSY_SECONDS", 0.1)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with TraceStore.open(path, readonly=True) as reader:
        before: list[StoredRun] = [reader.run(run) for run in runs]
        with pytest.raises(StoreError, match="locked"):
            forgetting.forget(path, runs[:2], patience=0.1)
        assert [reader.run(run) for run in runs] == before
    writer.execute("ROLLBACK")
    writer.close()


CRAMPED = """
import resource, sys
from pathlib import Path
from fslm_core.errors import StoreError
from fslm_core.store import forget

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    forget.forget(Path(sys.argv[1]), sys.argv[3:])
except StoreError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_no_room_to_write_the_file_anew_is_told_and_completed_later(path: Path) -> None:
    runs = fill(path, 40)
    room = path.stat().st_size // 2  # enough for the log of the deletion, not for that of a new file
    ran = subprocess.run(
        [sys.executable, "-c", CRAMPED, str(path), str(room), *runs[:3]], capture_output=True, text=True, check=True
    )
    assert "gone from the tables, but their bytes are not overwritten yet" in ran.stdout
    assert "run the same command again" in ran.stdout
    with TraceStore.open(path) as store:
        assert store.pending() == 3
        assert [run.id for run in store.runs(limit=99)][::-1] == runs[3:]
        store.forget()
        assert store.pending() == 0
    assert found_in(path, runs) == runs[3:]
    assert sound(path)

"""The trace store: what goes in comes out, what is wrong with the file is said, and groups share a commit."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from fslm_core.errors import StageFailedError, StoreError, UnknownNameError
from fslm_core.events import AttemptFailed, Event, MessageEmitted, RunFinished, RunStarted, StepSkipped, StepStarted
from fslm_core.message import Attempt, Message, Origin, Problem, Skipped, TokenTrace, Usage, node_id
from fslm_core.prompt import Prompt, Span
from fslm_core.schema import canonical, content_id
from fslm_core.store import Recorder, TraceStore, database
from fslm_core.store.database import APPLICATION_ID, VERSION
from fslm_core.store.owner import is_gone, this_writer


class Enquiry(BaseModel):
    text: str = Field(max_length=5000)


class Label(BaseModel):
    label: str = Field(max_length=5000)


ORIGIN = Origin("shop.label", "fslm-shop", "1.2", "smollm2-135m", "scripted", False, "f" * 64, Enquiry, Label)


def message(run: str, step: str, content: BaseModel, **rest: Any) -> Message[Any]:
    return Message(step, content, node_id(run, step), content_id(content), **rest)


def started(run: str, text: str = "hello", **rest: Any) -> RunStarted:
    return RunStarted(
        run, "shop", message(run, "input", Enquiry(text=text)), 7, 100.0, "scripted", {"label": "f"}, **rest
    )


def emitted(run: str, *attempts: Attempt, label: str = "a", step: str = "label", **rest: Any) -> MessageEmitted:
    return MessageEmitted(run, message(run, step, Label(label=label), attempts=attempts, origin=ORIGIN, **rest))


def finished(run: str, status: str = "succeeded", **rest: Any) -> RunFinished:
    return RunFinished(run, "shop", status, 101.5, 1.5, **rest)


def attempt(text: str = "hello", raw: str = '{"label":"a"}', index: int = 0, **rest: Any) -> Attempt:
    spans = (Span("Label: ", "user"), Span(text, "user", False, "text"))
    return Attempt(index, Prompt(spans), raw, **rest)


def write(recorder: Recorder, *events: Event) -> None:
    for event in events:
        recorder.record_sync(event)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "er" / "trace.db"


@pytest.fixture
def store(path: Path) -> Iterator[TraceStore]:
    with TraceStore.open(path, content="full") as opened:
        yield opened


def test_a_run_comes_back_whole(store: TraceStore) -> None:
    failed = attempt(raw='{"lab', problems=(Problem("json", "cut off"), Problem("refused", "no", "label", "fslm-no")))
    good = attempt(
        index=1,
        usage=Usage(10, 4, 3, 2, 1, 0.1, 0.2, 0.3, 0.6),
        tokens=TokenTrace((5, 6), ('{"label":', '"a"}'), (0.0, -0.25), (True, False)),
        truncated=3,
        finish_reason="length",
    )
    sent = emitted(
        "R1",
        failed,
        good,
        parents=("R1/input/0/0",),
        usage=good.usage,
        confidence={"label": 0.75},
        narrowed={"enum": ["a"]},
        work_key="w",
        started=100.25,
    )
    output = message("R1", "output", Label(label="a"), parents=(sent.message.node_id,))
    write(
        store.recorder(),
        started("R1"),
        StepStarted("R1", "label", "R1/label/0/0"),
        sent,
        StepSkipped("R1", Skipped("more", "R1/more/2/1", "label.label == 'b'", ("R1/label/0/0",))),
        finished("R1", output=output),
    )

    run = store.run("R1")

    assert (run.row.stack, run.row.status, run.row.seed, run.row.backend) == ("shop", "succeeded", 7, "scripted")
    assert (run.row.started, run.row.ended, run.row.seconds, run.row.error) == (100.0, 101.5, 1.5, None)
    assert run.row.content == "full" and run.fingerprints == {"label": "f"}
    assert run.input and run.input.data == {"text": "hello"}
    assert run.output and run.output.json == '{"label":"a"}' and run.output_parents == ("R1/label/0/0",)
    node, skipped = run.nodes
    assert (node.status, node.parents, node.work_key, node.started) == ("ok", ("R1/input/0/0",), "w", 100.25)
    assert (node.stage, node.plugin, node.version, node.tuned) == ("shop.label", "fslm-shop", "1.2", False)
    assert (node.usage, node.seconds, node.confidence, node.narrowed) == (
        good.usage,
        0.6,
        {"label": 0.75},
        {"enum": ["a"]},
    )
    assert node.content and node.content.id == sent.message.content_id and node.content.model == "Label"
    first, second = node.attempts
    assert (first.prompt, first.raw, first.problems, first.tokens) == (failed.prompt, failed.raw, failed.problems, None)
    assert (second.tokens, second.truncated, second.finish_reason) == (good.tokens, 3, "length")
    assert (skipped.status, skipped.when, skipped.index, skipped.attempt) == ("skipped", "label.label == 'b'", 2, 1)


def test_a_failed_step_is_kept_with_every_try_and_the_sum_of_their_cost(store: TraceStore) -> None:
    tries = [attempt(index=i, problems=(Problem("json", "no"),), usage=Usage(output=2, seconds=0.5)) for i in (0, 1)]
    error = StageFailedError("no valid message", where="step label", problems=tries[-1].problems, attempts=tries)
    events = [AttemptFailed("R1", "label", "R1/label/0/0", a, ORIGIN, ("R1/input/0/0",), 100.5) for a in tries]
    write(store.recorder(), started("R1"), *events, finished("R1", "failed", error=error))

    run = store.run("R1")

    assert run.row.status == "failed" and run.row.error == error.to_dict()
    (node,) = run.nodes
    assert (node.status, node.stage, node.content, len(node.attempts)) == ("failed", "shop.label", None, 2)
    assert (node.usage.output, node.seconds) == (4, 1.0)


def test_a_step_that_succeeds_after_all_is_one_node(store: TraceStore) -> None:
    bad = attempt(problems=(Problem("json", "no"),), tokens=TokenTrace((1,), ("x",), None, (False,)))
    good = attempt(index=1)
    write(
        store.recorder(),
        started("R1"),
        AttemptFailed("R1", "label", node_id("R1", "label", 0, 0), bad),
        MessageEmitted(
            "R1", Message("label", Label(label="a"), node_id("R1", "label", 0, 1), "c", attempts=(bad, good))
        ),
        finished("R1"),
    )
    (node,) = store.run("R1").nodes
    assert (node.status, node.attempt, len(node.attempts)) == ("ok", 1, 2)
    with sqlite3.connect(store.path) as raw:
        assert raw.execute("SELECT count(*) FROM attempts").fetchone() == (2,)
        assert raw.execute("SELECT count(*) FROM blobs").fetchone() == (1,)
    raw.close()


def test_equal_content_is_stored_once(store: TraceStore) -> None:
    for run in ("R1", "R2", "R3"):
        write(store.recorder(), started(run), emitted(run), finished(run))
    with sqlite3.connect(store.path) as raw:
        assert raw.execute("SELECT count(*) FROM contents").fetchone() == (2,)
    raw.close()
    wanted = Label(label="a")
    assert store.content(content_id(wanted)).json == canonical(wanted)
    with pytest.raises(UnknownNameError):
        store.content("0" * 64)


text = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    raw=text,
    prompt=text,
    label=st.text(max_size=20),
    logprobs=st.lists(st.floats(max_value=0, allow_nan=False), max_size=5),
    tokens=st.lists(st.integers(0, 2**40), min_size=5, max_size=5),
    seed=st.integers(-(2**70), 2**70),
    problem=text,
    number=st.integers(0, 2**60),
)
def test_whatever_goes_in_comes_out(
    store: TraceStore,
    raw: str,
    prompt: str,
    label: str,
    logprobs: list[float],
    tokens: list[int],
    seed: int,
    problem: str,
    number: int,
) -> None:
    size = len(logprobs)
    trace = TokenTrace(tuple(tokens[:size]), (raw,) * size, tuple(logprobs), tuple(i % 2 == 0 for i in range(size)))
    run = f"{number:x}-{len(store.runs(limit=1000))}"
    tried = attempt(prompt, raw, problems=(Problem("json", problem, problem),), tokens=trace)
    begin = RunStarted(run, "shop", message(run, "input", Enquiry(text="x")), seed, 1.0)
    write(store.recorder(), begin, emitted(run, tried, label=label), finished(run))

    stored = store.run(run)

    assert stored.row.seed == seed
    (node,) = stored.nodes
    assert node.content and node.content.data == {"label": label}
    (back,) = node.attempts
    assert (back.raw, back.prompt, back.problems, back.tokens) == (raw, tried.prompt, tried.problems, trace)


def test_runs_are_listed_newest_first_and_filtered(store: TraceStore) -> None:
    for number in range(5):
        run = f"R{number}"
        begin = RunStarted(run, f"stack{number % 2}", message(run, "input", Enquiry(text="x")), 0, 100.0 + number)
        end = RunFinished(run, f"stack{number % 2}", "failed" if number == 2 else "succeeded", 200.0, 1.0)
        write(store.recorder(), begin, end)
    assert [r.id for r in store.runs()] == ["R4", "R3", "R2", "R1", "R0"]
    assert [r.id for r in store.runs(2)] == ["R4", "R3"]
    assert [r.id for r in store.runs(stack="stack1")] == ["R3", "R1"]
    assert [r.id for r in store.runs(1, status="failed")] == ["R2"]


def test_a_run_is_found_by_the_beginning_of_its_id(store: TraceStore) -> None:
    with pytest.raises(UnknownNameError, match="no run is in the trace yet"):
        store.run()
    write(store.recorder(), *(event for run in ("01AB", "01AC", "02AD") for event in (started(run), finished(run))))
    assert store.run("02").row.id == store.run("02ad").row.id == store.run("last").row.id == "02AD"
    with pytest.raises(UnknownNameError, match="several runs begin with '01'") as several:
        store.run("01")
    assert several.value.expected == "one of 01AB, 01AC"
    with pytest.raises(UnknownNameError, match="no run named '02AE'") as unknown:
        store.run("02AE")
    assert "02AD" in str(unknown.value)
    with pytest.raises(UnknownNameError):
        store.run("")


def test_the_start_of_a_run_is_on_the_disk_before_record_returns_and_can_be_read_meanwhile(store: TraceStore) -> None:
    recorder = store.recorder()
    recorder.record_sync(started("R1"))
    with TraceStore.open(store.path, readonly=True) as reader:
        assert reader.run("R1").row.status == "running"
        recorder.record_sync(emitted("R1"))
        recorder.flush()
        assert [n.step for n in reader.run("R1").nodes] == ["label"]
        recorder.record_sync(finished("R1"))
        assert reader.run("R1").row.status == "succeeded"


def test_records_that_wait_together_share_a_commit(store: TraceStore) -> None:
    recorder = store.recorder()
    blocker = sqlite3.connect(store.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")  # holds the writer back until all fifty wait

    async def all_at_once() -> None:
        tasks = [asyncio.create_task(recorder.record(started(f"R{i}"))) for i in range(50)]
        await asyncio.sleep(0)
        blocker.execute("ROLLBACK")
        await asyncio.gather(*tasks)

    asyncio.run(all_at_once())
    blocker.close()
    assert recorder.records == 50
    assert recorder.commits <= 2
    assert len(store.runs(limit=100)) == 50


def test_many_threads_and_loops_write_at_once(store: TraceStore) -> None:
    recorder = store.recorder()

    async def runs(worker: int) -> None:
        async def one(number: int) -> None:
            run = f"{worker}-{number}"
            await recorder.record(started(run))
            await recorder.record(emitted(run, attempt()))
            await recorder.record(finished(run))
            assert store.run(run).row.status == "succeeded"

        await asyncio.gather(*map(one, range(10)))

    threads = [threading.Thread(target=asyncio.run, args=(runs(worker),)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = store.runs(limit=100)
    assert len(rows) == 60 and {row.status for row in rows} == {"succeeded"}
    assert all(len(store.run(row.id).nodes) == 1 for row in rows)
    assert recorder.commits < 120


def test_a_cancelled_wait_does_not_lose_the_record(store: TraceStore) -> None:
    recorder = store.recorder()

    async def cancelled() -> None:
        task = asyncio.create_task(recorder.record(started("R1")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    recorder.flush()
    assert store.run("R1").row.status == "running"


def test_one_bad_record_does_not_take_its_group_with_it(store: TraceStore) -> None:
    recorder = store.recorder()
    recorder.record_sync(started("R1"))

    async def group() -> list[Any]:
        events = (started("R2"), started("R1"), started("R3"))
        return await asyncio.gather(*map(recorder.record, events), return_exceptions=True)

    good, twice, also = asyncio.run(group())
    assert good is None and also is None
    assert isinstance(twice, StoreError)
    assert {row.id for row in store.runs()} == {"R1", "R2", "R3"}


def test_a_content_that_is_no_json_fails_its_own_run_only(store: TraceStore) -> None:
    recorder = store.recorder()
    write(recorder, started("R1"))
    broken = Message("label", Label.model_construct(label="\ud800"), "R1/label/0/0", "c")
    with pytest.raises(StoreError, match="cannot be written to the trace"):
        recorder.record_sync(MessageEmitted("R1", broken))
    with pytest.raises(StoreError):
        recorder.record_sync(finished("R1"))
    assert store.run("R1").row.status == "failed"
    write(recorder, started("R2"), finished("R2"))
    assert store.run("R2").row.status == "succeeded"


def test_an_output_that_is_no_json_fails_the_run(store: TraceStore) -> None:
    recorder = store.recorder()
    write(recorder, started("R1"))
    output = Message("output", Label.model_construct(label="\ud800"), "R1/output/0/0", "c")
    with pytest.raises(StoreError):
        recorder.record_sync(finished("R1", output=output))
    assert store.run("R1").row.status == "failed"


def shrink(recorder: Recorder) -> None:
    """Leave the writer's database no page to grow by: to sqlite the disk is full."""
    connection = recorder._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")


def test_a_full_disk_fails_the_run_that_lost_a_record(store: TraceStore) -> None:
    recorder = store.recorder()
    write(recorder, started("R1"), started("R2"))
    shrink(recorder)
    recorder.record_sync(emitted("R1", attempt("x" * 5000, raw="y" * 60_000)))
    recorder.flush()
    with pytest.raises(StoreError, match="the disk is full"):
        recorder.record_sync(emitted("R1", step="next"))
    with pytest.raises(StoreError, match="the disk is full"):
        recorder.record_sync(finished("R1"))
    recorder.record_sync(finished("R2"))
    assert store.run("R1").row.status == "failed"
    assert (store.run("R1").row.error or {})["code"] == "store"
    assert store.run("R2").row.status == "succeeded"


def test_a_full_disk_is_counted_and_told_once_when_the_run_may_go_on(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with TraceStore.open(path, content="full", on_failure="continue") as store:
        recorder = store.recorder()
        write(recorder, started("R1"))
        shrink(recorder)
        with caplog.at_level(logging.WARNING, "fslm.store"):
            for step in ("a", "b", "c"):
                recorder.record_sync(emitted("R1", attempt(raw="y" * 60_000), step=step))
                recorder.flush()
            recorder.record_sync(finished("R1"))
        assert recorder.lost == 3
        assert store.run("R1").row.status == "succeeded" and store.run("R1").nodes == ()
        assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
        assert "incomplete from here on, and runs go on without it" in caplog.records[0].getMessage()
        assert "the disk is full" in caplog.records[0].getMessage()
        assert caplog.records[1].getMessage() == "the trace is written again; lost in between: 3 records"
        for run in ("R2", "R3"):  # a disk that is full again and again is not told of again and again
            recorder.record_sync(emitted(run, attempt(raw="y" * 60_000)))
            recorder.flush()
            recorder.record_sync(finished(run))
        assert recorder.lost == 5 and len(caplog.records) == 2
        caplog.set_level(logging.WARNING, "fslm.store")
    assert caplog.records[-1].getMessage() == "the trace is closed; it lacks 5 records"


def test_a_run_whose_beginning_was_lost_still_ends_readable(store: TraceStore) -> None:
    write(store.recorder(), emitted("R1"), finished("R1"))
    run = store.run("R1")
    assert (run.row.status, run.row.started, run.input) == ("succeeded", 100.0, None)
    assert len(run.nodes) == 1


def test_a_locked_database_is_said_to_be_locked(store: TraceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = store.recorder()
    recorder._connection.execute("PRAGMA busy_timeout = 1")
    blocker = sqlite3.connect(store.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another process has locked"):
        recorder.record_sync(started("R1"))
    monkeypatch.setattr("fslm_core.store.database.BUSY_SECONDS", 0.001)
    with pytest.raises(StoreError, match="another process has locked"):
        TraceStore.open(store.path)
    blocker.close()
    recorder.record_sync(started("R1"))


def test_a_closed_recorder_refuses(store: TraceStore) -> None:
    recorder = store.recorder()
    recorder.record_sync(started("R1"))
    recorder.close()
    recorder.close()
    with pytest.raises(StoreError, match="closed"):
        recorder.record_sync(started("R2"))
    assert store.run("R1").row.status == "interrupted"


def test_closing_writes_what_is_queued_and_interrupts_only_its_own_runs(path: Path) -> None:
    with TraceStore.open(path, content="full") as mine, TraceStore.open(path, content="full") as other:
        write(mine.recorder(), started("R1"), emitted("R1"))
        write(other.recorder(), started("R2"))
        mine.recorder().close()
        assert len(other.run("R1").nodes) == 1
        assert other.run("R1").row.status == "interrupted"
        assert other.run("R2").row.status == "running"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_recorder_refuses_after_a_fork(store: TraceStore) -> None:
    recorder = store.recorder()
    child = os.fork()
    if child == 0:
        try:
            recorder.record_sync(started("R1"))
        except StoreError as error:
            os._exit(7 if "fork" in error.what else 1)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_files_are_the_owners_alone(path: Path) -> None:
    with TraceStore.open(path, content="none") as store:
        write(store.recorder(), started("R1"))
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}
        assert set(modes) == {"trace.db", "trace.db-wal", "trace.db-shm", "trace.db.key"}
        assert set(modes.values()) == {0o600}
        assert {stat.S_IMODE(p.stat().st_mode) for p in (path.parent, path.parent.parent)} == {0o700}


def test_the_file_says_what_it_is(store: TraceStore) -> None:
    raw = sqlite3.connect(store.path)
    facts = [raw.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version", "journal_mode")]
    tables = {name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    raw.close()
    assert facts == [APPLICATION_ID, VERSION, "wal"]
    assert tables >= {"runs", "nodes", "attempts", "contents", "blobs", "said", "words", "forgetting"}
    assert store.recorder()._connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_newer_file_asks_for_an_upgrade_and_is_left_alone(store: TraceStore) -> None:
    store.close()
    raw = sqlite3.connect(store.path)
    raw.execute(f"PRAGMA user_version = {VERSION + 1}")
    raw.close()
    before = store.path.read_bytes()
    for readonly in (True, False):
        with pytest.raises(StoreError, match="newer fslm") as refused:
            TraceStore.open(store.path, readonly=readonly)
        assert "--upgrade" in str(refused.value)
    assert store.path.read_bytes() == before


def test_a_file_that_cannot_be_written_is_refused_when_it_is_opened(
    store: TraceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()
    connected = database._connected
    monkeypatch.setattr(database, "_connected", lambda uri: connected(uri.replace("mode=rw", "mode=ro")))
    with pytest.raises(StoreError, match="cannot be written"):
        TraceStore.open(store.path)


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.db"
    raw = sqlite3.connect(path)
    raw.execute("CREATE TABLE recipes (name)")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not a trace of fslm"):
        TraceStore.open(path)
    assert path.read_bytes() == before


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("These are notes, not a database. " * 100)
    with pytest.raises(StoreError, match="not a database"):
        TraceStore.open(path)
    with pytest.raises(StoreError, match="a folder stands where"):
        TraceStore.open(tmp_path)
    with pytest.raises(StoreError, match="cannot be opened"):
        TraceStore.open(path / "trace.db")


def test_a_damaged_database_is_said_to_be_damaged(store: TraceStore) -> None:
    write(store.recorder(), *(started(f"R{i}", "x" * 3000) for i in range(20)))
    store.close()
    data = bytearray(store.path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    store.path.write_bytes(data)
    with pytest.raises(StoreError, match="damaged"), TraceStore.open(store.path, readonly=True) as broken:
        broken.runs()


def test_reading_needs_something_to_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.db", tmp_path / "empty.db"):
        if path.stem == "empty":
            path.touch()
        with pytest.raises(StoreError, match="there is no trace yet"):
            TraceStore.open(path, readonly=True)
    assert not (tmp_path / "none.db").exists()


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of a user for whom permissions mean something, with the test running as that user."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            os.chmod(folder, 0o700)
    finally:
        os.seteuid(before)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_folder_that_cannot_be_written(unprivileged: Path) -> None:
    path = unprivileged / "trace.db"
    with TraceStore.open(path, content="full") as store:
        write(store.recorder(), started("R1"), finished("R1"))
    unprivileged.chmod(0o500)
    path.chmod(0o400)
    with TraceStore.open(path, readonly=True) as reader:
        assert reader.run("R1").row.status == "succeeded"
    for name in ("trace.db", "new.db", "new/trace.db"):
        with pytest.raises(StoreError, match="cannot be written"):
            TraceStore.open(unprivileged / name)
    assert {p.name for p in unprivileged.iterdir()} == {"trace.db"}


def test_messages_stay_readable_without_the_code_that_made_them(store: TraceStore) -> None:
    write(store.recorder(), started("R1"), emitted("R1", attempt()), finished("R1"))
    store.close()
    program = (
        "import json, sys; from fslm_core.store import TraceStore; "
        "run = TraceStore.open(sys.argv[1], readonly=True).run(); print(json.dumps(run.nodes[0].content.data))"
    )
    told = subprocess.run([sys.executable, "-c", program, str(store.path)], capture_output=True, text=True, check=True)
    assert json.loads(told.stdout) == {"label": "a"}


def test_only_a_process_that_is_known_to_have_ended_is_gone() -> None:
    mine: dict[str, Any] = json.loads(this_writer())
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    def gone(**changes: Any) -> bool:
        return is_gone(json.dumps({**mine, **changes}))

    assert not gone()
    assert gone(pid=ended.pid)
    assert gone(start="1")  # another process has our number now
    assert gone(boot="before the reboot")
    assert not gone(host="elsewhere", pid=ended.pid)
    assert not gone(space="another container", pid=ended.pid)


def test_two_stores_can_be_made_at_once(tmp_path: Path) -> None:
    path = tmp_path / "trace.db"
    barrier = threading.Barrier(8)
    keys: set[bytes] = set()

    def make() -> None:
        barrier.wait()
        with TraceStore.open(path, content="redacted") as store:
            store.recorder()
            keys.add(Path(f"{path}.key").read_bytes())

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"trace.db", "trace.db.key"}

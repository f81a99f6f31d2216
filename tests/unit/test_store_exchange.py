"""Exports and imports: a run comes back as it was, a second time nothing happens, and what is no run stays out."""

from __future__ import annotations

import json
import sqlite3
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fslm_core.errors import StoreError, UnknownNameError
from fslm_core.events import (
    AttemptFailed,
    MessageEmitted,
    RunFinished,
    RunStarted,
    ShadowDrawn,
    ShadowFinished,
    StepSkipped,
)
from fslm_core.message import Attempt, Message, Origin, Problem, Skipped, TokenTrace, Usage, node_id
from fslm_core.prompt import Prompt, Span
from fslm_core.schema import content_id
from fslm_core.store import ContentMode, TraceStore, importing
from fslm_core.store.importing import lines_of

from .test_store_search import LATER, Answer, Letter, indexed, old_database

ORIGIN = Origin("post.answer", "fslm-post", "1", "m", "scripted", True, "f" * 64, Letter, Answer)


def message(run: str, step: str, content: Any, **rest: Any) -> Message[Any]:
    return Message(step, content, node_id(run, step), content_id(content), origin=ORIGIN, started=5.0, **rest)


def rich(store: TraceStore, run: str, at: float, text: str = "a letter", stack: str = "post") -> None:
    """A run with everything that a run can have."""
    recorder = store.recorder()
    tokens = TokenTrace((1, 2), ("a", "b\ud800"), (float("-inf"), -0.1), (True, False))
    prompt = Prompt((Span("Answer: \ud800", "user"), Span(text, "user", False, "text")))
    bad = Attempt(0, prompt, '{"re', (Problem("json", "cut off", "reply", "fslm-post"),), usage=Usage(output=2))
    spent = Usage(prompt=10, output=4, seconds=0.1)
    good = Attempt(1, prompt, '{"reply":"b"}', usage=spent, tokens=tokens, truncated=2)
    letter, answer = Letter(text=text, sender="Zebedee"), Answer(reply=f"to {run}, dear Zebedee")
    sent = message(
        run, "answer", answer, attempts=(bad, good), usage=spent, confidence={"reply": 0.1 + 0.2}, work_key="w",
        narrowed={"enum": ["a", "b"]}, abstained=("reply",), alternatives={"reply": (("x", 0.25),)},
    )  # fmt: skip
    shadow = message(run, "answer", Answer(reply="beside"))
    recorder.record_sync(RunStarted(run, stack, message(run, "input", letter), 2**70, at, "scripted", {"answer": "f"}))
    recorder.record_sync(AttemptFailed(run, "more", node_id(run, "more"), bad, ORIGIN, (node_id(run, "input"),), 5.0))
    recorder.record_sync(StepSkipped(run, Skipped("less", node_id(run, "less"), "x == 1", ())))
    recorder.record_sync(ShadowDrawn(run, "answer", f"{run}/answer~candidate/0/0"))
    recorder.record_sync(MessageEmitted(run, sent))
    error = StoreError("it failed", where="here", found=text)
    recorder.record_sync(RunFinished(run, stack, "failed", at + 1, 1.0, message(run, "output", answer), error))
    recorder.record_sync(
        ShadowFinished(run, "answer", f"{run}/answer~candidate/0/0", "ok", (good,), ORIGIN, shadow, same=False,
                       fields={"reply": False})
    )  # fmt: skip


def fill(path: Path, runs: list[str], mode: ContentMode = "full") -> None:
    with TraceStore.open(path, content=mode) as store:
        for number, run in enumerate(runs):
            rich(store, run, 100.0 + number, f"a letter of {run}", stack="mail" if number % 2 else "post")


def whole(path: Path) -> dict[str, str]:
    """All that is told of each run, as text: a number that is none equals itself."""
    with TraceStore.open(path, readonly=True) as store:
        return {row.id: repr(store.run(row.id)) for row in store.runs(999)}


RUNS = [f"R{number}" for number in range(6)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    fill(tmp_path / "one" / "trace.db", RUNS)
    return tmp_path / "one" / "trace.db"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return tmp_path / "two" / "trace.db"


@pytest.mark.parametrize("mode", ["full", "redacted", "none"])
@pytest.mark.parametrize("by", ["jsonl", "database"])
def test_a_round_trip_gives_the_same_runs_of_every_mode(
    tmp_path: Path, other: Path, mode: ContentMode, by: str
) -> None:
    source = tmp_path / "one" / "trace.db"
    fill(source, RUNS, mode)
    file = source
    if by == "jsonl":
        file = tmp_path / "out" / "runs.jsonl"
        with TraceStore.open(source, readonly=True) as store:
            done = store.export_runs(file)
        assert done.runs == tuple(RUNS) and done.bytes == file.stat().st_size
        if mode != "full":
            assert b"ebedee" not in file.read_bytes()
    with TraceStore.open(other) as store:
        assert store.import_runs(file).runs == tuple(RUNS)
        again = store.import_runs(file)
        assert (again.runs, again.same, again.different) == ((), len(RUNS), ())
        assert store.is_indexed()
        assert len(store.search("zebedee", limit=99)) == (2 * len(RUNS) if mode == "full" else 0)
    assert whole(other) == whole(source) and len(whole(other)) == len(RUNS)
    assert indexed(other) == indexed(source)
    for name in (source, other):
        with sqlite3.connect(name) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        raw.close()


def test_the_stores_of_several_servers_are_merged_in_any_order(tmp_path: Path) -> None:
    for name, runs in (("a", RUNS[:4]), ("b", RUNS[2:]), ("c", ["X"])):
        fill(tmp_path / name / "trace.db", runs)
    merged = []
    for order in ("abc", "cab"):
        path = tmp_path / order / "trace.db"
        with TraceStore.open(path) as store:
            same = sum(store.import_runs(tmp_path / name / "trace.db").same for name in order)
        merged.append(whole(path))
    # R2 and R3 began at other times on the other server, so they are other runs of the same id
    assert same == 0 and merged[0].keys() == merged[1].keys() == {*RUNS, "X"}


def test_a_run_that_is_there_and_differs_is_left_out_and_named(path: Path, other: Path, tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    with TraceStore.open(path) as store:
        store.export_runs(file)
    fill(other, ["another", "R2"])
    before = whole(other)
    with TraceStore.open(other) as store:
        done = store.import_runs(file)
    assert done.different == ("R2",) and done.runs == tuple(run for run in RUNS if run != "R2")
    assert {run: text for run, text in whole(other).items() if run in before} == before


def test_what_is_exported_is_chosen_by_name_stack_and_time(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    with TraceStore.open(path, readonly=True) as store:
        assert store.export_runs(file, ["R3", "r1", "last"]).runs == ("R3", "R1", "R5")
        assert store.export_runs(file, stack="mail").runs == ("R1", "R3", "R5")
        assert store.export_runs(file, since=104.0).runs == ("R4", "R5")
        assert store.export_runs(file, stack="mail", since=104.0).runs == ("R5",)
        assert [line["run"]["id"] for _, line in lines_of(file)] == ["R5"]
        before = file.read_bytes()
        for wrong in ("nobody", "R"):
            with pytest.raises(UnknownNameError):
                store.export_runs(file, [wrong])
        assert file.read_bytes() == before
    if sys.platform != "win32":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == ["runs.jsonl"]


def test_a_run_under_way_is_not_exported(tmp_path: Path) -> None:
    with TraceStore.open(tmp_path / "trace.db", content="full") as store:
        rich(store, "R1", 1.0)
        store.recorder().record_sync(RunStarted("R2", "post", message("R2", "input", Letter(text="x")), 0, 2.0))
        assert store.export_runs(tmp_path / "runs.jsonl").runs == ("R1",)


def test_an_export_that_fails_leaves_what_was_there(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out" / "runs.jsonl"
    with TraceStore.open(path, readonly=True) as store:
        store.export_runs(file, ["R1"])
        before = file.read_bytes()

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("fslm_core.store.exporting.os.fsync", full)
            with pytest.raises(StoreError, match="cannot be written") as failed:
                store.export_runs(file)
        assert "No space left" in str(failed.value)
        with pytest.raises(StoreError, match="cannot be written"):
            store.export_runs(file / "below")
    assert file.read_bytes() == before and [one.name for one in file.parent.iterdir()] == ["runs.jsonl"]


def changed(line: dict[str, Any], change: Callable[[dict[str, Any]], Any]) -> str:
    copy = json.loads(json.dumps(line))
    change(copy)
    return json.dumps(copy)


SPOILT: list[Callable[[dict[str, Any]], Any]] = [
    lambda line: line.pop("format"),
    lambda line: line.pop("run"),
    lambda line: line["run"].update(id=7),
    lambda line: line["run"].update(id="a\nb"),
    lambda line: line["run"].update(status="running"),
    lambda line: line["run"].update(started="soon"),
    lambda line: line["run"].update(started=1e300),
    lambda line: line["run"].update(stack=None),
    lambda line: line["run"].update(stack={"a": 1}),
    lambda line: line["run"].update(content="all"),
    lambda line: line["run"].update(error=[1]),
    lambda line: line["nodes"].append(5),
    lambda line: line["nodes"].append(line["nodes"][0]),
    lambda line: line["nodes"][0].update(parents=None),
    lambda line: line["nodes"][0].update(usage={"prompt": "x", "odd": 1}),
    lambda line: line["nodes"][0]["attempts"].append({"idx": 9}),
    lambda line: line["nodes"][0]["attempts"][0].update(tokens={"tokens": 1}),
    lambda line: line["contents"].update(x={"kind": "full"}),
    lambda line: next(iter(line["contents"].values())).update(json='{"text":"forged"}'),
    lambda line: next(iter(line["contents"].values())).update(kind="odd"),
]


@pytest.mark.parametrize("place", range(len(SPOILT)))
def test_a_line_that_is_no_run_is_refused_and_those_before_it_are_there(
    path: Path, other: Path, tmp_path: Path, place: int
) -> None:
    file, bad = tmp_path / "runs.jsonl", tmp_path / "bad.jsonl"
    with TraceStore.open(path) as store:
        store.export_runs(file)
    lines = file.read_text().splitlines()
    lines[3] = changed(json.loads(lines[3]), SPOILT[place])
    bad.write_text("\n".join(lines) + "\n")
    with TraceStore.open(other) as store:
        with pytest.raises(StoreError, match="no run of fslm") as refused:
            store.import_runs(bad)
        assert refused.value.where == f"{bad}:4"
        assert [row.id for row in store.runs()] == RUNS[2::-1]
        assert store.import_runs(file).runs == tuple(RUNS[3:])
    assert whole(other) == whole(path)


@pytest.mark.parametrize("text", ["{", "[]", "7", "\x00\x01", '"a"', '{"format": "other"}', "[" * 100_000])
def test_what_is_no_export_is_refused(other: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "odd").write_text(text)
    with TraceStore.open(other) as store:
        with pytest.raises(StoreError, match="no run of fslm"):
            store.import_runs(tmp_path / "odd")
        for missing in (tmp_path / "nothing", tmp_path):
            with pytest.raises(StoreError, match="cannot be read"):
                store.import_runs(missing)
        (tmp_path / "newer").write_text('{"format": "fslm-run", "version": 2}\n')
        with pytest.raises(StoreError, match="version that this fslm does not know"):
            store.import_runs(tmp_path / "newer")
    sqlite3.connect(tmp_path / "foreign.db").execute("CREATE TABLE runs (id)").connection.close()
    with TraceStore.open(other) as store, pytest.raises(StoreError, match="not a trace of fslm"):
        store.import_runs(tmp_path / "foreign.db")


def test_an_import_that_was_cut_short_is_completed_by_the_next(
    path: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "AT_ONCE", 2)
    real, done = importing._insert, []

    def dies(*args: Any) -> None:
        done.append(args)
        if len(done) == 4:
            raise KeyboardInterrupt
        real(*args)

    with TraceStore.open(other) as store:
        with monkeypatch.context() as patch:
            patch.setattr(importing, "_insert", dies)
            with pytest.raises(KeyboardInterrupt):
                store.import_runs(path)
        assert [row.id for row in store.runs()] == ["R1", "R0"]
        rest = store.import_runs(path)
    assert rest.same == 2 and rest.runs == tuple(RUNS[2:])
    assert whole(other) == whole(path)


@pytest.mark.parametrize("later", LATER, ids=["first", "compared", "doubt"])
def test_databases_of_every_earlier_fslm_can_be_merged(tmp_path: Path, other: Path, later: str) -> None:
    old = tmp_path / "old.db"
    runs = old_database(old, later, 120)
    with TraceStore.open(other) as store:
        assert store.import_runs(old).runs == tuple(runs)
        assert [one.run for one in store.search("kettles", limit=999)] == runs[::-1]
    assert whole(other) == whole(old)


def test_a_store_to_read_only_takes_nothing_in(path: Path) -> None:
    with TraceStore.open(path, readonly=True) as store, pytest.raises(StoreError, match="read only"):
        store.import_runs(path)

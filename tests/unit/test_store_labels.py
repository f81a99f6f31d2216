"""Labels of messages: what may be said, what of it is kept, and that it goes where its run goes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from fslm_core import SLM, Stack, Stage, tool
from fslm_core.errors import FslmError, InputError, StoreError, UnknownNameError, UsageError
from fslm_core.events import AttemptFailed, MessageEmitted, RunFinished, RunStarted, StepSkipped
from fslm_core.message import Attempt, Message, Origin, Problem, Skipped, node_id
from fslm_core.schema import content_id
from fslm_core.store import ContentMode, Label, TraceStore

from .test_store_search import LATER, old_database


class Letter(BaseModel):
    text: str
    sender: str = Field(default="", json_schema_extra={"sensitive": True})


class Kind(BaseModel):
    kind: Literal["bug", "praise", "other"]
    sure: bool = True


class Reply(BaseModel):
    reply: str


@tool("post.answer", version="1", pure=True)
def answer(kind: Kind) -> Reply:
    return Reply(reply=kind.kind)


kind = Stage("post.kind", input=Letter, output=Kind, prompt="{{ text }}", model=SLM("smollm2-135m"))
post = Stack("post", input=Letter, output=Reply, steps=[kind, answer])
KIND = Origin("post.kind", input=Letter, output=Kind)
ANSWER = Origin("post.answer", input=Kind, output=Reply)
NARROWED = {
    "type": "object",
    "properties": {"kind": {"enum": ["bug", "other"]}, "sure": {"type": "boolean"}},
    "required": ["kind", "sure"],
    "additionalProperties": False,
}


def message(run: str, step: str, content: BaseModel, origin: Origin | None = None, **rest: Any) -> Message[Any]:
    return Message(step, content, node_id(run, step), content_id(content), origin=origin, started=1.0, **rest)


def tell(store: TraceStore, run: str, at: float = 1.0, stack: str = "post", *, fails: bool = False) -> None:
    """A run whose first step says "praise", narrowed or not at all; a third step is passed over."""
    recorder = store.recorder()
    recorder.record_sync(
        RunStarted(run, stack, message(run, "input", Letter(text="It broke", sender="Zebedee")), 0, at)
    )
    if fails:
        bad = Attempt(0, None, "{", (Problem("json", "cut off"),))
        recorder.record_sync(AttemptFailed(run, "kind", node_id(run, "kind"), bad, KIND, (), 1.0))
    else:
        said = message(run, "kind", Kind(kind="other"), KIND, narrowed=NARROWED)
        recorder.record_sync(MessageEmitted(run, said))
        recorder.record_sync(MessageEmitted(run, message(run, "answer", Reply(reply="other"), ANSWER)))
    recorder.record_sync(StepSkipped(run, Skipped("more", node_id(run, "more"), "x == 1", ())))
    recorder.record_sync(RunFinished(run, stack, "failed" if fails else "succeeded", at + 1, 1.0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.db"


@pytest.fixture
def store(path: Path) -> Iterator[TraceStore]:
    with TraceStore.open(path, content="full") as opened:
        tell(opened, "R1")
        tell(opened, "R2", 2.0, "mail")
        tell(opened, "R3", 3.0, fails=True)
        yield opened


def said(labels: list[Label]) -> list[tuple[str, str, bool, Any]]:
    return [(label.run, label.step, label.right, label.correction) for label in labels]


def test_the_newest_label_of_a_message_stands_and_the_one_before_is_gone(store: TraceStore, path: Path) -> None:
    store.label("R1", "kind", right=False, note="it is canary-one")
    store.label("R1", "kind", correction={"kind": "bug", "sure": True}, note="it broke", stack=post)
    made = store.label("R2", "answer", right=True)
    first, second = store.labels()
    assert first == made and said([first, second]) == [
        ("R2", "answer", True, None),
        ("R1", "kind", False, {"kind": "bug", "sure": True}),
    ]
    assert (second.stack, second.stage, second.node, second.note) == ("post", "post.kind", "R1/kind/0/0", "it broke")
    assert second.content_id == content_id(Kind(kind="other")) and second.when <= first.when
    assert said(store.labels("last")) == [] and said(store.labels("R1")) == said([second])
    assert store.labels(stage="post.answer") == [first] == store.labels(stack="mail")
    assert store.labels(stage="post.kind", stack="mail") == []
    assert store.run("R1").labels == {"kind": second}
    assert [row.id for row in store.runs(labelled=True)] == ["R2", "R1"]
    assert [row.id for row in store.runs(labelled=True, stack="post", limit=1)] == ["R1"]


def test_a_label_is_taken_back(store: TraceStore) -> None:
    made = store.label("R1", "kind", right=True)
    store.label("R1", "answer", right=True)
    assert store.unlabel("r1", "kind") == made and [label.step for label in store.labels()] == ["answer"]
    with pytest.raises(UnknownNameError, match="no label is on step 'kind'") as none:
        store.unlabel("R1", "kind")
    assert "answer" in str(none.value)


def test_a_step_that_failed_takes_a_correction_and_no_other_label(store: TraceStore) -> None:
    made = store.label("R3", "kind", correction={"kind": "bug"}, stack=post)
    assert made.content_id is None and made.correction == {"kind": "bug", "sure": True}
    for right in (True, False):
        with pytest.raises(UsageError, match="the step failed: there is no message to label"):
            store.label("R3", "kind", right=right)


@pytest.mark.parametrize(
    ("run", "step", "what", "kind", "text"),
    [
        ("R9", "kind", {"right": True}, UnknownNameError, "no run named 'R9'"),
        ("R", "kind", {"right": True}, UnknownNameError, "several runs begin with 'R'"),
        ("R1", "kinds", {"right": True}, UnknownNameError, "did you mean 'kind'"),
        ("R1", "kind~candidate", {"right": True}, UnknownNameError, "no step named"),
        ("R1", "ki\ud800nd", {"right": True}, UnknownNameError, "no step named"),
        ("R1", "more", {"right": True}, UsageError, "passed over"),
        ("R1", "more", {"correction": {"kind": "bug"}}, UsageError, "passed over"),
        ("R1", "kind", {}, UsageError, "one of them only"),
        ("R1", "kind", {"right": False, "correction": {"kind": "bug"}}, UsageError, "one of them only"),
        ("R1", "kind", {"correction": ["bug"]}, InputError, "object with fields"),
        ("R1", "kind", {"correction": {"kind": "bug"}}, InputError, "expected: kind, sure"),
        ("R1", "kind", {"correction": {"kind": "odd", "sure": True}}, InputError, "kind: 'odd' is not one of"),
        ("R1", "kind", {"correction": {"kind": "praise"}, "stack": post}, InputError, "kind: 'praise' is not one of"),
        ("R1", "kind", {"correction": {"kind": 7}, "stack": post}, InputError, "kind: Input should be 'bug'"),
        ("R1", "kind", {"correction": {"kund": "bug"}, "stack": post}, InputError, "found: kund"),
        ("R1", "answer", {"correction": {"reply": float("nan")}}, FslmError, "number"),
        ("R1", "kind", {"correction": {"kind": "bug"}, "stack": Stack("post", input=Letter, output=Kind, steps=[
            Stage("post.sort", input=Letter, output=Kind, prompt="{{ text }}", model=SLM("smollm2-135m"))
        ])}, UnknownNameError, "sort"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_refused_and_nothing_is_kept(
    store: TraceStore, run: str, step: str, what: dict[str, Any], kind: type[FslmError], text: str
) -> None:
    with pytest.raises(kind) as refused:
        store.label(run, step, **what)
    assert text in str(refused.value) and store.labels() == []


def test_a_correction_that_is_nested_too_deep(store: TraceStore) -> None:
    deep: Any = "x"
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(InputError, match="too deep"):
        store.label("R1", "answer", correction={"reply": deep})


@pytest.mark.parametrize("mode", ["redacted", "none"])
def test_of_a_run_that_was_not_kept_in_full_no_words_are_kept(path: Path, mode: ContentMode) -> None:
    with TraceStore.open(path, content=mode) as store:
        tell(store, "R1")
        for words in ({"correction": {"reply": "canary-one"}}, {"right": False, "note": "canary-one"}):
            with pytest.raises(UsageError, match="was not kept in full") as refused:
                store.label("R1", "answer", stack=post, **words)  # type: ignore[arg-type]
            assert f"kept as {mode}" in str(refused.value)
        store.label("R1", "answer", right=False)
        assert said(store.labels()) == [("R1", "answer", False, None)]
    assert b"canary-one" not in b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_a_store_to_read_only_takes_no_label(store: TraceStore, path: Path) -> None:
    store.label("R1", "kind", right=True)
    with TraceStore.open(path, readonly=True) as reading:
        for change in (lambda: reading.label("R1", "kind", right=False), lambda: reading.unlabel("R1", "kind")):
            with pytest.raises(StoreError, match="read only"):
                change()
        assert said(reading.labels()) == [("R1", "kind", True, None)]


@pytest.mark.parametrize("prune", [False, True])
def test_a_forgotten_run_takes_its_labels_and_their_bytes_with_it(path: Path, prune: bool) -> None:
    with TraceStore.open(path, content="full") as store:
        for number in range(60):
            tell(store, f"R{number:02}", float(number))
            store.label(
                f"R{number:02}", "answer", correction={"reply": f"canary-{number:02}"}, note=f"note-{number:02}"
            )
        gone = store.prune(keep=20) if prune else store.forget([f"R{number:02}" for number in range(40)])
        assert len(gone.runs) == 40 and len(store.labels()) == 20
        found = b"".join(file.read_bytes() for file in path.parent.iterdir())
    for number in range(60):
        kept = number >= 40
        assert (f"canary-{number:02}".encode() in found) is kept and (f"note-{number:02}".encode() in found) is kept


@pytest.mark.parametrize("later", LATER, ids=["first", "compared", "doubt"])
def test_a_database_of_every_earlier_fslm_takes_labels(tmp_path: Path, path: Path, later: str) -> None:
    old_database(path, later, 4)
    with TraceStore.open(path, readonly=True) as store:
        assert store.labels() == [] == store.runs(labelled=True)
        before = store.run("old001")
        assert before.labels == {}
    with TraceStore.open(path) as store:
        store.label("old001", "answer", correction={"reply": "hello"})
        store.label("old002", "answer", right=True)
        assert said(store.labels("old001")) == [("old001", "answer", False, {"reply": "hello"})]
        assert store.run("old001").nodes == before.nodes
        store.forget(["old001"])
        assert said(store.labels()) == [("old002", "answer", True, None)]
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (1,)
    raw.close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("by", ["jsonl", "database"])
def test_labels_go_with_their_runs_and_of_two_the_newer_stands(
    store: TraceStore, path: Path, tmp_path: Path, by: str
) -> None:
    store.label("R1", "kind", correction={"kind": "bug", "sure": False}, note="é\ud800")
    store.label("R1", "answer", right=True)
    store.label("R3", "kind", correction={"kind": "bug"}, stack=post)

    def out() -> Path:
        if by == "database":
            return path
        store.export_runs(tmp_path / "runs.jsonl")
        return tmp_path / "runs.jsonl"

    with TraceStore.open(tmp_path / "other" / "trace.db", content="full") as other:
        done = other.import_runs(out())
        assert (len(done.runs), done.labels) == (3, 3) and other.labels() == store.labels()
        again = other.import_runs(out())
        assert (again.same, again.labels, again.different) == (3, 0, ())
        mine = other.label("R1", "answer", right=False)
        store.label("R1", "kind", right=False)
        assert other.import_runs(out()).labels == 1
        assert {label.step: label.when for label in other.labels("R1")} == {
            "answer": mine.when,
            "kind": store.run("R1").labels["kind"].when,
        }
        assert other.run("R1").labels["answer"].right is False


SPOILT: list[dict[str, Any]] = [
    {"step": "answer"},
    {"node": "R2/kind/0/0"},
    {"right": "perhaps"},
    {"right": True},
    {"when": 1e300},
    {"when": None},
    {"correction": "bug"},
    {"note": 7},
]


@pytest.mark.parametrize("change", SPOILT, ids=str)
def test_a_label_that_nobody_gave_is_refused_with_its_line(
    store: TraceStore, tmp_path: Path, change: dict[str, Any]
) -> None:
    store.label("R1", "kind", correction={"kind": "bug", "sure": False})
    file = tmp_path / "runs.jsonl"
    store.export_runs(file, ["R1"])
    (line,) = lines(file)
    line["labels"][0].update(change)
    file.write_text(json.dumps(line), "utf-8")
    with TraceStore.open(tmp_path / "other" / "trace.db") as other:
        with pytest.raises(StoreError, match="no run of fslm"):
            other.import_runs(file)
        assert other.runs() == [] == other.labels()


def test_an_export_of_before_there_were_labels_comes_in(store: TraceStore, tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    store.export_runs(file)
    old = [{name: part for name, part in line.items() if name != "labels"} for line in lines(file)]
    file.write_text("\n".join(map(json.dumps, old)), "utf-8")
    with TraceStore.open(tmp_path / "other" / "trace.db") as other:
        assert len(other.import_runs(file).runs) == 3


def test_words_of_a_run_that_was_not_kept_in_full_do_not_come_in(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    with TraceStore.open(path, content="redacted") as store:
        tell(store, "R1")
        store.label("R1", "answer", right=False)
        store.export_runs(file)
    (line,) = lines(file)
    line["labels"][0]["note"] = "Zebedee"
    file.write_text(json.dumps(line), "utf-8")
    with TraceStore.open(tmp_path / "other" / "trace.db") as other, pytest.raises(StoreError, match="kept as redacted"):
        other.import_runs(file)


def test_labels_stand_in_the_table_of_messages(store: TraceStore, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    store.label("R1", "kind", correction={"kind": "bug", "sure": True}, note="it broke")
    store.label("R1", "answer", right=True)
    store.export_runs(tmp_path / "out.parquet", ["R1"])
    rows = {row["step"]: row for row in parquet.read_table(tmp_path / "out.parquet").to_pylist()}
    assert (rows["kind"]["label"], rows["kind"]["correction"]) == ("wrong", '{"kind":"bug","sure":true}')
    assert (rows["answer"]["label"], rows["more"]["label"], rows["kind"]["label_note"]) == ("right", None, "it broke")

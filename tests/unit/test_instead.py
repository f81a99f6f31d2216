"""Runners-up: kept with a run, shown as what a step might have said instead, and never beyond what a mode keeps."""

from __future__ import annotations

import io
import json
import math
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from rich.console import Console

from fslm_core.errors import StoreError
from fslm_core.events import MessageEmitted, RunFinished, RunStarted
from fslm_core.explain.instead import forks
from fslm_core.explain.show import show, to_json
from fslm_core.message import Attempt, Marks, Message, Origin, TokenTrace, node_id
from fslm_core.prompt import Template
from fslm_core.schema import content_id
from fslm_core.store import ContentMode, StoredRun, TraceStore
from fslm_core.store.encode import pack, unpack

Runner = tuple[str, float] | None
TEXTS = ('{"kind":"', "com", 'plaint","who":"', "Zeb", "edee", '"}')
CHANCES = (1.0, 0.6, 1.0, 0.75, 0.99, 1.0)
RUNNERS: tuple[Runner, ...] = (None, ("pr", 0.3), None, ("Zac", 0.2), ("ulon", 0.01), None)


class Letter(BaseModel):
    text: str


class Answer(BaseModel):
    kind: Literal["complaint", "praise", "question"]
    who: str = Field(max_length=40, json_schema_extra={"sensitive": True})


class Open(BaseModel):
    kind: Literal["complaint", "praise", "question"]
    who: str = Field(max_length=40)


def record(
    path: Path,
    mode: ContentMode = "full",
    *,
    texts: Sequence[str] = TEXTS,
    chances: Sequence[float] = CHANCES,
    runners: Sequence[Runner] = RUNNERS,
    model: type[BaseModel] = Open,
    marks: Marks | None = None,
) -> StoredRun:
    """A run of one step that wrote these tokens, where those would have been second."""
    raw = "".join(texts)
    tokens = TokenTrace(
        tuple(range(len(texts))), tuple(texts), tuple(map(math.log, chances)), tuple(p == 1.0 for p in chances)
    )
    told = tuple(r and (r[0], math.log(r[1]) if r[1] else -math.inf) for r in runners)
    attempt = Attempt(0, Template("Who? {{ text }}").render({"text": "x"}), raw, tokens=tokens, runners_up=told)
    said, given = model.model_validate_json(raw), Letter(text="x")
    origin = Origin("desk.answer", input=Letter, output=model)
    made: Message[Any] = Message(
        "answer",
        said,
        node_id("R1", "answer"),
        content_id(said),
        attempts=(attempt,),
        origin=origin,
        confidence={"kind": 0.6, "who": 0.74},
    )
    first: Message[Any] = Message("input", given, node_id("R1", "input"), content_id(given))
    with TraceStore.open(path, content=mode) as store:
        recorder = store.recorder()
        recorder.record_sync(RunStarted("R1", "desk", first, 0, 0.0, marks=marks))
        recorder.record_sync(MessageEmitted("R1", made))
        recorder.record_sync(RunFinished("R1", "desk", "succeeded", 1.0, 1.0, None))
        return store.run("R1")


def printed(run: StoredRun, **options: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=100, markup=False, emoji=False, highlight=False).print(show(run, **options))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_what_a_step_might_have_said_is_shown(tmp_path: Path) -> None:
    run = record(tmp_path / "trace.db")
    (attempt,) = run.nodes[0].attempts
    assert attempt.runners_up[1] == ("pr", pytest.approx(math.log(0.3), abs=1e-4)) and attempt.runners_up[0] is None
    assert run.nodes[0].alternatives == {"kind": (("praise", pytest.approx(0.3)),)}
    shown = printed(run)
    assert 'or else   kind  "praise" 0.300' in shown
    assert '"who":"Zac 0.200, not Zeb 0.750' in shown
    assert "ulon" not in shown and "forced" not in shown.partition("cost")[0].partition("or else")[2]
    full = printed(run, full=True)
    assert "ulon" in full and '{"kind":"   ' in full and "forced" in full
    (step,) = json.loads(json.dumps(to_json(run)))["steps"]
    assert step["attempts"][0]["runners_up"][3][0] == "Zac" and step["alternatives"]["kind"][0][0] == "praise"


def test_each_runner_up_stands_at_its_place(tmp_path: Path) -> None:
    found = forks(record(tmp_path / "trace.db").nodes[0].attempts[0])
    assert [(fork.place, fork.field, fork.chosen, fork.other) for fork in found] == [
        (1, "kind", "com", "pr"),
        (3, "who", "Zeb", "Zac"),
        (4, "who", "edee", "ulon"),
    ]
    assert [fork.start for fork in found] == [len("".join(TEXTS[:place])) for place in (1, 3, 4)]


@pytest.mark.parametrize("mode", ["redacted", "none"])
def test_no_text_of_a_runner_up_is_kept_beyond_the_mode(tmp_path: Path, mode: ContentMode) -> None:
    marks = Marks({"answer": frozenset()}, {"input": frozenset(), "answer": frozenset({"who"})})
    run = record(tmp_path / "trace.db", mode, model=Answer, marks=marks)
    (attempt,) = run.nodes[0].attempts
    assert [runner and runner[0] for runner in attempt.runners_up] == [None] * 6
    assert [runner is None for runner in attempt.runners_up] == [True, False, True, False, False, True]
    assert run.nodes[0].alternatives == ({"kind": (("praise", pytest.approx(0.3)),)} if mode == "redacted" else {})
    assert forks(attempt) == [] and "Zac" not in printed(run, full=True)
    with closing(sqlite3.connect(tmp_path / "trace.db")) as connection:
        rows = connection.execute("SELECT data FROM blobs").fetchall()
    assert rows and all("Zac" not in json.dumps(unpack(data)) for (data,) in rows)


def test_a_run_of_a_stack_that_marks_nothing_is_kept_whole_in_redacted(tmp_path: Path) -> None:
    marks = Marks({}, {"input": frozenset(), "answer": frozenset()})
    run = record(tmp_path / "trace.db", "redacted", marks=marks)
    assert forks(run.nodes[0].attempts[0])[1].other == "Zac"


def test_blobs_of_before_are_read(tmp_path: Path) -> None:
    record(tmp_path / "trace.db")
    with closing(sqlite3.connect(tmp_path / "trace.db")) as connection:
        ((data,),) = connection.execute("SELECT data FROM blobs").fetchall()
        kept = unpack(data)
        del kept["runners"]
        connection.execute("UPDATE blobs SET data = ?", (pack(kept),))
        connection.execute("UPDATE nodes SET doubt = NULL")
        connection.commit()
    with TraceStore.open(tmp_path / "trace.db", readonly=True) as store:
        run = store.run("R1")
    assert run.nodes[0].attempts[0].runners_up == () and run.nodes[0].attempts[0].tokens is not None
    assert "or else" not in printed(run) and "forced" in printed(run, full=True)


@pytest.mark.parametrize("runners", [[[99, "x", -1.0]], [[0, "x"]], [[0, 3, -1.0]], [[0, "x", None]], [["0", "x", -1]]])
def test_damage_is_told(tmp_path: Path, runners: Any) -> None:
    record(tmp_path / "trace.db")
    with closing(sqlite3.connect(tmp_path / "trace.db")) as connection:
        ((data,),) = connection.execute("SELECT data FROM blobs").fetchall()
        connection.execute("UPDATE blobs SET data = ?", (pack({**unpack(data), "runners": runners}),))
        connection.commit()
    with TraceStore.open(tmp_path / "trace.db", readonly=True) as store, pytest.raises(StoreError, match="damaged"):
        store.run("R1")


def test_they_go_from_store_to_store(tmp_path: Path) -> None:
    run = record(tmp_path / "trace.db")
    with TraceStore.open(tmp_path / "trace.db", readonly=True) as store:
        store.export_runs(tmp_path / "runs.jsonl")
    with TraceStore.open(tmp_path / "other.db") as other:
        assert other.import_runs(tmp_path / "runs.jsonl").runs == ("R1",)
        assert other.import_runs(tmp_path / "trace.db").same == 1
        assert other.run("R1").nodes[0].attempts == run.nodes[0].attempts
        assert other.run("R1").nodes[0].alternatives == run.nodes[0].alternatives


def test_hostile_texts_are_shown_as_text(tmp_path: Path) -> None:
    hostile: Runner = ("\x1b[31m[bold]\n\u202e", 0.2)
    run = record(tmp_path / "trace.db", runners=(*RUNNERS[:3], hostile, *RUNNERS[4:]))
    for shown in (printed(run), printed(run, full=True)):
        assert (
            "\x1b" not in shown
            and "\u202e" not in shown
            and "\\x1b[31m[bold]\\n\\u202e 0.2" in shown.replace("  0.2", " 0.2")
        )


def test_a_runner_up_without_a_chance_is_none(tmp_path: Path) -> None:
    run = record(tmp_path / "trace.db", runners=(None, ("pr", 0.0), *RUNNERS[2:]))
    assert run.nodes[0].attempts[0].runners_up[1] is None and run.nodes[0].alternatives == {}


def test_a_sure_field_has_no_alternatives_worked_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("fslm_core.store.encode.alternatives_of", lambda message, field: asked.append(field) or ())
    record(tmp_path / "trace.db")
    assert asked == ["kind", "who"]
    asked.clear()
    monkeypatch.setattr("fslm_core.store.encode._SURE", 0.7)
    record(tmp_path / "other.db")
    assert asked == ["kind"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.none() | st.tuples(st.text(max_size=5), st.floats(1e-6, 1.0)), min_size=len(TEXTS), max_size=len(TEXTS))
)
def test_what_was_told_is_kept(tmp_path_factory: pytest.TempPathFactory, runners: list[Runner]) -> None:
    run = record(tmp_path_factory.mktemp("kept") / "trace.db", runners=runners)
    kept = run.nodes[0].attempts[0].runners_up or (None,) * len(TEXTS)
    assert [k and k[0] for k in kept] == [r and r[0] for r in runners]
    for one, other in zip(kept, runners, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert math.exp(one[1]) == pytest.approx(other[1], rel=1e-4)
    printed(run, full=True)

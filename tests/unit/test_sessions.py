"""Sessions: how a stack declares one, and what a run reads and writes of it."""

from __future__ import annotations

import asyncio
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, model_validator

from fslm_core import Engine, Route, Settings, Stack, Step
from fslm_core.engine.turns import SessionTurn
from fslm_core.errors import (
    CheckError,
    DeadlineExceeded,
    InputError,
    RunFailed,
    SessionError,
    StackError,
    StoreError,
    UnknownNameError,
    UsageError,
)
from fslm_core.events import RunFinished
from fslm_core.message import Message
from fslm_core.settings import load
from fslm_core.shapes import Cascade
from fslm_core.store import SavedSession, Sessions, TraceStore, check_id, marks_of
from fslm_core.testing import KitEngine, run_stack

from .talking import (
    HELD,
    Dialogue,
    Heard,
    Held,
    Out,
    Reply,
    Said,
    answer,
    doubt,
    engine_of,
    hello,
    look,
    number,
    remember,
    stack_of,
    talk,
    wrong,
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(files=(), data_dir=tmp_path)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    with engine_of(settings) as opened:
        yield opened


@pytest.fixture
def held() -> Held:
    HELD.begun, HELD.go = threading.Event(), asyncio.Event()
    return HELD


def found(error: pytest.ExceptionInfo[CheckError]) -> str:
    return "\n".join(error.value.findings)


def findings_of(stack: Stack[Any, Any]) -> str:
    with pytest.raises(CheckError) as error:
        _ = stack.wiring
    return found(error)


# -- how it is declared ----------------------------------------------------------------------------------------------


def test_steps_and_output_take_fields_of_the_session_by_name_or_by_bind() -> None:
    stack = Stack(
        "talk",
        input=Said,
        output=Out,
        steps=[Step(look, bind={"so_far": "session.turns"}), Step(answer, bind={"turns": "session.turns"})],
        session=Dialogue,
        writes="look",
    )
    sources = {target: {n: str(s) for n, s in by.items()} for target, by in stack.wiring.sources.items()}
    assert sources["look"] == {"text": "input.text", "so_far": "session.turns"}
    assert sources["output"] == {"reply": "answer.reply", "topic": "session.topic"}
    assert sources["session"] == {"turns": "look.turns", "topic": "session.topic"}
    assert stack.wiring.warnings == ()


def test_a_condition_may_ask_for_the_session(engine: Engine) -> None:
    stack = stack_of(steps=[answer, Step(remember, when="session.turns|length < 2")])
    for _ in range(4):
        state = engine.run(stack, {"text": "again"}, session="ann").state
    assert state == Dialogue(turns=["again", "again"])
    assert engine.sessions.get("ann").version == 2  # where the writer is passed over, nothing is written


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"writes": ("answer", "remember")}, "session: answer and remember would both write it"),
        ({"writes": ()}, "session: no step writes it"),
        ({"writes": "nobody"}, "session: writes='nobody' is no step of this stack; there are: answer, remember"),
        ({"writes": "answer"}, "session: answer writes it, but gives none of its fields: Dialogue has turns, topic"),
        (
            {"session_bind": {"topic": "answer.reply"}},
            "session: field 'topic' is bound to 'answer.reply', so answer would write it too",
        ),
        ({"session_bind": {"nothing": "remember.turns"}}, "names 'nothing', which is no field of Dialogue"),
        ({"session_bind": {"topic": "remember.turns"}}, "field 'topic' wants str, but remember.turns is list[str]"),
        ({"session_bind": {"topic": "elsewhere.topic"}}, "the suppliers here are session.<field>, input.<field>"),
        ({"session": None, "steps": [answer]}, "writes is given, but the stack has no session"),
        (
            {"session": None, "writes": (), "steps": [Step(answer, bind={"turns": "session.turns"})]},
            "'session.turns', but there is no session here",
        ),
    ],
)
def test_the_check_refuses(more: dict[str, Any], said: str) -> None:
    assert said in findings_of(stack_of(**more))


def test_the_check_refuses_a_writer_whose_field_does_not_fit() -> None:
    stack = stack_of(steps=[answer, wrong], writes="wrong")
    assert "session: field 'turns' wants list[str], but wrong.turns is str" in findings_of(stack)


class Needs(BaseModel):
    turns: list[str]
    topic: str = ""


class Never(BaseModel):
    turns: list[str] = []

    @model_validator(mode="after")
    def _never(self) -> Never:
        raise ValueError("secret")


class Unfit(BaseModel):
    turns: list[str] = Field(default=5)


class Empty(BaseModel):
    pass


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Needs, "session: Needs needs a default for turns: the first turn begins with Needs()"),
        (Never, "session: Never() is not valid itself: the whole"),
        (Unfit, "session: Unfit() is not valid itself: turns"),
        (Empty, "session: Empty has no field, so there is nothing to remember"),
    ],
)
def test_the_check_refuses_a_state_without_a_beginning(model: type[BaseModel], said: str) -> None:
    assert said in findings_of(stack_of(session=model, session_bind={}))


def test_what_can_be_told_when_it_is_made_is_told_then() -> None:
    with pytest.raises(StackError, match="session is not a pydantic model"):
        stack_of(session="Dialogue")
    with pytest.raises(StackError, match="by which the session is asked for"):
        stack_of(steps=[answer, remember, Step(remember, name="session")])


def test_an_inner_stack_may_have_none_and_takes_its_fields_by_bind(engine: Engine) -> None:
    with_one = Stack("inner", input=Said, output=Reply, steps=[talk])
    assert "step talk: the stack talk has a session of its own" in findings_of(with_one)
    routed = Stack(
        "outer", input=Said, output=Reply, steps=[Route("way", by="input.text", cases={"a": talk}, default=talk)]
    )
    assert "step way.talk: the stack talk has a session of its own" in findings_of(routed)
    inner = Stack("inner", input=Heard, output=Reply, steps=[answer])
    outer = stack_of(steps=[Step(inner, bind={"turns": "session.turns"}), remember])
    assert engine.run(outer, {"text": "a"}, session="ann").output.reply == "0: a"
    assert engine.run(outer, {"text": "b"}, session="ann").output.reply == "1: b"


def test_within_a_shape_the_session_is_not_at_hand() -> None:
    inner = Stack("inner", input=Said, output=Reply, steps=[Step(answer, bind={"turns": "session.turns"})])
    outer = stack_of(steps=[inner, remember])
    assert "step inner.answer: field 'turns' is bound to 'session.turns', but there is no session here" in findings_of(
        outer
    )


def test_the_plan_changes_with_the_session() -> None:
    class Other(BaseModel):
        turns: list[str] = []
        more: int = 0

    without = Stack("talk", input=Heard, output=Reply, steps=[answer, remember], bind={"reply": "answer.reply"})
    plans = ["\n".join(stack.plan()) for stack in (talk, stack_of(session=Other), without)]
    assert len(set(plans)) == 3
    assert talk.facts() == {"session": "Dialogue", "writes": "remember"} and without.facts() == {}


# -- running ---------------------------------------------------------------------------------------------------------


def test_a_session_goes_from_turn_to_turn(engine: Engine, settings: Settings) -> None:
    first = engine.run(talk, {"text": "a"}, session="ann")
    second = engine.run(talk, {"text": "b"}, session="ann")
    assert (first.output.reply, second.output.reply) == ("0: a", "1: b")
    assert (second.session, second.state) == ("ann", Dialogue(turns=["a", "b"]))
    kept = engine.sessions.get("ann")
    assert (kept.version, kept.stack, kept.run) == (2, "talk", second.id)
    assert kept.state == {"turns": ["a", "b"], "topic": "none"}
    assert settings.sessions_path == settings.trace_path.with_name("sessions.db")
    assert stat.S_IMODE(settings.sessions_path.stat().st_mode) == 0o600


def test_without_an_id_it_begins_anew_and_keeps_nothing(engine: Engine, settings: Settings) -> None:
    assert engine.run(talk, {"text": "a"}).state == Dialogue(turns=["a"])
    run = engine.run(talk, {"text": "a"}, state=Dialogue(turns=["x"], topic="t"))
    assert (run.output.reply, run.state, run.session) == ("1: a", Dialogue(turns=["x", "a"], topic="t"), "")
    assert engine.run(talk, {"text": "a"}, state={"turns": ["x"]}).output.reply == "1: a"
    assert not settings.sessions_path.exists()


def test_arun_stream_and_astream_take_a_session(engine: Engine) -> None:
    async def there() -> list[Any]:
        await engine.arun(talk, {"text": "b"}, session="ann")
        return [event async for event in engine.astream(talk, {"text": "c"}, session="ann")]

    *_, ended = engine.stream(talk, {"text": "a"}, session="ann")
    assert isinstance(ended, RunFinished) and ended.state == Dialogue(turns=["a"])
    ended = asyncio.run(there())[-1]
    assert ended.state == Dialogue(turns=["a", "b", "c"])


@pytest.mark.parametrize("id", ["", " ", "a b", "-a", "a/b", "a" * 201, "é", "a\n", "a\x00", 7])
def test_an_id_that_is_none_is_refused(engine: Engine, id: Any) -> None:
    with pytest.raises(SessionError, match="no id of a session"):
        engine.run(talk, {"text": "a"}, session=id)
    assert check_id("a" * 200) and check_id("0_.:@+-")


def test_a_stack_without_a_session_takes_none(engine: Engine) -> None:
    plain = Stack("plain", input=Heard, output=Reply, steps=[answer])
    for more in ({"session": "ann"}, {"state": {}}):
        with pytest.raises(SessionError, match="the stack has no session"):
            engine.run(plain, {"text": "a", "turns": []}, **more)


def test_a_state_that_is_none_is_refused_without_being_quoted(engine: Engine) -> None:
    for state in ({"turns": "secret"}, {"secret": 1}, 5, Said(text="secret")):
        with pytest.raises(InputError) as error:
            engine.run(talk, {"text": "a"}, state=state)  # type: ignore[arg-type]
        assert "secret" not in str(error.value)
    with pytest.raises(UsageError, match="both a session and a state"):
        engine.run(talk, {"text": "a"}, session="ann", state={})


def test_a_run_that_fails_leaves_it_as_it_was(engine: Engine) -> None:
    with pytest.raises(RunFailed):
        engine.run(talk, {"text": "boom"}, session="ann")
    with pytest.raises(UnknownNameError, match="no session named 'ann'"):
        engine.sessions.get("ann")
    engine.run(talk, {"text": "a"}, session="ann")
    before = engine.sessions.get("ann")
    with pytest.raises(RunFailed) as failed:
        engine.run(talk, {"text": "boom"}, session="ann")
    assert failed.value.run.state is None
    assert engine.sessions.get("ann") == before


def test_a_run_that_a_person_is_to_review_leaves_it_as_it_was(engine: Engine) -> None:
    unsure = Cascade("talk.unsure", [doubt], abstain_below={"reply": 0.9}, then="review")
    run = engine.run(stack_of(steps=[unsure, remember]), {"text": "a"}, session="ann")
    assert (run.status, run.state) == ("review", None)
    assert engine.sessions.find("ann") is None


def test_a_new_state_that_is_not_valid_fails_the_run(engine: Engine) -> None:
    class Short(BaseModel):
        turns: list[str] = Field([], max_length=1)

    short = stack_of(session=Short)
    engine.run(short, {"text": "a"}, session="ann")
    with pytest.raises(RunFailed, match="does not make a valid Short"):
        engine.run(short, {"text": "b"}, session="ann")
    assert engine.sessions.get("ann").state == {"turns": ["a"]}


def test_a_run_that_is_cancelled_leaves_it_as_it_was(engine: Engine, held: Held) -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(engine.arun(talk, {"text": "wait"}, session="ann"))
        await asyncio.to_thread(held.begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert engine.run(talk, {"text": "a"}, session="ann").output.reply == "0: a"  # and the session is free again


def test_a_run_that_runs_out_of_time_leaves_it_as_it_was(engine: Engine, held: Held) -> None:
    with pytest.raises(RunFailed) as failed:
        engine.run(talk, {"text": "wait"}, session="ann", timeout=0.05)
    assert isinstance(failed.value.error, DeadlineExceeded)
    assert engine.sessions.find("ann") is None


def test_cancelled_while_it_is_written_takes_it_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, held: Held
) -> None:
    put, begun, go = Sessions.put, threading.Event(), threading.Event()

    def slow(self: Sessions, *args: Any, **more: Any) -> SavedSession:
        begun.set()
        go.wait()
        return put(self, *args, **more)

    with engine_of(settings) as engine:
        monkeypatch.setattr(Sessions, "put", slow)

        async def cancelled() -> None:
            task = asyncio.create_task(engine.arun(talk, {"text": "a"}, session="ann"))
            await asyncio.to_thread(begun.wait)
            task.cancel()
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(cancelled())
        monkeypatch.undo()
        assert engine.run(talk, {"text": "b"}, session="ann").output.reply == "0: b"
    with TraceStore.open(settings.trace_path, readonly=True) as store:
        assert [row.status for row in store.runs()] == ["succeeded", "cancelled"]


def test_a_run_whose_end_cannot_be_recorded_takes_it_back(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from fslm_core.store import Recorder

    record = Recorder.record

    async def full(self: Recorder, event: Any) -> None:
        if isinstance(event, RunFinished):
            raise StoreError("the disk is full", where="trace.db", hint="free some space")
        await record(self, event)

    with engine_of(settings) as engine:
        engine.run(talk, {"text": "a"}, session="ann")
        before = engine.sessions.get("ann")
        monkeypatch.setattr(Recorder, "record", full)
        for id in ("ann", "new"):
            with pytest.raises(StoreError, match="the disk is full"):
                engine.run(talk, {"text": "b"}, session=id)
        assert engine.sessions.get("ann") == before and engine.sessions.find("new") is None


def test_the_trace_tells_who_read_which_session(engine: Engine, settings: Settings) -> None:
    engine.run(talk, {"text": "a"}, session="ann")
    run = engine.run(talk, {"text": "b"}, session="ann")
    message = run.messages["answer"]
    assert isinstance(message, Message)
    assert [parent.split("/")[1] for parent in message.parents] == ["input", "session"]
    with TraceStore.open(settings.trace_path, readonly=True) as store:
        nodes = {node.step: node for node in store.run(run.id).nodes}
    assert nodes["session.turn"].content is not None and nodes["session"].content is not None
    assert nodes["session.turn"].content.data == SessionTurn(session="ann", version=1).model_dump()
    assert nodes["session"].content.data == {"turns": ["a"], "topic": "none"}
    assert nodes["session"].parents == (nodes["session.turn"].id,)


def test_the_trace_hides_what_the_stack_hides(settings: Settings) -> None:
    class Secret(BaseModel):
        text: str = Field(json_schema_extra={"sensitive": True})

    secret = Stack("talk", input=Secret, output=Reply, steps=[answer, remember], session=Dialogue, writes="remember")
    assert marks_of(secret).made["session"] >= {"turns"}  # by what is bound to what
    with engine_of(settings, content="redacted") as engine:
        for text in ("canary-4711", "b"):
            engine.run(secret, {"text": text}, session="canary-id")
        assert engine.sessions.get("canary-id").state["turns"][0] == "canary-4711"  # or it could not be gone on with
    raw = b"".join(path.read_bytes() for path in settings.data_dir.glob("trace.db*"))
    assert b"canary" not in raw


# -- a model that changes, and other stacks --------------------------------------------------------------------------


def test_a_state_that_fits_the_new_model_is_taken(engine: Engine) -> None:
    engine.run(talk, {"text": "a"}, session="ann")
    old = engine.sessions.get("ann").schema_id

    class Grown(BaseModel):
        turns: list[str] = []
        mood: str = "calm"

    run = engine.run(stack_of(session=Grown), {"text": "b"}, session="ann")
    assert run.state == Grown(turns=["a", "b"])
    kept = engine.sessions.get("ann")
    assert kept.state == {"turns": ["a", "b"], "mood": "calm"} and kept.schema_id != old


def test_a_state_that_does_not_fit_says_so_and_quotes_nothing(engine: Engine) -> None:
    engine.run(talk, {"text": "secret"}, session="ann")

    class Changed(BaseModel):
        turns: list[int] = []

    changed = stack_of(session=Changed, steps=[hello, number], writes="number")
    with pytest.raises(SessionError, match="does not fit Changed; the model was changed") as error:
        engine.run(changed, {"text": "b"}, session="ann")
    assert "secret" not in str(error.value) and "turns.0: int_parsing" in str(error.value)
    assert "fslm sessions forget ann" in str(error.value)


def test_a_session_of_another_stack_is_refused(engine: Engine) -> None:
    engine.run(talk, {"text": "a"}, session="ann")
    other = Stack("other", input=Said, output=Reply, steps=[answer, remember], session=Dialogue, writes="remember")
    with pytest.raises(SessionError, match="belongs to another stack"):
        engine.run(other, {"text": "b"}, session="ann")


def test_where_sessions_are_not_to_be_kept_none_is(tmp_path: Path) -> None:
    settings = load(files=(), data_dir=tmp_path, sessions={"keep": False})
    with engine_of(settings) as engine:
        with pytest.raises(SessionError, match="sessions are not kept here"):
            engine.run(talk, {"text": "a"}, session="ann")
        with pytest.raises(SessionError, match="sessions are not kept here"):
            _ = engine.sessions
        assert engine.run(talk, {"text": "a"}).state == Dialogue(turns=["a"])
    assert not settings.sessions_path.exists()


def test_the_kit_takes_turns() -> None:
    with KitEngine([talk]) as engine:
        engine.outcome(talk, {"text": "a"}, session="ann").assert_ok()
        second = engine.outcome(talk, {"text": "b"}, session="ann")
        assert (
            second.output.reply == "1: b" and second.run is not None and second.run.state == Dialogue(turns=["a", "b"])
        )
        assert engine.sessions.path.parent == engine.settings.trace_path.parent
    assert run_stack(talk, {"text": "b"}, state={"turns": ["x"]}).output.reply == "1: b"
    run_stack(talk, {"text": "b"}, state={"turns": 5}).assert_failed(InputError)

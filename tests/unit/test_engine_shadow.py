"""Candidates: they run beside steps and are recorded; whatever they do, runs are as they would be without them."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from fslm_core.adapter import CONFIG, RECORD, WEIGHTS
from fslm_core.backends.protocol import Capabilities, Chunk, Generation, Request
from fslm_core.backends.scripted import Script, ScriptedBackend
from fslm_core.engine import Engine, check_stack
from fslm_core.engine.shadow import AT_ONCE, PRIORITY, drawn
from fslm_core.errors import CheckError, RunFailed, SettingsError, StoreError
from fslm_core.events import Event, RunFinished, ShadowDrawn, ShadowFinished
from fslm_core.explain.shadow import Share, compare
from fslm_core.explain.show import to_json
from fslm_core.message import CANDIDATE, derive_seed
from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings, StageSettings, load
from fslm_core.stack import Stack, Step
from fslm_core.stage import SLM, Decoding, Stage, tool
from fslm_core.store import ContentMode, TraceStore
from fslm_core.store.encode import Encoder

Short = Annotated[str, Field(max_length=40)]


class Enquiry(BaseModel):
    text: str


class Label(BaseModel):
    label: Literal["good", "bad"]
    note: Short | None


class Answer(BaseModel):
    reply: Short


class Reply(BaseModel):
    label: str
    reply: str


label = Stage(
    "t.label", input=Enquiry, output=Label, prompt="Label this: {{ text }}", model=SLM("smollm2-135m", tuned=True)
)
reply = Stage(
    "t.reply", input=Label, output=Answer, prompt="Answer: {{ label }}", model=SLM("smollm2-135m", tuned=True)
)
stack = Stack("t", input=Enquiry, output=Reply, steps=[Step(label, name="label"), Step(reply, name="reply")])

GOOD = '{"label":"good","note":null}'
BAD = '{"label":"bad","note":null}'
SAID = '{"reply":"thank you"}'
BESIDE = f"t.label{CANDIDATE}"


class Backend(ScriptedBackend):
    """A script whose held stages wait at a gate until the test lets them go."""

    def __init__(self, answers: Mapping[str, Script] | None = None, *, held: str = "") -> None:
        super().__init__({"t.label": GOOD, "t.reply": SAID, BESIDE: BAD, **(answers or {})})
        self.held = held
        self.at_gate = threading.Semaphore(0)
        self._gates: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def open(self, request: Request) -> AsyncIterator[Chunk | Generation]:
        if self.held == request.model.stage:
            gate = asyncio.Event()
            self._gates.append((asyncio.get_running_loop(), gate))
            self.at_gate.release()
            await gate.wait()
        async for piece in super().open(request):
            yield piece

    def release(self) -> None:
        for loop, gate in self._gates:
            loop.call_soon_threadsafe(gate.set)

    def asked(self, stage: str) -> list[Request]:
        return [request for request in self.requests if request.model.stage == stage]


def configured(folder: Path, shadow: float = 1.0, **more: Any) -> Settings:
    tried = {"candidate": str(folder / "candidate"), "shadow": shadow}
    return load(files=(), data_dir=folder / "data", stages={"t.label": tried}, **more)


@contextmanager
def opened(folder: Path, backend: Backend, *, shadow: float = 1.0, **options: Any) -> Iterator[Engine]:
    settings = options.pop("settings", None) or configured(folder, shadow)
    host = PluginHost(settings, installed=False)
    with Engine([stack], settings=settings, host=host, backend=backend, **{"content": "full", **options}) as engine:
        yield engine


def kept(engine: Engine, run: str) -> Any:
    with TraceStore.open(engine.settings.trace_path, readonly=True) as store:
        return store.run(run)


# -- what is asked, and what is kept ---------------------------------------------------------------------------------


def test_a_candidate_is_recorded_beside_its_step_and_never_returned(tmp_path: Path) -> None:
    backend = Backend()
    with opened(tmp_path, backend) as engine:
        run = engine.run(stack, {"text": "hello"}, seed=7)
        assert engine.settle()
        stored = kept(engine, run.id)
    assert run.output == Reply(label="good", reply="thank you")
    assert set(run.messages) == {"label", "reply"}
    assert [node.step for node in stored.nodes] == ["label", "reply"]
    (shadow,) = stored.shadows
    assert (shadow.step, shadow.status, shadow.same) == ("label", "ok", False)
    assert shadow.agreed == {"label": False, "note": True}
    assert shadow.content.data == {"label": "bad", "note": None}
    assert shadow.id == f"{run.id}/label{CANDIDATE}/0/0"
    assert shadow.parents == stored.nodes[0].parents == (f"{run.id}/input/0/0",)
    assert shadow.model.endswith("[candidate]") and shadow.attempts[0].prompt == stored.nodes[0].attempts[0].prompt


def test_a_candidate_is_asked_what_its_step_is_asked_and_goes_last(tmp_path: Path) -> None:
    backend = Backend()
    with opened(tmp_path, backend) as engine:
        run = engine.run(stack, {"text": "hello"}, seed=7)
        engine.settle()
    (own,), (beside,) = backend.asked("t.label"), backend.asked(BESIDE)
    assert (beside.prompt, beside.grammar, beside.max_tokens, beside.sampling, beside.on_overflow) == (
        own.prompt,
        own.grammar,
        own.max_tokens,
        own.sampling,
        own.on_overflow,
    )
    assert beside.seed == own.seed == derive_seed(7, "label", 0, 0) and beside.input == own.input != ""
    assert (own.priority, beside.priority) == (0, PRIORITY) and PRIORITY > 0
    assert (own.run, beside.run) == (run.id, "")
    assert not backend.asked(f"t.reply{CANDIDATE}")


def test_a_candidate_has_as_many_attempts_as_its_step(tmp_path: Path) -> None:
    again = Stage(
        "t.label",
        input=Enquiry,
        output=Label,
        prompt="Label this: {{ text }}",
        model=SLM("smollm2-135m", tuned=True),
        decoding=Decoding(temperature=0.5, attempts=3),
    )
    one = Stack("t", input=Enquiry, output=Label, steps=[Step(again, name="label")])
    backend = Backend({BESIDE: ["no", '{"label":"ugly"}', GOOD]})
    settings = configured(tmp_path)
    host = PluginHost(settings, installed=False)
    with Engine([one], settings=settings, host=host, backend=backend, content="full") as engine:
        run = engine.run(one, {"text": "hello"})
        engine.settle()
        (shadow,) = kept(engine, run.id).shadows
    assert [bool(attempt.problems) for attempt in shadow.attempts] == [True, True, False]
    assert (shadow.status, shadow.same) == ("ok", True)
    assert [request.seed for request in backend.asked(BESIDE)] == [derive_seed(0, "label", 0, i) for i in range(3)]


def test_the_draw_is_a_hash_of_the_run_its_seed_and_the_step() -> None:
    ids = [f"01JD{number:06}" for number in range(2000)]
    chosen = [run for run in ids if drawn(run, 3, "label", 0.1)]
    assert chosen == [run for run in ids if drawn(run, 3, "label", 0.1)]
    assert 150 < len(chosen) < 250
    assert set(chosen) <= {run for run in ids if drawn(run, 3, "label", 0.5)}
    assert chosen != [run for run in ids if drawn(run, 4, "label", 0.1)]
    assert chosen != [run for run in ids if drawn(run, 3, "reply", 0.1)]
    assert not any(drawn(run, 3, "label", 0.0) for run in ids)
    assert all(drawn(run, 3, "label", 1.0) for run in ids)


def test_a_candidate_runs_where_the_draw_falls_on_it_and_nowhere_else(tmp_path: Path) -> None:
    with opened(tmp_path, Backend(), shadow=0.5) as engine:
        runs = [engine.run(stack, {"text": "hello"}, seed=seed) for seed in range(40)]
        engine.settle()
        beside = {run.id for run in runs if kept(engine, run.id).shadows}
    assert beside == {run.id for run in runs if drawn(run.id, run.seed, "label", 0.5)}


def test_a_share_of_nothing_runs_no_candidate_and_warms_none(tmp_path: Path) -> None:
    backend = Backend()
    with opened(tmp_path, backend, shadow=0.0) as engine:
        engine.run(stack, {"text": "hello"})
        assert engine.settle()
    assert not backend.asked(BESIDE) and BESIDE not in {ref.stage for ref in backend.warmed}


def test_without_a_trace_no_candidate_runs(tmp_path: Path) -> None:
    backend = Backend()
    with opened(tmp_path, backend, trace=False) as engine:
        assert engine.run(stack, {"text": "hello"}).output.label == "good"
        assert engine.settle()
    assert not backend.asked(BESIDE)


def test_what_is_told_of_a_candidate_follows_the_end_of_its_run_and_no_stream_shows_it(tmp_path: Path) -> None:
    seen: list[Event] = []
    with opened(tmp_path, Backend(), observers=[seen.append]) as engine:
        streamed = [type(event) for event in engine.stream(stack, {"text": "hello"})]
        engine.settle()
    with opened(tmp_path, Backend(), shadow=0.0) as engine:
        assert streamed == [type(event) for event in engine.stream(stack, {"text": "hello"})]
    kinds = [type(event) for event in seen]
    assert kinds.index(ShadowDrawn) < kinds.index(RunFinished) < kinds.index(ShadowFinished)
    (finished,) = (event for event in seen if isinstance(event, ShadowFinished))
    assert finished.message is not None and finished.message.content == Label(label="bad", note=None)
    assert (finished.same, finished.fields) == (False, {"label": False, "note": True})


# -- it is waited for by nobody --------------------------------------------------------------------------------------


def test_a_run_does_not_wait_for_its_candidate(tmp_path: Path) -> None:
    backend = Backend(held=BESIDE)
    with opened(tmp_path, backend) as engine:
        run = engine.run(stack, {"text": "hello"})
        assert run.status == "succeeded" and kept(engine, run.id).row.status == "succeeded"
        assert kept(engine, run.id).shadows == () and not engine.settle(timeout=0)
        backend.release()
        assert engine.settle()
        assert [shadow.status for shadow in kept(engine, run.id).shadows] == ["ok"]


def test_a_candidate_begins_when_its_run_has_ended(tmp_path: Path) -> None:
    backend = Backend()
    with opened(tmp_path, backend) as engine:
        engine.run(stack, {"text": "hello"})
        engine.settle()
    assert [request.model.stage for request in backend.requests] == ["t.label", "t.reply", BESIDE]


def test_closing_the_engine_stops_a_candidate_and_records_that(tmp_path: Path) -> None:
    backend = Backend(held=BESIDE)
    with opened(tmp_path, backend) as engine:
        run = engine.run(stack, {"text": "hello"})
    (shadow,) = kept(engine, run.id).shadows
    assert (shadow.status, shadow.same, shadow.attempts) == ("cancelled", None, ())
    assert kept(engine, run.id).row.status == "succeeded"


def test_a_cancelled_run_takes_its_candidates_with_it(tmp_path: Path) -> None:
    backend = Backend(held=BESIDE)
    reached = threading.Event()

    def hold_the_reply(request: Request) -> str:
        reached.set()
        return "wait"  # no valid reply: the run goes on to its next attempt for ever

    endless = Stage(
        "t.reply",
        input=Label,
        output=Answer,
        prompt="Answer: {{ label }}",
        model=SLM("smollm2-135m", tuned=True),
        decoding=Decoding(temperature=0.5, attempts=10_000),
    )
    long = Stack("long", input=Enquiry, output=Reply, steps=[Step(label, name="label"), Step(endless, name="reply")])
    backend._answers["t.reply"] = hold_the_reply
    settings = configured(tmp_path)
    host = PluginHost(settings, installed=False)

    async def main() -> str:
        async with Engine([long], settings=settings, host=host, backend=backend, content="full") as engine:
            going = asyncio.ensure_future(engine.arun(long, {"text": "hello"}))
            await asyncio.to_thread(reached.wait)
            going.cancel()
            with pytest.raises(asyncio.CancelledError):
                await going
            assert await engine.asettle()
        with TraceStore.open(settings.trace_path, readonly=True) as store:
            return store.run().row.id

    run = asyncio.run(main())
    with TraceStore.open(settings.trace_path, readonly=True) as store:
        stored = store.run(run)
    assert stored.row.status == "cancelled"
    assert [shadow.status for shadow in stored.shadows] == ["cancelled"]


def test_a_candidate_outlives_the_deadline_of_its_run(tmp_path: Path) -> None:
    backend = Backend()
    with opened(tmp_path, backend) as engine:
        engine.run(stack, {"text": "the first one compiles the schemas"})
        backend.held = "t.label"
        with pytest.raises(RunFailed, match="did not end within"):
            engine.run(stack, {"text": "hello"}, timeout=0.3)
        assert engine.settle()
        with TraceStore.open(engine.settings.trace_path, readonly=True) as store:
            stored = store.run()
            found = compare(store.shadows("t.label"))
    assert stored.nodes == () and stored.row.error is not None and stored.row.error["code"] == "deadline"
    assert [(shadow.status, shadow.same) for shadow in stored.shadows] == [("ok", None)]
    assert (found[0].began, found[0].same) == (2, Share(0, 1))


def test_a_candidate_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    with opened(tmp_path, Backend(held=BESIDE)) as engine:
        engine._works.shadows.seconds = 0.0
        run = engine.run(stack, {"text": "hello"})
        assert engine.settle()
        (shadow,) = kept(engine, run.id).shadows
    assert shadow.status == "failed" and shadow.content is None
    (problem,) = shadow.attempts[0].problems
    assert problem.kind == "error" and "was stopped" in problem.text


def test_no_more_candidates_are_at_work_than_may_be(tmp_path: Path) -> None:
    backend = Backend(held=BESIDE)
    with opened(tmp_path, backend) as engine:
        shadows = engine._works.shadows
        assert shadows.most == AT_ONCE
        shadows.most = 3
        runs = [engine.run(stack, {"text": f"number {number}"}) for number in range(8)]
        assert (shadows.alive, shadows.skipped, shadows.has_room) == (3, 5, False)
        backend.release()
        backend.held = ""
        assert engine.settle()
        later = engine.run(stack, {"text": "later"})
        engine.settle()
        told = [kept(engine, run.id).shadows[0].status for run in [*runs, later]]
        with TraceStore.open(engine.settings.trace_path, readonly=True) as store:
            (found,) = compare(store.shadows("t.label"))
    assert told == ["ok"] * 3 + ["skipped"] * 5 + ["ok"]
    assert (found.began, found.skipped, found.same.rows) == (4, 5, 4)
    assert len(backend.asked(BESIDE)) == 4


def test_map_gives_the_same_outcomes_and_every_candidate_is_recorded(tmp_path: Path) -> None:
    rows = [{"text": f"number {number}"} for number in range(50)]
    with opened(tmp_path, Backend()) as engine:
        outcomes = list(engine.map(stack, rows, concurrency=8))
        assert engine.settle()
        assert [outcome.output for outcome in outcomes] == [Reply(label="good", reply="thank you")] * len(rows)
        with TraceStore.open(engine.settings.trace_path, readonly=True) as store:
            (found,) = compare(store.shadows("t.label"))
    assert (found.began, found.skipped, found.cancelled) == (50, 0, 0)


# -- it can do nothing -----------------------------------------------------------------------------------------------

BREAKDOWNS: list[Script] = [
    RuntimeError("broken"),
    StoreError("full", where="a disk"),
    SystemExit(3),
    KeyboardInterrupt(),
    MemoryError(),
    "",
    "no JSON",
    '{"label":"ugly","note":null}',
    '{"label":"good"}',
    " ".join(["word"] * 5000),
    [],
]


@pytest.mark.parametrize("script", BREAKDOWNS, ids=[str(place) for place, _ in enumerate(BREAKDOWNS)])
def test_a_candidate_that_fails_fails_alone(tmp_path: Path, script: Script) -> None:
    with opened(tmp_path, Backend({BESIDE: script})) as engine:
        runs = [engine.run(stack, {"text": "hello"}) for _ in range(3)]
        assert engine.settle()
        assert all(run.output == Reply(label="good", reply="thank you") for run in runs)
        for run in runs:
            (shadow,) = kept(engine, run.id).shadows
            assert (shadow.status, shadow.same, shadow.content) == ("failed", None, None)
            assert shadow.attempts[-1].problems


def test_a_backend_that_does_not_know_the_candidate_fails_it_alone(tmp_path: Path) -> None:
    backend = Backend()
    del backend._answers[BESIDE]
    with opened(tmp_path, backend) as engine:
        run = engine.run(stack, {"text": "hello"})
        engine.settle()
        (shadow,) = kept(engine, run.id).shadows
    assert run.status == "succeeded" and "UnknownNameError" in shadow.attempts[0].problems[0].text


@pytest.mark.parametrize("on_failure", ["fail", "continue"])
def test_a_record_of_a_candidate_that_cannot_be_written_is_lost_alone(
    tmp_path: Path, on_failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Encoder, *args: Any) -> Any:
        raise ValueError("cannot be written")

    monkeypatch.setattr(Encoder, "_candidate", broken)
    settings = configured(tmp_path, trace={"on_failure": on_failure})
    with opened(tmp_path, Backend(), settings=settings) as engine:
        runs = [engine.run(stack, {"text": "hello"}) for _ in range(3)]
        assert engine.settle() and engine.records_lost == 3
        assert [kept(engine, run.id).row.status for run in runs] == ["succeeded"] * 3
        recorder = engine._works.rooms.recorder
        assert recorder is not None
        encoder = recorder._encoder
        assert not encoder._keepers and not encoder._beside and not recorder._damaged


def test_a_run_that_was_forgotten_meanwhile_stays_forgotten(tmp_path: Path) -> None:
    backend = Backend({BESIDE: '{"label":"bad","note":"unforgotten"}'}, held=BESIDE)
    with opened(tmp_path, backend) as engine:
        run = engine.run(stack, {"text": "hello"})
        path = engine.settings.trace_path
        with TraceStore.open(path) as store:
            store.forget([run.id])
        backend.release()
        assert engine.settle()
    raw = sqlite3.connect(path)
    for table in ("runs", "nodes", "attempts", "contents", "blobs"):
        assert raw.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
    raw.close()
    assert not any(b"unforgotten" in file.read_bytes() for file in path.parent.iterdir())


_TIMES = re.compile(r'"(started|ended|seconds|queued|prefill|decode|render|validate)": [0-9.e+-]+')


def recorded(engine: Engine, run: str) -> str:
    """Everything that is kept of a run but its candidates, its times and its id, as text."""
    told = to_json(kept(engine, run))
    del told["shadows"]
    return _TIMES.sub(r'"\1": 0', json.dumps(told)).replace(run, "RUN")


@examples(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    script=st.one_of(
        st.text(max_size=60),
        st.sampled_from(BREAKDOWNS),
        st.builds(lambda a, b: json.dumps({"label": a, "note": b}), st.sampled_from(["good", "bad", "x"]), st.text()),
        st.lists(st.sampled_from([GOOD, BAD, "no"]), min_size=1, max_size=3),
    ),
    own=st.sampled_from([GOOD, BAD, '{"label":"bad","note":"late"}', "no JSON"]),
    seed=st.integers(0, 9),
    mode=st.sampled_from(["full", "redacted", "none"]),
)
def test_whatever_a_candidate_does_a_run_is_as_without_it(
    tmp_path_factory: pytest.TempPathFactory, script: Script, own: str, seed: int, mode: ContentMode
) -> None:
    found = []
    folder = tmp_path_factory.mktemp("pair")
    for shadow in (0.0, 1.0):
        backend = Backend({BESIDE: script, "t.label": own})
        settings = load(
            files=(),
            data_dir=folder,
            trace={"path": str(folder / "trace.db")},
            stages={"t.label": {"candidate": str(folder / "candidate"), "shadow": shadow}},
        )
        with opened(folder, backend, settings=settings, content=mode) as engine:
            try:
                run = engine.run(stack, {"text": "hello"}, seed=seed)
                said = run.output.model_dump_json()
            except RunFailed as failed:
                run, said = failed.run, str(failed).replace(failed.run.id, "RUN")
            assert engine.settle()
            assert len(kept(engine, run.id).shadows) == shadow
            found.append((said, recorded(engine, run.id)))
    assert found[0] == found[1]


# -- what is kept of it under each mode ------------------------------------------------------------------------------


class Caller(BaseModel):
    text: Annotated[str, Field(json_schema_extra={"sensitive": False})]
    phone: Annotated[str, Field(max_length=40, json_schema_extra={"sensitive": True})]


class Call(BaseModel):
    phone: Annotated[str, Field(max_length=40, json_schema_extra={"sensitive": True})]
    about: Short


call = Stage(
    "t.call", input=Caller, output=Call, prompt="{{ text }}, {{ phone }}", model=SLM("smollm2-135m", tuned=True)
)
calls = Stack("calls", input=Caller, output=Call, steps=[Step(call, name="call")], bind={"phone": "call.phone"})


@pytest.mark.parametrize("mode", ["redacted", "none"])
@pytest.mark.parametrize("valid", [True, False])
def test_nothing_sensitive_that_a_candidate_says_reaches_the_disk(
    tmp_path: Path, mode: ContentMode, valid: bool
) -> None:
    own = '{"phone":"+32 470 99 88 77","about":"a chair"}'
    other = '{"phone":"+32 470 99 88 77","about":"call 0032470998877"}' if valid else "+32 470 99 88 77 is the number"
    backend = Backend({"t.call": own, f"t.call{CANDIDATE}": other}, held=f"t.call{CANDIDATE}")
    settings = load(files=(), data_dir=tmp_path, stages={"t.call": {"candidate": "v3", "shadow": 1}})
    host = PluginHost(settings, installed=False)
    with Engine([calls], settings=settings, host=host, backend=backend, content=mode) as engine:
        run = engine.run(calls, {"text": "a chair", "phone": "+32 470 99 88 77"})
        backend.release()
        engine.settle()
        (shadow,) = kept(engine, run.id).shadows
    told = b"".join(file.read_bytes() for file in tmp_path.iterdir()).decode("utf-8", "replace")
    assert not re.search(r"470\W*99\W*88\W*77|0032470998877", told)
    assert "a chair" in told or mode == "none"
    assert (shadow.same, shadow.agreed) == ((False, {"phone": True, "about": False}) if valid else (None, {}))
    if valid:
        assert shadow.content.kind == mode
        assert shadow.content.data["phone"] == ("[redacted]" if mode == "redacted" else "string[10]")


# -- what an operator writes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"shadow": 0.1}, "shadow"),
        ({"candidate": "v3", "shadow": 1.1}, "shadow"),
        ({"candidate": "v3", "shadow": -0.1}, "shadow"),
        ({"candidate": "v3", "shadow": float("nan")}, "shadow"),
        ({"candidate_sha256": "0" * 64}, "candidate_sha256"),
        ({"candidate": "v3", "candidate_sha256": "abc"}, "candidate_sha256"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(wrong: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(files=(), stages={"t.label": wrong})
    assert f"stages.t.label.{key}" in caught.value.what


def test_settings_of_a_candidate_are_read_from_a_file(tmp_path: Path) -> None:
    sha = "a" * 64
    text = f'[stages."t.label"]\ncandidate = "/srv/v3"\ncandidate_sha256 = "{sha}"\nshadow = 0.1\n'
    (tmp_path / "fslm.toml").write_text(text, encoding="utf-8")
    found = load(files=[tmp_path / "fslm.toml"]).stages["t.label"]
    assert found == StageSettings(candidate=Path("/srv/v3"), candidate_sha256=sha, shadow=0.1)


def an_adapter(folder: Path, **record: Any) -> Path:
    folder.mkdir()
    header = {"x.lora_A.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    raw = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(raw)) + raw + b"\0" * 24)
    (folder / CONFIG).write_text('{"peft_type": "LORA", "r": 2}', encoding="utf-8")
    made_for = {"stage": "t.label", "base": "smollm2-135m", "template": "t", "input_schema": "i"}
    (folder / RECORD).write_text(json.dumps({**made_for, "output_schema": label.schema.id, **record}), "utf-8")
    return folder


def checked(folder: Path, change: Callable[[Path], Any] = lambda path: None, **settings: Any) -> list[str]:
    path = an_adapter(folder / "v3")
    change(path)
    tried = {"candidate": str(path), "shadow": 0.1, **settings}
    chosen = load(files=(), cache_dir=folder / "cache", stages={"t.label": tried})
    host = PluginHost(chosen, installed=False)
    return check_stack(stack, host=host, settings=chosen, capabilities=Capabilities()).errors


def edit_record(path: Path, **changes: Any) -> None:
    record = json.loads((path / RECORD).read_text("utf-8"))
    (path / RECORD).write_text(json.dumps({**record, **changes}), "utf-8")


def test_the_check_looks_at_a_candidate_as_at_the_adapter(tmp_path: Path) -> None:
    path = an_adapter(tmp_path / "v3")
    chosen = load(files=(), cache_dir=tmp_path, stages={"t.label": {"candidate": str(path), "shadow": 0.1}})
    report = check_stack(stack, host=PluginHost(chosen, installed=False), settings=chosen)
    (step, _) = report.steps
    assert not report.errors
    assert step.candidate is not None and step.share == 0.1
    assert str(step.candidate).endswith("(rank 2) [candidate]") and "candidate" not in str(step.model)


@pytest.mark.parametrize(
    ("change", "settings", "said"),
    [
        (lambda path: (path / WEIGHTS).unlink(), {}, "not complete"),
        (lambda path: edit_record(path, output_schema="other"), {}, "output schema of Label changed"),
        (lambda path: edit_record(path, base="other-base"), {}, "made for the base other-base"),
        (lambda path: None, {"candidate_sha256": "0" * 64}, "not the ones promised"),
    ],
)
def test_a_candidate_that_does_not_fit_is_refused_before_a_run(
    tmp_path: Path, change: Callable[[Path], Any], settings: dict[str, Any], said: str
) -> None:
    errors = checked(tmp_path, change, **settings)
    assert any(error.startswith("step label: candidate: ") and said in error for error in errors)


def test_a_tool_has_no_candidate(tmp_path: Path) -> None:
    @tool("t.loud", version="1")
    def loud(message: Enquiry) -> Enquiry:
        return Enquiry(text=message.text.upper())

    tools = Stack("tools", input=Enquiry, output=Enquiry, steps=[Step(loud, name="loud")])
    chosen = load(files=(), data_dir=tmp_path, stages={"t.loud": {"candidate": "v3", "shadow": 0.1}})
    host = PluginHost(chosen, installed=False)
    with pytest.raises(CheckError, match="it is a tool"), Engine([tools], settings=chosen, host=host, trace=False):
        raise AssertionError("it opened")


def test_a_backend_without_adapters_is_refused_a_candidate(tmp_path: Path) -> None:
    chosen = configured(tmp_path)
    offers = Capabilities(weights=False, adapters=False)
    report = check_stack(stack, host=PluginHost(chosen, installed=False), settings=chosen, capabilities=offers)
    assert "step label: candidate: the backend cannot run adapters" in report.errors


# -- the trace of many runs, and of an older version -----------------------------------------------------------------


def test_what_candidates_said_is_put_together_over_all_runs(tmp_path: Path) -> None:
    twice = [GOOD] * 6 + ["no"] * 2
    backend = Backend({BESIDE: twice})
    with opened(tmp_path, backend) as engine:
        for _ in range(8):
            engine.run(stack, {"text": "hello"})
            engine.settle()
        backend._answers["t.label"] = BAD
        backend._answers[BESIDE] = GOOD
        engine.run(stack, {"text": "hello"})
        engine.settle()
        with TraceStore.open(engine.settings.trace_path, readonly=True) as store:
            (found,) = compare(store.shadows("t.label"))
            assert store.shadows("t.reply") == [] and store.shadowed_stages() == ("t.label",)
    assert (found.began, found.same, found.fields) == (9, Share(6, 7), {"label": Share(6, 7), "note": Share(7, 7)})
    assert (found.own_valid, found.candidate_valid, found.lost, found.gained) == (Share(9, 9), Share(7, 9), 2, 0)
    assert found.p == 0.5
    assert found.own_times.work is not None and found.candidate_times.waited is not None
    assert json.loads(json.dumps(found.to_dict()))["same"]["hits"] == 6


def test_a_database_of_before_there_were_candidates_is_read_and_written_on(tmp_path: Path) -> None:
    with opened(tmp_path, Backend(), shadow=0.0) as engine:
        before = engine.run(stack, {"text": "hello"}).id
    path = engine.settings.trace_path
    raw = sqlite3.connect(path)
    raw.execute("ALTER TABLE nodes DROP COLUMN compared")
    raw.commit()
    raw.close()
    with TraceStore.open(path, readonly=True) as store:
        assert store.run(before).shadows == () and len(store.run(before).nodes) == 2
        assert store.shadows("t.label") == []
    with opened(tmp_path, Backend()) as engine:
        after = engine.run(stack, {"text": "hello"}).id
        engine.settle()
        assert len(kept(engine, after).shadows) == 1 and len(kept(engine, before).nodes) == 2


def test_inputs_that_were_kept_in_full_are_found_once_and_newest_first(tmp_path: Path) -> None:
    with opened(tmp_path, Backend()) as engine:
        for text in ("one", "two", "one", "three"):
            engine.run(stack, {"text": text})
    with opened(tmp_path, Backend(), content="none") as engine:
        engine.run(stack, {"text": "four"})
    with TraceStore.open(engine.settings.trace_path, readonly=True) as store:
        found = store.inputs("t", 10)
        assert {content.data["text"] for _, content in found} == {"one", "two", "three"}
        assert found[0][1].data == {"text": "three"} and len(store.inputs("t", 2)) == 2
        assert store.inputs("other", 10) == []

"""What a service needs of the engine in its process: a host left as it was, an end that comes, a start to watch."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import fslm_core.engine.prepare as preparing
from fslm_core.backends.protocol import ModelRef
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.engine import Engine
from fslm_core.errors import CheckError, EngineStateError, RunFailed
from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings, load
from fslm_core.stack import Stack
from fslm_core.stage import SLM, Stage, tool
from fslm_core.store import TraceStore
from fslm_core.store.recorder import Recorder

HOST = """
import asyncio, logging, os, signal, sys, threading, warnings

asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())
logging.basicConfig(level=logging.ERROR)
warnings.simplefilter("error", UserWarning)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.signal(signal.SIGTERM, lambda *_: None)
sys.setswitchinterval(0.003)
{setup}

def host():
    torch = sys.modules.get("torch")
    return dict(
        threads=torch and (torch.get_num_threads(), torch.get_num_interop_threads(), torch.get_default_dtype()),
        grad=torch and (torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()),
        random=torch and torch.random.initial_seed(),
        environment=dict(os.environ),
        signals=[signal.getsignal(number) for number in sorted(signal.valid_signals())],
        policy=asyncio.get_event_loop_policy(),
        root=(list(logging.root.handlers), logging.root.level, list(logging.root.filters), logging.root.disabled),
        fslm=[logging.getLogger("fslm").handlers, logging.getLogger("fslm").level, logging.getLogger("fslm").propagate],
        last=logging.lastResort,
        filters=list(warnings.filters),
        interval=sys.getswitchinterval(),
        hooks=(sys.excepthook, threading.excepthook, sys.unraisablehook, sys.displayhook, sys.getrecursionlimit()),
        streams=(sys.stdout, sys.stderr, sys.stdin),
        cwd=os.getcwd(),
        mask=signal.pthread_sigmask(signal.SIG_BLOCK, ()),
    )

def same(before, when):
    after = host()
    for name, value in before.items():
        assert after[name] == value, (when, name, value, after[name])

from fslm_core import Engine
from fslm_core.settings import load

settings = load(files=(), data_dir=sys.argv[1])
before = host()
with Engine({stack}, settings=settings, threads=1) as engine:
    same(before, "open")
    engine.run({stack}[0], {{"text": "where is my order 123?"}})
    same(before, "run")
same(before, "closed")

async def main():
    loop = asyncio.get_running_loop()
    async with Engine({stack}, settings=settings, threads=2) as engine:
        await engine.arun({stack}[0], {{"text": "where is my order 123?"}})
        assert loop._default_executor is None or loop._default_executor._max_workers > 1
        assert loop.get_exception_handler() is None and loop.get_task_factory() is None

if {again}:
    asyncio.run(main())
    same(before, "closed again")
left = [thread.name for thread in threading.enumerate() if thread.name.startswith("fslm")]
assert not left, left
print("as it was")
"""


def as_it_was(folder: Path, stack: str, setup: str = "", *, again: bool) -> None:
    """In a process of its own, an engine leaves its host as it was; opened again from an event loop too."""
    script = HOST.format(stack=stack, setup=setup, again=again)
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.stdout == "as it was\n", done.stderr


def test_the_host_is_left_as_it_was(tmp_path: Path) -> None:
    as_it_was(tmp_path, '["echo"]', again=True)


@pytest.mark.torch
def test_the_host_of_a_model_is_left_as_it_was(tmp_path: Path) -> None:
    as_it_was(
        tmp_path,
        '["support"]',
        "import torch, transformers, peft; torch.set_num_threads(2); torch.set_num_interop_threads(3)",
        again=False,
    )


class Text(BaseModel):
    text: str


class Flag(BaseModel):
    flag: bool


class Said(BaseModel):
    said: str


flag = Stage("t.flag", input=Text, output=Flag, prompt="{{ text }}", model=SLM("smollm2-135m", tuned=True))
stack = Stack("t", input=Text, output=Flag, steps=[flag])


@pytest.fixture
def plain(tmp_path: Path) -> Settings:
    return load(files=(), data_dir=tmp_path)


@pytest.fixture
def make(plain: Settings) -> Callable[..., Engine]:
    def engine(*stacks: Any, backend: Any = None, **more: Any) -> Engine:
        chosen = backend or ScriptedBackend({"t.flag": '{"flag":true}'})
        return Engine(stacks, settings=plain, host=PluginHost(plain, installed=False), backend=chosen, **more)

    return engine


Make = Callable[..., Engine]


class Slow(ScriptedBackend):
    """Is warm when it is told to be."""

    def __init__(self) -> None:
        super().__init__({"t.flag": '{"flag":true}'})
        self.begun = threading.Event()
        self.warm_now = threading.Event()

    async def warm(self, models: Sequence[ModelRef]) -> Sequence[str]:
        self.begun.set()
        while not self.warm_now.is_set():
            await asyncio.sleep(0)
        return await super().warm(models)


# -- its start ---------------------------------------------------------------------------------------------------------


def test_an_engine_that_does_not_wait_says_when_it_is_warm(make: Make) -> None:
    backend = Slow()

    async def main() -> None:
        async with make(stack, backend=backend, wait=False) as engine:
            assert backend.begun.wait(60)
            assert not engine.ready
            running = asyncio.create_task(engine.arun(stack, {"text": "a"}))
            backend.warm_now.set()
            assert (await running).output.flag
            assert engine.ready
        assert not engine.ready

    asyncio.run(main())


def test_an_engine_that_does_not_wait_says_why_it_will_not_be_warm(make: Make) -> None:
    wrong = Stack(
        "t", input=Text, output=Text, steps=[Stage("t.w", input=Flag, output=Flag, model=flag.model, prompt="")]
    )
    with make(wrong, wait=False) as engine:
        while True:
            try:
                assert not engine.ready
            except CheckError as error:
                first = error
                break
        with pytest.raises(CheckError) as again:
            _ = engine.ready
        assert again.value is first and len(list(_frames(first))) < 10
        with pytest.raises(CheckError):
            engine.run(wrong, {"text": "a"})


def _frames(error: BaseException) -> Iterator[Any]:
    at = error.__traceback__
    while at is not None:
        yield at
        at = at.tb_next


# -- its end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", [True, False])
def test_closing_while_it_loads_ends_at_once(make: Make, waits: bool, caplog: pytest.LogCaptureFixture) -> None:
    backend = Slow()
    engine = make(stack, backend=backend, wait=waits)
    ends: list[BaseException | None] = []

    def open_() -> None:
        try:
            engine.__enter__()
        except EngineStateError as error:
            ends.append(error)

    opening = threading.Thread(target=open_)
    opening.start()
    assert backend.begun.wait(60)
    engine.close()
    opening.join(60)
    assert not opening.is_alive()
    assert len(ends) == waits
    assert not caplog.records


def test_a_download_under_way_does_not_hold_up_the_close(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def checking(self: Any, stack: Any) -> Any:
        begun.set()
        go_on.wait()

    monkeypatch.setattr(preparing.Preparer, "_check", checking)
    engine = make(stack, wait=False)
    engine.__enter__()
    assert begun.wait(60)
    engine.close()
    assert not go_on.is_set()
    go_on.set()


def test_a_tool_that_hangs_holds_up_neither_the_close_nor_the_process(tmp_path: Path) -> None:
    script = """
import sys, threading
from pydantic import BaseModel
from fslm_core import Engine, Stack, tool
from fslm_core.settings import load

class Text(BaseModel):
    text: str

class Said(BaseModel):
    said: str

begun = threading.Event()

@tool("t.hang", version="1")
def hang(text: Text) -> Said:
    begun.set()
    threading.Event().wait()
    return Said(said="")

stack = Stack("t", input=Text, output=Said, steps=[hang])
engine = Engine(settings=load(files=(), data_dir=sys.argv[1]))
engine.__enter__()

def ask():
    try:
        engine.run(stack, {"text": "a"})
    except Exception as error:
        print(type(error).__name__)

asking = threading.Thread(target=ask)
asking.start()
begun.wait()
engine.close()
asking.join()
print("closed")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout.split(), done.returncode) == (["EngineStateError", "closed"], 0), done.stderr
    with TraceStore.open(tmp_path / "trace.db", readonly=True) as store:
        assert [row.status for row in store.runs()] == ["cancelled"]


def test_many_blocking_tools_run_side_by_side(make: Make) -> None:
    """There is no pool for them to queue in: all of forty are inside at once."""
    together = threading.Barrier(40)

    @tool("t.meet", version="1")
    def meet(text: Text) -> Said:
        together.wait(60)
        return Said(said=text.text)

    meeting = Stack("t", input=Text, output=Said, steps=[meet])
    with make() as engine:
        outcomes = list(engine.map(meeting, [{"text": str(i)} for i in range(40)], concurrency=40))
    assert [outcome.output.said for outcome in outcomes] == [str(i) for i in range(40)]


def test_an_engine_is_not_closed_by_a_run_of_its_own(make: Make) -> None:
    engine = make()

    @tool("t.close", version="1")
    async def close(text: Text) -> Said:
        engine.close()
        return Said(said="")

    with engine:
        with pytest.raises(RunFailed) as failed:
            engine.run(Stack("t", input=Text, output=Said, steps=[close]), {"text": "a"})
        assert isinstance(failed.value.error, EngineStateError)
        assert engine.run(stack, {"text": "a"}).output.flag


def test_a_run_cancelled_while_its_start_is_written_is_cancelled(
    make: Make, plain: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, ended, go_on = threading.Event(), threading.Event(), threading.Event()
    commit, push = Recorder._commit, Recorder._push

    def slow(self: Recorder, group: Any) -> None:
        if any(entry.statements for entry in group):
            writing.set()
            assert go_on.wait(60)
        commit(self, group)

    def noting(self: Recorder, entry: Any) -> None:
        push(self, entry)
        if entry.finish is not None:
            ended.set()

    monkeypatch.setattr(Recorder, "_commit", slow)
    monkeypatch.setattr(Recorder, "_push", noting)

    async def main() -> None:
        async with make() as engine:
            await engine.arun(stack, {"text": "warm"})
            writing.clear()
            ended.clear()
            go_on.clear()
            task = asyncio.create_task(engine.arun(stack, {"text": "a"}))
            assert await asyncio.to_thread(writing.wait, 60)
            task.cancel()
            assert await asyncio.to_thread(ended.wait, 60)  # the cancellation has come to the run
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            await engine.arun(stack, {"text": "b"})

    go_on.set()
    asyncio.run(main())
    with TraceStore.open(plain.trace_path, readonly=True) as store:
        assert sorted(row.status for row in store.runs()) == ["cancelled", "succeeded", "succeeded"]


def test_a_store_that_opens_half_is_closed(make: Make, plain: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Path] = []
    close = TraceStore.close

    def broken(self: TraceStore) -> Recorder:
        raise EngineStateError("no recorder")

    monkeypatch.setattr(TraceStore, "recorder", broken)
    monkeypatch.setattr(TraceStore, "close", lambda self: (closed.append(self.path), close(self)))
    with pytest.raises(EngineStateError, match="no recorder"):
        make().__enter__()
    assert closed == [plain.trace_path.absolute()]


# -- the load campaign, small ------------------------------------------------------------------------------------------


def test_a_little_load_leaves_nothing_behind(plain: Settings) -> None:
    campaign = pytest.importorskip("tests.campaigns.load")
    done = asyncio.run(campaign.campaign("scripted", plain, clients=16, seconds=3.0, every=0.5, seed=1))
    found = campaign.record(done, plain, 3.0)
    assert found["ends"]["succeeded"] and found["ends"]["cancelled"] and found["ends"]["left"]
    assert not {"running", "interrupted"} & found["trace"].keys()
    assert not [end for end in found["ends"] if end.startswith("failed")]
    files = {sample["files"] for sample in found["samples"]}
    assert max(files) - min(files) <= 4

"""An engine among processes: forks, Ctrl-C, and code that hangs, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks and signals")

SETUP = """
import asyncio, os, signal, sys, threading
from pydantic import BaseModel
from fslm_core.backends.protocol import Capabilities, Chunk, Generation
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.engine import Engine
from fslm_core.errors import EngineStateError
from fslm_core.hooks import hookimpl
from fslm_core.plugins import PluginHost
from fslm_core.settings import load
from fslm_core.stack import Stack
from fslm_core.stage import SLM, Stage
from fslm_core.store import TraceStore

class Text(BaseModel):
    text: str

class Flag(BaseModel):
    flag: bool

flag = Stage("t.flag", input=Text, output=Flag, prompt="{{ text }}", model=SLM("smollm2-135m", tuned=True))
stack = Stack("t", input=Text, output=Flag, steps=[flag])
settings = load(files=(), data_dir=sys.argv[1])

class Stuck(ScriptedBackend):
    '''Answers only when it is stopped.'''

    def __init__(self):
        super().__init__({})
        self.stopped = 0

    async def open(self, request):
        try:
            os.write(1, b"begun\\n")
            await asyncio.Event().wait()
            yield Chunk("")
        finally:
            self.stopped += 1

def engine(backend=None, plugins=None, **more):
    host = PluginHost(settings, plugins=plugins, installed=False)
    return Engine(settings=settings, host=host, backend=backend or ScriptedBackend({"t.flag": '{"flag":true}'}), **more)
"""


def start(code: str, folder: Path) -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(SETUP + textwrap.dedent(code), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )


def finished(process: subprocess.Popen[str]) -> str:
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, err
    assert "never retrieved" not in err
    assert "was destroyed" not in err
    return out


REFUSED = """
def refused(e):
    '''How many of an engine's uses raise what they should in a fork.'''
    async def collected(items):
        return [item async for item in items]

    uses = [
        lambda: e.run(stack, {"text": "a"}),
        lambda: asyncio.run(e.arun(stack, {"text": "a"})),
        lambda: list(e.map(stack, [{"text": "a"}])),
        lambda: asyncio.run(collected(e.amap(stack, [{"text": "a"}]))),
        lambda: list(e.stream(stack, {"text": "a"})),
        lambda: asyncio.run(collected(e.astream(stack, {"text": "a"}))),
        lambda: e.check(stack),
        lambda: e.origins(stack),
        lambda: e.__enter__(),
        lambda: asyncio.run(e.__aenter__()),
        lambda: e.ready,
    ]
    for use in uses:
        try:
            use()
        except EngineStateError as error:
            assert "forked" in error.what and "worker process" in error.hint, error
        else:
            raise AssertionError("an engine was used in a fork")

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def in_child():
    '''What hangs is ended by a signal, whose number is the exit code.'''
    signal.alarm(60)
"""


def test_an_engine_is_of_no_use_to_a_fork_and_lives_on_in_its_parent(tmp_path: Path) -> None:
    out = finished(
        start(
            REFUSED
            + """
with engine() as e:
    assert e.run(stack, {"text": "a"}).output.flag
    child = os.fork()
    if child == 0:
        in_child()
        refused(e)
        e.close()
        asyncio.run(e.aclose())
        refused(e)
        with engine() as own:
            assert own.ready and own.run(stack, {"text": "a"}).output.flag
        sys.exit(7)
    print("child", ended(child))
    print(e.ready, e.run(stack, {"text": "a"}).status)
with TraceStore.open(settings.trace_path, readonly=True) as store:
    print([row.status for row in store.runs()])
""",
            tmp_path,
        )
    )
    assert out.splitlines() == ["child 7", "True succeeded", str(["succeeded"] * 3)]


def test_forks_at_any_moment_neither_hang_nor_harm(tmp_path: Path) -> None:
    """Of a process whose threads are at work, with locks of theirs held: SQLite's, the log's, the loop's."""
    out = finished(
        start(
            REFUSED
            + """
import contextlib, itertools

def work():
    while not over.is_set():
        done.append(e.run(stack, {"text": "a"}).status)

over, done, own_runs = threading.Event(), [], 0
with engine(observers=[lambda event: None]) as e:
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    codes = []
    for number in range(24):
        child = os.fork()
        if child == 0:
            in_child()
            refused(e)
            if number % 3 == 0:
                with engine() as own:
                    assert own.run(stack, {"text": "a"}).output.flag
            sys.exit(0)
        codes.append(ended(child))
    over.set()
    for thread in threads:
        thread.join()
print(set(codes), set(done))
with TraceStore.open(settings.trace_path, readonly=True) as store:
    rows = store.runs(limit=100_000)
    print({row.status for row in rows}, len(rows) == len(done) + 8)
""",
            tmp_path,
        )
    )
    assert out.splitlines() == ["{0} {'succeeded'}", "{'succeeded'} True"]


def test_processes_that_multiprocessing_forks_open_their_own(tmp_path: Path) -> None:
    out = finished(
        start(
            REFUSED
            + """
import multiprocessing

def child(inherited):
    in_child()
    refused(inherited)
    with engine() as own:
        assert own.run(stack, {"text": "a"}).output.flag

with engine() as e:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=child, args=(e,)) for _ in range(3)]
    for process in children:
        process.start()
    for process in children:
        process.join()
    print([process.exitcode for process in children], e.run(stack, {"text": "a"}).status)
""",
            tmp_path,
        )
    )
    assert out.split("\n")[0] == "[0, 0, 0] succeeded"


def test_an_engine_made_before_a_fork_may_be_opened_after_it(tmp_path: Path) -> None:
    out = finished(
        start(
            REFUSED
            + """
e = engine()
child = os.fork()
if child == 0:
    in_child()
    assert not e.ready
    with e:
        assert e.run(stack, {"text": "a"}).output.flag
    sys.exit(0)
print(ended(child))
with e:
    print(e.run(stack, {"text": "a"}).status)
""",
            tmp_path,
        )
    )
    assert out.split() == ["0", "succeeded"]


@pytest.mark.torch
def test_a_fork_of_a_process_that_ran_a_model_runs_it_in_an_engine_of_its_own(tmp_path: Path) -> None:
    out = finished(
        start(
            REFUSED
            + """
def real():
    return Engine(stacks=["support"], settings=settings, trace=False)

enquiry = {"text": "where is order 123?"}
with real() as e:
    before = e.run("support", enquiry).output
    child = os.fork()
    if child == 0:
        signal.alarm(300)
        with real() as own:
            assert own.run("support", enquiry).output == before
        sys.exit(0)
    print(ended(child), e.run("support", enquiry).output == before)
""",
            tmp_path,
        )
    )
    assert out.split() == ["0", "True"]


@pytest.mark.parametrize(
    "use",
    [
        'e.run(stack, {"text": "a"})',
        'list(e.map(stack, [{"text": str(i)} for i in range(3)]))',
        'list(e.stream(stack, {"text": "a"}))',
    ],
)
def test_ctrl_c_stops_the_work_records_it_and_goes_on_up(tmp_path: Path, use: str) -> None:
    process = start(
        f"""
        backend = Stuck()
        with engine(backend) as e:
            try:
                {use}
            except KeyboardInterrupt:
                print("interrupted", backend.stopped > 0)
        with TraceStore.open(settings.trace_path, readonly=True) as store:
            print({{row.status for row in store.runs()}})
        """,
        tmp_path,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    assert finished(process).splitlines()[-2:] == ["interrupted True", "{'cancelled'}"]


def test_a_process_that_ends_in_the_middle_is_no_run_that_goes_on(tmp_path: Path) -> None:
    process = start('engine(Stuck()).__enter__().run(stack, {"text": "a"})', tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.kill()
    process.communicate(timeout=60)
    out = finished(
        start("with TraceStore.open(settings.trace_path) as s: print([row.status for row in s.runs()])", tmp_path)
    )
    assert out.strip() == "['interrupted']"


def test_an_observer_that_hangs_does_not_keep_an_engine_from_closing(tmp_path: Path) -> None:
    out = finished(
        start(
            """
            import fslm_core.engine.observers as observers
            observers._PATIENCE = 0.1
            observers._CAPACITY = 2

            class Plugin:
                @hookimpl
                def fslm_observe(self, event):
                    threading.Event().wait()

            with engine(plugins={"t": Plugin()}, trace=False) as e:
                for _ in range(5):
                    print(e.run(stack, {"text": "a"}).status)
            """,
            tmp_path,
        )
    )
    assert out.split() == ["succeeded"] * 5

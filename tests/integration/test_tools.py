"""Tools in worker processes: what hangs, kills its process, returns the wrong type or raises ends its call alone."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from pydantic import BaseModel

from fslm_core import Engine, Map, Scored, Stack, Stage, tool
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.errors import CheckError, DeadlineExceeded, RunFailed, StageError, ToolError
from fslm_core.message import Message
from fslm_core.plugins import PluginHost
from fslm_core.settings import load
from fslm_core.stage import Tool

TOOLS = '''
import os, signal, sys, threading
from pydantic import BaseModel, Field
from fslm_core import Scored, tool

class Do(BaseModel):
    what: str

class Done(BaseModel):
    done: str = Field(max_length=60)

class Custom(Exception):
    """Cannot be read back from where it was written."""
    def __init__(self, a, b):
        super().__init__("it broke")
    def __reduce__(self):
        raise RuntimeError("never")

def act(what):
    if what == "exit 0": os._exit(0)
    if what == "exit 3": os._exit(3)
    if what == "sys.exit": sys.exit(4)
    if what == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if what == "crash": os.kill(os.getpid(), signal.SIGSEGV)
    if what == "close": os.closerange(3, 200)
    if what == "hang": threading.Event().wait()
    if what == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Event().wait()
    if what == "raise": raise ValueError("it broke")
    if what == "custom": raise Custom(1, 2)
    if what == "interrupt": raise KeyboardInterrupt
    if what == "stop": raise StopIteration
    if what == "timeout": raise TimeoutError("mine")
    if what == "dict": return {"done": "x"}
    if what == "none": return None
    if what == "invalid": return Done.model_construct(done=3)
    if what == "long": return Done.model_construct(done="x" * 99)
    if what == "sure": return Scored(Done(done="x"), {"done": 0.25})
    if what == "too sure": return Scored(Done(done="x"), {"done": 1.5})
    if what == "big": return Done.model_construct(done="x" * 3_000_000)
    return Done(done=f"{what} {os.getpid()}")

@tool("w.alone", version="1", isolated=True)
def alone(do: Do) -> Done:
    return act(do.what)

@tool("w.timed", version="1", timeout=0.3)
def timed(do: Do) -> Done:
    return act(do.what)

class Holder:
    @tool("w.held", version="1", isolated=True)
    def held(do: Do) -> Done:
        return Done(done="held")

def made():
    @tool("w.local", version="1", isolated=True)
    def local(do: Do) -> Done:
        return Done(done="")
    return local

@tool("w.first", version="1", isolated=True)
def twice(do: Do) -> Done:
    return Done(done="first")
first = twice
@tool("w.second", version="1", isolated=True)
def twice(do: Do) -> Done:
    return Done(done="second")
'''


class Do(BaseModel):
    what: str


class Done(BaseModel):
    done: str


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    folder = tmp_path_factory.mktemp("tools")
    (folder / "worker_tools.py").write_text(TOOLS, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield importlib.import_module("worker_tools")
        del sys.modules["worker_tools"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    settings = load(files=(), data_dir=tmp_path_factory.mktemp("data"))
    host = PluginHost(settings, plugins={}, installed=False)
    with Engine(settings=settings, host=host, backend=ScriptedBackend(), trace=False) as opened:
        yield opened


def stack_of(stage: Stage[Any, Any]) -> Stack[Any, Any]:
    return Stack("t", input=stage.input, output=stage.output, steps=[stage])


def run(engine: Engine, stage: Stage[Any, Any], what: str, **more: Any) -> Any:
    return engine.run(stack_of(stage), {"what": what}, **more)


def failure(engine: Engine, stage: Stage[Any, Any], what: str, **more: Any) -> Any:
    with pytest.raises(RunFailed) as caught:
        run(engine, stage, what, **more)
    return caught.value.error


# -- bad tools ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("exit 0", "exited with 0"),
        ("exit 3", "exited with 3"),
        ("kill", "ended by signal 9"),
        ("crash", "ended by signal 11"),
        ("close", "before it answered"),
    ],
)
def test_a_tool_that_ends_its_process_fails_and_the_next_call_works(
    engine: Engine, tools: ModuleType, what: str, said: str
) -> None:
    error = failure(engine, tools.alone, what)
    assert isinstance(error, ToolError)
    assert said in str(error)
    assert error.where == "stack t, step alone"
    assert run(engine, tools.alone, "well").output.done.startswith("well")


@pytest.mark.parametrize("what", ["hang", "deaf"])
def test_a_tool_that_hangs_is_stopped_and_the_next_call_works(engine: Engine, tools: ModuleType, what: str) -> None:
    error = failure(engine, tools.timed, what)
    assert isinstance(error, ToolError)
    assert "did not end within 0.3 s" in error.what
    assert run(engine, tools.timed, "well").output.done.startswith("well")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("raise", "ValueError: it broke"),
        ("custom", "Custom: it broke"),
        ("sys.exit", "SystemExit: 4"),
        ("interrupt", "KeyboardInterrupt"),
        ("stop", "StopIteration"),
        ("timeout", "TimeoutError: mine"),
        ("dict", "returned dict"),
        ("none", "returned NoneType"),
        ("invalid", "done"),
        ("long", "done"),
        ("too sure", "no number from 0 to 1"),
    ],
)
def test_what_it_raises_or_returns_is_told_and_its_process_lives(
    engine: Engine, tools: ModuleType, what: str, said: str
) -> None:
    before = run(engine, tools.alone, "well").output.done
    error = failure(engine, tools.alone, what)
    assert isinstance(error, ToolError)
    assert said in str(error)
    assert run(engine, tools.alone, "well").output.done == before


def test_the_traceback_of_the_worker_is_the_cause(engine: Engine, tools: ModuleType) -> None:
    error = failure(engine, tools.alone, "raise")
    assert "worker_tools.py" in str(error.__cause__)


def test_confidences_and_large_answers_cross(engine: Engine, tools: ModuleType) -> None:
    assert run(engine, tools.alone, "sure").confidence == {"done": 0.25}
    assert "done" in str(failure(engine, tools.alone, "big"))  # too long for its field; it did cross


def test_it_runs_in_another_process(engine: Engine, tools: ModuleType) -> None:
    _, pid = run(engine, tools.alone, "well").output.done.split()
    assert int(pid) != os.getpid()


# -- others are left alone ---------------------------------------------------------------------------------------------


def test_calls_at_work_beside_one_that_dies_go_on(engine: Engine, tools: ModuleType) -> None:
    asked = ["kill", "well", "exit 0", "well", "crash", "well", "well"]
    outcomes = list(engine.map(stack_of(tools.alone), [{"what": what} for what in asked], concurrency=7))
    assert [outcome.error is None for outcome in outcomes] == [what == "well" for what in asked]


def test_a_process_killed_while_it_is_idle_is_replaced(engine: Engine, tools: ModuleType) -> None:
    _, pid = run(engine, tools.alone, "well").output.done.split()
    os.kill(int(pid), signal.SIGKILL)
    (worker,) = (w for w in engine._works.rooms.tools._workers._idle["worker_tools"] if w._process.pid == int(pid))
    worker._process.join(60)
    _, other = run(engine, tools.alone, "well").output.done.split()
    assert other != pid


def test_a_run_that_is_stopped_stops_its_tool(engine: Engine, tools: ModuleType) -> None:
    assert isinstance(failure(engine, tools.alone, "deaf", timeout=1), DeadlineExceeded)
    assert run(engine, tools.alone, "well").status == "succeeded"


def test_closing_an_engine_ends_its_processes(engine: Engine, tools: ModuleType) -> None:
    with Engine(settings=engine.settings, host=engine.host, backend=ScriptedBackend(), trace=False) as other:
        _, pid = run(other, tools.alone, "well").output.done.split()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_a_map_through_processes(engine: Engine, tools: ModuleType) -> None:
    class Jobs(BaseModel):
        jobs: list[str]

    class Results(BaseModel):
        results: list[str]

    class One(BaseModel):
        what: str

    shape = Map(
        "m",
        tools.alone,
        over="jobs",
        item="what",
        into="results",
        pick="done",
        on_error="skip",
        input=Jobs,
        output=Results,
    )
    stack = Stack("t", input=Jobs, output=Results, steps=[shape])
    result = engine.run(stack, {"jobs": ["a", "exit 0", "b", "raise", "c"]})
    assert [done.split()[0] for done in result.output.results] == ["a", "b", "c"]
    skipped = result.messages["m.skipped"]
    assert isinstance(skipped, Message)
    assert [out.position for out in skipped.content.first] == [1, 3]


def test_a_worker_ends_with_its_program(tools: ModuleType) -> None:
    """A tool at work when its program is killed is not left behind."""
    code = """if True:
        import signal, threading
        from fslm_core.engine.workers import Worker
        worker = Worker("worker_tools")
        call = "alone", '{"what":"hang"}', None
        threading.Thread(target=worker._call, args=call, daemon=True).start()
        print(worker._process.pid, flush=True)
        signal.pause()
    """
    env = {**os.environ, "PYTHONPATH": str(Path(tools.__file__ or "").parent)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env) as program:
        assert program.stdout is not None
        pid = int(program.stdout.readline())
        program.kill()
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=60)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


# -- what is refused before anything runs ------------------------------------------------------------------------------


def test_a_tool_that_a_process_could_not_find_by_name_is_refused_by_the_check(
    engine: Engine, tools: ModuleType
) -> None:
    for stage, said in ((tools.made(), "worker_tools.made.<locals>.local is not the tool"), (tools.first, "twice is")):
        with pytest.raises(CheckError, match=said):
            run(engine, stage, "well")
    assert run(engine, tools.Holder.held, "well").output.done == "held"
    assert run(engine, tools.twice, "well").output.done == "second"


def test_a_tool_in_no_module_is_refused_by_the_check(engine: Engine) -> None:
    namespace: dict[str, Any] = {"__name__": "no_module", "Do": Do, "Done": Done, "tool": tool}
    exec("@tool('t.x', version='1', timeout=3)\ndef x(do: Do) -> Done: ...", namespace)
    with pytest.raises(CheckError, match="in no module that can be imported"):
        run(engine, namespace["x"], "well")


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_timeouts_are_seconds_above_zero(timeout: float) -> None:
    with pytest.raises(StageError, match="timeout is out of range"):
        Tool(a_function(), "1", timeout=timeout)


@pytest.mark.parametrize("version", [1, None, 2.5])
def test_a_version_is_text(version: Any) -> None:
    with pytest.raises(StageError, match="version"):
        tool("t.x", version=version)(a_function())


def a_function() -> Callable[[Do], Done]:
    def function(do: Do) -> Done:
        raise AssertionError

    return function


def test_an_async_tool_is_never_isolated() -> None:
    with pytest.raises(StageError, match="cannot be isolated"):

        @tool("t.x", version="1", isolated=True)
        async def x(do: Do) -> Done:
            raise AssertionError


# -- async tools, and confidences --------------------------------------------------------------------------------------


@tool("t.async", version="1", timeout=0.2)
async def patient(do: Do) -> Done:
    if do.what == "hang":
        await asyncio.Event().wait()
    if do.what == "timeout":
        raise TimeoutError("mine")
    if do.what == "cancel":
        raise asyncio.CancelledError
    return Done(done=do.what)


def test_an_async_tools_own_timeout_is_told_from_the_engines(engine: Engine) -> None:
    assert "did not end within 0.2 s" in failure(engine, patient, "hang").what
    assert "TimeoutError: mine" in str(failure(engine, patient, "timeout"))
    assert run(engine, patient, "well").output.done == "well"


def test_a_tool_that_raises_as_if_it_were_cancelled_fails_its_run(engine: Engine) -> None:
    error = failure(engine, patient, "cancel")
    assert isinstance(error, ToolError)
    assert "CancelledError" in str(error)


@pytest.mark.parametrize(
    ("confidence", "said"),
    [
        ({"done": 1.5}, "no number from 0 to 1"),
        ({"done": -0.1}, "no number from 0 to 1"),
        ({"done": float("nan")}, "no number from 0 to 1"),
        ({"done": "high"}, "no number from 0 to 1"),
        ({"done": True}, "no number from 0 to 1"),
        (0.5, "no mapping"),
        (None, "no mapping"),
    ],
)
def test_confidences_are_probabilities_of_fields(engine: Engine, confidence: Any, said: str) -> None:
    @tool("t.x", version="1")
    def x(do: Do) -> Scored[Done]:
        return Scored(Done(done=""), confidence)

    error = failure(engine, x, "well")
    assert isinstance(error, ToolError)
    assert said in str(error)


def test_a_confidence_of_what_is_no_field_is_left_out_and_not_told(engine: Engine) -> None:
    @tool("t.x", version="1")
    def x(do: Do) -> Scored[Done]:
        return Scored(Done(done=""), {"done": 0.5, "the customer's name": 0.5})

    assert run(engine, x, "well").confidence == {"done": 0.5}


def test_what_rounding_adds_to_one_is_one(engine: Engine) -> None:
    @tool("t.x", version="1", pure=True)
    def x(do: Do) -> Scored[Done]:
        return Scored(Done(done=""), {"done": 1.0000000002})

    made = run(engine, x, "well")
    assert made.confidence == {"done": 1.0}
    assert made.messages["x"].work_key == run(engine, x, "well").messages["x"].work_key != ""

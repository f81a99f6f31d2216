"""Log lines that know their run: a program's own, and those that tell of an engine's runs."""

from __future__ import annotations

import asyncio
import contextvars
import io
import logging
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from fslm_core import Engine, Map, Stack, Step, tool
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.errors import EngineBusy, RunFailed
from fslm_core.events import Event, EventsDropped, RecordsLost, RunFinished
from fslm_core.plugins import PluginHost
from fslm_core.serve.logs import InRun, RunLog, Within, current_run
from fslm_core.settings import load
from fslm_core.stage import SLM, Decoding, Stage

SECRET = "the customer's own words"
log = logging.getLogger("tests.shop")


class Text(BaseModel):
    text: str


class Words(BaseModel):
    words: list[str]


class Word(BaseModel):
    word: str


class Loud(BaseModel):
    loud: list[str]


class Reply(BaseModel):
    reply: str


class Flag(BaseModel):
    flag: bool


@tool("shop.split", version="1")
def split(text: Text) -> Words:
    log.info("splitting")
    return Words(words=text.text.split())


@tool("shop.shout", version="1")
def shout(word: Word) -> Word:
    log.info("shouting")
    return Word(word=word.word.upper())


@tool("shop.fail", version="1")
def fail(text: Text) -> Reply:
    log.info("failing")
    raise ValueError(text.text)


flag = Stage(
    "shop.flag",
    input=Text,
    output=Flag,
    prompt="Is it so? {{ text }}",
    model=SLM("smollm2-135m", tuned=True),
    decoding=Decoding(attempts=2, temperature=1.0),
)


class Records(logging.Handler):
    """Keeps what it was given."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.addFilter(InRun())
        self.kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record)

    def told(self) -> list[tuple[str, str, str, str]]:
        return [(r.run, r.stack, r.step, r.getMessage()) for r in self.kept]  # type: ignore[attr-defined]


@pytest.fixture
def records() -> Iterator[Records]:
    handler = Records()
    loggers = [log, logging.getLogger("fslm.runs")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield handler
    for logger in loggers:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def engine(tmp_path: Path, *answers: str, **more: Any) -> Engine:
    plain = load(files=(), data_dir=tmp_path)
    more.setdefault("trace", False)
    backend = ScriptedBackend({"shop.flag": answers})
    return Engine(settings=plain, host=PluginHost(plain, installed=False), backend=backend, **more)


each = Map("each", shout, over="words", item="word", into="loud", pick="word", input=Words, output=Loud)
shouting = Stack("shop", input=Text, output=Loud, steps=[split, each])


def test_a_tools_own_lines_carry_run_stack_and_step(tmp_path: Path, records: Records) -> None:
    log.info("before")
    with engine(tmp_path) as opened:
        run = opened.run(shouting, {"text": "good morning"})
    log.info("after")
    told = records.told()
    assert told[0] == ("", "", "", "before") and told[-1] == ("", "", "", "after")
    assert told[1] == (run.id, "shop", "split", "splitting")
    assert sorted(told[2:-1]) == [(run.id, "shop", f"each.shout[{n}]", "shouting") for n in range(2)]
    assert current_run() is None


def test_runs_side_by_side_are_told_apart(tmp_path: Path, records: Records) -> None:
    with engine(tmp_path) as opened:
        runs = {out.run.id for out in opened.map(shouting, [{"text": f"a{n} b{n}"} for n in range(20)])}
    lines: dict[str, list[str]] = defaultdict(list)
    for run, _, step, _ in records.told():
        lines[run].append(step)
    assert lines.keys() == runs and all(
        sorted(steps) == ["each.shout[0]", "each.shout[1]", "split"] for steps in lines.values()
    )


def test_asynchronous_tools_threads_and_runs_within_runs(tmp_path: Path) -> None:
    seen: list[Within | None] = []

    @tool("shop.slow", version="1")
    async def slow(text: Text) -> Reply:
        await asyncio.sleep(0)
        seen.append(current_run())
        thread = threading.Thread(target=contextvars.copy_context().run, args=(lambda: seen.append(current_run()),))
        thread.start()
        thread.join()
        inner = await opened.arun(Stack("inner", input=Text, output=Words, steps=[split]), text)
        seen.append(current_run())
        return Reply(reply=inner.id)

    with engine(tmp_path) as opened:
        run = opened.run(Stack("outer", input=Text, output=Reply, steps=[slow]), {"text": "a b"})
    assert seen == [Within(run.id, "outer", "slow")] * 3 and run.output.reply != run.id


def test_observers_are_called_within_the_run(tmp_path: Path) -> None:
    seen: list[tuple[str, Within | None]] = []

    def watch(event: Event) -> None:
        if not isinstance(event, EventsDropped):
            seen.append((type(event).__name__, current_run()))

    with engine(tmp_path, observers=[watch]) as opened:
        run = opened.run(Stack("s", input=Text, output=Words, steps=[split]), {"text": "a"})
    whole, step = Within(run.id, "s"), Within(run.id, "s", "split")
    assert seen == [("RunStarted", whole), ("StepStarted", step), ("MessageEmitted", step), ("RunFinished", whole)]


def test_an_asynchronous_caller_is_outside_again_whatever_came_of_it(tmp_path: Path) -> None:
    async def ask() -> None:
        async with engine(tmp_path) as opened:
            await opened.arun(shouting, {"text": "a"})
            assert current_run() is None
            with pytest.raises(RunFailed):
                await opened.arun(Stack("s", input=Text, output=Reply, steps=[fail]), {"text": SECRET})
            assert current_run() is None
            async for _ in opened.astream(shouting, {"text": "a"}):
                assert current_run() is None

    asyncio.run(ask())


def test_an_engines_runs_are_logged(tmp_path: Path, records: Records) -> None:
    with engine(tmp_path, "no", '{"flag":true}', "no", observers=[RunLog()]) as opened:
        stack = Stack("shop", input=Text, output=Flag, steps=[flag])
        good = opened.run(stack, {"text": SECRET})
        with pytest.raises(RunFailed) as bad:
            opened.run(stack, {"text": SECRET})
        skipping = Stack("skip", input=Text, output=Words, steps=[Step(fail, on_error="skip"), split])
        opened.run(skipping, {"text": SECRET})
    pairs = zip(records.kept, records.told(), strict=True)
    told = [(record.levelname, *line) for record, line in pairs if record.name == "fslm.runs"]
    of_good = [
        (level, step, re.sub(r" (in|after) .*", "", said)) for level, run, _, step, said in told if run == good.id
    ]
    assert of_good == [
        ("INFO", "", "run started"),
        ("INFO", "flag", "attempt 1 failed: json"),
        ("DEBUG", "flag", "step ok"),
        ("INFO", "", "run succeeded"),
    ]
    assert all(stack in ("shop", "skip") for _, _, stack, _, _ in told)
    (last,) = [line for line in told if line[1] == bad.value.run.id and line[0] == "WARNING"]
    assert last[4].startswith("run failed after ") and last[4].endswith(": stage-failed")
    assert any(
        level == "DEBUG" and step == "fail" and "step skipped: it failed" in said for level, _, _, step, said in told
    )
    assert not any(word in said for *_, said in told for word in ("customer", "words"))


def test_what_was_refused_dropped_or_lost_is_a_warning(records: Records, tmp_path: Path) -> None:
    inside, leave = threading.Event(), threading.Event()

    @tool("shop.wait", version="1")
    def wait(text: Text) -> Reply:
        inside.set()
        assert leave.wait(30)
        return Reply(reply=text.text)

    waiting = Stack("wait", input=Text, output=Reply, steps=[wait])
    with engine(tmp_path, max_in_flight=1, observers=[RunLog()]) as opened:
        thread = threading.Thread(target=opened.run, args=(waiting, {"text": "a"}))
        thread.start()
        assert inside.wait(30)
        with pytest.raises(EngineBusy):
            opened.run(waiting, {"text": "a"})
        leave.set()
        thread.join()
    observer = RunLog(logging.getLogger("fslm.runs"))
    observer(RecordsLost(3))
    observer(EventsDropped(2))
    observer(RunFinished("R", "wait", "cancelled", 1.0, 0.5, None))
    warned = [line for r, line in zip(records.kept, records.told(), strict=True) if r.levelno == logging.WARNING]
    assert warned == [
        ("", "wait", "", "run refused: the engine is busy"),
        ("", "", "", "3 records are missing from the trace"),
        ("", "", "", "2 events were not seen: observers are slow"),
        ("R", "wait", "", "run cancelled after 0.500 s"),
    ]


def test_what_a_record_says_itself_is_left_alone() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.addFilter(InRun())
    handler.setFormatter(logging.Formatter("%(levelname)s [%(run)s] [%(stack)s] [%(step)s] %(message)s"))
    log.addHandler(handler)
    log.warning("mine", extra={"run": "of my own"})
    log.removeHandler(handler)
    assert out.getvalue() == "WARNING [of my own] [] [] mine\n"

"""Canaries: sensitive values of many shapes go through a stack that leaks wherever it can, and are looked for.

They are looked for in the bytes of every file that a run may write, inside compressed columns, in what is logged at any
level, in what is printed, and in the text, traceback and JSON of the errors a program gets.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import re
import signal
import sqlite3
import sys
import traceback
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fslm_core import settings as fslm_settings
from fslm_core.engine import Engine
from fslm_core.errors import FslmError, InputError, RunFailed
from fslm_core.store import ContentMode, TraceStore

from .conftest import HERE, Result, install, wait_for

NAME = "Zébulon Quüxwick"
NUMBER = 7182736455463
PHONE = "+32 470 99-88-77 zq"
TAG = "täg-canary-8841"
NEEDLES = (NAME, "Zébulon", "Quüx", str(NUMBER), PHONE, "99-88-77", TAG, "canary-8841")
PLAIN = "Ghent"
"""What nothing marks, and ``redacted`` keeps."""
CLEAN: tuple[ContentMode, ...] = ("redacted", "none")


def case(**changed: Any) -> dict[str, Any]:
    return {"name": NAME, "number": NUMBER, "contact": {"phone": PHONE}, "tags": [TAG, "other tag"], **changed}


ENDS: dict[str, dict[str, Any]] = {
    "succeeds": case(),
    "tool raises": case(do="raise"),
    "tool raises an error of fslm": case(do="fslm"),
    "tool exits": case(do="exit"),
    "tool returns nonsense": case(do="number"),
    "check refuses": case(name=f"{NAME} ODD"),
    "check fails": case(name=f"{NAME} REFUSE"),
    "backend fails": case(do="backend"),
    "never valid": case(do="invalid"),
    "input refused": case(name=f"{NAME}!"),
    "input of another type": case(number=NAME),
    "input with another field": case(**{NAME: 1}),
}


def seen_in(text: str, needles: tuple[str, ...] = NEEDLES) -> list[str]:
    """The canaries in a text: in any letter case, composed or not, and as JSON and Python escape them."""
    forms = [text, re.sub(r"\\u([0-9a-f]{4})|\\x([0-9a-f]{2})", lambda m: chr(int(m[1] or m[2], 16)), text)]
    folded = [unicodedata.normalize("NFKC", form).casefold() for form in forms]
    return [n for n in needles if any(unicodedata.normalize("NFKC", n).casefold() in form for form in folded)]


def kept_in(folder: Path) -> str:
    """Every byte of every file in a folder as text, and what is in the compressed columns of its databases."""
    found = []
    for file in filter(Path.is_file, folder.rglob("*")):
        found.append(file.read_bytes().decode("utf-8", "ignore"))
        found.append(str(file))
        if file.suffix == ".db":
            connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
            for (blob,) in connection.execute("SELECT data FROM blobs"):
                found.append(zlib.decompress(blob).decode())
            connection.close()
    return "\n".join(found)


@pytest.fixture
def canary(installed: Path, environment: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine with the leaking stack; returns the data folder."""
    install(installed, "canary", (HERE / "canary_plugin.py").read_text("utf-8"))
    monkeypatch.setenv("FSLM_PLUGINS", "canary")
    monkeypatch.setenv("FSLM_BACKEND", "canary.scripted")
    yield environment / "data"
    sys.modules.pop("canary_plugin", None)


def told_by(error: BaseException) -> str:
    """What a program that logs an error can write of it."""
    reached = error.run.error if isinstance(error, RunFailed) else error
    parts = [str(error), repr(error), *traceback.format_exception(error)]
    parts += [str(reached), repr(reached), *traceback.format_exception(reached)]
    parts += [str(error.args), str(error.__cause__), str(error.__context__)]
    if isinstance(error, FslmError):
        parts.append(json.dumps(error.to_dict(), ensure_ascii=False))
    return "\n".join(parts)


def run_all(content: ContentMode, ends: dict[str, dict[str, Any]] = ENDS) -> tuple[dict[str, str], Engine]:
    """Run every case in one engine; return what each error says, and the engine, closed."""
    told = {}
    with Engine(settings=fslm_settings.load(), content=content) as engine:
        for name, given in ends.items():
            try:
                engine.run("canary", given)
                told[name] = ""
            except FslmError as error:
                logging.getLogger("host").exception("a run failed")
                told[name] = told_by(error)
    return told, engine


@pytest.mark.parametrize("content", CLEAN)
def test_no_canary_reaches_a_file_a_log_or_an_error(
    canary: Path, content: ContentMode, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    told, _ = run_all(content)
    for name, text in told.items():
        assert bool(text) == (name != "succeeds"), name
        assert seen_in(text) == [], name
    kept = kept_in(canary)
    assert seen_in(kept) == []
    assert (PLAIN in kept) == (content == "redacted")
    assert len(caplog.records) > len(ENDS) - 1
    assert seen_in(caplog.text) == []
    assert seen_in("".join(capfd.readouterr())) == []
    with TraceStore.open(canary / "trace.db", readonly=True) as store:
        assert len(store.runs(limit=99)) == len(ENDS) - 3  # an input that is refused begins no run


def test_full_keeps_and_says_all_of_it(canary: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same search finds every canary where nothing is hidden: it is no blind one."""
    told, _ = run_all("full")
    assert seen_in(kept_in(canary)) == list(NEEDLES)
    assert {name for name, text in told.items() if seen_in(text)} == set(ENDS) - {
        "succeeds",
        "tool returns nonsense",  # pydantic's message names the type alone
    }
    assert seen_in(caplog.text) == list(NEEDLES)


@pytest.mark.parametrize("content", CLEAN)
def test_a_withheld_error_still_says_what_failed_and_where(canary: Path, content: ContentMode) -> None:
    told, _ = run_all(content, {name: ENDS[name] for name in ("tool raises", "never valid", "input refused")})
    assert "stack canary, step copy: " in told["tool raises"]
    assert "found: tool" in told["tool raises"] and "withheld" in told["tool raises"]
    assert "stack canary, step write: " in told["never valid"] and "found: answer: validator" in told["never valid"]
    assert "input of stack canary" in told["input refused"] and "name: value_error" in told["input refused"]
    with Engine(settings=fslm_settings.load(), content=content) as engine:
        with pytest.raises(RunFailed) as failed:
            engine.run("canary", ENDS["never valid"])
        attempts = failed.value.run.error.attempts  # what a program needs it can still ask for
        assert NAME.title() in attempts[-1].raw and len(attempts) == 2


@pytest.mark.parametrize("content", CLEAN)
def test_no_canary_is_left_by_what_is_cancelled_or_out_of_time(
    canary: Path, content: ContentMode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def go() -> str:
        async with Engine(settings=fslm_settings.load(), content=content) as engine:
            events = engine.astream("canary", case(do="wait"))
            async for _ in events:
                break
            await events.aclose()  # type: ignore[attr-defined]
            waiting = asyncio.ensure_future(engine.arun("canary", case(do="wait")))
            await asyncio.sleep(0)
            waiting.cancel()
            try:
                await engine.arun("canary", case(do="wait"), timeout=0.05)
            except RunFailed as failed:
                return told_by(failed)
        raise AssertionError("it ended in time")

    assert seen_in(asyncio.run(go())) == []
    kept = kept_in(canary)
    assert "cancelled" in kept and seen_in(kept) == []
    assert seen_in(caplog.text) == []


def test_a_stack_that_marks_nothing_is_told_in_full_whatever_is_kept(canary: Path) -> None:
    plugin: Any = importlib.import_module("canary_plugin")
    open_ = plugin.Stack(
        "canary.open",
        input=plugin.Careless,
        output=plugin.Copied,
        steps=[plugin.copy],
        bind={name: f"copy.{name}" for name in plugin.Copied.model_fields},
    )
    plugin.Contact.model_fields["phone"].json_schema_extra = None
    with Engine(settings=fslm_settings.load(), content="none") as engine, pytest.raises(RunFailed) as failed:
        engine.run(open_, case(do="raise"))
    assert NAME in str(failed.value) and isinstance(failed.value.run.error.__cause__, ValueError)
    assert seen_in(kept_in(canary)) == []


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", CLEAN)
def test_no_canary_is_printed_or_kept_by_run(
    canary: Path, content: ContentMode, fslm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSLM_TRACE__CONTENT", content)
    for name, given_ in ENDS.items():
        result = fslm("run", "canary", json.dumps(given_), "--json")
        assert (result.code == 0) == (name == "succeeds")
        assert seen_in(result.err) == [], name
        assert name == "succeeds" or result.out == ""  # the result itself is what was asked for
    assert seen_in(kept_in(canary)) == []
    for args in (["list"], ["list", "--json"], ["show"], ["show", "--full"], ["show", "--json"]):
        assert seen_in(fslm("trace", *args).out) == []


@pytest.mark.parametrize("content", CLEAN)
def test_no_canary_is_in_what_batch_writes(
    canary: Path, content: ContentMode, fslm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FSLM_TRACE__CONTENT", content)
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out" / "rows.jsonl"
    out.parent.mkdir()
    lines = [json.dumps(given_) for given_ in ENDS.values()] + [f'{{"name": "{NAME}", broken', json.dumps([NAME])]
    rows.write_text("\n".join(lines) + "\n", "utf-8")
    result = fslm("batch", "canary", str(rows), "--out", str(out))
    assert result.code == 1 and seen_in(result.err + result.out) == []
    written = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert len(written) == len(lines) and "output" in written[0]
    assert seen_in(kept_in(out.parent)) == []
    assert seen_in(kept_in(canary)) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("content", CLEAN)
def test_no_canary_is_left_by_what_is_killed(
    canary: Path, content: ContentMode, spawn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FSLM_TRACE__CONTENT", content)
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out" / "rows.jsonl"
    out.parent.mkdir()
    rows.write_text("".join(json.dumps(case(do=do)) + "\n" for do in ("pass", "raise", "wait")), "utf-8")
    process = spawn("batch", "canary", str(rows), "--out", str(out), "--concurrency", "1")
    wait_for(process, "waiting")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert seen_in(process.stderr.read()) == []
    kept = kept_in(canary) + kept_in(out.parent)
    assert seen_in(kept) == []
    with TraceStore.open(canary / "trace.db") as store:
        assert {run.status for run in store.runs()} == {"succeeded", "failed", "interrupted"}
    assert seen_in(kept_in(canary)) == []


# -- other canaries ---------------------------------------------------------------------------------------------------

WORDS = (
    "copied written result value string redacted " + Path(__file__).with_name("canary_plugin.py").read_text().casefold()
)
"""What authors wrote, labels and names of fields among them, says nothing of anybody, whoever has it as a name."""
letters = st.characters(exclude_categories=("Cs", "Cc", "Cn"))
values = st.text(letters, min_size=4, max_size=30).filter(
    lambda v: len(v.strip()) > 3 and v.strip().casefold() not in WORDS
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=values,
    phone=values,
    tag=values,
    number=st.integers(10**8, 2**53 - 1),
    do=st.sampled_from(["pass", "raise", "invalid"]),
)
@pytest.mark.parametrize("content", CLEAN)
def test_whatever_the_canary_it_is_not_kept(
    canary: Path, content: ContentMode, name: str, phone: str, tag: str, number: int, do: str
) -> None:
    """As rows are read back: short ones may well stand in the file's bytes by chance."""
    given_ = case(name=name, contact={"phone": phone}, tags=[tag], number=number, do=do)
    with Engine(settings=fslm_settings.load(), content=content) as engine:
        try:
            id = engine.run("canary", given_).id
        except InputError:
            return  # a name that shouts
        except RunFailed as failed:
            id = failed.run.id
    with TraceStore.open(canary / "trace.db", readonly=True) as store:
        run = store.run(id)
    said = [run.input, run.output, *(node.content for node in run.nodes)]
    texts = [content.json for content in said if content is not None] + [str(run.row.error)]
    for node in run.nodes:
        for attempt in node.attempts:
            texts += [attempt.raw or "", *(s.text or "" for s in attempt.spans or () if not s.static)]
            texts += [problem.text for problem in attempt.problems]
    needles = tuple(v.strip() for v in (name, phone, tag, str(number)))
    found = [text for text in texts if seen_in(text, needles)]
    assert found == []

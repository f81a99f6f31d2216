"""``fslm bench``: arms in processes of their own. What is measured is looked at; how long it took is not."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Result, install, wait_for

Fslm = Callable[..., Result]
Spawn = Callable[..., "subprocess.Popen[str]"]


def test_a_stack_on_any_backend(fslm: Fslm, environment: Path) -> None:
    rows = environment / "rows.jsonl"
    rows.write_text('{"text": "a good one"}\n"a poor one"\n', "utf-8")
    out = environment / "figures.json"
    result = fslm(
        "bench", "demo.label", "--data", str(rows), "--concurrency", "1,2", "--rounds", "2", "--json", str(out)
    )
    assert result.code == 0
    for part in ("demo.rule", "p50", "p95", "stacks/s", "valid", "100 %", "reference", "2 rows, 2 rounds"):
        assert part in result.out
    found = json.loads(out.read_text("utf-8"))
    (arm,) = found["arms"]
    assert (arm["valid"], arm["errors"], arm["agreement"]) == (1.0, {}, None)
    assert set(arm["speeds"]) == {"1", "2"}
    assert arm["runs"] == {"label": "demo.rule"}
    assert arm["peak_rss_mb"] > 1
    assert "good one" not in out.read_text("utf-8") + result.out + result.err
    assert not (environment / "data" / "trace.db").exists()


def test_inputs_that_are_typed_and_runs_that_fail(fslm: Fslm) -> None:
    result = fslm("bench", "demo", "--input", "hi", "--input", "boom", "--rounds", "1", "--concurrency", "1")
    assert result.code == 0
    assert "50.0 %" in result.out
    assert "demo.rule: tools alone; 1 failed: tool" in result.out


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("dmo", "--input", "x"), 2, "did you mean 'demo'"),
        (("demo",), 2, "there is no row to run"),
        (("demo", "--input", "x", "--data", "y"), 2, "from one place"),
        (("demo", "--data", "nowhere.jsonl"), 2, "there is no such file"),
        (("demo", "--input", "x", "--concurrency", "1,none"), 2, "numbers from 1 to 10000"),
        (("demo", "--input", "x", "--concurrency", "0"), 2, "numbers from 1 to 10000"),
        (("demo", "--input", "x", "--executors", "fused"), 2, "only the torch backend"),
        (("demo.order", "--input", '{"number": "7"}'), 2, "count"),
        (("demo", "--input", "x", "--json", "no/such/folder/out.json"), 2, "cannot be written there"),
    ],
)
def test_what_cannot_be_benched_is_told(fslm: Fslm, args: tuple[str, ...], code: int, said: str) -> None:
    result = fslm("bench", *args)
    assert (result.code, result.out) == (code, "")
    assert said in result.err


def test_an_executor_that_is_not_there(fslm: Fslm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSLM_BACKEND", "torch")
    result = fslm("bench", "demo", "--input", "x", "--executors", "fusd")
    assert result.code == 2
    assert "did you mean 'fused'" in result.err


def test_ctrl_c_ends_the_arms_with_it(spawn: Spawn) -> None:
    process = spawn("bench", "demo", "--input", "wait")
    wait_for(process, "waiting")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)  # the arm holds standard error open for as long as it lives
    assert (process.returncode, out) == (130, "")
    assert "interrupted" in err
    assert "Traceback" not in err


_TINY = """
from pathlib import Path
from typing import Literal
from pydantic import BaseModel, Field
from fslm_core import SLM, Stack, Stage, hookimpl

class Said(BaseModel):
    text: str = Field(max_length=200)

class Label(BaseModel):
    label: Literal["good", "bad"]

label = Stage("tiny.label", input=Said, output=Label, prompt="Text: {{{{ text }}}}", model=SLM({base!r}, tuned=True))

@hookimpl
def fslm_stages():
    return [label]

@hookimpl
def fslm_stacks():
    return [Stack("tiny", input=Said, output=Label, steps=[label])]
"""


@pytest.mark.torch
def test_arms_of_the_torch_backend(
    fslm: Fslm, installed: Path, environment: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[..., Path]
) -> None:
    install(installed, "tiny", _TINY.format(base=str(tiny_model("llama"))))
    monkeypatch.setenv("FSLM_PLUGINS", "tiny")
    monkeypatch.setenv("FSLM_BACKEND", "torch")
    out = environment / "figures.json"
    args = ("--input", "one", "--input", "two", "--rounds", "1", "--concurrency", "2", "--precisions", "float32")
    result = fslm("bench", "tiny", *args, "--executors", "generic,fused", "--json", str(out))
    assert result.code == 0, result.err
    generic, fused = json.loads(out.read_text("utf-8"))["arms"]
    assert (generic["arm"], fused["arm"]) == ("generic float32", "fused float32")
    assert generic["runs"] == {"label": "torch cpu float32 generic"}
    assert fused["runs"] == {"label": "torch cpu float32 fused"}
    assert fused["agreement"] == 1.0
    assert (generic["valid"], fused["valid"]) == (1.0, 1.0)
    assert fused["forwards"] >= 1
    assert "fused float32: torch cpu float32 fused" in result.out


def test_an_arm_that_cannot_be_loaded_is_told(fslm: Fslm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSLM_BACKEND", "demo.rul")
    result = fslm("bench", "demo.label", "--input", "x", "--rounds", "1", "--concurrency", "1")
    assert result.code == 1
    assert "demo.rul: not measured: there is no backend named 'demo.rul'" in result.out
    assert "next: did you mean 'demo.rule'" in result.out

"""``fslm ui``: what it refuses before it listens, what it says, and how it ends."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Result

Fslm = Callable[..., Result]
Spawn = Callable[..., subprocess.Popen[str]]


def listening(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What it prints once the page can be opened."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line.startswith("}"):
            return dict(json.loads(text))
    raise AssertionError("the process ended")


def test_the_page_is_served_until_ctrl_c(fslm: Fslm, spawn: Spawn) -> None:
    assert fslm("run", "demo", "hello").code == 0
    process = spawn("ui", "--port", "0", "--json")
    told = listening(process)
    assert told["url"].startswith("http://127.0.0.1:") and not told["read_only"]
    with urllib.request.urlopen(told["url"], timeout=60) as answer:
        assert b"hello" in answer.read()
    watching = urllib.request.urlopen(f"{told['url']}live", timeout=60)  # who looks on keeps nobody from ending
    assert watching.readline() == b"retry: 2000\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    watching.close()
    assert process.returncode == 130 and "Traceback" not in err and "interrupted" in err


def test_beyond_this_machine_a_key_is_needed(fslm: Fslm, monkeypatch: pytest.MonkeyPatch) -> None:
    fslm("run", "demo", "hello")
    refused = fslm("ui", "--host", "0.0.0.0", "--port", "0")
    assert refused.code == 2 and "other machines could read everything" in refused.err and "FSLM_UI__KEY" in refused.err
    monkeypatch.setenv("FSLM_UI__KEY", "short")
    refused = fslm("ui", "--host", "0.0.0.0", "--port", "0")
    assert refused.code == 2 and "too short" in refused.err and "'short'" not in refused.err


def test_what_is_not_there_is_told_before_it_listens(fslm: Fslm, environment: Path) -> None:
    assert "there is no trace yet" in fslm("ui", "--port", "0").err
    fslm("run", "demo", "hello")
    (environment / "odd.json").write_text('{"rows": 1}', "utf-8")
    for name in ("odd.json", "none.json"):
        refused = fslm("ui", "--port", "0", "--blame", name)
        assert refused.code == 2 and "not what `fslm blame --json` writes" in refused.err


def test_without_its_extra_it_says_what_to_install(fslm: Fslm, monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr("fslm_core.extras.find_spec", lambda name: None if name == "uvicorn" else there(name))
    refused = fslm("ui")
    assert refused.code == 4 and "fslm-core[ui]" in refused.err

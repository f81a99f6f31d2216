"""The command line with one small plugin installed, in this process (quick) or in one of its own (signals, pipes)."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import fslm_core

HERE = Path(__file__).parent
SOURCE = Path(fslm_core.__file__).parent.parent


@dataclass(frozen=True)
class Result:
    """What a call of ``fslm`` gave."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Standard output, which must be JSON and nothing else."""
        return json.loads(self.out)


def install(folder: Path, name: str, code: str, *, distribution: str | None = None) -> None:
    """Put a plugin into ``folder`` as pip would: a module and a dist-info."""
    (folder / f"{name}_plugin.py").write_text(code, encoding="utf-8")
    info = folder / f"{(distribution or f'fslm_{name}').replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution or f'fslm-{name}'}\nVersion: 1.0\n", "utf-8"
    )
    (info / "entry_points.txt").write_text(f"[fslm]\n{name} = {name}_plugin\n", "utf-8")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder of installed plugins, the demo among them."""
    folder = tmp_path / "site"
    folder.mkdir()
    install(folder, "demo", (HERE / "demo_plugin.py").read_text("utf-8"))
    return folder


@pytest.fixture
def environment(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine where only the demo may be loaded; returns its home."""
    home = tmp_path / "home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith("FSLM_")]:
        monkeypatch.delenv(name)
    (home / "fslm.toml").touch()
    monkeypatch.setenv("FSLM_CONFIG", str(home / "fslm.toml"))
    monkeypatch.setenv("FSLM_DATA_DIR", str(home / "data"))
    monkeypatch.setenv("FSLM_CACHE_DIR", str(home / "cache"))
    monkeypatch.setenv("FSLM_BACKEND", "demo.rule")
    monkeypatch.setenv("FSLM_PLUGINS", "demo")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(installed), str(SOURCE)]))
    monkeypatch.syspath_prepend(installed)
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def fslm(
    environment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Result]]:
    """Call ``fslm`` in this process: ``fslm("run", "demo", "hi", stdin=b"…")``."""
    from fslm_core.cli import main

    def call(*args: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(args)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Result(code, out, err)

    yield call
    for name in [name for name in sys.modules if name.endswith("_plugin")]:
        del sys.modules[name]


@pytest.fixture
def spawn(environment: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start ``fslm`` in a process of its own, where Ctrl-C does what it does in a terminal."""
    started: list[subprocess.Popen[str]] = []

    def start(*args: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _AS_IN_A_TERMINAL, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


_AS_IN_A_TERMINAL = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may have ignored it
runpy.run_module("fslm_core", run_name="__main__")
"""


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    """Read the process's standard error up to a line that holds these words."""
    assert process.stderr is not None
    for read in process.stderr:
        if line in read:
            return
    raise AssertionError(f"the process ended without saying {line!r}")


def wait_for_rows(process: subprocess.Popen[str], out: Path, count: int) -> None:
    """Return when ``out`` has so many lines; they are written by another thread than the one that says "waiting"."""
    while process.poll() is None:
        if out.exists() and out.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"the process ended before it had written {count} rows")

"""The core takes nothing for granted that only POSIX systems have: it imports, and runs a stack, without those.

This is no test of Windows. It takes from a process of its own the modules and the parts of ``os`` and ``signal`` that
Windows lacks, once the standard library and what others wrote has been imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import asyncio, importlib, multiprocessing, os, pathlib, signal, sqlite3, subprocess, sys, tempfile, uuid
import filelock, httpx2, jinja2, pip, platformdirs, pluggy, pydantic_settings, rich.console, tomlkit, typer

for name in ("fcntl", "grp", "posix", "pty", "pwd", "resource", "select.poll", "syslog", "termios", "tty"):
    sys.modules[name] = None
for part in (os, signal):
    for name in dir(part):
        if name in LACKING:
            delattr(part, name)

filelock.FileLock = filelock.SoftFileLock  # its own of POSIX systems works with what was taken away

import fslm_core
top = pathlib.Path(fslm_core.__path__[0])
for file in sorted(top.rglob("*.py")):
    name = ".".join(part for part in file.relative_to(top.parent).with_suffix("").parts if part != "__init__")
    if not name.startswith(tuple("fslm_core." + room for room in NEED_AN_EXTRA)):
        importlib.import_module(name)

from fslm_core.cli import main
sys.exit(main())
"""
NEED_AN_EXTRA = (
    "__main__",
    "backends.torch.",
    "checkpoints.convert",
    "checkpoints.gguf",
    "evaluate.lm_eval.model",
    "train.",
)
LACKING = """
    SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGTSTP SIGUSR1 SIGUSR2 WIFEXITED WIFSIGNALED WIFSTOPPED alarm
    chown chroot fchmod fchown fork forkpty getegid geteuid getgid getgroups getloadavg getpgid getpgrp
    getpriority getsid getuid initgroups killpg lchown lockf mkfifo mknod nice openpty pread preadv pthread_kill
    pthread_sigmask pwrite pwritev readv register_at_fork sched_getaffinity sched_setaffinity sched_yield sendfile
    set_blocking setegid seteuid setgid setitimer setpgid setsid setuid sync tcgetpgrp uname wait wait3
    wait4 waitid writev
"""


def fslm(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    places = {"FSLM_DATA_DIR": str(tmp_path / "data"), "FSLM_CACHE_DIR": str(tmp_path / "cache")}
    return subprocess.run(
        [sys.executable, "-c", f"LACKING, NEED_AN_EXTRA = {LACKING.split()}, {NEED_AN_EXTRA}\n{SCRIPT}", *arguments],
        cwd=tmp_path,
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )


def test_every_room_imports_and_a_stack_runs_without_what_only_posix_has(tmp_path: Path) -> None:
    done = fslm(tmp_path, "run", "echo", "hello")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"echo": "hello"}
    assert "succeeded" in fslm(tmp_path, "trace", "list").stdout
    found = json.loads(fslm(tmp_path, "doctor", "--json").stdout)
    assert found["machine"]["cores"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n{"text": "b"}\n', encoding="utf-8")
    done = fslm(tmp_path, "batch", "echo", str(rows), "--out", str(tmp_path / "out.jsonl"))
    assert done.returncode == 0, done.stderr

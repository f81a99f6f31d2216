"""Which process owns a run, and whether it still lives. What cannot be told counts as living."""

from __future__ import annotations

import json
import os
import platform
import secrets
import subprocess
from functools import lru_cache
from pathlib import Path

_PROC = Path("/proc")


def this_writer() -> str:
    """A new writer of this process, as the JSON text that stands in ``runs.owner``.

    It names host, boot, pid space, pid, the process's start, and the writer itself.
    """
    pid = os.getpid()
    return json.dumps({**_machine(), "pid": pid, "start": _start_of(pid), "writer": secrets.token_hex(8)})


def is_gone(owner: str) -> bool:
    """True only where the process is known to have ended.

    A process of another host, or of another container on this one, cannot be seen from here: it counts as living.
    """
    then = json.loads(owner)
    here = _machine()
    if then["host"] != here["host"]:
        return False
    if then["boot"] != here["boot"]:
        return True
    if then["space"] != here["space"] or then["start"] is None:
        return False
    return bool(_start_of(then["pid"]) != then["start"])


@lru_cache(maxsize=1)
def _machine() -> dict[str, str]:
    return {
        "host": platform.node(),
        "boot": _text(_PROC / "sys/kernel/random/boot_id"),
        "space": _link(_PROC / "self/ns/pid"),
    }


def _start_of(pid: int) -> str | None:
    """When a process started, in whatever unit its system counts; None if there is none, or it is a zombie."""
    if _PROC.joinpath("self/stat").exists():
        fields = _text(_PROC / str(pid) / "stat").rpartition(")")[2].split()
        return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else None
    if os.name != "posix":
        return None
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


__all__ = ["is_gone", "this_writer"]

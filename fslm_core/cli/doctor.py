"""``fslm doctor``: what fslm found on this machine, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import checkpoints
from ..backends.torch.machine import describe
from ..errors import FslmError
from ..settings import user_file
from . import screen
from .session import Session, session_of

app = typer.Typer(add_completion=False)

_CORE = ("fslm-core", "pydantic", "pydantic-settings", "pluggy", "jinja2", "typer", "rich")
_EXTRAS = {
    "torch": ("torch", "transformers", "tokenizers", "peft", "llguidance", "safetensors", "numpy"),
    "train": ("accelerate", "matplotlib"),
}
_FLAGS = {
    "amx_tile": "AMX",
    "amx_bf16": "AMX-BF16",
    "amx_int8": "AMX-INT8",
    "avx512f": "AVX512",
    "avx512_bf16": "AVX512-BF16",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx2": "AVX2",
    "asimd": "NEON",
    "bf16": "ARM-BF16",
    "sve": "SVE",
}

Section = list[tuple[str, str]]


@app.command()
def doctor(
    ctx: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
) -> None:
    """Say what fslm found on this machine, and what is missing.

    The exit code is 0 whatever is missing: it reports, it does not judge.
    """
    session = session_of(ctx)
    missing: list[str] = []
    sections: dict[str, Section] = {
        "machine": list(_machine()),
        "torch": list(_torch(missing)),
        "versions": list(_versions(missing)),
        "settings": list(_told(lambda: _settings(session), missing)),
        "models": list(_told(lambda: _models(session), missing)),
        "plugins": list(_told(lambda: _plugins(session, missing), missing)),
    }
    if as_json:
        data: dict[str, Any] = {name: dict(rows) for name, rows in sections.items()}
        screen.result(screen.as_json({**data, "missing": missing}))
        return
    for name, rows in sections.items():
        screen.result(f"{name}")
        for key, value in rows:
            screen.result(screen.clean(f"  {key:<18}{value}"))
    screen.result("missing")
    for line in missing or ["nothing"]:
        screen.result(screen.clean(f"  {line}"))


def instruction_sets(cpuinfo: str) -> list[str]:
    """Return what matters of the flags in the text of ``/proc/cpuinfo``.

    >>> instruction_sets("flags : fpu avx2 avx512f amx_tile")
    ['AMX', 'AVX512', 'AVX2']
    """
    lines = (line for line in cpuinfo.splitlines() if line.lower().startswith(("flags", "features")))
    flags = set(next(lines, "").partition(":")[2].split())
    return [name for flag, name in _FLAGS.items() if flag in flags]


def _machine() -> Iterator[tuple[str, str]]:
    yield "system", f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield "python", f"{platform.python_version()} at {sys.executable}"
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "cores", f"{usable} usable of {os.cpu_count()}"
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpuinfo = ""
    yield "instruction sets", ", ".join(instruction_sets(cpuinfo)) or "unknown"


def _torch(missing: list[str]) -> Iterator[tuple[str, str]]:
    try:
        found = describe()
    except Exception as error:  # a broken build raises anything
        missing.append(f"torch is installed but does not import: {error}")
        yield "torch", "broken"
        return
    yield from found.items() if found else [("torch", "not installed")]


def _versions(missing: list[str]) -> Iterator[tuple[str, str]]:
    for name in _CORE:
        yield name, _version(name) or "not installed as a distribution"
    for extra, names in _EXTRAS.items():
        absent = [name for name in names if _version(name) is None]
        for name in names:
            yield name, _version(name) or "not installed"
        if absent:
            what = "run stages with a model in this process" if extra == "torch" else "train"
            missing.append(
                f"extra {extra} ({', '.join(absent)}), needed to {what}: python -m pip install 'fslm-core[{extra}]'"
            )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _settings(session: Session) -> Iterator[tuple[str, str]]:
    settings = session.settings
    file = user_file()
    yield "user's file", f"{file}{'' if file.exists() else ' (not there)'}"
    yield "backend", settings.backend
    yield "offline", "yes" if settings.offline else "no"
    yield "trace", f"{settings.trace_path} (keeps {settings.trace.content or 'full'})"
    existing = next((p for p in (settings.cache_dir, *settings.cache_dir.parents) if p.exists()), Path("/"))
    yield "cache", f"{settings.cache_dir} ({shutil.disk_usage(existing).free / 1e9:,.1f} GB free)"


def _models(session: Session) -> Iterator[tuple[str, str]]:
    for status in checkpoints.list_cached(session.settings, extra=session.host.checkpoints):
        absent = f"got at the first run or by `fslm models pull {status.name}`"
        yield status.name, f"{status.state}, " + (f"{status.size / 1e6:,.0f} MB" if status.size else absent)


def _plugins(session: Session, missing: list[str]) -> Iterator[tuple[str, str]]:
    for info in session.host.plugins:
        yield info.name, f"{info}: {info.state}"
        if info.state == "quarantined":
            missing.append(f"plugin {info.name} ({info}): {info.reason}")


def _told(section: Callable[[], Iterator[tuple[str, str]]], missing: list[str]) -> Section:
    """A section's rows, or its error among what is missing: a doctor does not fall ill."""
    try:
        return list(section())
    except FslmError as error:
        missing.append(" ".join(str(error).split()))
        return []


__all__ = ["app", "instruction_sets"]

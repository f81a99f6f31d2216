"""What ``fslm doctor`` looks at: a section yields rows to show, and findings a person should know of.

What counts as tested is read from the distribution's own metadata: its classifiers name the Pythons and systems, its
requirements the ranges.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .. import checkpoints
from ..backends.torch.machine import describe
from ..settings import user_file
from .session import Session

DISTRIBUTION = "fslm-core"
PURPOSES = {
    "data": "read spreadsheets",
    "eval": "score a stack",
    "lm-eval": "measure a stack with lm-eval",
    "otel": "send metrics to OpenTelemetry",
    "prefer": "train a stage by preferences",
    "torch": "run stages with a model in this process",
    "train": "train a stage",
}
"""What an extra is needed for."""
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


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a person should know, and what to do about it.

    Attributes:
        what: what was found.
        next: what to do, as a command where there is one.
        serious: without it something will not work; else it is good to know.
    """

    what: str
    next: str
    serious: bool = True


Row = tuple[str, str]
Section = Iterator[Row | Finding]


def machine() -> Section:
    """System, Python, cores, instruction sets."""
    system = platform.system()
    yield "system", f"{system} {platform.release()}, {platform.machine()}"
    pythons, systems = tested_pythons(), tested_systems()
    here = ".".join(platform.python_version_tuple()[:2])
    known = f" ({'' if here in pythons else 'not '}tested)" if pythons else ""
    yield "python", f"{platform.python_version()}{known} at {sys.executable}"
    if pythons and here not in pythons:
        tested = ", ".join(pythons)
        yield Finding(f"Python {here} is not tested", f"make the environment with one of {tested}", serious=False)
    if systems and system not in systems:
        yield Finding(f"{system} is not tested", "tell us what does not work", serious=False)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "cores", f"{usable} usable of {os.cpu_count()}"
    yield "instruction sets", ", ".join(instruction_sets(_cpuinfo())) or f"not told by {system}"


def tested_pythons() -> list[str]:
    """The Pythons, as ``3.11``, that the classifiers name; empty where fslm-core is not a distribution."""
    prefix = "Programming Language :: Python :: "
    found = [text.removeprefix(prefix) for text in _classifiers() if text.startswith(prefix)]
    return [text for text in found if "." in text]


def tested_systems() -> list[str]:
    """The systems, as :func:`platform.system` names them, that the classifiers name."""
    names = {"Linux": "Linux", "MacOS": "Darwin", "Windows": "Windows"}
    found = [text.split(" :: ") for text in _classifiers() if text.startswith("Operating System")]
    return [system for name, system in names.items() if any(name in parts for parts in found)]


def _classifiers() -> list[str]:
    try:
        return list(metadata(DISTRIBUTION).get_all("Classifier", []))
    except PackageNotFoundError:
        return []


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def instruction_sets(cpuinfo: str) -> list[str]:
    """Return what matters of the flags in the text of ``/proc/cpuinfo``.

    >>> instruction_sets("flags : fpu avx2 avx512f amx_tile")
    ['AMX', 'AVX512', 'AVX2']
    """
    lines = (line for line in cpuinfo.splitlines() if line.lower().startswith(("flags", "features")))
    flags = set(next(lines, "").partition(":")[2].split())
    return [name for flag, name in _FLAGS.items() if flag in flags]


def torch() -> Section:
    """The build of torch, its devices and threads."""
    try:
        found = describe()
    except Exception as error:  # a broken build raises anything
        yield "torch", "broken"
        again = f"python -m pip install --force-reinstall 'torch{_range('torch')}'"
        yield Finding(f"torch is installed but does not import: {error}", again)
        return
    yield from found.items() if found else [("torch", "not installed")]
    if found and found["build"] != "cpu" and found["device"] == "cpu":
        yield Finding(
            f"torch is built for {found['build']} and there is no such device here: it works, and takes gigabytes "
            "that the CPU build does not",
            "see `The CPU build of torch` in the documentation's page on installing",
            serious=False,
        )


def versions(backend: str = "torch") -> Section:
    """Every requirement's version against its tested range; what an extra lacks.

    Args:
        backend: the backend in use; without its extra nothing runs.
    """
    own = _version(DISTRIBUTION)
    yield DISTRIBUTION, own or "not installed as a distribution"
    if own is None:
        yield Finding("fslm-core is not installed: its ranges are not known", f"python -m pip install {DISTRIBUTION}")
        return
    told: set[str] = set()
    for extra, requirements in requirements_by_extra().items():
        absent = [r.name for r in requirements if _version(r.name) is None]
        for requirement in requirements:
            if requirement.name in told:
                continue
            told.add(requirement.name)
            found = _version(requirement.name)
            yield requirement.name, found or "not installed"
            if found and not requirement.specifier.contains(found, prereleases=True):
                yield Finding(
                    f"{requirement.name} {found} is not in the tested range {requirement.specifier}",
                    f"python -m pip install '{requirement.name}{requirement.specifier}'",
                )
        if absent:
            name = f"{DISTRIBUTION}[{extra}]" if extra else DISTRIBUTION
            purpose = f", needed to {PURPOSES[extra]}" if extra in PURPOSES else ""
            what = f"the extra {extra} is not whole{purpose}" if extra else "fslm-core is not whole"
            wanted = not extra or extra == backend
            yield Finding(f"{what}: no {', '.join(absent)}", f"python -m pip install '{name}'", serious=wanted)


def requirements_by_extra() -> dict[str, list[Requirement]]:
    """What the metadata asks for: under "" always, under an extra's name what that adds; ``dev`` is left out.

    >>> "pydantic" in [r.name for r in requirements_by_extra()[""]]
    True
    """
    wanted = [Requirement(text) for text in requires(DISTRIBUTION) or []]
    extras = metadata(DISTRIBUTION).get_all("Provides-Extra", [])
    found = {"": [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]}
    for extra in extras:
        if extra != "dev":
            found[extra] = [r for r in wanted if r not in found[""] and r.name != DISTRIBUTION and _belongs(r, extra)]
    return found


def _belongs(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is not None and requirement.marker.evaluate({"extra": extra})


def _range(name: str) -> str:
    try:
        known = [r for requirements in requirements_by_extra().values() for r in requirements]
    except PackageNotFoundError:
        return ""
    return next((str(r.specifier) for r in known if r.name == name), "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def places(session: Session) -> Section:
    """The settings that matter here, and whether what must be written can be."""
    settings = session.settings
    file = user_file()
    yield "settings file", f"{file}{'' if file.exists() else ' (not there)'}"
    yield "backend", settings.backend
    yield "offline", "yes: what is not here is an error" if settings.offline else "no"
    yield from _trace(session)
    yield "sessions", _sessions(session)
    free = shutil.disk_usage(_existing(settings.cache_dir)).free / 1e9
    state = f"{free:,.1f} GB free" if writable(settings.cache_dir) else "read-only"
    yield "cache", f"{settings.cache_dir} ({state})"
    try:
        yield "temporary files", tempfile.gettempdir()
    except FileNotFoundError:
        yield "temporary files", "nowhere (needed to fetch a model and to train, not to run)"


def _trace(session: Session) -> Section:
    settings = session.settings
    path, goes_on = settings.trace_path, settings.trace.on_failure == "continue"
    able = writable(path)
    yield "trace", f"{path} (keeps {settings.trace.content or 'full'}{'' if able else ', cannot be written'})"
    if not able and goes_on:
        yield Finding("the trace cannot be written: runs go on and leave no record", _ELSEWHERE, serious=False)
    elif not able:
        yield Finding(
            "the trace cannot be written, so every run fails",
            f"{_ELSEWHERE}; or FSLM_TRACE__ON_FAILURE=continue to run without a record",
        )


def _sessions(session: Session) -> str:
    kept = session.settings.sessions
    if not kept.keep:
        return "none is kept"
    path = session.settings.sessions_path
    how_long = f"{kept.keep_days:g} days after the last turn" if kept.keep_days else "until they are forgotten"
    return f"{path} (kept {how_long}{'' if writable(path) else '; cannot be written'})"


_ELSEWHERE = "set FSLM_DATA_DIR (or FSLM_TRACE__PATH) to a place that can be written"


def writable(path: Path) -> bool:
    """Whether ``path`` could be written or made, as far as the system tells without trying."""
    if path.is_file():
        return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)
    there = _existing(path)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _existing(path: Path) -> Path:
    whole = path.absolute()
    return next((p for p in (whole, *whole.parents) if p.exists()), Path(whole.anchor))


def models(session: Session) -> Section:
    """Every model that is known, and whether one that is not here could be had."""
    settings = session.settings
    for status in checkpoints.list_cached(settings, extra=session.host.checkpoints):
        pull = f"fslm models pull {status.name}"
        size = f"{status.size / 1e6:,.0f} MB" if status.size else f"fetched at the first run or by `{pull}`"
        yield status.name, f"{status.state}, {size}"
        if status.state == "damaged":
            yield Finding(f"the model {status.name} is damaged", pull)
        elif status.state == "absent" and settings.offline:
            yield Finding(f"offline, and the model {status.name} is not here", f"{pull} --from DIR")
        elif status.state == "absent" and not writable(settings.cache_dir):
            yield Finding(
                f"the model {status.name} is not here, and the cache cannot be written",
                f"set FSLM_CACHE_DIR to a folder that can be written, then `{pull}`",
            )


def plugins(session: Session) -> Section:
    """Every plugin and its state."""
    for info in session.host.plugins:
        yield info.name, f"{info}: {info.state}"
        if info.state == "quarantined":
            yield Finding(
                f"plugin {info.name} ({info}): {info.reason}",
                info.cure or f"mend or upgrade it, or `fslm plugins disable {info.name}`",
            )
    here = {canonicalize_name(name) for info in session.host.plugins for name in (info.name, info.distribution)}
    named: dict[str, Sequence[str]] = {"plugins": session.settings.plugins or (), "disable": session.settings.disable}
    for setting, names in named.items():
        for name in names:
            if canonicalize_name(name) not in here:
                what = f"the setting {setting} names {name}, and no plugin of that name is installed"
                yield Finding(what, "correct the name as `fslm plugins` shows it, or remove it", serious=False)


__all__ = [
    "Finding",
    "instruction_sets",
    "machine",
    "models",
    "places",
    "plugins",
    "requirements_by_extra",
    "tested_pythons",
    "tested_systems",
    "torch",
    "versions",
    "writable",
]

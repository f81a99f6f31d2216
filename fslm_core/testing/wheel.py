"""What a plugin's wheel holds: as the installer recorded it, or, for an editable install, as the wheel is built."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from .. import adapter as adapters
from ..folders import sha256_of
from ..stage import SLM, Stage
from .broken import ContractBroken
from .installed import Installed


@dataclass(frozen=True)
class Wheel:
    """The files of a wheel: path inside it to SHA-256 (hex), None where the installer recorded none.

    Attributes:
        name: what was looked at, for people.
        root: the folder on this machine that the paths are relative to.
    """

    name: str
    root: Path
    files: Mapping[str, str | None]


def check_shipped(stage: Stage[Any, Any], installed: Installed) -> None:
    """The stage's prompt and adapters are inside the distribution's wheel, byte for byte.

    Raises:
        ContractBroken: a file is not, or is another one there; or the wheel cannot be built.
    """
    wheel = wheel_of(installed)
    for path in files_of(stage):
        inside = _inside(path, wheel)
        if inside is None or inside not in wheel.files:
            raise ContractBroken(
                "a file that the stage needs is not in the plugin's wheel",
                where=f"stage {stage.name}",
                found=f"{wheel.name} without {inside or path}",
                expected=inside or f"a path below {wheel.root}",
                hint="put the file inside the package, and see what the build leaves out:"
                " with hatchling `exclude` and .gitignore, with setuptools missing package data",
            )
        recorded = wheel.files[inside]
        if recorded is not None and recorded != sha256_of(path):
            raise ContractBroken(
                "the wheel holds another version of a file that the stage needs",
                where=f"stage {stage.name}",
                found=f"{wheel.name}: {inside}",
                hint="build and install the plugin again",
            )


def files_of(stage: Stage[Any, Any]) -> list[Path]:
    """The files that a stage reads: its template, and the folders of its adapters."""
    prompt = [Path(stage.prompt)] if isinstance(stage.prompt, Path) else []
    return [*prompt, *(path for model in models_of(stage) for path in _adapter_files(model))]


def models_of(stage: Stage[Any, Any]) -> list[SLM]:
    """The stage's own model and its variants."""
    return [model for model in (stage.model, *stage.variants.values()) if model is not None]


def _adapter_files(model: SLM) -> Iterable[Path]:
    if model.adapter is None:
        return ()
    record = model.adapter / adapters.RECORD
    return [model.adapter / adapters.CONFIG, model.adapter / adapters.WEIGHTS, *([record] if record.exists() else [])]


def _inside(path: Path, wheel: Wheel) -> str | None:
    try:
        return path.resolve().relative_to(wheel.root.resolve()).as_posix()
    except ValueError:
        return None


def wheel_of(installed: Installed) -> Wheel:
    """The wheel that a distribution was installed from, or, where it is editable, the one that it makes.

    A wheel is built once a process, without build isolation where the project's build backend can be imported here.

    Raises:
        ContractBroken: nothing says what was installed, or the wheel cannot be built.
    """
    disk = installed.disk
    if disk.source == "editable" and disk.place is not None:
        source = Path(url2pathname(urlsplit(disk.origin).path))
        return Wheel(f"the wheel built from {source.name}", disk.place.parent, _built(source))
    recorded = disk.recorded()
    if recorded is None or disk.root is None:
        raise ContractBroken(
            "nothing says which files the plugin's wheel holds",
            where=installed.name,
            expected="a distribution that pip installed",
            hint="install it: `python -m pip install .` or `python -m pip install -e .`",
        )
    hashes = {r.name: r.digest if r.algorithm == "sha256" else None for r in recorded}
    return Wheel(f"the installed {installed.name} {installed.dist.version}", disk.root, hashes)


@lru_cache(maxsize=64)
def _built(source: Path) -> Mapping[str, str | None]:
    with tempfile.TemporaryDirectory(prefix="fslm-wheel-") as folder:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder]
        if _backend_is_here(source):
            command.append("--no-build-isolation")
        done = subprocess.run([*command, str(source)], capture_output=True, text=True, encoding="utf-8")
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise ContractBroken(
                "the plugin's wheel cannot be built",
                where=str(source),
                found=(done.stderr or done.stdout).strip()[-1500:],
                hint=f"see `python -m pip wheel --no-deps {source}`",
            )
        with zipfile.ZipFile(wheels[0]) as archive:
            return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def _backend_is_here(source: Path) -> bool:
    try:
        build = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8")).get("build-system", {})
    except (OSError, ValueError):
        return False
    backend = str(build.get("build-backend", "setuptools.build_meta")).partition(":")[0]
    try:
        return not build.get("backend-path") and find_spec(backend) is not None
    except ModuleNotFoundError:
        return False


__all__ = ["Wheel", "check_shipped", "files_of", "models_of", "wheel_of"]

"""How a plugin lies in its environment: where, installed in which way, and which files; nothing of it is imported."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import Distribution
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ..checkpoints import digest
from ..folders import sha256_of
from .finding import Found

Source = Literal["index", "local", "url", "editable", "program", "unknown"]
"""Where pip got a distribution from: an index (or a folder of wheels), a file or folder of this machine, some other
address, or a source tree that is used where it lies. ``program``: it was handed over and is not installed; ``unknown``:
no pip wrote down what it did."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A line of RECORD.

    Attributes:
        name: the file, relative to the folder that holds the dist-info.
        algorithm: of the hash; empty where none is recorded.
        digest: hex.
        size: bytes; None where it is not recorded.
    """

    name: str
    algorithm: str
    digest: str
    size: int | None


class Installed:
    """One plugin's distribution on disk.

    Args:
        found: the plugin.
    """

    def __init__(self, found: Found) -> None:
        self._found = found
        self._dist = found.dist

    @property
    def metadata(self) -> Mapping[str, str]:
        """The headers of its METADATA that people read: ``Summary``, ``License-Expression`` and the like."""
        return {} if self._dist is None else {key: self._dist.metadata[key] for key in self._dist.metadata}

    @property
    def origin(self) -> str:
        """The address pip was given where that was no name; empty for an index."""
        return str(_direct_url(self._dist).get("url", "")) if self._dist is not None else ""

    @property
    def source(self) -> Source:
        """Where pip got it from."""
        if self._dist is None:
            return "program"
        direct = _direct_url(self._dist)
        if direct.get("dir_info", {}).get("editable"):
            return "editable"
        if direct:
            return "local" if str(direct.get("url", "")).startswith("file:") else "url"
        return "unknown" if self._dist.read_text("RECORD") is None else "index"

    @property
    def root(self) -> Path | None:
        """The folder that RECORD's names are relative to."""
        return None if self._dist is None else Path(str(self._dist.locate_file("")))

    @property
    def place(self) -> Path | None:
        """The folder of its package, or the file of its module; None where it cannot be found."""
        if self._found.module:
            try:
                spec = importlib.util.find_spec(self._found.module.partition(".")[0])
            except (ImportError, ValueError):
                return None
            if spec is not None and spec.submodule_search_locations:
                return Path(next(iter(spec.submodule_search_locations)))
            if spec is not None and spec.origin and os.path.exists(spec.origin):
                return Path(spec.origin)
        return None

    def recorded(self) -> list[Recorded] | None:
        """What RECORD says of each file; compiled files are left out. None where there is no RECORD.

        The format: https://packaging.python.org/en/latest/specifications/recording-installed-packages/
        """
        text = None if self._dist is None else self._dist.read_text("RECORD")
        if text is None:
            return None
        rows = (row for row in csv.reader(text.splitlines()) if row)
        return [_recorded(row) for row in rows if not is_compiled(row[0])]

    def packages(self, recorded: Iterable[Recorded]) -> list[str]:
        """The outermost folders of RECORD that are packages, ``__init__.py`` and all, sorted."""
        homes = {PurePosixPath(r.name).parent for r in recorded if PurePosixPath(r.name).name == "__init__.py"}
        return sorted(str(home) for home in homes if not homes & set(home.parents))

    def files(self) -> dict[str, Path]:
        """Every file that decides what the plugin does, by name: all below its packages, its modules, entry points.

        Names are the same in whatever environment it is installed; compiled files, the metadata and what lies outside
        of the environment's library (scripts, say) are left out.
        """
        recorded, root = self.recorded() or [], self.root
        found: dict[str, Path] = {}
        if root is not None and self.source != "editable":
            inside = (r.name for r in recorded if not r.name.startswith(("..", "/")) and ".dist-info/" not in r.name)
            found |= {name: root / name for name in inside}
            for package in self.packages(recorded):
                found |= below(root / package, package)
        if not found and (place := self.place) is not None:
            found |= below(place, place.name) if place.is_dir() else {place.name: place}
        return found

    def name_of(self, path: Path) -> str:
        """A path as people read it: below the folder that plugins are installed in, or below the source tree."""
        place = self.place
        for home in (self.root, place.parent if place is not None else None):
            if home is not None and path.is_relative_to(home):
                return path.relative_to(home).as_posix()
        return str(path)

    def sha256(self) -> str:
        """One hash over :meth:`files` and the entry points, as ``sha256sum`` would list them; empty for ``program``.

        Raises:
            OSError: a file cannot be read.
        """
        if self._dist is None:
            return ""
        points = self._dist.read_text("entry_points.txt") or ""
        hashes = {name: _hash_of(path) for name, path in self.files().items() if path.is_file()}
        return digest({**hashes, "entry_points.txt": hashlib.sha256(points.encode()).hexdigest()})


def below(folder: Path, prefix: str) -> dict[str, Path]:
    """The files below a folder by name, ``prefix/…``; compiled ones are left out."""
    found = {}
    for home, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = Path(home, name)
            inner = path.relative_to(folder).as_posix()
            if not is_compiled(inner):
                found[f"{prefix}/{inner}"] = path
    return found


def is_compiled(name: str) -> bool:
    """Whether Python wrote the file by itself."""
    return name.endswith((".pyc", ".pyo")) or "__pycache__/" in name


def _direct_url(dist: Distribution) -> dict[str, Any]:
    """https://packaging.python.org/en/latest/specifications/direct-url/"""
    try:
        value = json.loads(dist.read_text("direct_url.json") or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _recorded(row: list[str]) -> Recorded:
    name, encoded, size = [*row, "", ""][:3]
    algorithm, _, text = encoded.partition("=")
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raw = b""
    return Recorded(name, algorithm if raw else "", raw.hex(), int(size) if size.isdigit() else None)


def _hash_of(path: Path) -> str:
    stat = path.stat()
    return _hash_once(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hash_once(path: Path, size: int, changed: int) -> str:
    return sha256_of(path)


__all__ = ["Installed", "Recorded", "Source", "below", "is_compiled"]

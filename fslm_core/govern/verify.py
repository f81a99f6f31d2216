"""Whether what is installed is what was shipped: files against RECORD, adapters against their ``fslm.json``.

No weight is loaded; and while files differ, nothing of a plugin is imported.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from .. import adapter as adapters
from ..errors import AdapterError
from ..plugins import Installed, PluginHost, PluginInfo, Source
from ..plugins.installed import Recorded, below
from ..schema import schema_id_of
from ..stage import SLM, Stage


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it was shipped or trained.

    Attributes:
        file: its name, relative to the folder that plugins are installed in.
        what: ``changed``, ``missing``, ``added`` or ``unreadable``; of an adapter, what of it is another.
    """

    file: str
    what: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found of one distribution.

    Attributes:
        names: its plugins.
        source: where pip got it from.
        files: how many were compared with their hash in RECORD.
        adapters: how many were compared with their ``fslm.json``.
        differences: empty where all is as it was.
        notes: what could not be compared, and why.
    """

    distribution: str
    version: str
    names: tuple[str, ...]
    source: Source
    files: int
    adapters: int
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    @property
    def cure(self) -> str:
        """What to do where something differs."""
        if self.source == "editable":
            return f"see what changed in the source tree of {self.distribution}, or train the adapter again"
        again = "python -m pip install --force-reinstall --no-deps"
        if self.source == "index":
            return f"{again} {self.distribution}=={self.version}"
        return f"{again} WHEEL, the one of {self.distribution} {self.version}"


@dataclass
class _Findings:
    """What is gathered of one distribution."""

    infos: list[PluginInfo]
    installed: Installed
    files: int = 0
    adapters: int = 0
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def differs(self, file: str, what: str, expected: object, found: object) -> None:
        self.differences.append(Difference(file, what, str(expected), str(found)))

    def result(self) -> Verification:
        first = self.infos[0]
        return Verification(
            first.distribution,
            first.version,
            tuple(info.name for info in self.infos),
            self.installed.source,
            self.files,
            self.adapters,
            tuple(self.differences),
            tuple(self.notes),
        )


def verify(host: PluginHost, names: Sequence[str] = ()) -> list[Verification]:
    """Compare installed plugins with what was shipped, distribution by distribution.

    Every file of RECORD by its hash and size, what lies beside them in their packages, and every adapter with its
    ``fslm.json``: its weights, base, template and schemas. Compiled files (``.pyc``) are left aside. Plugins that are
    disabled or quarantined are verified too, without importing them.

    Args:
        host: whose plugins.
        names: plugins or distributions; all that are installed by default.

    Raises:
        UnknownNameError: nothing that is installed has one of the names.
    """
    chosen = [info for name in names for info in host.named(name)] if names else host.found()
    by_distribution: dict[str, _Findings] = {}
    for info in dict.fromkeys(chosen):
        known = by_distribution.setdefault(info.distribution, _Findings([], host.installation(info)))
        known.infos.append(info)
    found = list(by_distribution.values())
    for findings in found:
        _files(findings)
    unchanged = not any(findings.differences for findings in found)
    for findings in found:
        _adapters(findings, host if unchanged else None)
    return [findings.result() for findings in found]


# -- files -----------------------------------------------------------------------------------------------------------


def _files(findings: _Findings) -> None:
    installed = findings.installed
    recorded, root = installed.recorded(), installed.root
    if installed.source == "program":
        findings.notes.append("it was handed over by a program: there are no files to compare")
        return
    if recorded is None or root is None:
        findings.notes.append("it has no RECORD, so no pip installed it: its files cannot be compared")
        return
    if installed.source == "editable":
        findings.notes.append("editable: its files are not hashed, they are used where they lie; adapters are compared")
    for entry in recorded:
        _file(entry, root / entry.name, findings)
    names = {entry.name for entry in recorded}
    for package in installed.packages(recorded):
        for name in sorted(below(root / package, package).keys() - names):
            findings.differs(name, "added", "no such file", f"a file of {_size(root / name)} bytes")


def _file(entry: Recorded, path: Path, findings: _Findings) -> None:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            findings.differs(entry.name, "unreadable", _described(entry), "no regular file")
            return
        if not entry.algorithm:
            return
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, entry.algorithm).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        findings.differs(entry.name, "missing", _described(entry), "no such file")
        return
    except OSError as error:
        findings.differs(entry.name, "unreadable", _described(entry), error.strerror)
        return
    except ValueError:
        findings.notes.append(f"{entry.name} is recorded with a hash that is not known here, {entry.algorithm}")
        return
    findings.files += 1
    size = status.st_size
    if digest != entry.digest or entry.size not in (None, size):
        findings.differs(entry.name, "changed", _described(entry), f"{entry.algorithm} {digest}, {size} bytes")


def _described(entry: Recorded) -> str:
    size = "" if entry.size is None else f", {entry.size} bytes"
    return f"{entry.algorithm} {entry.digest}{size}" if entry.algorithm else "a file"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


# -- adapters --------------------------------------------------------------------------------------------------------


def _adapters(findings: _Findings, host: PluginHost | None) -> None:
    """Compare adapters; ``host`` is None where its stages must not be asked for, for that would import plugins."""
    folders = {path.parent for path in findings.installed.files().values() if path.name == adapters.WEIGHTS}
    names = {(info.name, info.distribution) for info in findings.infos}
    infos = [] if host is None else [info for info in host.plugins if (info.name, info.distribution) in names]
    stages = [] if host is None else [stage for info in infos for stage in host.offers(info).stages]
    used: dict[Path, list[tuple[Stage[Any, Any], SLM]]] = {folder: [] for folder in sorted(folders)}
    for stage, slm in _models(stages):
        assert slm.adapter is not None
        used.setdefault(slm.adapter, []).append((stage, slm))
    if host is None and folders:
        findings.notes.append(
            "its stages were not compared with their adapters: nothing is imported while files differ"
        )
    elif any(info.state != "loaded" for info in infos) and folders:
        findings.notes.append("its stages were not compared with their adapters, for it is not loaded")
    for folder, users in used.items():
        _adapter(folder, users, findings)


def _models(stages: Iterable[Stage[Any, Any]]) -> Iterator[tuple[Stage[Any, Any], SLM]]:
    for stage in stages:
        for slm in filter(None, (stage.model, *stage.variants.values())):
            if slm.adapter is not None:
                yield stage, slm


def _adapter(folder: Path, users: Sequence[tuple[Stage[BaseModel, BaseModel], SLM]], findings: _Findings) -> None:
    place = findings.installed.name_of(folder)
    try:
        info = adapters.inspect(folder)
    except AdapterError as error:
        findings.differs(place, error.what, error.expected or "an adapter that is whole", error.found or "none")
        return
    findings.adapters += 1
    weights, record = f"{place}/{adapters.WEIGHTS}", f"{place}/{adapters.RECORD}"
    for stage, slm in users:
        if slm.sha256 not in (None, info.sha256):
            findings.differs(weights, f"not the weights that the stage {stage.name} names", slm.sha256, info.sha256)
    if info.record is None:
        findings.notes.append(f"{place} has no {adapters.RECORD}: nobody can say what it was trained for")
        return
    if info.record.sha256 is None:
        findings.notes.append(f"{record} holds no hash of the weights: it was written before that was kept")
    elif info.record.sha256 != info.sha256:
        findings.differs(weights, f"not the weights of its {adapters.RECORD}", info.record.sha256, info.sha256)
    for stage, slm in users:
        here = {
            "base": slm.base,
            "template": hashlib.sha256(stage.template.source.encode()).hexdigest(),
            "input_schema": schema_id_of(stage.input),
            "output_schema": schema_id_of(stage.output),
        }
        for key, value in here.items():
            if (trained := getattr(info.record, key)) != value:
                what = f"the {key.replace('_', ' ')} of {stage.name} is another than it was trained with"
                findings.differs(record, what, trained, value)


__all__ = ["Difference", "Verification", "verify"]

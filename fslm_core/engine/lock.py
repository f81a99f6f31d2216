"""What a lock file holds, as text and as values, and how what is here differs from it.

The file is TOML, sorted, one fact a line, so that a change of one plugin is a change of its lines and reads as such in
a review. It names no place of the machine that wrote it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tomlkit
from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import LockError
from ..plugins import Source

HEADER = """\
# What `fslm lock` found here. `fslm --locked …` (or locked = true in the settings) runs nothing that differs from it.
# `fslm lock --check` tells what differs, `fslm lock` accepts it, `fslm lock --install` installs what is locked,
# `fslm lock --restore` goes back to the lock before.
"""
WAYS_ON = (
    "`fslm lock` accepts it, `fslm lock --install` installs what was locked, `fslm lock --restore` goes back to the"
    " lock before"
)
Setting = bool | str | list[str]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LockedPlugin(_Part):
    """A distribution with plugins. ``files`` hashes all that was installed of it and decides what it does."""

    version: str = ""
    names: tuple[str, ...]
    source: Source
    files: str = ""


class LockedStage(_Part):
    """All that decides what a stage writes: ``fingerprint`` is the engine's own, the rest says what is in it."""

    plugin: str = ""
    fingerprint: str
    checkpoint: str = ""
    adapter: str = ""
    template: str = ""
    variant: str = ""
    tool: str = ""
    input_schema: str
    output_schema: str


class LockedCheckpoint(_Part):
    """A base model: the hash of its weights, tokenizer and configuration."""

    sha256: str
    source: str


class Lock(_Part):
    """The whole of a lock file.

    Attributes:
        core: the version of fslm-core.
        backend: the name of what writes the outputs.
        stacks: None for everything that is loaded; else the stacks it is limited to.
        settings: those that change what is written and are not as they are by default, by dotted name.
        plugins: by distribution.
        stages: by name.
        checkpoints: by name.
    """

    format: Literal[1] = 1
    core: str
    backend: str
    stacks: tuple[str, ...] | None = None
    settings: dict[str, Setting] = {}
    plugins: dict[str, LockedPlugin] = {}
    stages: dict[str, LockedStage] = {}
    checkpoints: dict[str, LockedCheckpoint] = {}


@dataclass(frozen=True, slots=True)
class Drift:
    """One thing that is not as it was locked; None where it is only in one of the two.

    Attributes:
        what: as ``plugin fslm-shop, version``.
    """

    what: str
    locked: str | None
    found: str | None

    def __str__(self) -> str:
        return f"{self.what}: locked {_shown(self.locked)}, found {_shown(self.found)}"


def _shown(value: str | None) -> str:
    return "nothing" if value is None else value or "none"


def text_of(lock: Lock) -> str:
    """The lock as it stands in its file: the same lock is always the same text."""
    document = tomlkit.document()
    data = lock.model_dump(mode="json", exclude_none=True)
    for key, value in data.items():
        if not isinstance(value, dict):
            document[key] = value
    if lock.settings:
        document["settings"] = _table(lock.settings)
    for key in ("plugins", "checkpoints", "stages"):
        if data[key]:
            above = tomlkit.table(is_super_table=True)
            for name in sorted(data[key]):
                above.append(name, _table({k: v for k, v in data[key][name].items() if v != ""}))
            document[key] = above
    return HEADER + "\n" + tomlkit.dumps(document)


def _table(values: Mapping[str, Any]) -> Any:
    table = tomlkit.table()
    for key in sorted(values):
        table.append(key, values[key])
    return table


def read(path: Path) -> Lock:
    """Read a lock file.

    Raises:
        LockError: it is not there, cannot be read, or is no lock file.
    """
    try:
        return Lock.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise LockError("there is no lock file", where=str(path), hint="write one: `fslm lock`") from None
    except OSError as error:
        hint = "give yourself read access, or name another file with FSLM_LOCK_FILE"
        raise LockError(f"the lock file cannot be read: {error.strerror}", where=str(path), hint=hint) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise LockError(
            f"this is no lock file, or one of another version of fslm: {place}: {first['msg']}",
            where=str(path),
            hint="write it anew: `fslm lock`",
        ) from None
    except (ValueError, RecursionError) as error:
        hint = "take it back from version control, or write it anew: `fslm lock`"
        raise LockError(f"the lock file is not TOML: {error}", where=str(path), hint=hint) from None


def differences(locked: Lock, found: Lock) -> list[Drift]:
    """All that differs between two locks, as when one takes the other's place.

    What another difference explains is left out: the files of a plugin whose version is another, the stages of one that
    is not there, the fingerprint of a stage of which something else differs.
    """
    return [*environment_differences(locked, found), *work_differences(locked, found, wanted=locked.stages)]


def environment_differences(locked: Lock, found: Lock, idle: Mapping[str, str] | None = None) -> list[Drift]:
    """What differs of the core, the backend, the settings and the plugins.

    Args:
        idle: what to say of a distribution that is installed, but not loaded.
    """
    drifts = list(_of("", locked, found, ("core", "backend")))
    for name in sorted({*locked.settings, *found.settings}):
        there, here = (_text(lock.settings.get(name)) for lock in (locked, found))
        if there != here:
            drifts.append(Drift(f"setting {name}", there, here))
    for name in sorted({*locked.plugins, *found.plugins}):
        plugin, now = locked.plugins.get(name), found.plugins.get(name)
        if plugin is None or now is None:
            here = now.version if now else (idle or {}).get(name)
            drifts.append(Drift(f"plugin {name}", plugin.version if plugin else None, here))
        else:
            drifts += list(_of(f"plugin {name}, ", plugin, now, ("version", "names"))) or list(
                _of(f"plugin {name}, ", plugin, now, ("files",))
            )
    return drifts


def work_differences(locked: Lock, found: Lock, *, wanted: Iterable[str] = ()) -> list[Drift]:
    """What differs of stages and their checkpoints.

    Args:
        wanted: stages that must be in ``found``, whatever else is in it.
    """
    drifts = []
    for name, base in sorted(found.checkpoints.items()):
        if (known := locked.checkpoints.get(name)) is None:
            drifts.append(Drift(f"checkpoint {name}", None, base.sha256))
        else:
            drifts += _of(f"checkpoint {name}, ", known, base, ("sha256",))
    other_bases = {drift.what.removeprefix("checkpoint ").rpartition(",")[0] for drift in drifts}
    for name in sorted({*found.stages, *wanted}):
        stage, now = locked.stages.get(name), found.stages.get(name)
        if stage is None or now is None:
            plugin = (stage or now or _NOBODY).plugin
            if not plugin or (plugin in locked.plugins) == (plugin in found.plugins):
                there, here = (None if side is None else side.fingerprint for side in (stage, now))
                drifts.append(Drift(f"stage {name}", there, here))
            continue
        causes = list(_of(f"stage {name}, ", stage, now, _CAUSES))
        if not causes and locked.backend == found.backend and now.checkpoint not in other_bases:
            causes = list(_of(f"stage {name}, ", stage, now, ("fingerprint",)))
        drifts += causes
    return drifts


_NOBODY = LockedStage(fingerprint="", input_schema="", output_schema="")
_CAUSES = tuple(name for name in LockedStage.model_fields if name != "fingerprint")


def _of(place: str, locked: BaseModel, found: BaseModel, keys: Sequence[str]) -> Iterator[Drift]:
    for key in keys:
        there, here = (_text(getattr(side, key)) for side in (locked, found))
        if there != here:
            yield Drift(f"{place}{key.replace('_', ' ')}", there, here)


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value).lower()


def refuse(drifts: Sequence[Drift], path: Path) -> None:
    """Raise if anything differs.

    Raises:
        LockError: with all of it.
    """
    if drifts:
        raise LockError(
            "what would run is not what was locked",
            where=str(path),
            differences=[str(drift) for drift in drifts],
            hint=WAYS_ON,
        )


__all__ = [
    "WAYS_ON",
    "Drift",
    "Lock",
    "LockedCheckpoint",
    "LockedPlugin",
    "LockedStage",
    "differences",
    "environment_differences",
    "read",
    "refuse",
    "text_of",
    "work_differences",
]

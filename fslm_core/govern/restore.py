"""Going back: the plugins that a lock names, at the versions it names, got with the user's own pip and index."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engine.lock import Drift, Lock, LockedPlugin, read
from ..errors import LockError, shorten
from ..plugins import PluginHost
from ..plugins.core import CORE, running_core
from .locking import exchange, previous_of

Runner = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]
"""Runs a command and gives back its exit code and what it said, standard output and standard error apart."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What pip must do.

    Attributes:
        install: as ``name==version``: another version is here, or none.
        reinstall: this version is here, and its files differ.
        remove: distributions that the lock does not have.
    """

    install: tuple[str, ...] = ()
    reinstall: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()

    @property
    def commands(self) -> list[list[str]]:
        """The calls of pip, in their order."""
        pip = [sys.executable, "-m", "pip"]
        calls = [
            (self.install, ["install", *self.install]),
            (self.reinstall, ["install", "--force-reinstall", "--no-deps", *self.reinstall]),
            (self.remove, ["uninstall", "--yes", *self.remove]),
        ]
        return [[*pip, *arguments] for wanted, arguments in calls if wanted]


@dataclass(frozen=True, slots=True)
class Restored:
    """How it went.

    Attributes:
        left: what differs from the lock all the same, and pip cannot change: a setting, an adapter of the settings, a
            checkpoint.
    """

    lock: Lock
    commands: tuple[tuple[str, ...], ...]
    left: tuple[Drift, ...]


def plan(lock: Lock, host: PluginHost, path: Path) -> Plan:
    """What pip must do so that the plugins here are those of a lock.

    Args:
        path: the lock's file, for errors.

    Raises:
        LockError: a plugin was locked where pip cannot get it again: in a source tree, or as a program's own.
    """
    here = {info.distribution: info for info in host.found()}
    by_pip = {name for name, info in here.items() if host.installation(info).source != "program"}
    loaded = {name for name in by_pip if here[name].state == "loaded"}
    install: list[str] = []
    reinstall: list[str] = []
    gone: list[str] = []
    if lock.core != running_core():
        install.append(f"{CORE}=={lock.core}")
    for name, locked in sorted(lock.plugins.items()):
        version = here[name].version if name in here else None
        if version == locked.version and host.installation(here[name]).sha256() == locked.files:
            continue
        if locked.source in ("editable", "program"):
            gone.append(_cannot(name, locked, version))
        else:
            (reinstall if version == locked.version else install).append(f"{name}=={locked.version}")
    if gone:
        raise LockError(
            "not every plugin of that lock can be installed again",
            where=str(path),
            differences=gone,
            hint="check out the source as it was and run `fslm lock --check`, or build wheels of it and lock those",
        )
    others = sorted(loaded - lock.plugins.keys()) if lock.stacks is None else []
    return Plan(tuple(install), tuple(reinstall), tuple(others))


def _cannot(name: str, locked: LockedPlugin, version: str | None) -> str:
    where = "in a source tree (editable)" if locked.source == "editable" else "by a program, not by pip"
    return f"plugin {name}: locked {locked.version}, installed {where}, found {version or 'nothing'} and other files"


def install(
    path: Path, host: PluginHost, *, run: Runner | None = None, tell: Callable[[str], None] = print
) -> Restored:
    """Make what is installed equal to the lock as it stands, and let a new process look whether anything still differs.

    Args:
        path: the lock file.
        host: the plugins as they are now.
        run: runs a command; a process of its own by default.
        tell: gets each command of pip before it is run.

    Raises:
        LockError: there is no lock; a plugin of it cannot be installed again; pip failed.
    """
    lock = read(path)
    commands = _pip(lock, host, path, run or _run, tell)
    return Restored(lock, commands, _look_again(path, run or _run))


def restore(
    path: Path, host: PluginHost, *, run: Runner | None = None, tell: Callable[[str], None] = print
) -> Restored:
    """As :func:`install`, with the lock before in the place of the lock.

    pip comes first: where it fails, no file of the lock is touched. Then the two locks change places, so that the same
    command goes forward again.

    Raises:
        LockError: there is no lock before; a plugin of it cannot be installed again; pip failed.
    """
    lock = lock_before(path)
    commands = _pip(lock, host, previous_of(path), run or _run, tell)
    exchange(path)
    return Restored(lock, commands, _look_again(path, run or _run))


def _pip(
    lock: Lock, host: PluginHost, path: Path, run: Runner, tell: Callable[[str], None]
) -> tuple[tuple[str, ...], ...]:
    commands = plan(lock, host, path).commands
    for command in commands:
        tell(shlex.join(command))
        done = run(command)
        if done.returncode:
            raise LockError(
                "pip could not make the environment what it was",
                where=shlex.join(["python", *command[1:]]),
                found=_last(done),
                expected="the versions of the lock on your package index, or in a folder given with PIP_FIND_LINKS",
                hint="a wheel that came from elsewhere must be put there first; the lock is as it was",
            )
    return tuple(tuple(command) for command in commands)


def lock_before(path: Path) -> Lock:
    """The lock before the one at ``path``.

    Raises:
        LockError: there is none, or it cannot be read.
    """
    previous = previous_of(path)
    if not previous.exists():
        hint = "take the file back from version control, install what it names, and run `fslm lock --check`"
        raise LockError("there is no lock before this one", where=str(path), found=f"no {previous.name}", hint=hint)
    return read(previous)


def _look_again(path: Path, run: Runner) -> tuple[Drift, ...]:
    """What a new process finds: this one may have imported what pip replaced."""
    done = run([sys.executable, *_FRESH, "lock", "--check", "--json", "--out", str(path)])
    try:
        return tuple(Drift(**difference) for difference in json.loads(done.stdout)["differences"])
    except (ValueError, KeyError, TypeError):
        raise LockError(
            "the plugins are installed and the lock is back, but it could not be compared with what is here",
            where=str(path),
            found=_last(done),
            hint="run `fslm lock --check`",
        ) from None


_FRESH = ("-c", "import sys; from fslm_core.cli import main; sys.exit(main())")


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}  # as `fslm` runs: the working folder holds no module of ours
    return subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", env=environment)


def _last(done: subprocess.CompletedProcess[str]) -> str:
    """The line that says what went wrong: the last that is an error of pip's, else the last."""
    lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return shorten((errors or lines or ["nothing"])[-1])


__all__ = ["Plan", "Restored", "install", "lock_before", "plan", "restore"]

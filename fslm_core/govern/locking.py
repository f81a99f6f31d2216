"""The lock file: written from what is here, compared with it, and kept beside the lock before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..backends.protocol import Backend
from ..engine.here import drift, look
from ..engine.lock import Drift, Lock, differences, read, text_of
from ..errors import LockError
from ..folders import put_file
from ..plugins import PluginHost
from ..settings import Settings


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a lock file.

    Attributes:
        before: the lock that was there; None where there was none that could be read.
        changes: how the new one differs from it.
    """

    path: Path
    lock: Lock
    before: Lock | None
    changes: tuple[Drift, ...]


def previous_of(path: Path) -> Path:
    """Where the lock before the one at ``path`` is kept.

    >>> previous_of(Path("locks/fslm.lock")).as_posix()
    'locks/fslm.lock.previous'
    """
    return path.with_name(f"{path.name}.previous")


def write(path: Path, host: PluginHost, settings: Settings, backend: Backend, stacks: Sequence[str] = ()) -> Written:
    """Lock what is here. The lock that was there is kept as the one before, unless it says the same.

    Args:
        stacks: limit it to what these need; empty for everything that is loaded.

    Raises:
        UnknownNameError: there is no such stack.
        AdapterError, CheckpointUnavailableError: a stage's model is not whole, or not here.
        LockError: the file cannot be written; what was there stays.
    """
    lock = look(host, settings, backend, stacks=stacks or None)
    before = _read_if_there(path)
    if before != lock:
        try:
            if before is not None:
                put_file(previous_of(path), path.read_text(encoding="utf-8"))
            put_file(path, text_of(lock))
        except OSError as error:
            raise _unwritable(error, path) from None
    return Written(path, lock, before, tuple(differences(before, lock)) if before else ())


def check(path: Path, host: PluginHost, settings: Settings, backend: Backend) -> list[Drift]:
    """What differs here from the lock at ``path``.

    Raises:
        LockError: there is no lock file.
        AdapterError, CheckpointUnavailableError: a stage's model is not whole, or not here.
    """
    return drift(read(path), host, settings, backend)


def exchange(path: Path) -> None:
    """Put the lock before into its place, and what was there into the place of the one before.

    Raises:
        LockError: there is none, or it cannot be written.
    """
    previous = previous_of(path)
    read(previous)
    try:
        now = path.read_text(encoding="utf-8") if path.exists() else None
        put_file(path, previous.read_text(encoding="utf-8"))
        if now is not None:
            put_file(previous, now)
    except OSError as error:
        raise _unwritable(error, path) from None


def _read_if_there(path: Path) -> Lock | None:
    """A lock; None where there is none, or a file that is no lock and can therefore not be gone back to."""
    try:
        return read(path)
    except LockError:
        if path.is_dir():
            raise
        return None


def _unwritable(error: OSError, path: Path) -> LockError:
    hint = "give yourself write access, make room, or name another file with --out"
    return LockError(f"the lock file cannot be written: {error.strerror}", where=str(path), hint=hint)


__all__ = ["Written", "check", "exchange", "previous_of", "write"]

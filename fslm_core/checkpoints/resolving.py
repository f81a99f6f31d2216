"""The checkpoints on this machine: found, got once, checked on every load.

A cached folder comes into being by one rename, under a lock between processes, after every file in it was
hashed and flushed to disk; a folder that has its name is therefore whole. What a killed process leaves
behind has another name and is swept by the next that pulls.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import CheckpointCorruptError, CheckpointError, CheckpointUnavailableError
from ..settings import Settings
from .definitions import BUILT_IN, Checkpoint, Folder, ResolvedCheckpoint, find
from .fetch import carry, fetch, what_to_carry
from .folder import (
    describe,
    files_of,
    flush,
    hashes_of,
    missing_or_resized,
    read_manifest,
    require_model,
    require_promised,
    require_unchanged,
    write_manifest,
)
from .progress import Progress, silent

State = Literal["ready", "absent", "damaged"]


@dataclass(frozen=True, slots=True)
class Status:
    """One line of ``fslm models list``. ``state`` is judged by the sizes of files; ``verify`` reads them.

    Attributes:
        path: where the folder is, or will be.
        size: bytes on disk; 0 where there is nothing.
    """

    checkpoint: Checkpoint
    state: State
    path: Path
    size: int

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        return self.checkpoint.name


def resolve(
    name: str | Checkpoint,
    settings: Settings,
    *,
    extra: Mapping[str, Checkpoint] | None = None,
    progress: Progress | None = None,
    source_dir: Path | None = None,
) -> ResolvedCheckpoint:
    """Return the checkpoint's folder on this machine, getting it first where it is not here yet.

    Every file is hashed and compared the first time a process resolves it; later, one whose size and
    times are as they were is not read again.

    Args:
        name: a name (see :func:`find`) or a definition.
        settings: ``cache_dir`` and ``offline`` are read.
        extra: the checkpoints of plugins, by name.
        progress: told how far a download or conversion is; None is silent.
        source_dir: take it from this folder instead of the network.

    Raises:
        UnknownNameError: no such checkpoint.
        CheckpointUnavailableError: not in the cache and not to be had.
        CheckpointCorruptError: other bytes than the hash promises, in the cache or from the source.
        CheckpointError: a folder that is no checkpoint, or a cache that cannot be written.
    """
    checkpoint = find(name, extra) if isinstance(name, str) else name
    if isinstance(checkpoint.source, Folder):
        return _check_folder(checkpoint, checkpoint.source.path, again=False)
    place = _place(checkpoint, settings)
    if not place.is_dir():
        _get(checkpoint, settings, silent if progress is None else progress, source_dir)
    return describe(checkpoint, place, require_unchanged(checkpoint, place))


def pull(
    name: str | Checkpoint,
    settings: Settings,
    *,
    extra: Mapping[str, Checkpoint] | None = None,
    progress: Progress | None = None,
    source_dir: Path | None = None,
) -> ResolvedCheckpoint:
    """Like :func:`resolve`, but read every file again, and replace a damaged folder by a whole one."""
    checkpoint = find(name, extra) if isinstance(name, str) else name
    try:
        return verify(checkpoint, settings)
    except (CheckpointUnavailableError, CheckpointCorruptError):
        if isinstance(checkpoint.source, Folder):
            raise
    _get(checkpoint, settings, silent if progress is None else progress, source_dir)
    return verify(checkpoint, settings)


def verify(
    name: str | Checkpoint, settings: Settings, *, extra: Mapping[str, Checkpoint] | None = None
) -> ResolvedCheckpoint:
    """Read every file of a checkpoint on this machine again and compare its hash.

    Raises:
        UnknownNameError: no such checkpoint.
        CheckpointUnavailableError: it is not on this machine.
        CheckpointCorruptError: other bytes than the hash promises.
    """
    checkpoint = find(name, extra) if isinstance(name, str) else name
    folder = path(checkpoint, settings)
    if isinstance(checkpoint.source, Folder):
        return _check_folder(checkpoint, folder, again=True)
    return describe(checkpoint, folder, require_unchanged(checkpoint, folder, again=True))


def path(name: str | Checkpoint, settings: Settings, *, extra: Mapping[str, Checkpoint] | None = None) -> Path:
    """Return the checkpoint's folder on this machine, unread.

    Raises:
        UnknownNameError: no such checkpoint.
        CheckpointUnavailableError: it is not on this machine.
    """
    checkpoint = find(name, extra) if isinstance(name, str) else name
    folder = _place(checkpoint, settings)
    if not folder.is_dir():
        raise CheckpointUnavailableError(
            f"the checkpoint {checkpoint.name!r} is not on this machine",
            where=str(folder),
            found="no folder",
            hint="check the path"
            if isinstance(checkpoint.source, Folder)
            else f"run `fslm models pull {checkpoint.name}`",
        )
    return folder


def list_cached(settings: Settings, *, extra: Mapping[str, Checkpoint] | None = None) -> list[Status]:
    """Return the state of every checkpoint fslm and the plugins know, sorted by name. No weight is read."""
    known = {**(extra or {}), **BUILT_IN}
    return [_status(known[name], _place(known[name], settings)) for name in sorted(known)]


def _place(checkpoint: Checkpoint, settings: Settings) -> Path:
    if isinstance(checkpoint.source, Folder):
        return checkpoint.source.path
    return settings.cache_dir / "checkpoints" / checkpoint.folder_name


def _status(checkpoint: Checkpoint, folder: Path) -> Status:
    if not folder.is_dir():
        return Status(checkpoint, "absent", folder, 0)
    size = sum(file.stat().st_size for file in files_of(folder))
    try:
        if isinstance(checkpoint.source, Folder):
            require_model(folder, checkpoint.name)
        elif missing_or_resized(folder, read_manifest(folder)):
            return Status(checkpoint, "damaged", folder, size)
    except CheckpointError:
        return Status(checkpoint, "damaged", folder, size)
    return Status(checkpoint, "ready", folder, size)


def _check_folder(checkpoint: Checkpoint, folder: Path, *, again: bool) -> ResolvedCheckpoint:
    require_model(folder, checkpoint.name)
    hashes = hashes_of(folder, again=again)
    require_promised(checkpoint, folder, hashes)
    return describe(checkpoint, folder, hashes)


def _get(checkpoint: Checkpoint, settings: Settings, progress: Progress, source_dir: Path | None) -> None:
    """Put a whole folder in its place in the cache, unless another process just did."""
    if source_dir is None and settings.offline:
        raise CheckpointUnavailableError(
            f"the checkpoint {checkpoint.name!r} is not on this machine, and fslm is told to stay offline",
            where=str(settings.cache_dir),
            expected=f"in DIR: {what_to_carry(checkpoint)}",
            hint=f"run `fslm models pull {checkpoint.name} --from DIR`, or unset FSLM_OFFLINE",
        )
    place = _place(checkpoint, settings)
    try:
        with _locked(place, progress):
            if not _is_whole(checkpoint, place):
                _sweep(place)
                _build(checkpoint, place, progress, source_dir)
    except OSError as error:
        raise CheckpointError(
            f"the checkpoint {checkpoint.name!r} cannot be kept: {error.strerror or error}",
            where=str(place.parent),
            hint="make the folder writable, make room on its disk, or set FSLM_CACHE_DIR to another folder",
        ) from error


@contextmanager
def _locked(place: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of one cached folder against all other processes and threads."""
    from filelock import FileLock, Timeout

    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place.parent / f".{place.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress("waiting for another process", 0, None)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_whole(checkpoint: Checkpoint, place: Path) -> bool:
    try:
        require_unchanged(checkpoint, place, again=True)
    except CheckpointCorruptError:
        return False
    return True


def _sweep(place: Path) -> None:
    """Remove what killed processes left; the caller holds the lock, so nobody is using it."""
    for left in place.parent.glob(f".{place.name}-*"):
        shutil.rmtree(left, ignore_errors=True)


def _build(checkpoint: Checkpoint, place: Path, progress: Progress, source_dir: Path | None) -> None:
    work = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        new = work / "new"
        new.mkdir()
        if source_dir is None:
            fetch(checkpoint, new, work, progress)
        else:
            carry(checkpoint, source_dir, new, work, progress)
        require_model(new, checkpoint.name)
        require_promised(checkpoint, new, hashes_of(new))
        write_manifest(checkpoint, new)
        flush(new)
        if place.exists():
            place.rename(work / "old")
        new.rename(place)
        flush(place.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


__all__ = ["State", "Status", "list_cached", "path", "pull", "resolve", "verify"]

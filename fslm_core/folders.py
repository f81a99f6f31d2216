"""Files and folders as wholes: put in their place whole or not at all, and told by their hash."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Return the file's SHA-256, hex.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def put_whole(out: Path, files: Mapping[str, str]) -> None:
    """Write texts into a new folder beside ``out``, and put it there in one move; what was there goes.

    Args:
        files: path inside the folder to text, which is written as it is, in UTF-8.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    place = Path(os.path.abspath(out))  # ``.`` has no name
    if Path.cwd().is_relative_to(place):
        raise OSError(errno.EBUSY, "it is the folder that this program runs in")
    place.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        made.chmod(0o755)
        for name, text in files.items():
            (made / name).parent.mkdir(exist_ok=True)
            with (made / name).open("w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        swap(made, place)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def put_file(path: Path, content: str | bytes) -> None:
    """Write a text, in UTF-8, or bytes into the place of what is there: written whole, or what was there stays.

    Raises:
        OSError: it cannot be written.
    """
    put_files({path: content})


def put_files(files: Mapping[Path, str | bytes], *, private: bool = False) -> None:
    """Write texts, in UTF-8, or bytes into the places of what is there: all are written before the first is moved.

    Args:
        private: for their owner alone (0600); else a new file is readable for all, and an old one keeps its mode.

    Raises:
        OSError: one cannot be written; what was there stays.
    """
    made: dict[Path, str] = {}
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            handle, made[path] = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            if not private:
                os.chmod(made[path], path.stat().st_mode & 0o777 if path.exists() else 0o644)
        for path, name in made.items():
            os.replace(name, path)
    except BaseException:
        for name in made.values():
            with suppress(FileNotFoundError):
                os.unlink(name)
        raise
    for folder in {path.parent for path in files}:
        sync(folder)


def swap(made: Path, out: Path) -> None:
    """Move the folder ``made``, which lies beside ``out``, into its place; what was there goes.

    Raises:
        OSError: it cannot be moved; what was there stays.
    """
    old = out.with_name(f".{out.name}-old-{os.getpid()}")
    with suppress(FileNotFoundError):
        out.rename(old)
    try:
        made.rename(out)
    except OSError:
        with suppress(FileNotFoundError):
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sync(folder: Path) -> None:
    """Make the names in a folder safe against a power cut, where the system can."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


__all__ = ["put_file", "put_files", "put_whole", "sha256_of", "swap", "sync"]

"""The SQLite file of a trace: how it is opened, and what its errors mean.

fslm's other databases are opened by the same rules; a :class:`Kind` says what differs. What tables a trace has is in
:mod:`.tables`.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ..errors import StoreError
from .forking import Connection, inherited_nowhere, inside
from .tables import TABLES, complete, lacks

APPLICATION_ID = 0x66736C6D  # "fslm"
VERSION = 1
BUSY_SECONDS = 5.0
_LONG = f"{BUSY_SECONDS:g} seconds"


@dataclass(frozen=True, slots=True)
class Kind:
    """One of fslm's databases, and how errors speak of it.

    Attributes:
        name: as in "the trace database".
        what: what a file of this kind is, as in "not a trace of fslm".
        tables: the statements that make an empty one.
        setting: where its file is set.
        without: how to go on without it.
        anew: when a new one is made where there is none.
        nothing: what is said where there is none to read, and what to do.
    """

    name: str
    what: str
    application_id: int
    version: int
    tables: str
    setting: str
    without: str
    anew: str
    nothing: tuple[str, str]


TRACE = Kind(
    name="trace database",
    what="a trace",
    application_id=APPLICATION_ID,
    version=VERSION,
    tables=TABLES,
    setting="trace.path",
    without="set trace.on_failure = 'continue' to run without a trace",
    anew="at the next run",
    nothing=("there is no trace yet", "run a stack first: `fslm run STACK INPUT`"),
)


def connect(path: Path, *, readonly: bool, kind: Kind = TRACE) -> sqlite3.Connection:
    """Open the database at ``path``; unless ``readonly``, make it (0600, its folders 0700) where there is none.

    Raises:
        StoreError: no file to read, a folder in its place, not a database of this kind, corrupt, of a newer version,
            read-only, or locked for longer than five seconds.
    """
    if path.is_dir():
        raise StoreError(
            f"a folder stands where the {kind.name} should be", where=str(path), hint=f"set {kind.setting} to a file"
        )
    with translated(path, kind), understood(path, kind), inside:
        if readonly:
            return _reader(path, kind)
        _touch(path)
        connection = _connected(f"file:{quote(str(path))}?mode=rw")
        try:
            _writable(connection, path, kind)
        except BaseException:
            connection.close()
            raise
        return connection


@contextmanager
def translated(path: Path, kind: Kind = TRACE) -> Iterator[None]:
    """Turn what sqlite and the file system raise into a :class:`StoreError` that says what to do."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise explained(error, path, kind) from error


@contextmanager
def understood(path: Path, kind: Kind = TRACE) -> Iterator[None]:
    """Turn what comes of rows that nobody wrote so into a :class:`StoreError`: bytes of the file were changed."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, zlib.error) as error:
        what, hint = _meanings(kind)[sqlite3.SQLITE_CORRUPT]
        raise StoreError(what, where=str(path), found=f"{type(error).__name__}: {error}", hint=hint) from error


def explained(error: Exception, path: Path, kind: Kind = TRACE) -> StoreError:
    """The :class:`StoreError` for what sqlite or the file system raised."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if isinstance(error, OSError):
        code = _OF_THE_SYSTEM.get(error.errno or 0, sqlite3.SQLITE_CANTOPEN)
    unknown = (f"the {kind.name} failed: {error}", f"report it, and set {kind.setting} to another file")
    what, hint = _meanings(kind).get(code, unknown)
    return StoreError(what, where=str(path), hint=hint)


def _meanings(kind: Kind) -> dict[int, tuple[str, str]]:
    """What each of sqlite's codes means, and what to do."""
    without = kind.without.removeprefix("set ")
    elsewhere = f"set FSLM_DATA_DIR (or {kind.setting}) to a place that can be written, or {without}"
    return {
        sqlite3.SQLITE_BUSY: (
            f"another process has locked the {kind.name} for more than {_LONG}",
            f"end the program that holds it, or set {kind.setting} to another file",
        ),
        sqlite3.SQLITE_FULL: ("the disk is full", f"free some space, or {kind.without}"),
        sqlite3.SQLITE_READONLY: (
            f"the {kind.name} cannot be written",
            f"give yourself write access to the file and its folder, or {elsewhere}",
        ),
        sqlite3.SQLITE_CANTOPEN: (
            f"the {kind.name} cannot be opened",
            f"see that its folder can be made and is yours, or {elsewhere}",
        ),
        sqlite3.SQLITE_CORRUPT: (f"the {kind.name} is damaged", f"move the file away; a new one is made {kind.anew}"),
        sqlite3.SQLITE_NOTADB: (
            "the file is not a database",
            f"set {kind.setting} to another file, or move this one away",
        ),
        sqlite3.SQLITE_IOERR: (f"the disk failed under the {kind.name}", "look at the disk and its free space"),
    }


_OF_THE_SYSTEM = {
    errno.ENOSPC: sqlite3.SQLITE_FULL,
    errno.EACCES: sqlite3.SQLITE_READONLY,
    errno.EROFS: sqlite3.SQLITE_READONLY,
}


def _connected(uri: str) -> sqlite3.Connection:
    return inherited_nowhere(
        sqlite3.connect(
            uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, factory=Connection
        )
    )


def _touch(path: Path) -> None:
    missing = [folder for folder in path.parents if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
    # Only a new file: closing any descriptor of a file drops all the locks that this process holds on it (POSIX), those
    # of its open connections too, and the next process to close the database would think it unused and unlink its log.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _writable(connection: sqlite3.Connection, path: Path, kind: Kind) -> None:
    _recognise(connection, path, kind)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON", "temp_store = MEMORY"):
        connection.execute(f"PRAGMA {pragma}")
    if _is_empty(connection):
        with transaction(connection):
            if _is_empty(connection):  # nobody made it between the look and the lock
                _create(connection, kind)
    if kind is TRACE:
        _complete(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(f"PRAGMA user_version = {kind.version}")  # a read-only file shows itself when written to
    finally:
        connection.execute("ROLLBACK")


def _reader(path: Path, kind: Kind) -> sqlite3.Connection:
    what, hint = kind.nothing
    nothing = StoreError(what, where=str(path), hint=hint)
    if not path.exists():
        raise nothing
    location = f"file:{quote(str(path))}?mode=ro"
    try:
        connection = _recognised(location, path, kind)
    except sqlite3.OperationalError:  # a folder that cannot be written has no place for the shared index
        if Path(f"{path}-wal").exists():
            raise
        connection = _recognised(f"{location}&immutable=1", path, kind)
    if _is_empty(connection):
        connection.close()
        raise nothing
    return connection


def _recognised(uri: str, path: Path, kind: Kind) -> sqlite3.Connection:
    connection = _connected(uri)
    try:
        _recognise(connection, path, kind)
    except BaseException:
        connection.close()
        raise
    return connection


def _recognise(connection: sqlite3.Connection, path: Path, kind: Kind) -> None:
    """Refuse what is not ours, before anything is written to it."""
    empty = _is_empty(connection)  # asked first: whoever makes the tables sets the id in the same transaction
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != kind.application_id and not empty:
        raise StoreError(
            f"the file is a database, but not {kind.what} of fslm",
            where=str(path),
            hint=f"set {kind.setting} to another file",
        )
    if connection.execute("SELECT 1 FROM sqlite_master WHERE type IN ('view', 'trigger') LIMIT 1").fetchone():
        raise StoreError(
            f"the {kind.name} holds a program of its own, a view or a trigger, which none of fslm's does",
            where=str(path),
            hint=f"do not use it, or ask whoever gave it to you; a new one is made {kind.anew} elsewhere",
        )
    if version > kind.version:
        raise StoreError(
            f"the {kind.name} was written by a newer fslm",
            where=str(path),
            found=f"version {version}",
            expected=f"version {kind.version} or older",
            hint=f"upgrade with `python -m pip install --upgrade fslm-core`, or set {kind.setting} to another file",
        )


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def _create(connection: sqlite3.Connection, kind: Kind) -> None:
    for statement in filter(str.strip, kind.tables.split(";")):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {kind.application_id}")
    connection.execute(f"PRAGMA user_version = {kind.version}")


def _complete(connection: sqlite3.Connection) -> None:
    """Make what came later in a database that lacks it."""
    if lacks(connection):
        with transaction(connection):
            complete(connection)


@contextmanager
def transaction(connection: sqlite3.Connection, *, write: bool = True) -> Iterator[None]:
    """All or nothing; a reading one sees a single moment of the database throughout."""
    with inside:
        connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


__all__ = [
    "APPLICATION_ID",
    "BUSY_SECONDS",
    "TRACE",
    "VERSION",
    "Kind",
    "connect",
    "explained",
    "transaction",
    "translated",
    "understood",
]

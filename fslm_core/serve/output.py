"""The file a batch writes its rows to, under a lock, with a journal beside it until the batch is finished."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

from ..errors import SystemRefusedError, UsageError
from ..folders import sync
from .journal import Entry, Header, Journal, digest_of, write_whole
from .text import as_json

Mode = Literal["new", "anew", "resume"]
SYNC_SECONDS = 1.0
"""Rows reach the disk itself in groups, this often."""
LOCK_SUFFIX = ".fslm-lock"


@dataclass
class Output:
    """A JSONL file that holds whole rows only, whatever happens.

    As a context manager it holds the file's lock; :meth:`begin` opens the file. What ends the batch before
    :meth:`finish` leaves the journal in place.

    Args:
        path: the file. What is no regular file (a pipe, a device) has neither lock nor journal.
        mode: ``new`` refuses to touch a file that exists, ``anew`` overwrites it, ``resume`` continues it.

    Attributes:
        done: rows that are in the file.
        failed: how many of them are errors.
        review: how many of them wait for a person to decide.
    """

    path: Path
    mode: Mode = "new"

    def __post_init__(self) -> None:
        self.done = 0
        self.failed = 0
        self.review = 0
        self._file: BinaryIO | None = None
        self._journal: Journal | None = None
        self._open = False
        self._finished = False
        self._end = 0
        self._dirty_since: float | None = None
        self._regular = self.path.is_file() or not self.path.exists()
        self._real = self.path.resolve()
        self._beside = Journal.beside(self._real)
        self._held = ExitStack()

    def __enter__(self) -> Self:
        with self._said():
            if self._regular:
                self._real.parent.stat()  # the lock would make folders
                self._held.enter_context(_locked(self._real))
        try:
            self._look()
        except BaseException:
            self._held.close()
            raise
        return self

    def _look(self) -> None:
        """Refuse what the mode does not allow."""
        if self.mode == "resume":
            if not self._regular:
                raise UsageError("only a file can be resumed", where=str(self.path), hint="choose another --out")
            if self.path.exists() and not self._beside.exists():
                raise UsageError(
                    "there is nothing to resume: the output has no journal, so its batch is finished, or it is not"
                    " the output of a batch",
                    where=str(self.path),
                    expected=f"a journal at {self._beside}",
                    hint="choose another --out, or pass --force to overwrite it",
                )
        elif self.mode == "new" and self._beside.exists():
            raise UsageError(
                "the output is of a batch that did not end",
                where=str(self.path),
                hint="run the same command with --resume to continue it, or with --force to begin anew",
            )
        elif self.mode == "new" and self.path.exists():
            raise UsageError(
                "the output file exists",
                where=str(self.path),
                hint="choose another --out, or pass --force to overwrite it",
            )

    def begin(self, header: Header) -> None:
        """Open the file: empty, or with the rows of the batch that is resumed.

        Raises:
            UsageError: the batch that is resumed is another one, or its files were changed since.
            SystemRefusedError: the file or its journal cannot be read or written.
        """
        with self._said():
            if self.mode == "resume" and self._beside.exists():
                self._continue(header)
                return
            if self._regular:
                self._journal = Journal.create(self._beside, header)
            self._file = self.path.open("wb", buffering=0)
            self._open = True
            if self._regular:
                sync(self._real.parent)

    def inputs(self) -> Iterator[str]:
        """The digest of the input line of each row that was done when the file was opened."""
        if self._journal is not None:
            for entry in islice(self._journal.entries(), self.done):
                yield entry.input

    def _continue(self, header: Header) -> None:
        self._journal = journal = Journal.reopen(self._beside)
        _require_same(header, journal.header, self.path)
        synced = journal.synced()
        if not self.path.exists() and synced:
            raise UsageError("the output of the batch is gone", where=str(self.path), hint="pass --force to begin anew")
        self._file = self.path.open("r+b" if self.path.exists() else "w+b", buffering=0)
        after = None
        for entry in self._whole(journal):
            self.done += 1
            self.failed += entry.failed
            self.review += entry.review
            self._end, after = entry.end, entry.after
        if self.done < synced:
            raise UsageError(
                "the output was changed since the batch wrote it",
                where=f"{self.path}, row {self.done}",
                hint="put the file back as it was, or pass --force to begin anew",
            )
        journal.cut(after)
        self._file.truncate(self._end)
        self._file.seek(self._end)
        self._open = True
        if self.done:
            self._sync()

    def _whole(self, journal: Journal) -> Iterator[Entry]:
        """The rows that are in the file as they were written."""
        with self.path.open("rb") as file:
            for entry, line in zip(journal.entries(), file, strict=False):
                if digest_of(line) != entry.output:
                    return
                yield entry

    def write(self, row: dict[str, Any], *, input: str, failed: bool, review: bool = False) -> None:
        """Append one row; it is in the file when this returns, and on the disk within about a second.

        Args:
            input: the digest of the row's line in the input.

        Raises:
            SystemRefusedError: the disk is full, or failed.
        """
        assert self._file is not None
        line = as_json(row, indent=None).encode() + b"\n"
        with self._said():
            if self._journal is not None:
                self._journal.add(input, self._end + len(line), digest_of(line), failed=failed, review=review)
            self._end += write_whole(self._file, line)
        self.done += 1
        self.failed += failed
        self.review += review
        if self._dirty_since is None:
            self._dirty_since = time.monotonic()

    def tend(self) -> None:
        """Bring to the disk what has waited long enough."""
        if self._dirty_since is not None and time.monotonic() - self._dirty_since >= SYNC_SECONDS:
            with self._said():
                self._sync()

    def _sync(self) -> None:
        """The journal first: a row that is on the disk without its entry would be taken for a stranger's."""
        if self._journal is not None and self._file is not None:
            self._journal.sync()
            os.fsync(self._file.fileno())
            self._journal.mark(self.done)
        self._dirty_since = None

    def finish(self) -> None:
        """Every row is written: bring all to the disk, and take the journal away.

        Raises:
            SystemRefusedError: the disk failed.
        """
        with self._said():
            self._sync()
        self._finished = True

    def __exit__(self, *_: object) -> None:
        try:
            if self._file is not None:
                if self._open:  # else it was refused, and is left as it is
                    self._settle()
                self._file.close()
            if self._journal is not None:
                with self._said():
                    self._journal.close(finished=self._finished)
        finally:
            self._held.close()

    def _settle(self) -> None:
        """Leave whole rows only, on the disk; where the system refuses even that, the next who resumes mends it."""
        assert self._file is not None
        with suppress(OSError):
            if self._regular:
                self._file.truncate(self._end)
            if self._dirty_since is not None:
                self._sync()

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Turn what the system refuses into an error that says how to go on."""
        try:
            yield
        except OSError as error:
            begun = self._beside.exists()
            raise SystemRefusedError(
                f"the output cannot be written: {error.strerror or error}",
                where=str(self.path),
                found=f"{self.done} rows are written" if begun else None,
                hint="mend that, then run the same command with --resume"
                if begun
                else "choose another --out, or make its folder, room on its disk, and the right to write there",
            ) from error


def _require_same(now: Header, began: Header, path: Path) -> None:
    found = list(now.differences(began))
    if found:
        raise UsageError(
            "this is not the batch that was begun: "
            + ", ".join(name for name, _, _ in found)
            + " differ"
            + ("s" if len(found) == 1 else ""),
            where=str(path),
            found="; ".join(f"{name} {here}" for name, here, _ in found),
            expected="; ".join(f"{name} {there}" for name, _, there in found),
            hint="resume it as it was begun, or choose another --out, or pass --force to begin anew",
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the output against other batches; the kernel lets go of it when the process ends, however that is."""
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(path.name + LOCK_SUFFIX), blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(
            "another batch writes to this output", where=str(path), hint="wait for it, or choose another --out"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(lock.lock_file)  # while it is held, lest another's be taken away
        lock.release()


__all__ = ["LOCK_SUFFIX", "SYNC_SECONDS", "Mode", "Output"]

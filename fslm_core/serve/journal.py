"""The journal beside an unfinished batch: what the batch is, and which rows it has written.

The first line is the header, a JSON object. Each further line is a row, ``<input> <end> <output> <verdict>``, or a
mark, ``synced <rows>``. ``input`` and ``output`` are digests of the row's two lines, ``end`` is where it ends in the
output. A row is in the journal before it is in the output, so every whole line of the output is known here; up to the
last mark both files are on the disk, whatever becomes of the machine.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..errors import UsageError
from ..folders import sync
from ..store.database import translated
from ..store.privacy import Key

SUFFIX = ".fslm-batch"
FORMAT = 1
_DIGEST_BYTES = 12
_SYNCED = b"synced"
_DONE, _FAILED, _REVIEW = "done", "failed", "review"

Digest = Callable[[bytes], str]


def digest_of(line: bytes) -> str:
    """What the journal keeps of a line: its SHA-256, cut to 96 bits, in hex."""
    return hashlib.sha256(line).hexdigest()[: 2 * _DIGEST_BYTES]


def keyed_digest(database: Path) -> tuple[Digest, str]:
    """A digest that cannot be guessed without the key beside the trace database, and a name for that key.

    Raises:
        StoreError: the key is damaged, or cannot be made.
    """
    with translated(database):
        key = Key.beside(database)

    def keyed(line: bytes) -> str:
        return key.hash("batch", line.decode("latin-1"))[: 2 * _DIGEST_BYTES]

    return keyed, key.hash("batch")[: 2 * _DIGEST_BYTES]


@dataclass(frozen=True)
class Header:
    """What a batch is: where any of this differs, it is another batch.

    Attributes:
        stack: its name.
        steps: for each step what decides its messages: fingerprint and backend; ``wiring`` for how they are tied.
        seed: of every row's run.
        content: what of sensitive fields is written: ``full``, ``redacted`` or ``none``.
        sensitive: they are written in clear all the same.
        key: names the key that the digests of input rows are made with, or is empty.
    """

    stack: str
    steps: Mapping[str, str]
    seed: int
    content: str
    sensitive: bool
    key: str

    def line(self) -> bytes:
        """The journal's first line."""
        return json.dumps({"fslm_batch": FORMAT, **self.__dict__}, sort_keys=True).encode() + b"\n"

    def differences(self, began: Header) -> Iterator[tuple[str, object, object]]:
        """What differs from the batch that was begun: the name of it, then here, then there."""
        for name in ("stack", "seed", "content", "sensitive"):
            if (here := getattr(self, name)) != (there := getattr(began, name)):
                yield name, here, there
        if self.stack == began.stack:
            for step in sorted({*self.steps, *began.steps}):
                if (now := self.steps.get(step)) != (then := began.steps.get(step)):
                    yield _called(step), now or "none", then or "none"
        if self.key != began.key and self.content == began.content:
            yield "the trace database's key", self.key or "none", began.key or "none"


def _called(step: str) -> str:
    return "the stack's wiring" if step == WIRING else f"fingerprint of step {step}"


WIRING = "wiring of the stack"
"""Stands among the steps; no step's name has spaces."""


class Entry(NamedTuple):
    """One row of the journal."""

    input: str
    end: int
    output: str
    failed: bool
    after: int
    """Where the entry itself ends in the journal."""
    review: bool = False


class Journal:
    """An open journal. Make it with :meth:`create` or :meth:`reopen`."""

    def __init__(self, path: Path, header: Header, file: BinaryIO) -> None:
        self.path = path
        self.header = header
        self._file = file
        self._end = file.seek(0, os.SEEK_END)

    @staticmethod
    def beside(output: Path) -> Path:
        """Where the journal of this output is."""
        return output.with_name(output.name + SUFFIX)

    @classmethod
    def create(cls, path: Path, header: Header) -> Journal:
        """Put a new journal in place, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        fresh = path.with_name(f"{path.name}.new")
        try:
            with fresh.open("wb") as file:
                file.write(header.line())
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except OSError:
            with suppress(OSError):
                fresh.unlink()
            raise
        sync(path.parent)
        return cls(path, header, path.open("r+b", buffering=0))

    @classmethod
    def reopen(cls, path: Path) -> Journal:
        """Open a journal that an earlier process left.

        Raises:
            UsageError: it is damaged, or of a newer version.
            OSError: it cannot be read or written.
        """
        file = path.open("r+b", buffering=0)
        try:
            return cls(path, _header(file, path), file)
        except BaseException:
            file.close()
            raise

    def entries(self) -> Iterator[Entry]:
        """Every row, in order, up to the first line that is cut short or garbled."""
        with self.path.open("rb") as file:
            after = len(file.readline())
            for line in file:
                after += len(line)
                if not line.endswith(b"\n"):
                    return
                if line.startswith(_SYNCED):
                    continue
                try:
                    input, end, output, verdict = line.decode("ascii").split()
                    yield Entry(input, int(end), output, verdict == _FAILED, after, verdict == _REVIEW)
                except ValueError:
                    return

    def synced(self) -> int:
        """How many rows are known to be on the disk."""
        rows = 0
        with self.path.open("rb") as file:
            for line in file:
                if line.startswith(_SYNCED) and line.endswith(b"\n"):
                    rows = int(line.split()[1])
        return rows

    def cut(self, after: int | None) -> None:
        """Forget what comes after the entry that ends here; None forgets every row."""
        self._file.seek(0)
        self._end = len(self.header.line()) if after is None else after
        self._file.truncate(self._end)
        self._file.seek(self._end)

    def add(self, input: str, end: int, output: str, *, failed: bool, review: bool = False) -> None:
        """Note a row that is about to be written: an output, an error, or a question for a person."""
        verdict = _FAILED if failed else _REVIEW if review else _DONE
        self._write(f"{input} {end} {output} {verdict}\n".encode())

    def sync(self) -> None:
        """Bring what is noted to the disk."""
        os.fsync(self._file.fileno())

    def mark(self, rows: int) -> None:
        """Note that this many rows are on the disk."""
        self._write(b"%s %d\n" % (_SYNCED, rows))

    def _write(self, line: bytes) -> None:
        self._end += write_whole(self._file, line)

    def close(self, *, finished: bool) -> None:
        """Close it; a finished batch leaves none."""
        if not finished:
            with suppress(OSError):
                self._file.truncate(self._end)  # an entry that the disk took only a part of
        self._file.close()  # first: Windows takes away no file that is open
        if finished:
            self.path.unlink()
            sync(self.path.parent)


def _header(file: BinaryIO, path: Path) -> Header:
    try:
        data: dict[str, Any] = json.loads(file.readline())
        version = data.pop("fslm_batch")
        if version != FORMAT:
            raise UsageError(
                "the unfinished batch was begun by another version of fslm",
                where=str(path),
                found=f"journal format {version}",
                expected=f"journal format {FORMAT}",
                hint="continue it with the version that began it, or pass --force to begin anew",
            )
        return Header(**data)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UsageError(
            "the journal of the unfinished batch is damaged",
            where=str(path),
            hint="pass --force to begin anew, or choose another --out",
        ) from None


def write_whole(file: BinaryIO, line: bytes) -> int:
    """Write to an unbuffered file until all of it is there; returns its length."""
    left = line
    while left:
        left = left[file.write(left) :]
    return len(line)


__all__ = [
    "SUFFIX",
    "WIRING",
    "Digest",
    "Entry",
    "Header",
    "Journal",
    "digest_of",
    "keyed_digest",
    "write_whole",
]

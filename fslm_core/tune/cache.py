"""What was written once and need not be written again: lines of a file, by key, kept as they come."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import TrainError
from ..schema import dumps, loads

Json = dict[str, Any]


class Kept:
    """A file of JSON objects, each with a ``key``; of one key the last counts. Safe from any thread.

    What a killed process had half written is cut off. Nothing is ever taken out: what belongs to another recipe is
    there when that recipe is tried again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._lines: list[Json] = []
        self._by_key: dict[str, Json] = {}
        raw = path.read_bytes() if path.is_file() else b""
        whole, end, rest = raw.rpartition(b"\n")
        if rest:
            os.truncate(path, len(whole) + len(end))
        for line in whole.splitlines():
            self._take(loads(line))

    def __iter__(self) -> Iterator[Json]:
        return iter(self._lines)

    def get(self, key: str) -> Json | None:
        """What was kept under this key."""
        return self._by_key.get(key)

    def put(self, entry: Json) -> None:
        """Keep an entry; it is on the disk when this returns.

        Raises:
            TrainError: it cannot be written; what was kept before stays.
        """
        line = dumps(entry).encode() + b"\n"
        with self._lock:
            size = self.path.stat().st_size if self.path.is_file() else 0
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("ab") as file:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                if self.path.is_file():
                    os.truncate(self.path, size)
                raise TrainError(
                    f"what was written cannot be kept: {error.strerror}",
                    where=str(self.path),
                    hint="free space or give yourself write access, then run the same command again",
                ) from None
            self._take(entry)

    def _take(self, entry: Json) -> None:
        self._lines.append(entry)
        self._by_key[entry["key"]] = entry


__all__ = ["Kept"]

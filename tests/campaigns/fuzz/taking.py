"""From random bytes to choices, numbers and texts, so that a mutation of the bytes is a mutation of the thing made."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

T = TypeVar("T")


class Taken:
    """A cursor over random bytes; where they end, everything is nought."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def bytes(self, count: int) -> bytes:
        """Take at most ``count`` bytes."""
        taken = self._data[self._at : self._at + count]
        self._at += len(taken)
        return taken

    def number(self, most: int) -> int:
        """Take a number from 0 to ``most``."""
        size = (most.bit_length() + 7) // 8
        return int.from_bytes(self.bytes(size)) % (most + 1)

    def one_of(self, things: Sequence[T]) -> T:
        """Take one of ``things``."""
        return things[self.number(len(things) - 1)]

    def text(self, most: int = 60) -> str:
        """Take a text of at most ``most`` bytes; half of a surrogate pair may be in it."""
        return decode(self.bytes(self.number(most)))

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._at

    def rest(self) -> bytes:
        """Take what is left."""
        return self.bytes(self.left)


def decode(data: bytes) -> str:
    """Bytes as text, lone surrogates among it."""
    return data.decode("utf-8", "surrogatepass" if b"\xed" in data else "replace") if _is_text(data) else _latin(data)


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _latin(data: bytes) -> str:
    return data.decode("latin-1")


def parts(*pieces: bytes) -> bytes:
    """Several files as one input; :func:`apart` takes them out again."""
    return b"".join(len(piece).to_bytes(3) + piece for piece in pieces)


def apart(data: bytes, count: int) -> list[bytes]:
    """``count`` files out of one input."""
    taken = Taken(data)
    return [taken.bytes(int.from_bytes(taken.bytes(3))) for _ in range(count - 1)] + [taken.rest()[3:]]


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="fslm-fuzz-")


def scratch(name: str) -> Path:
    """A folder of this process's own, which goes when it ends."""
    folder = Path(_folder().name) / name
    folder.mkdir(exist_ok=True)
    return folder


def mutate(data: bytes, words: Sequence[bytes], dice: random.Random) -> bytes:
    """Change, cut, double or mix in a few bytes or words."""
    made = bytearray(data)
    for _ in range(dice.randint(1, 6)):
        at = dice.randint(0, len(made))
        upto = min(len(made), at + dice.choice((1, 1, 2, 4, 8, 32)))
        match dice.randint(0, 6):
            case 0:
                made[at:at] = dice.randbytes(dice.choice((1, 2, 4, 8)))
            case 1:
                del made[at:upto]
            case 2:
                made[at:at] = made[at:upto] * dice.choice((1, 2, 50))
            case 3 | 4 if words:
                made[at:at] = dice.choice(words)
            case 5:
                made[at:upto] = dice.choice((b"\0", b"\xff", b"\x7f")) * (upto - at)
            case _:
                made[at:upto] = dice.randbytes(upto - at)
    return bytes(made[: 1 << 20])


__all__ = ["Taken", "apart", "decode", "mutate", "parts", "scratch"]

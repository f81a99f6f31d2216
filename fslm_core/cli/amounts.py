"""Ages, moments and sizes as people write them on the command line."""

from __future__ import annotations

import re
import time
from datetime import datetime

from ..errors import UsageError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def seconds_of(age: str, where: str) -> float:
    """The seconds of an age such as ``30d``.

    >>> seconds_of("90m", "--older-than")
    5400.0
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhdw])", age.strip())
    if found is None:
        raise UsageError(
            "the age is not a number with a unit",
            where=where,
            found=age,
            expected="a number and s, m, h, d or w",
            hint="write 30d for thirty days",
        )
    return float(found[1]) * _SECONDS[found[2]]


def moment_of(text: str, where: str, now: float | None = None) -> float:
    """The moment, in Unix seconds, that is an age ago, or a day or a time of it as ISO 8601 writes it.

    Args:
        now: what an age counts back from; this very moment if left out.
    """
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        pass
    try:
        return (time.time() if now is None else now) - seconds_of(text, where)
    except UsageError as error:
        raise UsageError(
            "that is no moment",
            where=where,
            found=text,
            expected="an age, a day or a time: 2d, 2026-11-22, 2026-11-22T15:30",
            hint="write 2d for the last two days",
        ) from error


def bytes_of(size: str, where: str) -> int:
    """The bytes of a size such as ``2GB``: kB is 1,000 bytes, KiB is 1,024.

    >>> bytes_of("1.5 MB", "--larger-than"), bytes_of("1KiB", "--larger-than")
    (1500000, 1024)
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?) ?([kmgt]i?)?b?", size.strip().lower())
    if found is None:
        raise UsageError(
            "the size is not a number with a unit",
            where=where,
            found=size,
            expected="a number and B, kB, MB, GB or TB, or KiB, MiB, GiB or TiB",
            hint="write 2GB",
        )
    return int(float(found[1]) * _BYTES[found[2] or ""])


__all__ = ["bytes_of", "moment_of", "seconds_of"]

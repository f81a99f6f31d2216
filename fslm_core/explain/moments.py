"""Ages and moments as people write them."""

from __future__ import annotations

import re
import time
from datetime import datetime

from ..errors import UsageError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


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


def minute(moment: float) -> str:
    """A moment to the minute, local time; its Unix seconds where it lies beyond what a calendar tells."""
    try:
        return datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return f"{moment:,.0f} s"


__all__ = ["minute", "moment_of", "seconds_of"]

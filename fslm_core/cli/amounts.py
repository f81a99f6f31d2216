"""Sizes as people write them on the command line."""

from __future__ import annotations

import re

from ..errors import UsageError

_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


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


__all__ = ["bytes_of"]

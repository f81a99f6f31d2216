"""Packages that only an extra of fslm-core brings: asked for before they are used."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec

from .errors import MissingExtraError


def require(packages: Iterable[str], *, extra: str, what: str) -> None:
    """Make sure that ``packages`` can be imported, without importing them.

    Args:
        extra: the extra that brings them.
        what: what needs them, as the subject of a sentence.

    Raises:
        MissingExtraError: one or more are not installed.

    >>> require(["json"], extra="data", what="reading rows")
    """
    if missing := [name for name in packages if find_spec(name) is None]:
        raise MissingExtraError(
            f"{what} needs packages that are not installed",
            where=sys.executable,
            found="without " + ", ".join(missing),
            hint=f"run `python -m pip install 'fslm-core[{extra}]'` with this Python",
        )


__all__ = ["require"]

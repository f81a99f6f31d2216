"""What the testing kit needs beside fslm itself: the extra ``[testing]``."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from ..errors import MissingExtraError

PACKAGES = ("hypothesis", "pytest", "yaml")


def require(packages: tuple[str, ...] = PACKAGES) -> None:
    """Make sure that ``packages`` can be imported, without importing them.

    Raises:
        MissingExtraError: one or more are not installed.
    """
    if missing := [name for name in packages if find_spec(name) is None]:
        raise MissingExtraError(
            "the testing kit needs packages that are not installed",
            where=sys.executable,
            found="without " + ", ".join(missing),
            hint="run `python -m pip install 'fslm-core[testing]'` with this Python",
        )


__all__ = ["PACKAGES", "require"]

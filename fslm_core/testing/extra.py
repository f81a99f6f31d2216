"""What the testing kit needs beside fslm itself: the extra ``[testing]``."""

from __future__ import annotations

from .. import extras

PACKAGES = ("hypothesis", "pytest", "yaml")


def require(packages: tuple[str, ...] = PACKAGES) -> None:
    """Make sure that ``packages`` can be imported, without importing them.

    Raises:
        MissingExtraError: one or more are not installed.
    """
    extras.require(packages, extra="testing", what="the testing kit")


__all__ = ["PACKAGES", "require"]

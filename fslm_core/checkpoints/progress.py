"""How long work tells how far it is. The library is silent; the command line passes a bar."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called often, from the thread that does the work.

    ``what`` names the phase ("waiting", "downloading", "unpacking", "converting"), ``done`` and ``total`` are
    bytes; ``total`` is None while nobody knows.
    """

    def __call__(self, what: str, done: int, total: int | None) -> None: ...


def silent(what: str, done: int, total: int | None) -> None:
    """Say nothing."""


__all__ = ["Progress", "silent"]

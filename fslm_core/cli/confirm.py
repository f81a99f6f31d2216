"""The question before something is forgotten for good."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from ..errors import UsageError
from .screen import clean

_SHOWN = 5


def confirm_forgetting(ids: Sequence[str], count: str, *, where: str) -> None:
    """Ask whoever is at the terminal; the command ends if the answer is no.

    Args:
        ids: what is to be forgotten.
        count: how many of what, as ``3 runs``.
        where: the command, for the error's text.

    Raises:
        UsageError: nobody is at a terminal.
    """
    if not _at_terminal():
        raise UsageError(
            "nobody is there to be asked",
            where=where,
            found=f"{count} to forget",
            hint="pass --yes if you mean it; nothing was forgotten",
        )
    named = ", ".join(ids[:_SHOWN]) + (", …" if len(ids) > _SHOWN else "")
    typer.confirm(f"Forget {count} for good ({clean(named)})?", abort=True, err=True)


def _at_terminal() -> bool:
    return sys.stdin.isatty()


__all__ = ["confirm_forgetting"]

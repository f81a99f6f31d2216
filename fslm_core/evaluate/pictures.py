"""What the pictures of evaluations share: how they look, and that a file is written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..folders import put_file

SETTINGS: Any = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "legend.frameon": False,
    "text.parse_math": False,
}


def png(figure: Any) -> bytes:
    """A matplotlib figure as PNG, the same bytes each time."""
    out = BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def write(draw: Callable[[], bytes], path: Path) -> None:
    """Write a picture.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        put_file(path, draw())
    except OSError as error:
        raise UsageError(
            f"the plot cannot be written: {error.strerror or error}", where=str(path), hint="name another file"
        ) from None


__all__ = ["SETTINGS", "png", "write"]

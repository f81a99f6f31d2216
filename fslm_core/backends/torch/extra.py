"""What the in-process backend needs beside fslm itself: the extra ``[torch]``."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

from ... import extras

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "peft", "llguidance", "numpy")


@cache
def require(packages: tuple[str, ...] = PACKAGES) -> None:
    """Make sure that ``packages`` can be imported, also where nothing can be written, without importing them.

    Raises:
        MissingExtraError: one or more are not installed.
    """
    extras.require(packages, extra="torch", what="running models in process")
    _spare_the_compiler()


def _spare_the_compiler() -> None:
    """Let torch be imported where there is no temporary folder.

    transformers imports torch's compiler, which makes itself a folder at once, and which nothing here uses. Given one
    that is there already it makes none.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(__file__).parent))


__all__ = ["PACKAGES", "require"]

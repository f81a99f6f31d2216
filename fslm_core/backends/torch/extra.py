"""What the in-process backend needs beside fslm itself: the extra ``[torch]``."""

from __future__ import annotations

import os
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ...errors import MissingExtraError

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "peft", "llguidance", "numpy")


@cache
def require(packages: tuple[str, ...] = PACKAGES) -> None:
    """Make sure that ``packages`` can be imported, also where nothing can be written, without importing them.

    Raises:
        MissingExtraError: one or more are not installed.
    """
    if missing := [name for name in packages if find_spec(name) is None]:
        raise MissingExtraError(
            "running models in process needs packages that are not installed",
            where=sys.executable,
            found="without " + ", ".join(missing),
            hint="run `python -m pip install 'fslm-core[torch]'` with this Python",
        )
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

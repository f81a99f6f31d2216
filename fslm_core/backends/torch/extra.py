"""What the in-process backend needs beside fslm itself: the extra ``[torch]``."""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import find_spec

from ...errors import MissingExtraError

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "peft", "llguidance", "numpy")


@cache
def require(packages: tuple[str, ...] = PACKAGES) -> None:
    """Make sure that ``packages`` can be imported, without importing them.

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


__all__ = ["PACKAGES", "require"]

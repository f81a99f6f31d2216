"""What the in-process backend needs beside fslm itself: the extra ``[torch]``."""

from __future__ import annotations

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
            found="without " + ", ".join(missing),
            hint="pip install 'fslm-core[torch]'",
        )


__all__ = ["PACKAGES", "require"]

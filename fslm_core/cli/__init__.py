"""The command line: ``fslm``. Importing this imports nothing; :func:`main` does, so that an early Ctrl-C is tidy."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> int:
    """Run ``fslm`` and return its exit code (see :data:`fslm_core.cli.root.EXIT_CODES`).

    Args:
        args: what follows ``fslm``; the process's own arguments by default.
    """
    try:
        from .root import run

        return run(list(sys.argv[1:] if args is None else args))
    except KeyboardInterrupt:
        return 130


__all__ = ["main"]

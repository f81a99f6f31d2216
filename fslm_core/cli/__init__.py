"""The command line: ``fslm``. Importing this imports nothing; :func:`main` does, so that an early Ctrl-C is tidy."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> int:
    """Run ``fslm`` and return its exit code (see :data:`fslm_core.cli.root.EXIT_CODES`).

    Args:
        args: what follows ``fslm``; the process's own arguments by default.
    """
    own_process = args is None
    given = list(sys.argv[1:] if args is None else args)
    try:
        from .root import run

        return run(given)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # run() tells every error itself: this one kept it from being imported
        if "--debug" in given:
            raise
        print(_NO_START.format(type(error).__name__, error), file=sys.stderr)
        return 70
    finally:
        if own_process:  # nothing is left to interrupt, and Python would show where it was
            signal.signal(signal.SIGINT, signal.SIG_IGN)


_NO_START = """\
error[internal] fslm: the command line cannot start: {}: {}
  next: install it again, `python -m pip install --force-reinstall fslm-core`; `fslm --debug` shows where"""


__all__ = ["main"]

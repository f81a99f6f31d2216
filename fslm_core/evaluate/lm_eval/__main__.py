"""lm-eval's own command line, with the model ``fslm`` in it."""

from __future__ import annotations

import sys

from ...errors import FslmError
from . import register


def main() -> int:
    """Run it; what fslm has to complain of is told without a traceback."""
    try:
        register()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except FslmError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

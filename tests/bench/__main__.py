"""``python -m tests.bench``."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        from .worker import main as worker

        worker(sys.argv[2])

"""``python -m tests.bench``: compare engines, or one of the other programs (``agree``, ``soak``, ``memory``)."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from importlib import import_module

PROGRAMS = {"agree": "agree", "soak": "soak", "memory": "memory"}


def main(arguments: list[str]) -> int:
    """Run the program that the first argument names, else the comparison. The exit code is 0 where all is well."""
    name = arguments[0] if arguments else ""
    if name == "worker":
        from .worker import main as work

        work(arguments[1])
        return 0
    if name == "rates":
        from .machine import measure_here

        measure_here([int(core) for core in arguments[1].split(",")])
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # workers that stand still must be ended, not left
    module = PROGRAMS.get(name, "compare")
    program: Callable[[list[str]], int] = import_module(f".{module}", __package__).main
    from .problems import BenchError

    try:
        return program(arguments[1:] if name in PROGRAMS else arguments)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

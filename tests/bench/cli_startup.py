"""How long ``fslm --help`` and ``fslm list`` take: ``python tests/bench/cli_startup.py [ROUNDS]``.

Each is run in a process of its own with whatever plugins are installed; the first round is not counted. The bounds are
those of the project, 0.4 s for ``--help`` and 1 s for ``list`` on an idle machine. ``--help`` with plugins loaded is
measured beside them: it says why the verbs of plugins are not listed there.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time

CASES = {
    "fslm --help": "from fslm_core.cli import main; main(['--help'])",
    "fslm list": "from fslm_core.cli import main; main(['list'])",
    "fslm --help, plugins loaded": (
        "from fslm_core.cli.session import Session; Session().host.commands;"
        " from fslm_core.cli import main; main(['--help'])"
    ),
    "python -c pass": "pass",
}


def seconds(code: str) -> tuple[float, float]:
    """Wall-clock seconds and processor seconds of one process."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main(rounds: int) -> None:
    """Print the median and the extremes of each case as one line of JSON."""
    for name, code in CASES.items():
        seconds(code)
        taken, worked = zip(*(seconds(code) for _ in range(rounds)), strict=True)
        figures = {"median": statistics.median(taken), "min": min(taken), "max": max(taken)}
        figures["processor_median"] = statistics.median(worked)
        print(json.dumps({"case": name, "rounds": rounds, **{key: round(value, 3) for key, value in figures.items()}}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 11)

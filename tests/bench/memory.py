"""Peak memory of a stack of three stages at each precision, and what a fourth adapter adds.

    python -m tests.bench memory --data DIR --engines 'generic,fused-*'

Each engine, in a process of its own, loads support, answers rows alone and 32 at once, and is measured: the kernel's
high-water mark of the whole process, client and libraries included. Then the one-stage control, whose adapter is a
fourth, is run in the same engine, and it is measured again. The exit code is 0 if every precision of ours but float32
stays within 1.1 GB (1049 MiB) and no fourth adapter adds more than 30 MB.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .compare import cores_of, data_of, shared_options, torch_of
from .engines import chosen
from .pilot import Pilot
from .problems import BenchError
from .worker import Job
from .workloads import WORKLOADS

PEAK_MB = 1.1e9 / 2**20
FOURTH_MB = 30e6 / 2**20
"""The bounds are given in powers of ten, the kernel counts in powers of two."""
Json = dict[str, Any]


def measure(pilot: Pilot, inputs: list[Json], rows: int) -> Json:
    """Load, work, measure; a fourth adapter, work, measure again. MiB."""
    pilot.call("load")
    loaded = pilot.call("memory")
    pilot.call("ask", inputs=inputs[:rows], concurrency=1)
    pilot.call("ask", inputs=inputs[: 4 * rows], concurrency=32)
    three = pilot.call("memory")
    pilot.call("also", workload="control", inputs=inputs[:2])
    four = pilot.call("memory")
    return {
        "loaded": loaded["peak_rss_mb"],
        "peak": three["peak_rss_mb"],
        "settled": three["rss_mb"],
        "fourth": four["rss_mb"] - three["rss_mb"],
        "fourth_peak": four["peak_rss_mb"] - three["peak_rss_mb"],
    }


def main(arguments: list[str]) -> int:
    """Measure; 0 if the bounds are kept."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared_options(parser)
    parser.add_argument("--engines", default="generic,fused-*")
    parser.add_argument("--rows", type=int, default=16, help="rows asked alone; four times as many together")
    asked = parser.parse_args(arguments)
    inputs = [row.input for row in WORKLOADS["support"].rows(data_of(asked), 0).timing[: 4 * asked.rows]]
    found: list[Json] = []
    with tempfile.TemporaryDirectory(prefix="fslm-memory-") as folder:
        for engine in chosen(asked.engines):
            torch = torch_of(asked) if engine.torch.get("executor") == "fused" else {}
            try:
                with Pilot(Job(engine, "support", cores_of(asked), torch), Path(folder)) as pilot:
                    found.append({"engine": engine.name, **measure(pilot, inputs, asked.rows)})
            except BenchError as error:
                print(f"{engine.name} is left out: {error}", file=sys.stderr)
    table = Table(title="MiB", title_justify="left")
    for name in ("engine", "loaded", "peak", "settled", "fourth", "fourth_peak"):
        table.add_column(name, justify="left" if name == "engine" else "right")
    for line in found:
        table.add_row(*(value if isinstance(value, str) else f"{value:.0f}" for value in line.values()))
    Console(width=120).print(table)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if found and all(map(kept, found)) else 1


def kept(line: Json) -> bool:
    """Whether an engine keeps the bounds; ``generic`` and float32 are held to none.

    >>> kept({"engine": "fused-int8", "peak": 900.0, "fourth": 12.0}), kept({"engine": "generic", "peak": 2000.0})
    (True, True)
    """
    free = not line["engine"].startswith("fused") or line["engine"].endswith("float32")
    return free or (line["peak"] <= PEAK_MB and line["fourth"] <= FOURTH_MB)


__all__ = ["kept", "main", "measure"]

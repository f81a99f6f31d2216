"""Measure what the tour stack costs on this machine: memory, latency and rows a minute.

    python tests/bench/support_costs.py [--rows 64] [--rounds 3]

Prints a Markdown table of medians. ``fslm run`` is measured as a whole process, the rest in an engine that is warm.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from fslm_core import Engine

SENTENCES = (
    "I was charged twice for order 00123842, please give me my money back",
    "how do I cancel purchase XK-20977?",
    "can you tell me where my parcel is",
    "i forgot my password and cant get in",
    "I want to speak to a person",
    "send me the invoice from Anna Petrov please",
    "what will the weather be like tomorrow",
    "do you deliver to Lyon",
)


def process() -> tuple[float, float]:
    """Return (seconds, peak MiB) of one `fslm run`."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "fslm_core", "run", "support", SENTENCES[0]], check=True, capture_output=True)
    return time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def latencies(engine: Engine, rounds: int) -> list[float]:
    """Return milliseconds of warm runs, one after another."""
    return [engine.run("support", {"text": text}).seconds * 1000 for _ in range(rounds) for text in SENTENCES]


def rate(engine: Engine, rows: int, concurrency: int) -> float:
    """Return rows a minute at this concurrency."""
    inputs: Sequence[dict[str, str]] = [{"text": SENTENCES[i % len(SENTENCES)]} for i in range(rows)]
    began = time.monotonic()
    for outcome in engine.map("support", inputs, concurrency=concurrency):
        outcome.output  # noqa: B018 (raises if the row failed)
    return 60 * rows / (time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64, help="rows of a batch")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, of which the median is printed")
    arguments = parser.parse_args()
    processes = [process() for _ in range(arguments.rounds)]
    with Engine(stacks=["support"]) as engine:
        latencies(engine, 1)
        one = latencies(engine, arguments.rounds)
        rates = {
            n: statistics.median(rate(engine, arguments.rows, n) for _ in range(arguments.rounds)) for n in (1, 32)
        }
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}\n")
    print("| what | median |\n| --- | ---: |")
    print(f"| `fslm run`, whole process | {statistics.median(s for s, _ in processes):.1f} s |")
    print(f"| `fslm run`, peak memory | {statistics.median(m for _, m in processes):.0f} MiB |")
    print(f"| warm run, one at a time | {statistics.median(one):.0f} ms |")
    for n, rows in rates.items():
        print(f"| batch at concurrency {n} | {rows:.0f} rows a minute |")
    print(f"| 32 against 1 | {rates[32] / rates[1]:.1f} times |")


if __name__ == "__main__":
    main()

"""Measure what the tour stack costs on this machine: memory, latency and rows a minute.

    python tests/bench/support_costs.py [--rows 64] [--rounds 3]

Prints a Markdown table of medians, beside the control that writes the whole ticket in one stage. ``fslm run`` is
measured as a whole process, the rest in an engine that is warm; the two stacks take turns.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fslm_core import Engine, Stack
from fslm_support import triage

CONTROL = Path(__file__).resolve().parents[2] / "plugins/fslm-support/train/control"

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


def latencies(engine: Engine, stack: Stack[Any, Any], rounds: int) -> list[float]:
    """Return milliseconds of warm runs, one after another."""
    return [engine.run(stack, {"text": text}).seconds * 1000 for _ in range(rounds) for text in SENTENCES]


def rate(engine: Engine, stack: Stack[Any, Any], rows: int, concurrency: int) -> float:
    """Return rows a minute at this concurrency."""
    inputs = [{"text": SENTENCES[i % len(SENTENCES)]} for i in range(rows)]
    began = time.monotonic()
    for outcome in engine.map(stack, inputs, concurrency=concurrency):
        outcome.output  # noqa: B018 (raises if the row failed)
    return 60 * rows / (time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64, help="rows of a batch")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, of which the median is printed")
    arguments = parser.parse_args()
    sys.path.insert(0, str(CONTROL))
    from one_stage import single

    processes = [process() for _ in range(arguments.rounds)]
    figures: dict[str, list[list[float]]] = {}
    with Engine(stacks=[triage, single], trace=False) as engine:
        for stack in (triage, single):
            latencies(engine, stack, 1)
        for _ in range(arguments.rounds):
            for stack in (triage, single):
                row = [statistics.median(latencies(engine, stack, 1))]
                row += [rate(engine, stack, arguments.rows, concurrency) for concurrency in (1, 32)]
                figures.setdefault(stack.name, []).append(row)
    three, one = ([statistics.median(column) for column in zip(*rows, strict=True)] for rows in figures.values())
    print(f"{cpu()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| median | three stages | one stage |\n| --- | ---: | ---: |")
    print(f"| `fslm run`, whole process | {statistics.median(s for s, _ in processes):.1f} s | |")
    print(f"| `fslm run`, peak memory | {statistics.median(m for _, m in processes):.0f} MiB | |")
    print(f"| a warm run | {three[0]:.0f} ms | {one[0]:.0f} ms |")
    print(f"| rows a minute at concurrency 1 | {three[1]:.0f} | {one[1]:.0f} |")
    print(f"| rows a minute at concurrency 32 | {three[2]:.0f} | {one[2]:.0f} |")


def cpu() -> str:
    """The processor's name, and which of the instructions that matter here it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(facts.get("flags", "").split())
    sets = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    return f"{facts.get('model name', platform.machine())} ({', '.join(sets)})"


if __name__ == "__main__":
    main()

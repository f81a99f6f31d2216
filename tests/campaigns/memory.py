"""Memory of each worker of the documented service, with the real stack: workers, preloading, and what they share.

::

    python -m tests.campaigns.memory --json memory.json

Each row starts the files of docs/service.md under gunicorn with ``fslm_support``, has every worker answer, and then
reads what the kernel says of it: ``uss`` is its own alone, ``pss`` that and its share of what it shares, ``rss`` all it
can see. What a machine must have is the sum of ``pss`` over the workers and gunicorn itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import psutil

from tests.integration.test_service import Service, eventually

MIB = 2**20
LIBRARIES = "import peft, torch, transformers.models.llama.modeling_llama  # before the fork: workers share them"
APP = "app = FastAPI(lifespan=lifespan)"
PRELOADING = {
    "no": {"preload_app = True": "preload_app = False"},
    "the application": {},
    "and torch": {APP: f"{LIBRARIES}\n\n{APP}"},
}
PATIENT = {"timeout=10": "timeout=600"}
"""A machine that is busy with other things shall not cut the answers short."""


@dataclass(frozen=True)
class Row:
    """MiB: ``uss``, ``pss``, ``rss`` are means over workers, ``total`` is the sum of ``pss`` with gunicorn's own."""

    workers: int
    preloaded: str
    uss: float
    pss: float
    rss: float
    total: float


def measure(workers: int, preloaded: str, precision: str) -> Row:
    """Start the service, have it work, and read its memory."""
    with tempfile.TemporaryDirectory() as folder:
        service = Service(
            Path(folder),
            f"--workers={workers}",
            real=True,
            change=PRELOADING[preloaded] | PATIENT,
            environment={"FSLM_TORCH__PRECISION": precision},
        )
        try:
            eventually(service.ready)
            _work(service, workers)
            found = [psutil.Process(pid).memory_full_info() for pid in sorted(service.workers())]
            own = psutil.Process(service.process.pid).memory_full_info()
            service.stop()
        finally:
            service.kill()
    return Row(
        workers,
        preloaded,
        *(round(mean(getattr(info, part) for info in found) / MIB, 1) for part in ("uss", "pss", "rss")),
        round((sum(info.pss for info in found) + own.pss) / MIB, 1),
    )


def _work(service: Service, workers: int) -> None:
    """Until every worker has answered a few. Each request has a connection of its own, which any worker may take."""
    eventually(lambda: all(service.ready() for _ in range(workers * 8)))
    with ThreadPoolExecutor(workers * 2) as pool:
        questions = [f"where is my order {number}? It is late by now" for number in range(workers * 4)]
        answers = list(pool.map(service.ask, questions))
    assert {answer.status_code for answer in answers} == {200}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every row and print the table of docs/service.md."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.memory", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--preloaded", choices=list(PRELOADING), nargs="+", default=list(PRELOADING))
    parser.add_argument("--precision", default="auto", help="of the weights, as `torch.precision`")
    parser.add_argument("--json", type=Path, help="write the rows here")
    asked = parser.parse_args(arguments)
    rows = []
    print("| Workers | Preloaded | USS | PSS | RSS | All together (PSS) |\n| --- | --- | --- | --- | --- | --- |")
    for workers in asked.workers:
        for preloaded in asked.preloaded:
            row = measure(workers, preloaded, asked.precision)
            rows.append(row)
            figures = " | ".join(f"{value:.0f}" for value in (row.uss, row.pss, row.rss, row.total))
            print(f"| {workers} | {preloaded} | {figures} |", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

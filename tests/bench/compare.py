"""Compare engines on whole stacks.

    python -m tests.bench --data DIR                          # ours
    python -m tests.bench --data DIR --peers                  # and every arm of every peer that is installed
    python -m tests.bench --data DIR --quick                  # a look, in minutes
    python -m tests.bench --data DIR --engines 'generic,fused-*,openvino:merged-*' --json out.json --plot out.png

DIR holds the public sets: bitext_support/{dev,train}.jsonl for support and its one-stage control, and
sgd/{dev,train}.jsonl for notes. Other programs: python -m tests.bench agree | soak | memory, each with --help; and
python -m tests.bench.peers to install the peers.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from . import machine, plot, report
from .comparing import Comparison
from .engines import chosen
from .entrants import Plan
from .gguf import fetch
from .problems import BenchError
from .workloads import WORKLOADS

QUICK: dict[str, Any] = {"rows": 6, "batch": 24, "rounds": 1, "quality": 12, "isolation": 2, "concurrency": (1, 8)}


def shared_options(parser: argparse.ArgumentParser) -> None:
    """Options that all programs have."""
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("BENCH_DATA"),
        help="the folder of the public sets (BENCH_DATA)",
    )
    parser.add_argument("--cores", default=None, help="the cores to pin to, as 0,1; the first two there are")
    parser.add_argument(
        "--torch",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the torch backend, as max_batch=64",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write what was found here")


def data_of(asked: argparse.Namespace) -> Path:
    """The folder of the public sets.

    Raises:
        BenchError: it was not named.
    """
    if not asked.data:
        raise BenchError("--data DIR (or BENCH_DATA) names the folder that holds bitext_support/ and sgd/")
    return Path(asked.data)


def cores_of(asked: argparse.Namespace) -> tuple[int, ...]:
    """The cores to pin to.

    Raises:
        BenchError: one of them is not ours.
    """
    there = sorted(os.sched_getaffinity(0))
    cores = tuple(int(core) for core in asked.cores.split(",")) if asked.cores else tuple(there[:2])
    if not set(cores) <= set(there):
        raise BenchError(f"of the cores {cores} this process has only {there}")
    return cores


def torch_of(asked: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given as ``NAME=VALUE``; pydantic reads the values.

    >>> torch_of(argparse.Namespace(torch=["max_batch=64"]))
    {'max_batch': '64'}
    """
    return dict(part.split("=", 1) for part in asked.torch)


def plan_of(asked: argparse.Namespace) -> Plan:
    """What was asked for on the command line.

    Raises:
        BenchError: it cannot be had.
    """
    workloads = asked.workload.split(",") if asked.workload else list(WORKLOADS)
    if unknown := set(workloads) - WORKLOADS.keys():
        raise BenchError(f"no workload is called {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    engines = chosen(asked.engines, peers=asked.peers or ":" in (asked.engines or ""))
    with_peers = any(engine.peer for engine in engines)
    plan = Plan(
        data=data_of(asked),
        engines=engines,
        workloads=workloads,
        cores=cores_of(asked),
        torch=torch_of(asked),
        peers_dir=asked.peers_dir,
        gguf=asked.gguf or (fetch("smollm2-135m", _gguf_folder(asked)) if with_peers else None),
    )
    plan = replace(plan, **QUICK) if asked.quick else plan
    given: dict[str, Any] = {
        name: getattr(asked, name) for name in ("rows", "batch", "rounds", "quality", "isolation", "patience")
    }
    given["concurrency"] = tuple(map(int, asked.concurrency.split(","))) if asked.concurrency else None
    return replace(plan, **{name: value for name, value in given.items() if value is not None})


def _gguf_folder(asked: argparse.Namespace) -> Path:
    from .peers import environments

    return (asked.peers_dir or environments()) / "gguf"


def main(arguments: list[str]) -> int:
    """Run the comparison, print it, write it."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared_options(parser)
    parser.add_argument("--workload", help=f"of {', '.join(WORKLOADS)}, joined by commas; all")
    parser.add_argument("--engines", help="names and patterns joined by commas; ours, and with --peers theirs too")
    parser.add_argument("--peers", action="store_true", help="take every arm of every peer, too")
    parser.add_argument("--peers-dir", type=Path, help="where the peers' environments are")
    parser.add_argument("--gguf", type=Path, help="the base's 4-bit file; fetched with pip where it is needed")
    parser.add_argument("--concurrency", help="clients of the closed loops, as 1,32")
    parser.add_argument("--rows", type=int, help="stacks of a round, at least four for each client (40)")
    parser.add_argument("--batch", type=int, help="stacks of an offline batch; 0 for none (256)")
    parser.add_argument("--rounds", type=int, help="rounds, in which the engines take turns (3)")
    parser.add_argument("--quality", type=int, help="rows that are scored (200)")
    parser.add_argument("--isolation", type=int, help="rows on which the adapters are told apart; 0 for none (4)")
    parser.add_argument("--patience", type=float, help="seconds after which a round ends unfinished (240)")
    parser.add_argument("--quick", action="store_true", help="few rows, one round, 8 clients")
    parser.add_argument("--plot", type=Path, metavar="OUT.png", help="draw what was found")
    asked = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    told = Console(stderr=True, highlight=False)
    plan = plan_of(asked)
    found = Comparison(plan, lambda line: told.print(line, markup=False)).run()
    whole = report.document(found, plan, machine.facts())
    if asked.json:
        report.write(whole, asked.json)
    if asked.plot and found.records:
        plot.draw(found.records, asked.plot)
    report.show(whole, Console(width=None if sys.stdout.isatty() else 200))
    return 130 if found.stopped else 0 if found.records else 1


__all__ = ["cores_of", "data_of", "main", "plan_of", "shared_options", "torch_of"]

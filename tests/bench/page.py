"""How fast is the page (`fslm ui`) on a trace of a million messages?

    python -m tests.bench.trace_store --store DIR --clients
    python -m tests.bench.page --store DIR --json page.json

The first command makes the store, where there is none, and asks it through Python. This one serves it as `fslm ui`
does, in a process of its own, and asks for pages over HTTP on one connection: each kind of page once, which is told as
the first, then again and again with other words, runs and stacks. The median and the slowest of these are told, and
the time of the processor that the server took for one, which other work on the machine changes least (on Linux).
Nothing is changed in the store.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from .trace_store import FIRST_MOMENT, LIMIT, MESSAGES_OF_A_RUN, STACKS, Script, counted, name_of

Json = dict[str, Any]
BESIDE = 30_000
"""Seconds of a window that is compared with the one before it; a stack begins a run every three seconds."""


@contextmanager
def serving(store: Path) -> Iterator[tuple[http.client.HTTPConnection, int]]:
    """A connection to `fslm ui` that shows the trace in a folder, and its process."""
    command = [sys.executable, "-m", "fslm_core", "ui", "--read-only", "--port", "0", "--json"]
    environment = {**os.environ, "FSLM_TRACE__PATH": str(store / "trace.db")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as served:
        try:
            assert served.stdout is not None
            told = "".join(iter(served.stdout.readline, "}\n")) + "}"
            connection = http.client.HTTPConnection(urlsplit(json.loads(told)["url"]).netloc, timeout=600)
            yield connection, served.pid
            connection.close()
        finally:
            served.terminate()


def addresses(script: Script, runs: int, chance: random.Random) -> dict[str, Callable[[], str]]:
    """The address of a page, by the name of its kind; each call is another one."""

    def some() -> int:
        return chance.randrange(runs)

    def at(path: str, **query: str) -> str:
        return f"{path}?{urlencode(query)}"

    def moment(seconds: float) -> str:
        return datetime.fromtimestamp(FIRST_MOMENT + seconds).isoformat()

    def drift() -> str:
        late = moment(runs - BESIDE)
        early = moment(runs - 2 * BESIDE)
        return at("/stats", stack=chance.choice(STACKS), **{"from": early, "until": late})

    return {
        "list": lambda: "/",
        "list, of a stack and failed": lambda: at("/", stack=chance.choice(STACKS), status="failed"),
        "list, read on from anywhere": lambda: at("/", before=name_of(some())),
        "list, since a moment": lambda: at("/", since=moment(some())),
        "list, labelled (none)": lambda: at("/", labelled="1"),
        "search, a rare word": lambda: at("/", q=f"rare{some() // 5}"),
        "search, a word in most messages": lambda: at("/", q=script.common),
        "search, a phrase in every reply": lambda: at("/", q='"read your letter"'),
        "search, common, stack and status": lambda: at("/", q=script.common, stack="notes", status="failed"),
        "search, common, never in that stack": lambda: at("/", q="onlysupport", stack="notes"),
        "run": lambda: f"/runs/{name_of(some())}",
        "two runs beside each other": lambda: f"/diff?run={name_of(some())}&run={name_of(some())}",
        "stats, as they open": lambda: at("/stats", stack=chance.choice(STACKS)),
        "stats and drift, 10,000 runs beside 10,000": drift,
        "stats, all of a stack": lambda: at("/stats", stack=chance.choice(STACKS), since="ever"),
    }


def ask(connection: http.client.HTTPConnection, address: str) -> float:
    """The seconds until a page was read whole."""
    began = time.perf_counter()
    connection.request("GET", address)
    answer = connection.getresponse()
    text = answer.read()
    took = time.perf_counter() - began
    if answer.status != 200:
        raise SystemExit(f"{address}: {answer.status} {text[:2000].decode('utf-8', 'replace')}")
    return took


def processor(process: int) -> float:
    """The seconds of the processor that a process has taken, by the clock that Linux has of each."""
    return time.clock_gettime((~process << 3) | 2) if sys.platform == "linux" else float("nan")


def measure(store: Path, script: Script, *, times: int, slow: int, seed: int) -> Json:
    """How long each kind of page takes; the two that count many runs are asked for ``slow`` times."""
    runs, chance = counted(store / "trace.db"), random.Random(seed)
    found: Json = {"messages": runs * MESSAGES_OF_A_RUN, "runs": runs, "pages": {}}
    with serving(store) as (connection, process):
        for name, address in addresses(script, runs, chance).items():
            first = ask(connection, address())
            often = slow if first > 1 else times
            busy = processor(process)
            took = [ask(connection, address()) for _ in range(often)]
            busy = (processor(process) - busy) / often
            found["pages"][name] = {
                "first": first,
                "median": statistics.median(took),
                "slowest": max(took),
                "processor": busy,
                "times": often,
            }
            print(told(name, found["pages"][name]), flush=True)
    found["load"] = os.getloadavg()[0]
    return found


def told(name: str, took: Json) -> str:
    """A line for people."""
    median, slowest, first, busy = (
        f"{took[what] * 1e3:8.0f} ms" for what in ("median", "slowest", "first", "processor")
    )
    slow = "" if took["median"] < LIMIT else "  SLOW"
    return f"{name:44}{median}{slowest} at most{first} the first{busy} of the processor{slow}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.page", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, required=True, help="the folder of a store of tests.bench.trace_store")
    parser.add_argument("--times", type=int, default=10, help="how often each page is asked for after the first time")
    parser.add_argument("--slow", type=int, default=3, help="how often one whose first time took over a second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    found = measure(asked.store, Script(asked.seed), times=asked.times, slow=asked.slow, seed=asked.seed)
    print(f"{found['messages']:,} messages in {found['runs']:,} runs; load {found['load']:.1f}")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

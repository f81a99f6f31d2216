"""Many random graphs on the real engine beside the naive walker, and many that are cancelled half way.

::

    python -m tests.campaigns.graphs --examples 20000 --json graphs.json

The suite runs a small share of the same (tests/unit/shapes/test_reference.py). What is found is shrunk and printed as
the drawn graph, its input and its seed.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings

from fslm_core import Engine
from tests.unit.shapes import test_reference as reference
from tests.unit.shapes.graphs import Chancy

CHECKS: dict[str, tuple[Any, Any]] = {
    "same": (reference.same, reference.SAME),
    "cancelled": (reference.stopped, reference.STOPPED),
}


def campaign(check: str, examples: int) -> dict[str, Any]:
    """Run one check on so many drawn graphs."""
    began = time.perf_counter()
    found = None
    function, drawn = CHECKS[check]
    backend = Chancy()
    with Engine(trace=False, backend=backend) as engine:

        @settings(max_examples=examples, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))
        @given(**drawn)
        def checked(**values: Any) -> None:
            function(engine, backend, **values)

        try:
            checked()
        except Exception:
            found = traceback.format_exc()
    return {"check": check, "examples": examples, "seconds": round(time.perf_counter() - began, 1), "found": found}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both checks; the exit code says whether anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=5000, help="graphs for each check")
    parser.add_argument("--only", choices=list(CHECKS), help="one check")
    parser.add_argument("--json", type=Path, help="write a record")
    options = parser.parse_args(arguments)
    logging.getLogger("fslm").setLevel(logging.ERROR)
    rows = []
    for check in CHECKS if options.only is None else (options.only,):
        rows.append(row := campaign(check, options.examples))
        print(f"{check}: {row['examples']} graphs, {row['seconds']} s: {row['found'] or 'nothing found'}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return int(any(row["found"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())

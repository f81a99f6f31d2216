"""What does keeping a trace cost? The support stack with 32 in flight, with everything kept and with no trace at all.

    python -m tests.bench.trace_cost --data DIR [--rows 96] [--rounds 16] [--json OUT]

DIR holds bitext_support/dev.jsonl and train.jsonl. Two engines of the same settings stand side by side; in each round
both answer the same rows, which no round before had, now the one first and now the other. Told are the medians of the
rounds, stacks a second and processor milliseconds a stack, and what the trace adds to both: the rounds' median, its
95 % interval by the bootstrap, and the rounds' range.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fslm_core import Engine, settings

FLIGHT = 32


@dataclass(frozen=True)
class Spent:
    """A round of one engine: seconds by the clock and of the processor, a stack."""

    clock: float
    processor: float


def spent(engine: Engine, rows: Sequence[Mapping[str, Any]]) -> Spent:
    """Answer the rows."""
    clock, processor = time.perf_counter(), time.process_time()
    for outcome in engine.map("support", rows, concurrency=FLIGHT):
        outcome.output  # noqa: B018 (raises if the row failed)
    return Spent((time.perf_counter() - clock) / len(rows), (time.process_time() - processor) / len(rows))


def texts(data: Path, count: int) -> list[dict[str, str]]:
    """So many different messages: development rows, then training rows."""
    found: dict[str, None] = {}
    for name in ("dev", "train"):
        with (data / "bitext_support" / f"{name}.jsonl").open(encoding="utf-8") as file:
            found.update((json.loads(line)["text"], None) for line in file)
    if len(found) < count:
        raise SystemExit(f"{count} different rows are wanted, and {len(found)} are there: fewer --rows or --rounds")
    return [{"text": text} for text in list(found)[:count]]


def told(values: Iterable[float], unit: str) -> str:
    """A median with its 95 % interval, and the least and the most."""
    values = sorted(values)
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(10_000))
    middle, low, high = statistics.median(values), medians[249], medians[9749]
    return f"{middle:+.1f} {unit} ({low:+.1f} to {high:+.1f}), rounds from {values[0]:+.1f} to {values[-1]:+.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the public sets")
    parser.add_argument("--rows", type=int, default=96, help="of a round")
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the rounds here")
    arguments = parser.parse_args()
    rows = texts(arguments.data, arguments.rows * (arguments.rounds + 1))
    pairs: list[dict[str, Spent]] = []
    with tempfile.TemporaryDirectory() as folder:
        kept = settings.load(data_dir=Path(folder))
        with (
            Engine(stacks=["support"], settings=kept, content="full") as full,
            Engine(stacks=["support"], settings=kept, trace=False) as bare,
        ):
            engines = {"full": full, "none": bare}
            for turn in range(arguments.rounds + 1):
                part = rows[turn * arguments.rows : (turn + 1) * arguments.rows]
                order = sorted(engines, reverse=bool(turn % 2))
                pair = {name: spent(engines[name], part) for name in order}
                pairs += [pair] if turn else []  # the first warms them
    for name in ("none", "full"):
        clock, processor = (
            statistics.median(getattr(pair[name], of) for pair in pairs) for of in ("clock", "processor")
        )
        print(f"trace {name}: {1 / clock:.2f} stacks/s, {processor * 1000:.1f} processor ms a stack")
    for of in ("clock", "processor"):
        added = [100 * (getattr(pair["full"], of) / getattr(pair["none"], of) - 1) for pair in pairs]
        print(f"what keeping everything adds, {of}: {told(added, '%')}")
    if arguments.json is not None:
        data = [{name: asdict(one) for name, one in pair.items()} for pair in pairs]
        arguments.json.write_text(
            json.dumps({"flight": FLIGHT, "rows": arguments.rows, "rounds": data}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()

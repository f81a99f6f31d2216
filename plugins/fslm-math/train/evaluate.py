"""Score the stack and its controls on the development rows, which are opened here alone; nothing is chosen by them.

    python evaluate.py --problems DIR --gsm8k DIR --out DIR

writes ``svamp.jsonl`` and ``gsm8k.jsonl`` (for ``fslm eval math svamp.jsonl --train rows/math.train.jsonl``), runs
every system on them, and writes ``scores.json`` and ``scores.md``: shares of all rows that are right, with Wilson's
95 % interval.
``--rows FILE`` scores rows of that form in their place, such as selection rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from equations import infix, steps_of, values_of
from prepare import read, write

from fslm_core import Engine, Stack
from fslm_core.explain.paired import wilson
from fslm_core.message import Message
from fslm_math import solve
from fslm_math.steps import CalculationError, calculate

sys.path.insert(0, str(Path(__file__).parent / "control"))
import controls

Row = dict[str, Any]
SYSTEMS: dict[str, tuple[Stack[Any, Any], ...]] = {
    "stack": (solve,),
    "greedy": (controls.once,),
    "number": (controls.told,),
    "both": (controls.wrote, controls.counted),
    "shots": (controls.shown,),
}
"""By name, the stacks that are run; of ``both``, its own number and what its steps come to."""


def svamp(folder: Path) -> Iterator[Row]:
    """The development word problems; their steps are known where our numbers and our calculator allow the equation."""
    for row in read(folder / "svamp_dev.jsonl"):
        steps = steps_of(infix(row["equation_infix"]), values_of(row["question"]))
        try:
            lines = calculate(steps)[1] if steps else []
        except CalculationError:
            lines = []
        yield _row(row["question"], row["answer"], lines, kind=row["type"])


def gsm8k(folder: Path) -> Iterator[Row]:
    for row in read(folder / "dev.jsonl"):
        yield _row(row["question"], float(row["answer"].rpartition("####")[2].replace(",", "")), [])


def _row(question: str, answer: float, lines: list[str], **columns: Any) -> Row:
    return {"input": {"question": question}, "output": {"answer": float(answer), "steps": lines}, **columns}


@dataclass
class Score:
    """How often a system is right. Rows not ``answered`` are those that a person is asked about, or that failed."""

    rows: int
    right: int
    answered: int
    seconds: float
    vote_right: int | None = None
    """Of a vote: how often the answer of most is right, agreed or not."""
    shares: list[tuple[float, bool]] = field(default_factory=list)
    """Of a vote: what the winner's share was, and whether it is right."""

    def line(self, name: str) -> str:
        covered = f"{self.answered / self.rows:.3f}"
        within = f"{self.right / self.answered:.3f} ({interval(self.right, self.answered)})" if self.answered else "-"
        return f"| {name} | {self.right / self.rows:.3f} ({interval(self.right, self.rows)}) | {covered} | {within} |"


def interval(right: int, rows: int) -> str:
    """Wilson's 95 % interval of a share.

    >>> interval(5, 10)
    '.237-.763'
    """
    low, high = wilson(right, rows)
    return f"{low:.3f}-{high:.3f}".replace("0.", ".")


def scored(engine: Engine, stack: Stack[Any, Any], rows: list[Row]) -> Score:
    """Run a stack on all rows."""
    begun = time.monotonic()
    right = answered = 0
    shares: list[tuple[float, bool]] = []
    for row, outcome in zip(rows, engine.map(stack, [row["input"] for row in rows], concurrency=32), strict=True):
        gold = row["output"]["answer"]
        run = outcome.run
        vote = None if run is None else run.messages.get("sure.vote")
        if run is not None and isinstance(vote, Message):
            ballot = run.messages["sure.vote.ballot"].content
            shares.append((ballot.share, same(vote.content.answer, gold)))
        if outcome.error is None and outcome.output is not None:
            answered += 1
            right += same(float(outcome.output.answer), gold)
    voted = sum(hit for _, hit in shares) if stack is solve else None
    return Score(len(rows), right, answered, time.monotonic() - begun, voted, shares)


def same(answer: float, gold: float) -> bool:
    return abs(answer - gold) < 1e-4 * max(1.0, abs(gold))


def coverage(shares: list[tuple[float, bool]], rows: int) -> Iterator[str]:
    """What abstaining below a share leaves, and how much of that is right."""
    yield "| least share | answered | right of these |"
    yield "| --- | ---: | ---: |"
    for least in sorted({share for share, _ in shares}):
        kept = [hit for share, hit in shares if share >= least]
        right = f"{sum(kept) / len(kept):.3f} ({interval(sum(kept), len(kept))})"
        yield f"| {least:.2f} | {len(kept) / rows:.3f} | {right} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=Path, metavar="DIR", help="holds word_problems' svamp_dev.jsonl")
    parser.add_argument("--gsm8k", type=Path, metavar="DIR", help="holds gsm8k's dev.jsonl")
    parser.add_argument("--rows", type=Path, metavar="FILE", help="score these rows in place of the development rows")
    parser.add_argument("--systems", nargs="*", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where rows and scores go")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    sets: dict[str, list[Row]] = {}
    if given.rows:
        sets["rows"] = list(read(given.rows))
    else:
        sets["svamp"] = list(svamp(given.problems))
        sets["gsm8k"] = list(gsm8k(given.gsm8k))
    stacks = [stack for name in given.systems for stack in SYSTEMS[name]]
    text: list[str] = []
    data: dict[str, Any] = {}
    with Engine(stacks, trace=False) as engine:
        for name, rows in sets.items():
            write(given.out / f"{name}.jsonl", rows)
            text += [
                f"## {name}: {len(rows)} rows",
                "",
                "| system | right | answered | right of these |",
                "| --- | ---: | ---: | ---: |",
            ]
            table: list[str] = []
            for stack in stacks:
                score = scored(engine, stack, rows)
                data[f"{name}.{stack.name}"] = asdict(score)
                text.append(score.line(stack.name))
                print(text[-1], f"{score.seconds:.0f} s", file=sys.stderr, flush=True)
                if score.vote_right is not None:
                    share = f"{score.vote_right / len(rows):.3f} ({interval(score.vote_right, len(rows))})"
                    text.append(f"| {stack.name}, never abstaining | {share} | | |")
                    table = list(coverage(score.shares, len(rows)))
            text += ["", *table, ""]
    (given.out / "scores.json").write_text(json.dumps(data), encoding="utf-8")
    (given.out / "scores.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()

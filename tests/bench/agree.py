"""Does the fused executor write what the generic one writes? Row by row, alone and in mixed batches.

    python -m tests.bench agree --data DIR --engine fused-bfloat16 --against generic-bfloat16 --rows 1000
    python -m tests.bench agree --data DIR --engine fused-float16,fused-int8 --rows 1000

All engines answer the same rows: a candidate each row alone and again with 32 in flight (stages and rows mixed),
the other one alone. Of every row whose messages are not the same, the first step that differs although its prompt is
the same is looked at: at the first token that differs, the generic executor in float32 is asked how far apart the two
candidates are, by their logits (normalisation cancels). Below 0.1 nat it is a near-tie, which rounding may decide
either way.

The exit code is 0 if at least 99.5 % of the rows are the same in all three pairings and every difference is a near-tie;
for int8 and int4, if the score is within half a point of the other's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .compare import cores_of, data_of, shared_options, torch_of
from .engines import REFERENCE, EngineSpec, chosen
from .pilot import Pilot
from .worker import Job
from .workloads import WORKLOADS, Row

NEAR = 0.1
"""Nats between two tokens that rounding may swap."""
SAME = 0.995
HALF_POINT = 0.005
Json = dict[str, Any]
Messages = Mapping[tuple[int, str], Json]
"""By row and step, as a worker told them."""


@dataclass(frozen=True)
class Difference:
    """A step that two engines wrote otherwise from the same prompt.

    Attributes:
        place: of the first token that differs, counted from the answer's first.
        tokens: what each of them wrote there; None where one ended.
        margin: nats between the two in float32 ``generic``; None where one ended.
    """

    row: int
    step: str
    stage: str
    place: int
    tokens: tuple[int | None, int | None]
    texts: tuple[str, str]
    margin: float | None = None

    @property
    def near_tie(self) -> bool:
        """Whether rounding may decide it either way."""
        return self.margin is not None and self.margin < NEAR


def by_place(messages: Sequence[Json]) -> Messages:
    """Messages by row and step."""
    return {(message["row"], message["step"]): message for message in messages}


def differences(left: Messages, right: Messages, steps: Sequence[str], rows: int) -> tuple[int, list[Difference]]:
    """Compare two engines' messages.

    Args:
        steps: the stack's steps in order.

    Returns:
        How many rows are the same, and of each other row the first step that differs from the same prompt. What differs
        because an earlier step did has another prompt and is no difference of its own.

    >>> a = {"stage": "s", "ids": [1], "tokens": [5, 6], "text": "ab"}
    >>> differences({(0, "s"): a}, {(0, "s"): {**a, "tokens": [5, 7], "text": "ac"}}, ["s"], 1)[1][0].tokens
    (6, 7)
    """
    same, found = 0, []
    for row in range(rows):
        pairs = [(left.get((row, step)), right.get((row, step))) for step in steps]
        if all((a and a["text"]) == (b and b["text"]) for a, b in pairs):
            same += 1
            continue
        for step, (a, b) in zip(steps, pairs, strict=True):
            if a and b and a["ids"] == b["ids"] and a["text"] != b["text"]:
                found.append(_difference(row, step, a, b))
                break
    return same, found


def _difference(row: int, step: str, a: Json, b: Json) -> Difference:
    ours, theirs = a["tokens"], b["tokens"]
    place = next((i for i, (x, y) in enumerate(zip(ours, theirs, strict=False)) if x != y), min(len(ours), len(theirs)))
    tokens = tuple(tokens[place] if place < len(tokens) else None for tokens in (ours, theirs))
    return Difference(row, step, a["stage"], place, (tokens[0], tokens[1]), (a["text"], b["text"]))


class Agreement:
    """One comparison of two engines on rows of one workload."""

    def __init__(self, workload: str, rows: Sequence[Row], cores: tuple[int, ...], torch: Mapping[str, Any]) -> None:
        self._workload = WORKLOADS[workload]
        self._stack = self._workload.stack()
        self._rows = rows
        self._cores = cores
        self._torch = torch

    def run(self, engines: Sequence[EngineSpec], against: EngineSpec, concurrency: int, folder: Path) -> Iterator[Json]:
        """Let all answer, compare each of the engines with the other one, and look at each difference."""
        (other,) = self._answers(against, (1,), folder)
        for engine in engines:
            alone, mixed = self._answers(engine, (1, concurrency), folder)
            yield self._compared(engine, alone, mixed, against, other, folder)

    def _compared(
        self, engine: EngineSpec, alone: Json, mixed: Json, against: EngineSpec, other: Json, folder: Path
    ) -> Json:
        pairs = {
            "alone, the other": (alone, other),
            "mixed, the other": (mixed, other),
            "alone, mixed": (alone, mixed),
        }
        found: Json = {"engine": engine.name, "against": against.name, "rows": len(self._rows), "pairs": {}}
        steps = [step.name for step in self._stack.steps]
        for name, (left, right) in pairs.items():
            same, different = differences(
                by_place(left["messages"]), by_place(right["messages"]), steps, len(self._rows)
            )
            looked = self._with_margins(different, by_place(left["messages"]), folder)
            found["pairs"][name] = {
                "same": same / len(self._rows),
                "differences": [asdict(each) | {"near_tie": each.near_tie} for each in looked],
            }
        found["scores"] = {
            name: self._score(told) for name, told in (("alone", alone), ("mixed", mixed), ("other", other))
        }
        found["holds"] = holds(found, engine.precision in ("float32", "16-bit"))
        return found

    def _answers(self, engine: EngineSpec, levels: Sequence[int], folder: Path) -> list[Json]:
        torch = self._torch if engine.torch.get("executor") == "fused" else {}
        with Pilot(Job(engine, self._workload.name, self._cores, torch), folder) as pilot:
            pilot.call("load")
            inputs = [row.input for row in self._rows]
            return [pilot.call("ask", inputs=inputs, concurrency=level, record=True) for level in levels]

    def _score(self, told: Json) -> float:
        pairs = zip(self._rows, told["outputs"], strict=True)
        return statistics.mean(self._workload.score(row.output, said, self._stack) for row, said in pairs)

    def _with_margins(self, different: Sequence[Difference], left: Messages, folder: Path) -> list[Difference]:
        asked = [each for each in different if None not in each.tokens]
        if not asked:
            return list(different)
        cases = []
        for each in asked:
            message = left[each.row, each.step]
            before = message["tokens"][: each.place]
            cases.append({"stage": each.stage, "ids": message["ids"], "before": before, "tokens": each.tokens})
        with Pilot(Job(REFERENCE, self._workload.name, self._cores, {}), folder) as pilot:
            margins = dict(zip(map(id, asked), pilot.call("margins", cases=cases)["margins"], strict=True))
        return [Difference(**{**asdict(each), "margin": margins.get(id(each))}) for each in different]


def holds(found: Json, exact: bool) -> bool:
    """Whether the promise is kept.

    Args:
        exact: whether messages must be the same; else only the score must.
    """
    scores = found["scores"]
    if not exact:
        return all(abs(scores[name] - scores["other"]) <= HALF_POINT for name in ("alone", "mixed"))
    return all(
        pair["same"] >= SAME and all(each["near_tie"] for each in pair["differences"])
        for pair in found["pairs"].values()
    )


def show(found: Json, console: Console) -> None:
    """Print what was found."""
    table = Table(title=f"{found['engine']} beside {found['against']}, {found['rows']} rows", title_justify="left")
    for name in ("pair", "rows the same", "differences", "near-ties"):
        table.add_column(name, justify="left" if name == "pair" else "right")
    for name, pair in found["pairs"].items():
        near = sum(each["near_tie"] for each in pair["differences"])
        table.add_row(name, f"{pair['same']:.2%}", str(len(pair["differences"])), str(near))
    console.print(table)
    for name, pair in found["pairs"].items():
        for each in pair["differences"]:
            margin = "one ended" if each["margin"] is None else f"{each['margin']:.4f} nat"
            console.print(f"{name}: row {each['row']}, {each['step']}, token {each['place']}: {margin}", *each["texts"])
    console.print("scores", found["scores"], "holds" if found["holds"] else "DOES NOT HOLD")


def main(arguments: list[str]) -> int:
    """Compare; 0 if the promise is kept."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench agree", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared_options(parser)
    parser.add_argument("--engine", default="fused-auto", help="one, or several joined by commas")
    parser.add_argument("--against", default="generic")
    parser.add_argument("--workload", default="support", choices=WORKLOADS)
    parser.add_argument("--rows", type=int, default=1000, help="development rows, then training rows")
    parser.add_argument("--concurrency", type=int, default=32, help="rows of a mixed batch")
    asked = parser.parse_args(arguments)
    drawn = WORKLOADS[asked.workload].rows(data_of(asked), 0)
    agreement = Agreement(asked.workload, drawn.timing[: asked.rows], cores_of(asked), torch_of(asked))
    (against,) = chosen(asked.against)
    found, console = [], Console(highlight=False, markup=False, width=160)
    with tempfile.TemporaryDirectory(prefix="fslm-agree-") as folder:
        for each in agreement.run(chosen(asked.engine), against, asked.concurrency, Path(folder)):
            show(each, console)
            found.append(each)
            if asked.json:
                asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if all(each["holds"] for each in found) else 1


__all__ = ["Agreement", "Difference", "by_place", "differences", "holds", "main"]

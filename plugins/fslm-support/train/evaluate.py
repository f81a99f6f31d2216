"""Score the stack and both controls on the development rows, and print a table.

    python evaluate.py --bitext DIR --clinc DIR --rows DIR [--other N] [--only stack,one-stage,tfidf]

``--rows`` holds what prepare.py wrote (the linear control is fitted on its ticket rows). Every step is fed with what
the steps before it predicted. The development rows are opened here alone, and nothing is chosen by them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from prepare import OTHER, other, read
from tfidf import Control, Ticket

from fslm_core import Engine, Stack

FIELDS = ("category", "intent", "entity_type", "entity_value")
DETAILS = ("entity_type", "entity_value")
TAGS = {"Z": "errors and typos", "Q": "colloquial", "W": "offensive"}


@dataclass(frozen=True)
class Row:
    """A development row: its text, the gold ticket, the data set's tags, and its clinc150 topic if it has one."""

    text: str
    gold: Ticket
    tags: str = ""
    topic: str = ""


@dataclass(frozen=True)
class Predictions:
    """What a system answered, None where it failed; seconds of a warm single run, and rows a minute in bulk."""

    tickets: list[Ticket | None]
    latency: float
    rows_a_minute: float


def rows_of(bitext: Path, clinc: Path, n_other: int | None) -> list[Row]:
    """The development rows: all of bitext_support, and those of clinc150 that are outside support."""
    asked = [
        Row(str(r["text"]), {name: r[name] for name in FIELDS}, str(r["tags"])) for r in read(bitext / "dev.jsonl")
    ]
    nothing: Ticket = {"category": OTHER, "intent": None, "entity_type": None, "entity_value": None}
    outside = [Row(row.text, nothing, topic=topic) for topic, row in other(clinc / "dev.jsonl")]
    return asked + (outside if n_other is None else Random(0).sample(outside, min(n_other, len(outside))))


def run_stack(stack: Stack[Any, Any] | str, rows: Sequence[Row], concurrency: int) -> Predictions:
    """Run a stack on every row through ``Engine.map``, after a few rows one at a time for the latency."""
    with Engine(stacks=[stack], trace=False) as engine:
        alone = [_timed(lambda text=row.text: engine.run(stack, {"text": text})) for row in rows[:60]]
        started = time.perf_counter()
        tickets: list[Ticket | None] = []
        for outcome in engine.map(stack, ({"text": row.text} for row in rows), concurrency=concurrency):
            tickets.append(None if outcome.error else outcome.output.model_dump(mode="json"))
            if outcome.error:
                print(f"row {outcome.index}: {outcome.error}", file=sys.stderr)
            if len(tickets) % 200 == 0:
                print(f"{len(tickets)} of {len(rows)}", file=sys.stderr)
        seconds = time.perf_counter() - started
    return Predictions(tickets, statistics.median(alone[10:]), 60 * len(rows) / seconds)


def run_control(rows: Sequence[Row], prepared: Path) -> tuple[Predictions, float]:
    """Fit the linear control and run it; returns its training seconds, too."""
    examples = [json.loads(line) for line in (prepared / "ticket.train.jsonl").read_text("utf-8").splitlines()]
    started = time.perf_counter()
    control = Control([e["input"]["text"] for e in examples], [e["output"] for e in examples])
    fitted = time.perf_counter() - started
    alone = [_timed(lambda text=row.text: control.predict([text])) for row in rows[:60]]
    started = time.perf_counter()
    tickets = control.predict([row.text for row in rows])
    seconds = time.perf_counter() - started
    return Predictions(list(tickets), statistics.median(alone[10:]), 60 * len(rows) / seconds), fitted


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def scores(rows: Sequence[Row], predicted: Sequence[Ticket | None]) -> dict[str, float]:
    """Shares of rows that are right: support rows for the fields, all rows for OTHER."""
    pairs = list(zip(rows, predicted, strict=True))
    asked = [(row, p) for row, p in pairs if row.gold["category"] != OTHER]
    outside = [(row, p) for row, p in pairs if row.gold["category"] == OTHER]
    found = {
        "category": _right(asked, ("category",)),
        "intent": _right(asked, ("intent",)),
        "details": _right(asked, DETAILS),
        "ticket": _right(asked, FIELDS),
    }
    for tag in TAGS:
        found[f"ticket, {tag}"] = _right([(row, p) for row, p in asked if tag in row.tags], FIELDS)
    with_detail = [(row, p) for row, p in asked if row.gold["entity_type"]]
    found["details where there is one"] = _right(with_detail, DETAILS)
    found["OTHER recall"] = _right(outside, ("category",))
    found["OTHER recall, oos"] = _right([(row, p) for row, p in outside if row.topic == "oos"], ("category",))
    found["OTHER false alarms"] = _share(p is not None and p["category"] == OTHER for _, p in asked)
    found["valid"] = _share(p is not None for _, p in pairs)
    found["detail not in the text"] = _share(_invented(row, p) for row, p in asked)
    return found


def _right(pairs: Sequence[tuple[Row, Ticket | None]], names: Iterable[str]) -> float:
    names = tuple(names)
    return _share(p is not None and all(p[name] == row.gold[name] for name in names) for row, p in pairs)


def _invented(row: Row, predicted: Ticket | None) -> bool:
    value = predicted["entity_value"] if predicted else None
    return value is not None and value not in row.text


def _share(hits: Iterable[bool]) -> float:
    counted = list(hits)
    return sum(counted) / len(counted) if counted else float("nan")


def table(columns: Mapping[str, Mapping[str, str]]) -> str:
    """A Markdown table: a line for each score, a column for each system."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    lines = ["| on dev | " + " | ".join(columns) + " |", "| --- |" + " --: |" * len(columns)]
    lines += [f"| {name} | " + " | ".join(c.get(name, "") for c in columns.values()) + " |" for name in names]
    return "\n".join(lines)


def column(rows: Sequence[Row], predictions: Predictions, training: str) -> dict[str, str]:
    """One system's figures as text."""
    figures = {name: f"{value:.4f}" for name, value in scores(rows, predictions.tickets).items()}
    figures["latency, one warm run"] = f"{1000 * predictions.latency:.1f} ms"
    figures["rows a minute"] = f"{predictions.rows_a_minute:,.0f}"
    figures["training"] = training
    return figures


def seen(rows: Sequence[Row], prepared: Path) -> int:
    """How many development values occur as values in what the stages were trained on."""
    files = (prepared / "details.train.jsonl", prepared / "ticket.train.jsonl")
    lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
    known = {json.loads(line)["output"]["entity_value"] for line in lines}
    return sum(row.gold["entity_value"] in known for row in rows if row.gold["entity_value"])


def training_seconds(stack: Stack[Any, Any]) -> float:
    """Seconds the stack's adapters took to train, as their records have it."""
    folders = [stage.model.adapter for stage in stack.stages if stage.model and stage.model.adapter]
    records = [json.loads((folder / "fslm.json").read_text("utf-8")) for folder in folders]
    return float(sum(record["training"]["seconds"] for record in records))


def wrong(rows: Sequence[Row], predicted: Sequence[Ticket | None]) -> Iterable[str]:
    """The rows a system got wrong, one JSON object a line."""
    for row, ticket in zip(rows, predicted, strict=True):
        if ticket != row.gold:
            yield json.dumps({"text": row.text, "gold": row.gold, "predicted": ticket}, ensure_ascii=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bitext", type=Path, required=True, metavar="DIR")
    parser.add_argument("--clinc", type=Path, required=True, metavar="DIR")
    parser.add_argument("--rows", type=Path, required=True, metavar="DIR", help="what prepare.py wrote")
    parser.add_argument("--other", type=int, metavar="N", help="only N rows of clinc150, drawn by a fixed seed")
    parser.add_argument("--only", default="stack,one-stage,tfidf", help="which systems, separated by commas")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--errors", type=Path, metavar="DIR", help="write the rows each system got wrong")
    arguments = parser.parse_args()
    rows = rows_of(arguments.bitext, arguments.clinc, arguments.other)
    columns: dict[str, dict[str, str]] = {}
    for name in arguments.only.split(","):
        if name == "tfidf":
            predictions, seconds = run_control(rows, arguments.rows)
            training = f"{seconds:.0f} s"
        else:
            stack = _stack(name)
            predictions = run_stack(stack, rows, arguments.concurrency)
            training = f"{training_seconds(stack):.0f} s"
        columns[name] = column(rows, predictions, training)
        if arguments.errors:
            arguments.errors.mkdir(parents=True, exist_ok=True)
            lines = wrong(rows, predictions.tickets)
            (arguments.errors / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    print(table(columns))
    asked = sum(row.gold["category"] != OTHER for row in rows)
    known = seen(rows, arguments.rows)
    print(f"\n{asked} support rows, {len(rows) - asked} others; {known} details occur in training, too")


def _stack(name: str) -> Stack[Any, Any]:
    if name == "stack":
        from fslm_support import triage

        return triage
    sys.path.insert(0, str(Path(__file__).parent / "control"))
    from one_stage import single

    return single


if __name__ == "__main__":
    main()

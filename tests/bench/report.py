"""What a run found, for people: the table, the counts, who is ahead of whom; and the file for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .entrants import Found, Plan

Json = dict[str, Any]
Column = tuple[str, Callable[[Json], str]]


def document(found: Found, plan: Plan, facts: Json) -> Json:
    """All of it as one JSON value; ``records`` holds one record for each engine, workload and concurrency."""
    asked = {
        key: getattr(plan, key)
        for key in ("rows", "batch", "rounds", "quality", "isolation", "patience", "concurrency")
    }
    return {
        "records": found.records,
        "failures": found.failures,
        "overheads": found.overheads,
        "work": found.work,
        "rates": asdict(found.rates) if found.rates else None,
        "machine": facts,
        "plan": {**asked, "cores": list(plan.cores), "torch": dict(plan.torch)},
    }


def write(told: Json, file: Path) -> None:
    """Write :func:`document` to a file."""
    file.write_text(json.dumps(told, indent=1, default=str) + "\n", encoding="utf-8")


def show(told: Json, console: Console) -> None:
    """Print every table."""
    machine, rates = told["machine"], told["rates"]
    console.print(f"{machine['cpu']} ({', '.join(machine['flags'])}), cores {told['plan']['cores']}")
    console.print(", ".join(f"{name} {version}" for name, version in machine["versions"].items()))
    console.print(
        f"measured: {rates['bandwidth'] / 1e9:.1f} GB/s; {rates['float32'] / 1e9:.0f} Gop/s in float32,"
        f" {rates['bfloat16'] / 1e9:.0f} in bfloat16, {rates['int8'] / 1e9:.0f} in int8"
    )
    for workload in dict.fromkeys(record["workload"] for record in told["records"]):
        records = [record for record in told["records"] if record["workload"] == workload]
        console.print(speeds(workload, records))
        console.print(counts(workload, records))
        work = told["work"][workload]
        console.print(
            f"{workload}: a stack needs {work['tokens']:.0f} tokens forwarded ({work['tokens_below_adapters']:.0f}"
            f" below the lowest adapted layer), {work['decisions']:.1f} decisions,"
            f" {work['rounds']:.1f} forwards one after another"
        )
        for line in standings(records):
            console.print(line)
    for cost in told["overheads"]:
        console.print(
            f"{cost['workload']}: {cost['of']} by itself, {cost['concurrency']} at once:"
            f" {cost['p50_s'] * 1000:.1f} ms a stack, {cost['s_per_stack'] * 1000:.1f} ms of the cores"
        )
    for failure in told["failures"]:
        console.print(f"{failure['workload']}: {failure['engine']} was left out: {failure['reason']}", markup=False)


def speeds(workload: str, records: Sequence[Json]) -> Table:
    """One line an engine: quality, isolation, then each concurrency's figures with their spread."""
    table = Table(title=f"{workload}: quality and speed", title_justify="left")
    first: list[Column] = [
        ("engine", lambda r: r["engine"]),
        ("class", lambda r: r["precision"]),
        ("valid", lambda r: f"{r['valid']:.3f}"),
        ("score", lambda r: f"{r['score']:.3f}{'' if r['gate'] else ' ✗'}"),
        ("same", lambda r: f"{r['agreement']:.3f}"),
        ("adapters", lambda r: r["isolation"]),
    ]
    last: list[Column] = [
        ("peak MiB", lambda r: f"{r['peak_rss_mb']:.0f}"),
        ("load s", lambda r: f"{r['load_s']:.1f}"),
        ("warm s", lambda r: f"{r['warm_s']:.1f}"),
    ]
    levels = list(dict.fromkeys(record["concurrency"] for record in records))
    for name, _ in first:
        table.add_column(name)
    for level in levels:
        for name in _level_columns(level, records):
            table.add_column(name, justify="right")
    for name, _ in last:
        table.add_column(name, justify="right")
    for lines in by_engine(records):
        at = {line["concurrency"]: line for line in lines}
        cells = [make(lines[0]) for _, make in first]
        for level in levels:
            cells += _level_cells(level, at.get(level))
        table.add_row(*cells, *(make(lines[0]) for _, make in last))
    return table


def _level_columns(level: int, records: Sequence[Json]) -> list[str]:
    if level == 1:
        return ["1: p50 ms", "p95 ms", "limit"]
    batch = any(record["mode"] == "batch" for record in records if record["concurrency"] == level)
    return [f"{'batch of ' if batch else ''}{level}: stacks/s", "limit"]


def _level_cells(level: int, record: Json | None) -> list[str]:
    if record is None:
        return ["-"] * (3 if level == 1 else 2)
    mark = " !" if record["foreign"] > 0.05 else ""
    low, high = record["spread"]["p50_s" if level == 1 else "stacks_per_s"]
    share = f"{record['share_of_limit']:.0%}"
    if level == 1:
        return [
            f"{record['p50_s'] * 1000:.0f} ({low * 1000:.0f}-{high * 1000:.0f}){mark}",
            f"{record['p95_s'] * 1000:.0f}",
            share,
        ]
    return [f"{record['stacks_per_s']:.2f} ({low:.2f}-{high:.2f}){mark}", share]


def counts(workload: str, records: Sequence[Json]) -> Table:
    """Forwards and tokens at the lowest concurrency: forwards of a message, the rest of a stack."""
    table = Table(title=f"{workload}: counts", title_justify="left")
    columns: list[Column] = [
        ("engine", lambda r: r["engine"]),
        ("runs", lambda r: ", ".join(r["runs"])),
        ("forwards a message", lambda r: f"{r['forwards_per_message']:.1f}"),
        ("prompt computed", lambda r: f"{r['prompt_tokens_computed']:.0f}"),
        ("prompt cached", lambda r: f"{r['prompt_tokens_cached']:.0f}"),
        ("output", lambda r: f"{r['output_tokens']:.0f}"),
        ("forced", lambda r: f"{r['forced']:.0f}"),
        ("least ms", lambda r: f"{r['limit_s'] * 1000:.0f}"),
        ("of the best class", lambda r: f"{r['share_of_best_limit']:.0%}"),
        ("of perfect drafts", lambda r: f"{r['share_of_limit_drafted']:.0%}"),
    ]
    for name, _ in columns:
        table.add_column(name, justify="left" if name in ("engine", "runs") else "right")
    for lines in by_engine(records):
        table.add_row(*(make(lines[0]) for _, make in columns))
    return table


def standings(records: Sequence[Json]) -> Iterable[str]:
    """Our best beside the best peer, at each concurrency, overall and within each precision class.

    A peer that fails the gate or mixes up its adapters does not count.

    >>> ours = {"engine": "fused-int8", "ours": True, "counts_as_peer": False, "gate": True, "precision": "int8",
    ...     "concurrency": 1, "p50_s": 0.1, "stacks_per_s": 10.0}
    >>> peer = {**ours, "engine": "x:int8", "ours": False, "counts_as_peer": True, "p50_s": 0.3, "stacks_per_s": 3.0}
    >>> print(*standings([ours, peer]), sep=chr(10))
    overall, alone: fused-int8 takes 0.33 of the time of x:int8
    int8, alone: fused-int8 takes 0.33 of the time of x:int8
    """
    for level in dict.fromkeys(record["concurrency"] for record in records):
        here = [record for record in records if record["concurrency"] == level]
        for group in ("overall", "float32", "16-bit", "int8", "int4"):
            inside = [r for r in here if group in ("overall", r["precision"])]
            ours = [record for record in inside if record["ours"] and record["gate"]]
            peers = [record for record in inside if record["counts_as_peer"]]
            if ours and peers:
                how = "alone" if level == 1 else f"{level} at once"
                yield f"{group}, {how}: {_beside(level, _best(level, ours), _best(level, peers))}"


def _best(level: int, records: Sequence[Json]) -> Json:
    return min(records, key=lambda r: r["p50_s"] if level == 1 else -r["stacks_per_s"])


def _beside(level: int, ours: Json, peer: Json) -> str:
    if level == 1:
        return f"{ours['engine']} takes {ours['p50_s'] / peer['p50_s']:.2f} of the time of {peer['engine']}"
    return f"{ours['engine']} does {ours['stacks_per_s'] / peer['stacks_per_s']:.2f} times as much as {peer['engine']}"


def by_engine(records: Sequence[Json]) -> list[list[Json]]:
    """The records of each engine, in the order in which the engines came."""
    names = dict.fromkeys(record["engine"] for record in records)
    return [[record for record in records if record["engine"] == name] for name in names]


__all__ = ["by_engine", "counts", "document", "show", "speeds", "standings", "write"]

"""From a table to train, dev and test: every row of the table ends in exactly one place, and the report says which."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, InternalError, UsageError
from .gather import Gathered, gather
from .labels import HANDLINGS, Conflict, Handling, choose_targets, conflicts_among, label_of, text_of
from .near import Clusters, join_near, near_form, same_form
from .report import counted, markdown, report_of
from .rows import Rejected, Row
from .split import divide, parse_shares
from .table import AS_FOUND, Reading
from .target import Target
from .writing import REPORT, cells_line, json_line, require_free, write_folder


@dataclass(frozen=True, slots=True)
class Options:
    """How rows are divided.

    Attributes:
        groups: columns whose equal values stay in one split, as a customer or a thread.
        targets: output fields to stratify by; none for all that are labels.
        split: the shares, train/dev/test or train/test.
        seed: decides where clusters go that could go anywhere.
        near: similarity from which two inputs stay in one split, 0.5 to 1; 1 for equal ones only.
        conflicts: what becomes of equal inputs with different labels.
        max_rejected: the largest share of rows that may not fit.
    """

    groups: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    split: str = "80/10/10"
    seed: int = 0
    near: float = 0.9
    conflicts: Handling = "fail"
    max_rejected: float = 0.05

    def __post_init__(self) -> None:
        rules = [
            ("near", 0.5 <= self.near <= 1, "0.5 to 1"),
            ("conflicts", self.conflicts in HANDLINGS, ", ".join(HANDLINGS)),
            ("max_rejected", 0 <= self.max_rejected <= 1, "0 to 1"),
        ]
        for name, holds, expected in rules:
            if not holds:
                raise UsageError(
                    f"{name} is out of range",
                    where=f"--{name.replace('_', '-')}",
                    found=getattr(self, name),
                    expected=expected,
                    hint="see `fslm data prepare --help`",
                )


@dataclass(frozen=True, slots=True)
class Division:
    """Rows in their splits.

    Attributes:
        rows: those that are kept, in the table's order.
        labels: of each its label for every target.
        cluster: of each the place of the first row of its cluster.
        split: of each the name of its split.
        grouped: how many clusters the group columns alone make.
        repeats: how many rows have an input that an earlier one has.
        conflicts: equal inputs with different labels, by the places of their rows in the table as gathered.
        dropped: rows that the conflicts cost.
    """

    rows: tuple[Row, ...]
    targets: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    cluster: tuple[int, ...]
    split: tuple[str, ...]
    grouped: int
    repeats: int
    conflicts: tuple[Conflict, ...]
    dropped: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was made of a table.

    Attributes:
        out: the folder, or None where nothing was written.
        report: all that ``report.json`` holds.
        splits: split to its rows; the line each has is the table's.
        problem: why nothing may be written of it, or None; it is raised unless nothing was to be written.
    """

    out: Path | None
    report: dict[str, Any]
    splits: Mapping[str, tuple[Row, ...]]
    rejected: tuple[Rejected, ...]
    dropped: tuple[Row, ...]
    problem: DataError | None = None


def prepare(
    source: Path,
    out: Path | None = None,
    *,
    target: Target | None = None,
    mapping: Mapping[str, str] | None = None,
    options: Options = Options(),
    reading: Reading = AS_FOUND,
    force: bool = False,
) -> Prepared:
    """Read a table, check every row, divide the rows, and write the splits and a report.

    The same bytes, options and version give the same bytes.

    Args:
        out: the folder to write, whole or not at all; None writes nothing and returns a problem in place of raising it.
        target: what rows must fit; None for rows that are ``{"input": {…}, "output": {…}}`` already.
        mapping: field to column, where their names differ.
        force: replace a folder that an earlier call wrote.

    Raises:
        DataError: the table, its columns or rows, their labels, or the folder.
        MissingExtraError: a workbook, and the extra ``data`` is not installed.
    """
    if out is not None:
        require_free(out, force=force)
    shares = parse_shares(options.split)
    aim = target or Target.plain()
    gathered = gather(source, aim, mapping or {}, options.groups, reading)
    made = _divided(gathered, aim, options, shares)
    _require_all(gathered, made)
    splits = {name: [n for n, given in enumerate(made.split) if given == name] for name in shares}
    files = {f"{name}.jsonl": _lines(made, places) for name, places in splits.items()}
    files |= _set_aside(gathered, made)
    report = report_of(source, aim, options, shares, gathered, made, files)
    problem = _problem(source, options, gathered, made, shares)
    if out is not None:
        if problem is not None:
            raise problem
        files |= {REPORT: _pretty(report), "report.md": markdown(report)}
        write_folder(out, files, force=force)
    rows = {name: tuple(made.rows[n] for n in places) for name, places in splits.items()}
    return Prepared(out, report, rows, tuple(gathered.rejected), made.dropped, problem)


def _divided(found: Gathered, target: Target, options: Options, shares: Mapping[str, float]) -> Division:
    """Find labels, conflicts and clusters, and give every row its split."""
    targets = choose_targets(target, options.targets, found.rows)
    labels = [tuple(label_of(row, name) for name in targets) for row in found.rows]
    conflicts = conflicts_among(found.rows, labels, targets, options.conflicts)
    lost = {place for conflict in conflicts for place in conflict.lost}
    kept = [place for place in range(len(found.rows)) if place not in lost]
    texts = [text_of(found.rows[place]) for place in kept]
    clusters = Clusters(len(kept))
    for column in range(len(options.groups)):
        clusters.join_equal(found.groups[place][column] for place in kept)
    grouped = clusters.count()
    keys = [same_form(text) for text in texts]
    clusters.join_equal(keys)
    if options.near < 1:
        join_near(clusters, [near_form(text) for text in texts], options.near)
    members: dict[int, list[int]] = defaultdict(list)
    for place in range(len(kept)):
        members[clusters.of(place)].append(place)
    marked = [list(zip(targets, labels[place], strict=True)) for place in kept]
    return Division(
        rows=tuple(found.rows[place] for place in kept),
        targets=targets,
        labels=tuple(labels[place] for place in kept),
        cluster=tuple(clusters.of(place) for place in range(len(kept))),
        split=tuple(divide(list(members.values()), marked, shares, seed=options.seed)),
        grouped=grouped,
        repeats=len(keys) - len(set(keys)),
        conflicts=tuple(conflicts),
        dropped=tuple(found.rows[place] for place in sorted(lost)),
    )


def _require_all(found: Gathered, made: Division) -> None:
    """Count the rows once more: none may be lost or stand twice."""
    lines = [row.line for row in (*made.rows, *made.dropped)] + [row.line for row in found.rejected]
    if len(lines) + found.blank != found.read or len(set(lines)) != len(lines):
        raise InternalError(
            "rows were lost or doubled while they were divided",
            where=str(found.table.path),
            found=f"{len(set(lines)) + found.blank} of {found.read}",
            hint="report this with the table's header and the command",
        )


def _problem(
    source: Path, options: Options, found: Gathered, made: Division, shares: Mapping[str, float]
) -> DataError | None:
    """Why nothing may be written, or None."""
    rows = found.read - found.blank
    if len(found.rejected) > options.max_rejected * rows:
        return DataError(
            f"{len(found.rejected):,} of {rows:,} rows do not fit",
            where=str(source),
            found="; ".join(map(str, found.rejected[:3])),
            expected=f"at most {options.max_rejected:.0%} that do not",
            hint="see them all with --dry-run, mend the table or its --map, or allow more with --max-rejected",
        )
    if made.conflicts and options.conflicts == "fail":
        shown = [", ".join(str(found.rows[place].line) for place in conflict.places[:5]) for conflict in made.conflicts]
        return DataError(
            f"{counted(len(made.conflicts))} different labels in different rows",
            where=str(source),
            found="lines " + "; lines ".join(shown[:5]),
            hint="correct the labels (--dry-run lists all), or choose --conflicts drop, majority or keep",
        )
    if empty := [name for name in shares if name not in made.split]:
        return DataError(
            f"no row is left for {' and '.join(empty)}",
            where=str(source),
            found=f"{len(made.rows)} rows in {len(set(made.cluster))} clusters that must stay whole",
            hint="give more rows, another --split, a --group with more values, or a higher --near",
        )
    return None


def _lines(made: Division, places: Sequence[int]) -> str:
    return "".join(
        json_line(
            {
                "input": made.rows[place].input,
                "output": made.rows[place].output,
                "row": made.rows[place].line,
                "cluster": made.rows[made.cluster[place]].line,
            }
        )
        + "\n"
        for place in places
    )


def _set_aside(found: Gathered, made: Division) -> dict[str, str]:
    """The rows that are in no split, and the rows whose labels contradict each other."""
    rejected = (
        cells_line({"row": r.line, "field": r.field, "column": r.column, "why": r.text, "cells": dict(r.cells)})
        for r in found.rejected
    )
    gone = {row.line for row in made.dropped}
    conflicts = (
        json_line(
            {
                "conflict": number,
                "row": row.line,
                "kept": row.line not in gone,
                "input": row.input,
                "output": row.output,
            }
        )
        for number, conflict in enumerate(made.conflicts, start=1)
        for row in (found.rows[place] for place in conflict.places)
    )
    files = {"rejected.jsonl": rejected, "conflicts.jsonl": conflicts}
    return {name: text for name, lines in files.items() if (text := "".join(f"{line}\n" for line in lines))}


def _pretty(report: Mapping[str, Any]) -> str:
    return json.dumps(report, ensure_ascii=False, indent=2) + "\n"


__all__ = ["Division", "Options", "Prepared", "prepare"]

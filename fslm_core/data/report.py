"""What was made of a table: the report as JSON data, and as Markdown to read."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..folders import sha256_of
from .gather import Gathered
from .target import Target

if TYPE_CHECKING:
    from .prepare import Division, Options

_LISTED = 50
_LINES = 10
_LARGE = 0.1
"""A cluster with a larger share of the rows is warned of, and a split that is so far from its share."""
_MOST_LABELS = 300
_MARKS = re.compile(r"[\\|*`\[\]#]|(?<!\w)_|_(?!\w)")
"""What Markdown would take for markup."""


def report_of(
    source: Path,
    target: Target,
    options: Options,
    shares: Mapping[str, float],
    found: Gathered,
    made: Division,
    files: Mapping[str, str],
) -> dict[str, Any]:
    """Return the report: counts, labels in every split, duplicates, conflicts, what was rejected, hashes, warnings.

    It holds no path and no time, so that the same table gives the same report.
    """
    labels = _label_counts(shares, made)
    sizes = Counter(made.cluster)
    return {
        "fslm": __version__,
        "source": {"file": source.name, "sha256": sha256_of(source), **found.table.about},
        "rows_for": target.name,
        "columns": found.columns.used,
        "options": asdict(options),
        "unicode": "NFC",
        "rows": {
            "read": found.read,
            "blank": found.blank,
            "rejected": len(found.rejected),
            "dropped": len(made.dropped),
            **{name: made.split.count(name) for name in shares},
        },
        "labels": labels,
        "clusters": {
            "clusters": len(sizes),
            "of_several_rows": sum(size > 1 for size in sizes.values()),
            "largest": max(sizes.values(), default=0),
            "rows_repeating_an_input": made.repeats,
            "by_group_alone": made.grouped if options.groups else None,
            "in_each_split": {
                name: len({c for c, s in zip(made.cluster, made.split, strict=True) if s == name}) for name in shares
            },
        },
        "random_split": _random_split(made, shares, options.seed),
        "conflicts": {
            "inputs": len(made.conflicts),
            "rows": sum(len(conflict.places) for conflict in made.conflicts),
            "handling": options.conflicts,
            "listed": [
                [{"line": found.rows[place].line, **_labels(found, place, made)} for place in conflict.places[:_LINES]]
                for conflict in made.conflicts[:_LISTED]
            ],
        },
        "rejected": _rejections(found),
        "sha256": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()},
        "warnings": [*found.warnings, *_warnings(labels, sizes, shares, made)],
    }


def _label_counts(shares: Mapping[str, float], made: Division) -> dict[str, dict[str, dict[str, int]]]:
    """Target to label to split to rows, labels in the order of their names."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for place, target in enumerate(made.targets):
        counts = Counter(zip((labels[place] for labels in made.labels), made.split, strict=True))
        names = sorted({label for label, _ in counts})
        found[target] = {label: {name: counts[label, name] for name in shares} for label in names}
    return found


def _labels(found: Gathered, place: int, made: Division) -> dict[str, str]:
    from .labels import label_of

    return {target: label_of(found.rows[place], target) for target in made.targets}


def _random_split(made: Division, shares: Mapping[str, float], seed: int) -> dict[str, int]:
    """What a split by rows alone would have let through: held-out rows of a cluster that is in train, too."""
    order = list(range(len(made.rows)))
    random.Random(seed).shuffle(order)
    cut = round(shares["train"] * len(order))
    trained = {made.cluster[place] for place in order[:cut]}
    held = order[cut:]
    return {"held_out": len(held), "also_in_train": sum(made.cluster[place] in trained for place in held)}


def _rejections(found: Gathered) -> list[dict[str, Any]]:
    """What was wrong with rows, most frequent first, with the first lines of each."""
    kinds: dict[tuple[str, str | None, str], list[int]] = {}
    for row in found.rejected:
        kinds.setdefault((row.field, row.column, row.text), []).append(row.line)
    ranked = sorted(kinds.items(), key=lambda item: (-len(item[1]), item[1]))
    return [
        {"field": name, "column": column, "why": why, "rows": len(lines), "lines": lines[:_LINES]}
        for (name, column, why), lines in ranked[:_LISTED]
    ]


def _warnings(
    labels: Mapping[str, Mapping[str, Mapping[str, int]]],
    sizes: Counter[int],
    shares: Mapping[str, float],
    made: Division,
) -> list[str]:
    rows, found = len(made.rows), []
    largest = max(sizes.values(), default=0)
    if largest > max(_LARGE * rows, 5):
        found.append(
            f"one cluster holds {largest:,} of {rows:,} rows, which stay together: is a --group column the same in many"
            " rows, or --near too low?"
        )
    for name, share in shares.items():
        got = made.split.count(name) / max(rows, 1)
        if abs(got - share) > max(_LARGE * share, 1 / max(rows, 1)):
            found.append(f"{name} has {got:.1%} of the rows, not {share:.0%}: whole clusters gave no better division")
    for target, counts in labels.items():
        rare = [label for label, by_split in counts.items() if sum(by_split.values()) < len(shares)]
        absent = [label for label, by_split in counts.items() if label not in rare and not all(by_split.values())]
        if rare:
            found.append(f"{target}: too few rows to be in every split: {_some(rare)}")
        if absent:
            found.append(f"{target}: not in every split, for their rows are in few clusters: {_some(absent)}")
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_LINES]) + (f" and {len(names) - _LINES} more" if len(names) > _LINES else "")


# -- Markdown --------------------------------------------------------------------------------------------------------


def markdown(report: Mapping[str, Any]) -> str:
    """The report as a page."""
    return "\n".join(_page(report)).rstrip() + "\n"


def _page(report: Mapping[str, Any]) -> list[str]:
    source, clusters, naive, conflicts = (report[k] for k in ("source", "clusters", "random_split", "conflicts"))
    read = ", ".join(f"{name} {source[name]}" for name in source if name not in ("file", "sha256"))
    lines = [f"# {_text(source['file'])}, divided", ""]
    lines += [f"Rows for {_text(report['rows_for'])}, made by fslm {report['fslm']}. Read as {_text(read)}.", ""]
    lines += _table(["rows", "count"], [[name, f"{count:,}"] for name, count in report["rows"].items()])
    if report["columns"]:
        lines += ["## Columns", ""]
        lines += _table(["field", "column"], [[k, v] for k, v in report["columns"].items()])
    if report["warnings"]:
        lines += ["## Warnings", "", *(f"- {_text(warning)}" for warning in report["warnings"]), ""]
    for target, counts in report["labels"].items():
        lines += [f"## Labels of {_text(target)}", "", *label_table(counts)]
    lines += ["## Duplicates and groups", ""]
    lines += [
        f"{clusters['rows_repeating_an_input']:,} rows repeat the input of another. {clusters['clusters']:,} clusters"
        f" of equal or similar inputs{' and groups' if report['options']['groups'] else ''} stay whole;"
        f" {clusters['of_several_rows']:,} have several rows, the largest {clusters['largest']:,}.",
        "",
        f"A random split would have put {naive['also_in_train']:,} of {naive['held_out']:,} held-out rows beside their"
        " like in train; this one puts none.",
        "",
    ]
    if conflicts["inputs"]:
        lines += ["## Conflicting labels", ""]
        lines += [
            f"{counted(conflicts['inputs'])} different labels in {conflicts['rows']:,} rows;"
            f" {_HANDLED[conflicts['handling']]}",
            "",
        ]
        lines += _table(
            ["line", "labels"],
            [
                [row["line"], ", ".join(f"{k} {v}" for k, v in row.items() if k != "line")]
                for conflict in conflicts["listed"]
                for row in conflict
            ],
        )
    if report["rejected"]:
        lines += ["## Rejected rows", ""]
        lines += _table(
            ["rows", "field", "column", "why", "lines"],
            [
                [r["rows"], r["field"], r["column"] or "", r["why"], ", ".join(map(str, r["lines"]))]
                for r in report["rejected"]
            ],
        )
    lines += ["## Files", ""]
    hashes = {source["file"]: source["sha256"], **report["sha256"]}
    return lines + _table(["file", "SHA-256"], [[name, value] for name, value in hashes.items()])


def counted(count: int) -> str:
    """``count`` inputs, as the subject of a sentence.

    >>> counted(1), counted(2000)
    ('1 input has', '2,000 inputs have')
    """
    return "1 input has" if count == 1 else f"{count:,} inputs have"


_HANDLED = {
    "fail": "nothing is written until that is settled.",
    "keep": "all were kept, together.",
    "drop": "all were dropped.",
    "majority": "those with the most frequent label were kept, the others and all of a draw dropped.",
}


def label_table(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A Markdown table of labels by split."""
    splits = list(next(iter(counts.values()), {}))
    shown = list(counts.items())[:_MOST_LABELS]
    rows = [[label, *(f"{n:,}" for n in by_split.values()), f"{sum(by_split.values()):,}"] for label, by_split in shown]
    return _table(["label", *splits, "all"], rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"|{' --- |' * len(heads)}",
        *(f"| {' | '.join(_text(cell) for cell in row)} |" for row in rows),
        "",
    ]


def _text(value: object) -> str:
    """Text that Markdown shows as it is."""
    text = " ".join(str(value).split()).replace("<", "&lt;").replace(">", "&gt;")
    return _MARKS.sub(r"\\\g<0>", text)


__all__ = ["counted", "label_table", "markdown", "report_of"]

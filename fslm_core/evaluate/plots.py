"""The report's plots: SVG that takes its text colour from the page and asks for nothing from outside."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import Any

from ..explain.show import visible
from .results import Confusion, FieldReport, Interval, Report

TOP = 24
"""Labels drawn at most, those with the most rows; the others are drawn together."""
REST = "(other labels)"
_INK = "#010203"
"""Replaced by the page's own text colour."""
_GOLD, _PREDICTED, _CONTROL = "#2f8f83", "#3f74c8", "#c8762c"
_SETTINGS: dict[str, Any] = {
    "axes.edgecolor": _INK,
    "axes.facecolor": "none",
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "legend.frameon": False,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "text.color": _INK,
    "text.parse_math": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing: its file's name, what it shows in a sentence or two, and the SVG for a page and for a file."""

    name: str
    alt: str
    svg: str
    file: str


def plots(report: Report) -> list[Plot]:
    """Everything worth drawing, in the order of the report."""
    drawn = [_fed(report)]
    for number, field in enumerate(report.output.fields):
        if field.labels:
            drawn.append(_per_label(field, f"labels-{number}"))
        if field.confusion is not None:
            drawn.append(_confusion(field.name, field.confusion, f"confusion-{number}"))
    return drawn


def top_labels(confusion: Confusion, top: int = TOP) -> Confusion:
    """The table with its rarest labels taken together, so that it can be read."""
    support = {name: sum(line) for name, line in zip(confusion.gold, confusion.counts, strict=True)}
    for place, name in enumerate(confusion.predicted):
        support[name] = support.get(name, 0) + sum(line[place] for line in confusion.counts)
    if len(support) <= top:
        return confusion
    kept = set(sorted(support, key=lambda name: -support[name])[: top - 1])
    lines = [name if name in kept else REST for name in confusion.gold]
    columns = [name if name in kept else REST for name in confusion.predicted]
    gold, predicted = (list(dict.fromkeys(sorted(names, key=lambda n: n == REST))) for names in (lines, columns))
    counts = [[0] * len(predicted) for _ in gold]
    for i, line in enumerate(confusion.counts):
        for j, count in enumerate(line):
            counts[gold.index(lines[i])][predicted.index(columns[j])] += count
    return Confusion(gold=tuple(gold), predicted=tuple(predicted), counts=tuple(map(tuple, counts)))


# -- one plot each ---------------------------------------------------------------------------------------------------


def _fed(report: Report) -> Plot:
    """Each step fed with gold and with predictions, and the whole output beside the control."""
    groups: list[tuple[str, list[tuple[str, Interval | None]]]] = [
        (
            step.name,
            [
                ("fed with gold", step.gold_fed.exact if step.gold_fed else None),
                ("fed with predictions", step.predicted_fed.exact if step.predicted_fed else None),
            ],
        )
        for step in report.steps
        if step.unknown is None
    ]
    exact = report.output.exact
    groups.append(("whole output", [("fed with predictions", exact), ("linear control", exact.control)]))
    said = [f"{name}: " + ", ".join(f"{way} {_number(i)}" for way, i in bars if i is not None) for name, bars in groups]
    colours = {"fed with gold": _GOLD, "fed with predictions": _PREDICTED, "linear control": _CONTROL}

    def draw(axes: Any) -> None:
        _bars(axes, groups, colours)
        axes.set_xlabel("share of rows that are wholly right, with 95 % intervals")

    return _drawn("steps", "Share of rows wholly right. " + "; ".join(said), 0.55 * len(groups) + 1.2, draw)


def _per_label(field: FieldReport, name: str) -> Plot:
    labels = sorted(field.labels, key=lambda label: -label.support)[:TOP]
    control = any(label.f1.control is not None for label in labels)
    groups: list[tuple[str, list[tuple[str, Interval | None]]]] = [
        (
            f"{visible(label.label)} ({label.support})",
            [("this stack", label.f1), *([("linear control", label.f1.control)] if control else [])],
        )
        for label in labels
    ]
    worst = min(labels, key=lambda label: label.f1.value if label.f1.value is not None else 2.0)
    left = f", the {len(labels)} commonest of {len(field.labels)}" if len(labels) < len(field.labels) else ""
    alt = f"F1 of each label of {field.name}{left}. The lowest: {visible(worst.label)}, {_number(worst.f1)}."

    def draw(axes: Any) -> None:
        _bars(axes, groups, {"this stack": _PREDICTED, "linear control": _CONTROL})
        axes.set_xlabel("F1, with 95 % intervals (rows of the label in brackets)")

    return _drawn(name, alt, (0.42 if control else 0.3) * len(groups) + 1.0, draw)


def _confusion(field: str, whole: Confusion, name: str) -> Plot:
    confusion = top_labels(whole)
    wrong = sorted(
        (
            (count, gold, predicted)
            for gold, line in zip(confusion.gold, confusion.counts, strict=True)
            for predicted, count in zip(confusion.predicted, line, strict=True)
            if gold != predicted and count
        ),
        key=lambda found: -found[0],
    )[:3]
    said = "; ".join(f"{visible(g)} taken for {visible(p)} {n} times" for n, g, p in wrong) or "nothing was mixed up"
    size = len(confusion.gold)

    def draw(axes: Any) -> None:
        _heat(axes, confusion)

    return _drawn(name, f"Confusion of {field}, gold by predicted label: {said}.", 0.27 * size + 2.2, draw)


def _bars(axes: Any, groups: Sequence[tuple[str, list[tuple[str, Interval | None]]]], colours: dict[str, str]) -> None:
    """Horizontal bars in groups, the first group on top."""
    named: set[str] = set()
    for place, (_, bars) in enumerate(groups):
        present = [(way, found) for way, found in bars if found is not None and found.value is not None]
        height = 0.8 / max(1, len(present))
        for number, (way, found) in enumerate(present):
            assert found.value is not None
            where = place - 0.4 + height * (number + 0.5)
            low = found.value if found.low is None else min(found.low, found.value)
            high = found.value if found.high is None else max(found.high, found.value)
            axes.barh(
                where,
                found.value,
                height=height * 0.9,
                color=colours[way],
                label=None if way in named else way,
                xerr=[[found.value - low], [high - found.value]],
                error_kw={"ecolor": _INK, "elinewidth": 0.8, "capsize": 2},
            )
            named.add(way)
    axes.set_yticks(range(len(groups)), [_short(name) for name, _ in groups])
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_xlim(0, 1.0)
    if named:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.2)


def _heat(axes: Any, confusion: Confusion) -> None:
    """Cells shaded by their share of the gold label's rows, each with its count."""
    from matplotlib.patches import Rectangle

    for i, line in enumerate(confusion.counts):
        total = sum(line)
        for j, count in enumerate(line):
            if count:
                right = confusion.gold[i] == confusion.predicted[j]
                colour = _PREDICTED if right else _CONTROL
                shade = 0.15 + 0.6 * count / total
                axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=colour, alpha=shade, linewidth=0))
                axes.text(j, i, str(count), ha="center", va="center", fontsize=7)
    axes.set_xlim(-0.5, len(confusion.predicted) - 0.5)
    axes.set_ylim(len(confusion.gold) - 0.5, -0.5)
    axes.set_xticks(range(len(confusion.predicted)), map(_short, confusion.predicted), rotation=60, ha="right")
    axes.set_yticks(range(len(confusion.gold)), map(_short, confusion.gold))
    axes.set_xlabel("predicted")
    axes.set_ylabel("gold")


# -- from a drawing to SVG -------------------------------------------------------------------------------------------


def _drawn(name: str, alt: str, height: float, draw: Any) -> Plot:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    out = StringIO()
    settings: Any = {**_SETTINGS, "svg.hashsalt": name}
    with rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a script that matplotlib has no font for: the browser has one
        figure = Figure(figsize=(7.2, max(1.6, height)), layout="constrained")
        draw(figure.subplots())
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    whole = out.getvalue()
    svg = _unique(whole[whole.index("<svg") :], name).replace(_INK, "currentColor")
    labelled = re.sub(
        r'<svg ([^>]*?)width="[^"]*" height="[^"]*"|<svg ([^>]*?)height="[^"]*" ([^>]*?)width="[^"]*"',
        lambda m: f"<svg {m[1] or ''}{m[2] or ''}{m[3] or ''}",
        svg,
        count=1,
    )
    title = f"{name}-title"
    page = labelled.replace("<svg ", f'<svg role="img" aria-labelledby="{title}" ', 1)
    page = re.sub(r"(<svg [^>]*>)", lambda m: f'{m[1]}\n <title id="{title}">{escape(alt)}</title>', page, count=1)
    file = svg.replace("<svg ", '<svg color="#555" ', 1)
    return Plot(name, alt, "".join(_without_metadata(page)), '<?xml version="1.0" encoding="utf-8"?>\n' + file)


def _unique(svg: str, name: str) -> str:
    """Ids that no other plot on the page has."""
    svg = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', svg)
    return re.sub(r'(xlink:href="#|url\(#)', rf"\1{name}-", svg)


def _without_metadata(svg: str) -> Iterator[str]:
    yield re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)


def _short(name: str) -> str:
    text = visible(name).replace("\n", " ").replace("\t", " ")
    return text if len(text) <= 28 else f"{text[:27]}…"


def _number(interval: Interval) -> str:
    return "not defined" if interval.value is None else f"{interval.value:.3f}"


__all__ = ["REST", "TOP", "Plot", "plots", "top_labels"]

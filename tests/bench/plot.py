"""A run as a picture: for each workload the latency alone, and the rate with many at once and in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .report import by_engine

Json = dict[str, Any]
OURS, OTHER, FAILING = "#1b6ca8", "#b0b7bd", "#e0a899"


def draw(records: Sequence[Json], file: Path) -> None:
    """Write a PNG. Whiskers reach from the worst round to the best; the mark ``|`` is the limit of the engine's class.

    Raises:
        ValueError: there are no records.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    workloads = list(dict.fromkeys(record["workload"] for record in records))
    levels = list(dict.fromkeys(record["concurrency"] for record in records))
    if not records:
        raise ValueError("no records to draw")
    height = max(len(by_engine([r for r in records if r["workload"] == name])) for name in workloads)
    figure, grid = pyplot.subplots(
        len(workloads),
        len(levels),
        figsize=(5.2 * len(levels), len(workloads) * (1.2 + 0.32 * height)),
        squeeze=False,
        layout="constrained",
    )
    for line, workload in zip(grid, workloads, strict=True):
        for axes, level in zip(line, levels, strict=True):
            here = [r for r in records if r["workload"] == workload and r["concurrency"] == level]
            _panel(axes, workload, level, here)
    figure.savefig(file, dpi=130)
    pyplot.close(figure)


def _panel(axes: Any, workload: str, level: int, records: Sequence[Json]) -> None:
    key, scale = ("p50_s", 1000.0) if level == 1 else ("stacks_per_s", 1.0)
    names = [record["engine"] for record in records]
    values = [record[key] * scale for record in records]
    spread = [record["spread"][key] for record in records]
    whiskers = [
        [max(0.0, value - low * scale) for value, (low, _) in zip(values, spread, strict=True)],
        [max(0.0, high * scale - value) for value, (_, high) in zip(values, spread, strict=True)],
    ]
    bars = axes.barh(names, values, xerr=whiskers, color=[_colour(r) for r in records], ecolor="#444444", capsize=2)
    axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=4, fontsize=8)
    axes.margins(x=0.12)
    limits = [record["limit_s"] * 1000 if level == 1 else 1 / record["limit_s"] for record in records]
    axes.scatter(limits, names, marker="|", s=120, color="black", zorder=3)
    axes.invert_yaxis()
    axes.set_title(f"{workload}: " + ("alone, p50 ms (less is better)" if level == 1 else f"{level} at once, stacks/s"))
    axes.grid(axis="x", alpha=0.25)


def _colour(record: Json) -> str:
    if not record["gate"] or record["isolation"] == "fails":
        return FAILING
    return OURS if record["ours"] else OTHER


__all__ = ["draw"]

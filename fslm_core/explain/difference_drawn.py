"""Two runs beside each other, or many pairs counted, for a person (Rich) and for a program (JSON)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..store import RunRow
from .difference import Cause, FieldChange, RunDiff, SetDiff, StepChange
from .drawing import DATA, DEEP, clip, compact, one_line, plain, seconds_text, shallow, status_text

CAUSES: dict[Cause, str] = {
    "edited": "somebody edited it",
    "given": "was given something else",
    "condition": "another condition let it run, or not",
    "maker": "made by another stage, prompt, adapter or model",
    "backend": "another backend, device or precision",
    "attempts": "another number of attempts",
    "engine": "another version of fslm-core",
    "seed": "another seed",
    "unexplained": "given and made as before: chance, or something that no fingerprint holds",
}
_STYLES = {"same": "dim", "unknown": "dim", "changed": "bold yellow", "appeared": "bold green", "vanished": "bold red"}
_MOST = 20
"""Changed fields that are shown of one step, and changed runs of a set."""


def drawn(found: RunDiff, *, full: bool = False) -> RenderableType:
    """Two runs as something Rich can print; where they part stands last."""
    parts: list[RenderableType] = [_runs(found.before, found.after)]
    if found.makers:
        parts += ["", Text("made otherwise", style="bold")]
        for name, (old, new) in found.makers.items():
            parts.append(Padding(plain(f"{name}: {old or 'nothing'} → {new or 'nothing'}"), (0, 0, 0, 2)))
    parts.append("")
    for step in found.steps:
        parts += _step(step, full)
    return Group(*parts, "", _verdict(found))


def to_json(found: RunDiff) -> dict[str, Any]:
    """Two runs as plain JSON data: ``before``, ``after``, ``same``, ``parted``, ``makers`` and ``steps``."""
    told = {
        "before": asdict(found.before),
        "after": asdict(found.after),
        "same": found.same,
        "parted": found.parted.step if found.parted else None,
        "makers": {step: list(pair) for step, pair in found.makers.items()},
        "steps": [asdict(step) for step in found.steps],
    }
    shown: dict[str, Any] = shallow(told, DEEP)
    return shown


def set_drawn(found: SetDiff) -> RenderableType:
    """Many pairs as a table of steps, and the runs whose outputs differ."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for place, head in enumerate(("step", "pairs", "same", "95 %", "parted here", "fields that changed")):
        table.add_column(head, justify="right" if 0 < place < 5 else "left", overflow="fold")
    for step in found.steps:
        low, high = step.interval
        fields = ", ".join(f"{one_line(name) or 'all'} {count:,}" for name, count in sorted(step.fields.items()))
        table.add_row(
            plain(step.step),
            f"{step.pairs:,}",
            f"{step.same / step.pairs:.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{step.parted:,}" if step.parted else "",
            Text(fields),
        )
    share = f"{found.same:,} of {found.pairs:,} pairs of runs have the same output"
    parts: list[RenderableType] = [Text(share, style="bold"), "", table]
    if found.changed:
        parts += ["", Text("outputs differ in", style="bold")]
        parts += [Text(f"  {before}  {after}") for before, after in found.changed[:_MOST]]
        if len(found.changed) > _MOST:
            parts.append(Text(f"  … {len(found.changed) - _MOST:,} more; --json has all", style="dim"))
    return Group(*parts)


def set_to_json(found: SetDiff) -> dict[str, Any]:
    """Many pairs as plain JSON data."""
    steps = [{**asdict(step), "interval": list(step.interval)} for step in found.steps]
    return {"pairs": found.pairs, "same": found.same, "steps": steps, "changed": [list(pair) for pair in found.changed]}


def _runs(before: RunRow, after: RunRow) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, row in (("before", before), ("after", after)):
        started = datetime.fromtimestamp(row.started).strftime("%m-%d %H:%M:%S")
        table.add_row(
            Text(name, style="dim"),
            Text(one_line(row.id), style="bold"),
            plain(started),
            plain(row.stack),
            status_text(row.status),
            seconds_text(row.seconds),
        )
    return table


def _step(step: StepChange, full: bool) -> Iterator[RenderableType]:
    title = Text.assemble((one_line(step.step), "bold"), "  ", (step.how, _STYLES[step.how]))
    if step.how == "unknown":
        title.append("  what was kept does not tell", style="dim")
    elif step.how != "same" and step.status[0] != step.status[1]:
        title.append(f"  {step.status[0] or 'not there'} → {step.status[1] or 'not there'}")
    yield title
    if step.how in ("same", "unknown"):
        return
    yield Padding(Text("; ".join(CAUSES[cause] for cause in step.why), style="dim"), (0, 0, 0, 2))
    for change in step.fields[:_MOST]:
        yield Padding(_change(change, full), (0, 0, 0, 2))
    if len(step.fields) > _MOST:
        yield Padding(Text(f"… {len(step.fields) - _MOST:,} more", style="dim"), (0, 0, 0, 2))


def _change(change: FieldChange, full: bool) -> RenderableType:
    sides = zip((change.before, change.after), change.present, strict=True)
    old, new = (Text(clip(compact(value), full), style=DATA) if there else Text("nothing") for value, there in sides)
    return Text.assemble((one_line(change.field) or "all", ""), "  ", old, " → ", new)


def verdict(found: RunDiff) -> tuple[str, str, str]:
    """Where two runs part, in a sentence: what comes before the step's name, the name, and what comes after."""
    if found.same:
        return "All that was kept of the two runs is the same.", "", ""
    parted = found.parted
    if parted is None:
        return "They were given something else; each step does the same with the same.", "", ""
    return "They part at ", parted.step, f": {'; '.join(CAUSES[cause] for cause in parted.why)}."


def _verdict(found: RunDiff) -> Text:
    before, step, after = verdict(found)
    style = "green" if found.same else "" if step else "yellow"
    return Text.assemble((before, style), (one_line(step), "bold"), after)


__all__ = ["CAUSES", "drawn", "set_drawn", "set_to_json", "to_json", "verdict"]

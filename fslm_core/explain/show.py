"""A stored run for a person (Rich, readable at 80 columns) and for a program (JSON)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ..store import RunRow, StoredContent, StoredNode, StoredRun, StoredSpan
from .drawing import (
    CLOSE,
    DEEP,
    OPEN,
    STYLES,
    attempt_rows,
    clip,
    compact,
    cost,
    facts,
    fields,
    one_line,
    plain,
    probability,
    seconds_text,
    shallow,
    status_text,
    visible,
)
from .shadow import beside

_BAR = 20


def show(run: StoredRun, *, full: bool = False) -> RenderableType:
    """A run as something Rich can print.

    Args:
        full: show long data whole; else its middle is left out.
    """
    parts: list[RenderableType] = [*_header(run, full)]
    if run.nodes:
        parts += ["", _timeline(run)]
    for place, node in enumerate(run.nodes, start=1):
        parts += ["", *_step(run, node, place, full)]
    ended = {node.step for node in run.nodes}
    for node in (shadow for shadow in run.shadows if shadow.step not in ended):
        title = Text.assemble("beside ", (one_line(node.step), "bold"), ", which did not end")
        parts += ["", Rule(title, align="left", style="dim"), facts(list(beside(node, full)))]
    return Group(*parts, "", *_footer(run, full))


def to_json(run: StoredRun) -> dict[str, Any]:
    """A run as plain JSON data: the same as :func:`show` tells, and the arrays token by token.

    Keys: ``run`` (id, stack, status, times, seed, error, …), ``input``, ``output`` (id, schema_id, model, kind,
    data), ``output_parents``, ``fingerprints``, ``steps``, each with its ``attempts``, and ``shadows``, the candidates
    that ran beside steps. Times are Unix seconds.
    """
    found = {
        "run": asdict(run.row),
        "input": _content_json(run.input),
        "output": _content_json(run.output),
        "output_parents": list(run.output_parents),
        "fingerprints": run.fingerprints,
        "steps": [_node_json(node) for node in run.nodes],
        "shadows": [_node_json(node) for node in run.shadows],
    }
    shown: dict[str, Any] = shallow(found, DEEP)
    return shown


def runs_table(rows: Iterable[RunRow]) -> RenderableType:
    """Runs as a table, one line each."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("run", no_wrap=True, min_width=26)
    table.add_column("started", no_wrap=True)
    table.add_column("stack", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for row in rows:
        started = datetime.fromtimestamp(row.started).strftime("%m-%d %H:%M:%S")
        status = status_text(row.status)
        table.add_row(plain(row.id), started, plain(row.stack), status, seconds_text(row.seconds))
    return table if table.row_count else Text("no run is in the trace yet", style="dim")


def _header(run: StoredRun, full: bool) -> Iterator[RenderableType]:
    row = run.row
    title = Text.assemble(
        "run ", (one_line(row.id), "bold"), "  ", (one_line(row.stack), "bold"), "  ", status_text(row.status)
    )
    if row.seconds is not None:
        title.append(f"  {seconds_text(row.seconds)}")
    yield title
    known = {
        "started": datetime.fromtimestamp(row.started).astimezone().isoformat(" ", "seconds"),
        "by": f"fslm-core {row.engine}, backend {row.backend or '?'}, seed {row.seed}",
        "kept": {"full": "everything", "redacted": "sensitive fields redacted", "none": "shapes only, no text"}[
            row.content
        ],
    }
    rows: list[tuple[str, RenderableType]] = [(name, plain(text)) for name, text in known.items()]
    if run.input is not None:
        rows.append(("input", fields(run.input, None, full)))
    yield facts(rows)


def _footer(run: StoredRun, full: bool) -> Iterator[RenderableType]:
    row = run.row
    yield Rule(style="dim")
    if run.output is not None:
        rows: list[tuple[str, RenderableType]] = [("output", fields(run.output, None, full))]
        if run.output_parents:
            rows.append(("from", plain(_parents(run, run.output_parents))))
        yield facts(rows)
    if row.error is not None:
        names = {
            "code": "error",
            "what": "what",
            "where": "where",
            "found": "found",
            "expected": "expected",
            "next": "next",
        }
        told = [(name, clip(str(row.error[key]), full)) for key, name in names.items() if key in row.error]
        yield facts([(name, Text(text, style="red" if name == "error" else "")) for name, text in told])
    if row.status == "interrupted":
        yield Text("The process ended before the run did; what it had recorded is above.", style="yellow")
    if row.status == "running":
        yield Text("The run is not over yet.", style="cyan")
    untuned = sorted({node.step for node in run.nodes if not node.tuned})
    if untuned:
        yield Text(
            f"Untuned: {one_line(', '.join(untuned))} ran a model that was not tuned for the stage.", style="yellow"
        )
    if row.content != "none":
        yield Text(f"In prompts, {OPEN}this{CLOSE} is data; the rest is the template's own text.", style="dim")


def _timeline(run: StoredRun) -> Table:
    """When each step ran, how long, and how sure it was of its least sure field."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("step", overflow="ellipsis", no_wrap=True, max_width=14)
    table.add_column("when", no_wrap=True)
    for name in ("time", "prompt", "output", "forwards", "conf."):
        table.add_column(name, justify="right", no_wrap=True)
    start, span = run.row.started, _span(run)
    for node in run.nodes:
        usage = node.usage
        lowest = min(node.confidence.values(), default=None) if node.confidence else None
        skipped = node.status == "skipped"
        table.add_row(
            Text(one_line(node.step), style=STYLES.get(node.status, "")),
            _bar(node, start, span),
            "" if skipped else seconds_text(node.seconds),
            str(usage.prompt) if usage.prompt else "",
            str(usage.output) if usage.output else "",
            str(usage.forwards) if usage.forwards else "",
            "" if lowest is None else probability(lowest),
        )
    return table


def _span(run: StoredRun) -> float:
    ends = [node.started - run.row.started + (node.seconds or 0.0) for node in run.nodes if node.started]
    return max([run.row.seconds or 0.0, *ends, 1e-9])


def _bar(node: StoredNode, start: float, span: float) -> Text:
    if node.status == "skipped":
        return Text("skipped", style="dim")
    offset = (node.started - start) / span if node.started else 0.0
    first = min(_BAR - 1, max(0, int(offset * _BAR)))
    length = min(_BAR - first, max(1, round((node.seconds or 0.0) / span * _BAR)))
    rest = _BAR - first - length
    return Text.assemble(("·" * first, "dim"), ("█" * length, STYLES.get(node.status, "")), ("·" * rest, "dim"))


def _step(run: StoredRun, node: StoredNode, place: int, full: bool) -> Iterator[RenderableType]:
    name = one_line(node.step) + (f"[{node.index}]" if node.index else "")
    title = Text.assemble(f"{place} ", (name, "bold"), "  ", status_text(node.status))
    if node.status == "failed" and node.attempt:
        title.append(f"  try {node.attempt + 1}")
    if not node.tuned and node.status != "skipped":
        title.append("  untuned", style="yellow")
    yield Rule(title, align="left", style="dim")
    if node.status == "skipped":
        yield facts([("because", Text.assemble("when ", (visible(node.when or "?"), "bold"), " was false"))])
        return
    rows: list[tuple[str, RenderableType]] = [("made by", plain(_maker(node)))]
    if node.parents:
        rows.append(("from", plain(_parents(run, node.parents))))
    if node.narrowed is not None:
        rows.append(("narrowed", plain(clip(_narrowed(node.narrowed), full))))
    several = len(node.attempts) > 1
    asked: tuple[StoredSpan, ...] | None = None
    for attempt in node.attempts:
        rows += attempt_rows(attempt, several, full, asked_before=attempt.spans is not None and attempt.spans == asked)
        asked = attempt.spans
    if node.content is not None:
        rows.append(("validated", fields(node.content, node.confidence, full)))
    rows.append(("cost", plain(cost(node))))
    if node is _last_of(run, node.step):
        for shadow in (s for s in run.shadows if s.step == node.step and s.index == node.index):
            rows += beside(shadow, full)
    yield facts(rows)


def _last_of(run: StoredRun, step: str) -> StoredNode:
    return [node for node in run.nodes if node.step == step][-1]


def _maker(node: StoredNode) -> str:
    stage = node.stage or "?"
    owner = f" ({node.plugin} {node.version or ''})".replace(" )", ")") if node.plugin else ""
    model = f", model {node.model}" if node.model else ""
    backend = f", backend {node.backend}" if node.backend else ""
    return f"{stage}{owner}{model}{backend}"


def _parents(run: StoredRun, parents: Sequence[str]) -> str:
    steps = {node.id: node.step for node in run.nodes}
    return ", ".join(dict.fromkeys(steps.get(parent) or _step_of(run.row.id, parent) for parent in parents))


def _step_of(run: str, node: str) -> str:
    """``input`` from ``01H…/input/0/0``."""
    parts = node.removeprefix(run + "/").rsplit("/", 2)
    return parts[0] if len(parts) == 3 else node


def _narrowed(schema: Mapping[str, Any]) -> str:
    if set(schema) == {"hash"}:
        return "not kept"
    properties = schema.get("properties")
    choices = (
        (name, _choices(part, DEEP)) for name, part in (properties if isinstance(properties, dict) else {}).items()
    )
    return "; ".join(f"{name} to {compact(values)}" for name, values in choices if values) or compact(schema)


def _choices(node: Any, levels: int) -> list[Any]:
    if not isinstance(node, dict) or levels == 0:
        return []
    inner = [*_listed(node, "anyOf"), node.get("items")]
    return [*_listed(node, "enum"), *(choice for part in inner for choice in _choices(part, levels - 1))]


def _listed(node: Mapping[str, Any], key: str) -> list[Any]:
    value = node.get(key)
    return value if isinstance(value, list) else []


def _content_json(content: StoredContent | None) -> dict[str, Any] | None:
    if content is None:
        return None
    return {
        "id": content.id,
        "schema_id": content.schema_id,
        "model": content.model,
        "kind": content.kind,
        "data": content.data,
    }


def _node_json(node: StoredNode) -> dict[str, Any]:
    return {**asdict(node), "content": _content_json(node.content)}


__all__ = ["runs_table", "show", "to_json", "visible"]

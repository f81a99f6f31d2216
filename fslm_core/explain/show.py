"""A stored run for a person (Rich, readable at 80 columns) and for a program (JSON)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ..store import Label, RunRow, StoredContent, StoredNode, StoredRun, StoredSpan
from .drawing import (
    CLOSE,
    DEEP,
    OPEN,
    STYLES,
    attempt_rows,
    clip,
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
from .instead import by_token, instead
from .labels import drawn as labelled
from .shadow import beside
from .tree import Branch, few, tree
from .wording import because, doubts, maker, narrowed, step_of

_BAR, _NESTED_BAR = 20, 12
_NAME, _NESTED_NAME = 14, 22
"""Columns of the table of times; where steps stand within others, names need more of them."""
_INDENTS = 8
"""Levels that are shown further and further to the right."""


def show(run: StoredRun, *, full: bool = False) -> RenderableType:
    """A run as something Rich can print.

    Args:
        full: show long data whole, each token with its runner-up, and a step each time it ran; else middles are left
            out, and most of very many times.
    """
    parts: list[RenderableType] = [*_header(run, full)]
    branches = tree(run.nodes) if full else few(tree(run.nodes))
    if run.nodes:
        parts += ["", _timeline(run, branches)]
    parts += _branches(_Shown(run, full), branches, "", 0)
    ended = {node.step for node in run.nodes}
    for node in (shadow for shadow in run.shadows if shadow.step not in ended):
        title = Text.assemble("beside ", (one_line(node.step), "bold"), ", which did not end")
        parts += ["", Rule(title, align="left", style="dim"), facts(list(beside(node, full)))]
    return Group(*parts, "", *_footer(run, full))


def to_json(run: StoredRun) -> dict[str, Any]:
    """A run as plain JSON data: the same as :func:`show` tells, and the arrays token by token.

    Keys: ``run`` (id, stack, status, times, seed, error, …), ``input``, ``output`` (id, schema_id, model, kind,
    data), ``output_parents``, ``fingerprints``, ``steps``, each with its ``attempts`` and its ``label``, and
    ``shadows``, the candidates that ran beside steps. Times are Unix seconds.
    """
    found = {
        "run": asdict(run.row),
        "input": _content_json(run.input),
        "output": _content_json(run.output),
        "output_parents": list(run.output_parents),
        "fingerprints": run.fingerprints,
        "steps": [{**_node_json(node), "label": _label_json(run, node)} for node in run.nodes],
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
            rows.append(("from", plain(_Shown(run, full).parents(run.output_parents))))
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
    taken = [node for node in run.nodes if node.reused and not node.edited]
    if row.parent is not None:
        yield Text(
            f"It replays run {one_line(row.parent)}: {len(taken)} of {len(run.nodes)} messages were taken from there.",
            style="dim",
        )
    if row.status == "review":
        yield Text("The run waits for a person: no step was sure enough of what is named above.", style="magenta")
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


def _timeline(run: StoredRun, branches: list[Branch[StoredNode]]) -> Table:
    """When each step ran, how long, and how sure it was of its least sure field; those of a shape below it."""
    nested = any(branch.within for branch in branches)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("step", overflow="ellipsis", no_wrap=True, max_width=_NESTED_NAME if nested else _NAME)
    table.add_column("when", no_wrap=True)
    for name in ("time", "prompt", "output", "forwards", "conf."):
        table.add_column(name, justify="right", no_wrap=True)
    bars = _Bars(run, _NESTED_BAR if nested else _BAR)
    for row in _rows(branches, bars, ""):
        table.add_row(*row)
    return table


def _rows(branches: Iterable[Branch[StoredNode]], bars: _Bars, indent: str) -> Iterator[tuple[RenderableType, ...]]:
    for branch in branches:
        for node in branch.nodes:
            name = Text(indent + one_line(branch.name), style=STYLES.get(node.status, ""))
            yield (name, *_row(node, branch.span, bars))
        if branch.more:
            yield (Text(f"{indent}… {branch.more:,} more", style="dim"), *[""] * 6)
        elif not branch.nodes:
            yield Text(indent + one_line(branch.name)), *_when(branch.span, "", bars)
        yield from _rows(branch.within.values(), bars, f"{indent} ")


def _row(node: StoredNode, span: tuple[float, float] | None, bars: _Bars) -> Iterator[RenderableType]:
    usage = node.usage
    lowest = min(node.confidence.values(), default=None) if node.confidence else None
    own = (node.started, node.started + (node.seconds or 0.0)) if node.attempts and node.started else span
    if node.status == "skipped":
        yield from (Text("skipped", style="dim"), "")
    else:
        yield from _when(own, node.status, bars)
    yield from (str(count) if count else "" for count in (usage.prompt, usage.output, usage.forwards))
    yield "" if lowest is None else probability(lowest)


def _when(span: tuple[float, float] | None, status: str, bars: _Bars) -> tuple[RenderableType, ...]:
    start, end = span or (bars.start, bars.start)
    return bars.drawn(start, end - start, status), seconds_text(end - start) if end > start else ""


class _Bars:
    """Draws when something was at work, on the scale of a run."""

    def __init__(self, run: StoredRun, width: int) -> None:
        self.start, self.span, self.width = run.row.started, _span(run), width

    def drawn(self, started: float, seconds: float, status: str) -> Text:
        """The run's whole time, with what was at work marked in it."""
        first = min(self.width - 1, max(0, int((started - self.start) / self.span * self.width)))
        length = min(self.width - first, max(1, round(seconds / self.span * self.width)))
        rest = self.width - first - length
        return Text.assemble(("·" * first, "dim"), ("█" * length, STYLES.get(status, "")), ("·" * rest, "dim"))


def _span(run: StoredRun) -> float:
    ends = [node.started - run.row.started + (node.seconds or 0.0) for node in run.nodes if node.started]
    return max([run.row.seconds or 0.0, *ends, 1e-9])


class _Shown:
    """A run, with what is asked of it again and again; it may have thousands of steps."""

    def __init__(self, run: StoredRun, full: bool) -> None:
        self.run, self.full = run, full
        self.steps = {node.id: node.step for node in run.nodes}
        self.last = {node.step: node.id for node in run.nodes}
        self.beside: dict[tuple[str, int], list[StoredNode]] = {}
        for shadow in run.shadows:
            self.beside.setdefault((shadow.step, shadow.index), []).append(shadow)

    def parents(self, parents: Sequence[str]) -> str:
        """The steps that messages came from."""
        names = (self.steps.get(parent) or step_of(self.run.row.id, parent) for parent in parents)
        return ", ".join(dict.fromkeys(names))


def _branches(
    shown: _Shown, branches: Iterable[Branch[StoredNode]], before: str, depth: int
) -> Iterator[RenderableType]:
    """Each step, numbered, and what is within it further to the right."""
    place = 0
    for branch in branches:
        if branch.more:
            place += branch.more
            left = f"… {branch.more:,} more times of {one_line(branch.name)}; --full shows them"
            yield from ("", Padding(Text(left, style="dim"), (0, 0, 0, 2 * min(depth, _INDENTS))))
            continue
        told = [partial(_step, shown, node, branch.name) for node in branch.nodes] or [partial(_unended, branch.name)]
        for one in told:
            place += 1
            drawn = Group(*one(f"{before}{place}"))
            yield from ("", Padding(drawn, (0, 0, 0, 2 * min(depth, _INDENTS))) if depth else drawn)
        yield from _branches(shown, branch.within.values(), f"{before}{place}.", depth + 1)


def _unended(name: str, number: str) -> Iterator[RenderableType]:
    yield Rule(Text.assemble(f"{number} ", (one_line(name), "bold"), "  did not end"), align="left", style="dim")


def _step(shown: _Shown, node: StoredNode, name: str, number: str) -> Iterator[RenderableType]:
    full = shown.full
    title = Text.assemble(f"{number} ", (one_line(name), "bold"), "  ", status_text(node.status))
    if node.status == "failed" and node.attempt:
        title.append(f"  try {node.attempt + 1}")
    if not node.tuned and node.status != "skipped":
        title.append("  untuned", style="yellow")
    yield Rule(title, align="left", style="dim")
    if node.status == "skipped":
        yield facts([("because", _because(node.when or "?"))])
        return
    rows: list[tuple[str, RenderableType]] = [("made by", plain(maker(node)))]
    if node.parents:
        rows.append(("from", plain(shown.parents(node.parents))))
    if node.edited:
        rows.append(("edited", Text(one_line(", ".join(node.edited)), style="bold yellow")))
    elif node.reused:
        rows.append(("taken", plain(f"from run {node.reused.partition('/')[0]}, not made again")))
    if node.narrowed is not None:
        rows.append(("narrowed", plain(clip(narrowed(node.narrowed, full), full))))
    several = len(node.attempts) > 1
    asked: tuple[StoredSpan, ...] | None = None
    for attempt in node.attempts:
        rows += attempt_rows(attempt, several, full, asked_before=attempt.spans is not None and attempt.spans == asked)
        asked = attempt.spans
    if node.content is not None:
        rows.append(("validated", fields(node.content, node.confidence, full)))
    if (label := _label_of(shown.run, node)) is not None:
        rows.append(("label", labelled(label, full)))
    for place, line in enumerate(instead(node)):
        rows.append(("" if place else "or else", line))
    if full and node.attempts and (tokens := by_token(node.attempts[-1])) is not None:
        rows.append(("tokens", tokens))
    if node.abstained:
        rows.append(("unsure of", plain(clip("; ".join(doubts(node)), full))))
    if node.attempts or node.seconds:  # a shape and its decisions cost nothing by themselves
        rows.append(("cost", plain(cost(node))))
    if node.id == shown.last[node.step]:
        for shadow in shown.beside.get((node.step, node.index), ()):
            rows += beside(shadow, full)
    yield facts(rows)


def _label_of(run: StoredRun, node: StoredNode) -> Label | None:
    label = run.labels.get(node.step)
    return label if label is not None and label.node == node.id else None


def _because(when: str) -> Text:
    """Why a step was passed over."""
    before, what, after = because(when)
    return Text.assemble(before, (visible(what), "bold"), after)


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


def _label_json(run: StoredRun, node: StoredNode) -> dict[str, Any] | None:
    label = _label_of(run, node)
    return None if label is None else asdict(label)


def _node_json(node: StoredNode) -> dict[str, Any]:
    return {**asdict(node), "content": _content_json(node.content)}


__all__ = ["runs_table", "show", "to_json", "visible"]

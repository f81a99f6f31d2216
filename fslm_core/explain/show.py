"""A stored run for a person (Rich, readable at 80 columns) and for a program (JSON).

Whatever a message, a prompt or a model wrote is data: it is shown as text and never interpreted. Control characters,
escape sequences, bidirectional overrides and other invisible characters are spelt out.

>>> visible("red \\x1b[31m and \\u202e back")
'red \\\\x1b[31m and \\\\u202e back'
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ..message import TokenTrace
from ..store import RunRow, StoredAttempt, StoredContent, StoredNode, StoredRun, StoredSpan

_STYLES = {
    "ok": "green",
    "succeeded": "green",
    "failed": "bold red",
    "cancelled": "yellow",
    "interrupted": "yellow",
    "running": "cyan",
    "skipped": "dim",
}
_DATA = "cyan"
_BAR = 20
_LONG = 1500
"""Characters of one piece of data that are shown unless all are asked for."""
_DEEP = 100
"""Levels of JSON data that are shown."""
_JOINERS = "\u200c\u200d"
"""Emoji and several scripts need them; they move nothing."""


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
    return Group(*parts, "", *_footer(run, full))


def to_json(run: StoredRun) -> dict[str, Any]:
    """A run as plain JSON data: the same as :func:`show` tells, and the arrays token by token.

    Keys: ``run`` (id, stack, status, times, seed, error, …), ``input``, ``output`` (id, schema_id, model, kind,
    data), ``output_parents``, ``fingerprints``, and ``steps``, each with its ``attempts``. Times are Unix seconds.
    """
    found = {
        "run": asdict(run.row),
        "input": _content_json(run.input),
        "output": _content_json(run.output),
        "output_parents": list(run.output_parents),
        "fingerprints": run.fingerprints,
        "steps": [_node_json(node) for node in run.nodes],
    }
    shown: dict[str, Any] = _shallow(found, _DEEP)
    return shown


def _shallow(value: Any, levels: int) -> Any:
    """JSON data as it is, but for what no JSON can hold and what is nested too deep to be shown."""
    if isinstance(value, dict | list | tuple) and levels == 0:
        return "…"
    if isinstance(value, dict):
        return {name: _shallow(part, levels - 1) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_shallow(part, levels - 1) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
        status = _status(row.status)
        table.add_row(_plain(row.id), started, _plain(row.stack), status, _seconds(row.seconds))
    return table if table.row_count else Text("no run is in the trace yet", style="dim")


def visible(text: str) -> str:
    """``text`` with every character that would be acted on, or could not be seen, written as its escape."""
    return "".join(_spelt(c) if _hides(c) else c for c in text)


def _hides(character: str) -> bool:
    return character not in "\n\t" + _JOINERS and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _spelt(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _header(run: StoredRun, full: bool) -> Iterator[RenderableType]:
    row = run.row
    title = Text.assemble("run ", (_line(row.id), "bold"), "  ", (_line(row.stack), "bold"), "  ", _status(row.status))
    if row.seconds is not None:
        title.append(f"  {_seconds(row.seconds)}")
    yield title
    facts = {
        "started": datetime.fromtimestamp(row.started).astimezone().isoformat(" ", "seconds"),
        "by": f"fslm-core {row.engine}, backend {row.backend or '?'}, seed {row.seed}",
        "kept": {"full": "everything", "redacted": "sensitive fields redacted", "none": "shapes only, no text"}[
            row.content
        ],
    }
    rows: list[tuple[str, RenderableType]] = [(name, _plain(text)) for name, text in facts.items()]
    if run.input is not None:
        rows.append(("input", _fields(run.input, None, full)))
    yield _facts(rows)


def _footer(run: StoredRun, full: bool) -> Iterator[RenderableType]:
    row = run.row
    yield Rule(style="dim")
    if run.output is not None:
        rows: list[tuple[str, RenderableType]] = [("output", _fields(run.output, None, full))]
        if run.output_parents:
            rows.append(("from", _plain(_parents(run, run.output_parents))))
        yield _facts(rows)
    if row.error is not None:
        names = {
            "code": "error",
            "what": "what",
            "where": "where",
            "found": "found",
            "expected": "expected",
            "next": "next",
        }
        told = [(name, _clip(str(row.error[key]), full)) for key, name in names.items() if key in row.error]
        yield _facts([(name, Text(text, style="red" if name == "error" else "")) for name, text in told])
    if row.status == "interrupted":
        yield Text("The process ended before the run did; what it had recorded is above.", style="yellow")
    if row.status == "running":
        yield Text("The run is not over yet.", style="cyan")
    untuned = sorted({node.step for node in run.nodes if not node.tuned})
    if untuned:
        yield Text(
            f"Untuned: {_line(', '.join(untuned))} ran a model that was not tuned for the stage.", style="yellow"
        )
    if row.content != "none":
        yield Text(f"In prompts, {_OPEN}this{_CLOSE} is data; the rest is the template's own text.", style="dim")


_OPEN, _CLOSE = "«", "»"


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
            Text(_line(node.step), style=_STYLES.get(node.status, "")),
            _bar(node, start, span),
            "" if skipped else _seconds(node.seconds),
            str(usage.prompt) if usage.prompt else "",
            str(usage.output) if usage.output else "",
            str(usage.forwards) if usage.forwards else "",
            "" if lowest is None else _probability(lowest),
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
    return Text.assemble(("·" * first, "dim"), ("█" * length, _STYLES.get(node.status, "")), ("·" * rest, "dim"))


def _step(run: StoredRun, node: StoredNode, place: int, full: bool) -> Iterator[RenderableType]:
    name = _line(node.step) + (f"[{node.index}]" if node.index else "")
    title = Text.assemble(f"{place} ", (name, "bold"), "  ", _status(node.status))
    if node.status == "failed" and node.attempt:
        title.append(f"  try {node.attempt + 1}")
    if not node.tuned and node.status != "skipped":
        title.append("  untuned", style="yellow")
    yield Rule(title, align="left", style="dim")
    if node.status == "skipped":
        yield _facts([("because", Text.assemble("when ", (visible(node.when or "?"), "bold"), " was false"))])
        return
    rows: list[tuple[str, RenderableType]] = [("made by", _plain(_maker(node)))]
    if node.parents:
        rows.append(("from", _plain(_parents(run, node.parents))))
    if node.narrowed is not None:
        rows.append(("narrowed", _plain(_clip(_narrowed(node.narrowed), full))))
    several = len(node.attempts) > 1
    asked: tuple[StoredSpan, ...] | None = None
    for attempt in node.attempts:
        rows += _attempt(attempt, several, full, asked_before=attempt.spans is not None and attempt.spans == asked)
        asked = attempt.spans
    if node.content is not None:
        rows.append(("validated", _fields(node.content, node.confidence, full)))
    rows.append(("cost", _plain(_cost(node))))
    yield _facts(rows)


def _attempt(
    attempt: StoredAttempt, several: bool, full: bool, *, asked_before: bool
) -> Iterator[tuple[str, RenderableType]]:
    if several:
        verdict = "failed" if attempt.problems else "ok"
        yield "attempt", Text.assemble(f"{attempt.index + 1}  ", _status(verdict))
    if attempt.spans is not None:
        yield "prompt", Text("the same", style="dim") if asked_before else _prompt(attempt, full)
    if attempt.truncated:
        yield "", Text(f"{attempt.truncated} prompt tokens were left out to fit the context", style="yellow")
    wrote = "wrote" if attempt.spans is not None else "returned"
    if attempt.raw is None:
        yield wrote, Text(f"{attempt.raw_chars} characters, not kept", style="dim")
    else:
        yield wrote, _wrote(attempt, full)
    if attempt.finish_reason != "stop":
        yield "", Text(f"stopped by: {_line(attempt.finish_reason)}", style="yellow")
    for problem in attempt.problems:
        source = f" (refused by {_line(problem.source)})" if problem.source else ""
        told = ": ".join(part for part in (problem.kind, problem.field, problem.text) if part)
        yield "problem", Text(f"{_clip(told, full)}{source}", style="red")


def _prompt(attempt: StoredAttempt, full: bool) -> RenderableType:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for role in ("system", "user"):
        spans = [span for span in attempt.spans or () if span.role == role]
        if not spans:
            continue
        text = Text()
        for span in spans:
            if span.text is None:
                text.append(f"[{span.field or 'text'}: {span.chars} characters]", style="dim" if span.static else _DATA)
            elif span.static:
                text.append(visible(span.text))
            else:
                text.append(f"{_OPEN}{_clip(span.text, full)}{_CLOSE}", style=_DATA)
        table.add_row(role, text)
    return table


def _wrote(attempt: StoredAttempt, full: bool) -> Text:
    """What was written; forced tokens dim, so that what was decided stands out."""
    raw, tokens = attempt.raw or "", attempt.tokens
    if (
        tokens is None
        or "".join(tokens.texts) != raw
        or len(tokens.forced) != len(tokens.texts)
        or (len(raw) > _LONG and not full)
    ):
        return Text(_clip(raw, full))
    return _by_token(tokens)


def _by_token(tokens: TokenTrace) -> Text:
    text = Text()
    for piece, forced in zip(tokens.texts, tokens.forced, strict=True):
        text.append(visible(piece), style="dim" if forced else "bold")
    return text


def _fields(content: StoredContent, confidence: Mapping[str, float] | None, full: bool) -> RenderableType:
    data = content.data
    if not isinstance(data, dict):
        return Text(_clip(content.json, full))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in data.items():
        style = "dim" if value is None else _DATA
        shown = (_plain(name), Text(_clip(_as_json(value), full), style=style))
        sure = (confidence or {}).get(name)
        table.add_row(*shown, *([] if sure is None else [_probability(sure)]))
    return table


def _facts(rows: Sequence[tuple[str, RenderableType]]) -> RenderableType:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(style="dim", no_wrap=True, min_width=9)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return Padding(table, (0, 0, 0, 2), expand=False)


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
        (name, _choices(part, _DEEP)) for name, part in (properties if isinstance(properties, dict) else {}).items()
    )
    return "; ".join(f"{name} to {_as_json(values)}" for name, values in choices if values) or _as_json(schema)


def _choices(node: Any, levels: int) -> list[Any]:
    if not isinstance(node, dict) or levels == 0:
        return []
    inner = [*_listed(node, "anyOf"), node.get("items")]
    return [*_listed(node, "enum"), *(choice for part in inner for choice in _choices(part, levels - 1))]


def _listed(node: Mapping[str, Any], key: str) -> list[Any]:
    value = node.get(key)
    return value if isinstance(value, list) else []


def _cost(node: StoredNode) -> str:
    usage = node.usage
    parts = [_seconds(node.seconds)]
    if usage.prompt:
        parts.append(f"prompt {usage.prompt} tokens ({usage.cached} cached)")
        parts.append(f"output {usage.output} ({usage.forced} forced)")
        parts.append(f"{usage.forwards} forwards")
        parts.append(f"waited {_seconds(usage.queued)}, read {_seconds(usage.prefill)}, wrote {_seconds(usage.decode)}")
    return ", ".join(part for part in parts if part)


def _status(status: str) -> Text:
    return Text(_line(status), style=_STYLES.get(status, ""))


def _line(text: str) -> str:
    """``text`` on one line: a name with a line end in it does not begin a row of its own."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def _plain(text: str) -> Text:
    return Text(_line(text))


def _clip(text: str, full: bool) -> str:
    if full or len(text) <= _LONG:
        return visible(text)
    half = _LONG // 2
    return f"{visible(text[:half])} … {len(text) - 2 * half:,} more characters … {visible(text[-half:])}"


def _as_json(value: object) -> str:
    return json.dumps(_shallow(value, _DEEP), ensure_ascii=False)


def _seconds(seconds: float | None) -> str:
    """Three figures at most: 12.3 s, 0.41 s, 4 ms."""
    if seconds is None:
        return ""
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms" if seconds else "0 s"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"


def _probability(value: float) -> str:
    """Three places, never rounded up to a certainty that is not there."""
    return "1" if value == 1.0 else f"{min(value, 0.999):.3f}"


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

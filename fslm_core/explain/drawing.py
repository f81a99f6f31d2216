"""How a stored run's parts are drawn for a person: fields, attempts, texts, times.

Whatever a message, a prompt or a model wrote is data: it is shown as text and never interpreted. Control characters,
escape sequences, bidirectional overrides and other invisible characters are spelt out.

>>> visible("red \\x1b[31m and \\u202e back")
'red \\\\x1b[31m and \\\\u202e back'
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..message import TokenTrace
from ..store import StoredAttempt, StoredContent, StoredNode

STYLES = {
    "ok": "green",
    "succeeded": "green",
    "failed": "bold red",
    "cancelled": "yellow",
    "review": "bold magenta",
    "interrupted": "yellow",
    "running": "cyan",
    "skipped": "dim",
}
DATA = "cyan"
_LONG = 1500
"""Characters of one piece of data that are shown unless all are asked for."""
DEEP = 100
"""Levels of JSON data that are shown."""
_JOINERS = "\u200c\u200d"
"""Emoji and several scripts need them; they move nothing."""
OPEN, CLOSE = "«", "»"


def visible(text: str) -> str:
    """``text`` with every character that would be acted on, or could not be seen, written as its escape."""
    return "\n".join(
        line if line.isprintable() else "".join(_spelt(c) if _hides(c) else c for c in line)
        for line in text.split("\n")
    )


def _hides(character: str) -> bool:
    return character not in "\n\t" + _JOINERS and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _spelt(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def fields(content: StoredContent, confidence: Mapping[str, float] | None, full: bool) -> RenderableType:
    """A message field by field, with the confidence of those it is known of."""
    data = content.data
    if not isinstance(data, dict):
        return Text(clip(content.json, full))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in data.items():
        style = "dim" if value is None else DATA
        shown = (plain(name), Text(clip(compact(value), full), style=style))
        sure = (confidence or {}).get(name)
        table.add_row(*shown, *([] if sure is None else [probability(sure)]))
    return table


def facts(rows: Sequence[tuple[str, RenderableType]]) -> RenderableType:
    """Names and what stands beside each, a row for each."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(style="dim", no_wrap=True, min_width=9)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return Padding(table, (0, 0, 0, 2), expand=False)


def status_text(status: str) -> Text:
    """A status in its colour."""
    return Text(one_line(status), style=STYLES.get(status, ""))


def one_line(text: str) -> str:
    """``text`` on one line: a name with a line end in it does not begin a row of its own."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def plain(text: str) -> Text:
    """A name or a sentence of ours: text on one line."""
    return Text(one_line(text))


def clip(text: str, full: bool) -> str:
    """``text`` made visible, its middle left out where it is long and not all is asked for."""
    if full or len(text) <= _LONG:
        return visible(text)
    half = _LONG // 2
    return f"{visible(text[:half])} … {len(text) - 2 * half:,} more characters … {visible(text[-half:])}"


def compact(value: object) -> str:
    """A value as JSON on one line."""
    return json.dumps(shallow(value, DEEP), ensure_ascii=False)


def shallow(value: Any, levels: int) -> Any:
    """JSON data as it is, but for what no JSON can hold and what is nested too deep to be shown."""
    if isinstance(value, dict | list | tuple) and levels == 0:
        return "…"
    if isinstance(value, dict):
        return {name: shallow(part, levels - 1) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [shallow(part, levels - 1) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def seconds_text(seconds: float | None) -> str:
    """Three figures at most: 12.3 s, 0.41 s, 4 ms."""
    if seconds is None:
        return ""
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms" if seconds else "0 s"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"


def chance_of(logprob: float) -> float:
    """A probability from its natural logarithm; what rounding put above nought is a certainty.

    >>> chance_of(0.001), chance_of(float("-inf"))
    (1.0, 0.0)
    """
    return math.exp(min(logprob, 0.0))


def probability(value: float) -> str:
    """Three places, never rounded up to a certainty that is not there."""
    return "1" if value == 1.0 else f"{min(value, 0.999):.3f}"


def attempt_rows(
    attempt: StoredAttempt, several: bool, full: bool, *, asked_before: bool
) -> Iterator[tuple[str, RenderableType]]:
    """What was asked in an attempt, what was written, and what was wrong with it."""
    if several:
        verdict = "failed" if attempt.problems else "ok"
        yield "attempt", Text.assemble(f"{attempt.index + 1}  ", status_text(verdict))
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
        yield "", Text(f"stopped by: {one_line(attempt.finish_reason)}", style="yellow")
    for problem in attempt.problems:
        source = f" (refused by {one_line(problem.source)})" if problem.source else ""
        told = ": ".join(part for part in (problem.kind, problem.field, problem.text) if part)
        yield "problem", Text(f"{clip(told, full)}{source}", style="red")


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
                text.append(f"[{span.field or 'text'}: {span.chars} characters]", style="dim" if span.static else DATA)
            elif span.static:
                text.append(visible(span.text))
            else:
                text.append(f"{OPEN}{clip(span.text, full)}{CLOSE}", style=DATA)
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
        return Text(clip(raw, full))
    return _by_token(tokens)


def _by_token(tokens: TokenTrace) -> Text:
    text = Text()
    for piece, forced in zip(tokens.texts, tokens.forced, strict=True):
        text.append(visible(piece), style="dim" if forced else "bold")
    return text


def cost(node: StoredNode) -> str:
    """What a step cost: time, tokens, forwards."""
    usage = node.usage
    parts = [seconds_text(node.seconds)]
    if usage.prompt:
        parts.append(f"prompt {usage.prompt} tokens ({usage.cached} cached)")
        parts.append(f"output {usage.output} ({usage.forced} forced)")
        parts.append(f"{usage.forwards} forwards")
        times = {"waited": usage.queued, "read": usage.prefill, "wrote": usage.decode}
        parts += (f"{did} {seconds_text(took)}" for did, took in times.items())
    return ", ".join(part for part in parts if part)


__all__ = [
    "CLOSE",
    "DATA",
    "DEEP",
    "OPEN",
    "STYLES",
    "attempt_rows",
    "chance_of",
    "clip",
    "compact",
    "cost",
    "facts",
    "fields",
    "one_line",
    "plain",
    "probability",
    "seconds_text",
    "shallow",
    "status_text",
    "visible",
]

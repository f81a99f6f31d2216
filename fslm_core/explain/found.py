"""What a search of the trace found, for a person (Rich, readable at 80 columns)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from ..store import Found
from .drawing import one_line, status_text


def drawn(found: Iterable[Found]) -> RenderableType:
    """Two lines for each: where it was said, and a piece of what was said."""
    parts: list[RenderableType] = []
    for one in found:
        when = datetime.fromtimestamp(one.when).strftime("%Y-%m-%d %H:%M:%S")
        head = Text.assemble((one_line(one.run), "bold"), f"  {when}  {one_line(one.stack)}, {one_line(one.step)}  ")
        parts += [head.append_text(status_text(one.status)), Text(f"  {one_line(one.snippet)}", style="cyan")]
    return Group(*parts)


__all__ = ["drawn"]

"""From templates to HTML. Whatever a run holds is data: it is escaped, and what cannot be seen is spelt out."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

from ..explain.difference_drawn import CAUSES, verdict
from ..explain.drawing import clip, compact, cost, one_line, probability, seconds_text, visible
from ..explain.tree import path_of
from ..explain.wording import because, doubts, maker, narrowed
from .editing import editable, fits, written
from .flow import anchor_of
from .tokens import tokens_of

LONG = 1500
"""Characters of a text that are shown unless it is unfolded."""
MOST = 50_000
"""Characters of a text that are sent at all; `fslm trace show --full` has the rest."""


def environment() -> Environment:
    """The templates, with what they call. All of them escape what they are given."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "compact": compact,
        "line": one_line,
        "moment": moment,
        "probability": probability,
        "seconds": seconds_text,
        "short": lambda text: clip(text, False),
        "visible": visible,
        "whole": whole,
    }
    made.globals |= {
        "CAUSES": CAUSES,
        "LONG": LONG,
        "anchor_of": anchor_of,
        "because": because,
        "cost": cost,
        "doubts": doubts,
        "editable": editable,
        "fits": fits,
        "maker": maker,
        "narrowed": narrowed,
        "path_of": path_of,
        "tokens_of": tokens_of,
        "verdict": verdict,
        "written": written,
    }
    return made


class Html(HTMLResponse):
    """A page. Half of a character, which a message may hold, is no reason to show nothing."""

    def render(self, content: Any) -> bytes:
        """The text as UTF-8."""
        return str(content).encode("utf-8", "replace")


def moment(when: float, how: str = "short") -> str:
    """A moment in this machine's own time; ``how`` is ``short``, ``full`` or ``iso``."""
    there = datetime.fromtimestamp(when).astimezone()
    if how == "iso":
        return there.isoformat(timespec="milliseconds")
    if how == "full":
        return there.strftime("%Y-%m-%d %H:%M:%S %z")
    today = datetime.now().astimezone().date()
    return there.strftime("%H:%M:%S" if there.date() == today else "%Y-%m-%d %H:%M")


def whole(text: str) -> str:
    """A text with all that cannot be seen spelt out, cut where no browser would still show it well."""
    left = len(text) - MOST
    return visible(text[:MOST]) + (f"\n… {left:,} more characters" if left > 0 else "")


__all__ = ["Html", "environment", "moment", "whole"]

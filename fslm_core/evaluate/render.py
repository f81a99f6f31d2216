"""A report as Markdown and as one HTML page. Whatever a data set, a label or a model wrote is shown as text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..explain.show import visible
from ..schema import dumps
from .plots import Plot, plots, top_labels
from .results import Interval, Report

if TYPE_CHECKING:
    from collections.abc import Mapping

SHOWN = 40
"""Rows in error, misfits and notes shown in the report; all of the first are in ``errors.jsonl``."""
_MARKDOWN = re.compile(r"([\\`*\[\]<>|#~&]|(?<!\w)_|_(?!\w))")


def to_markdown(report: Report) -> str:
    """The report as Markdown tables."""
    text = _environment().get_template("report.md.jinja").render(report=report, shown=SHOWN)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def to_html(report: Report, drawn: Sequence[Plot] | None = None) -> str:
    """The report as one page with its style and plots inside; it asks for nothing from outside.

    Args:
        drawn: the plots, where they are drawn already.
    """
    found = {plot.name: plot for plot in (plots(report) if drawn is None else drawn)}
    return _environment().get_template("report.html.jinja").render(report=report, plots=found, shown=SHOWN) + "\n"


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=lambda name: name is not None and name.endswith(".html.jinja"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"md": as_markdown, "seen": seen, "number": number, "ranged": ranged, "signed": signed}
    made.filters |= filters
    made.globals |= {"top_labels": top_labels, "names": NAMES}
    return made


NAMES: Mapping[str, str] = {
    "accuracy": "exactly right",
    "confidence": "mean confidence",
    "f1": "F1",
    "micro_f1": "micro F1",
    "normalised": "right but for case, punctuation, articles",
    "filled": "exactly right where gold is not null",
    "missed": "null where gold is not",
    "invented": "a text where gold is null",
    "verbatim": "of texts written: stand in the input",
}
"""What figures are called for people; for labels F1 is the macro mean, for texts that of tokens, for lists of sets."""


def seen(value: Any) -> str:
    """Data as text in which nothing hides and nothing acts; JSON where it is no string.

    >>> seen("a\\x1b[31m"), seen({"a": None})
    ('a\\\\x1b[31m', '{"a":null}')
    """
    return visible(value if isinstance(value, str) else dumps(value))


def as_markdown(value: Any) -> str:
    """Data as text that Markdown takes for nothing but text, on one line.

    >>> as_markdown("a|b <i> cancel_order *x*")
    'a\\\\|b \\\\<i\\\\> cancel_order \\\\*x\\\\*'
    """
    return _MARKDOWN.sub(r"\\\1", " ".join(seen(value).split()))


def number(value: float | None) -> str:
    """A share with three decimals, or a dash where it is not defined."""
    return "-" if value is None else f"{value:.3f}"


def ranged(figure: Interval | None) -> str:
    """A figure with its interval: ``0.954 (0.940 to 0.967)``."""
    if figure is None or figure.value is None:
        return "-"
    if figure.low is None or figure.high is None:
        return number(figure.value)
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def signed(figure: Interval | None) -> str:
    """A difference with its sign and interval; ``*`` where the interval leaves out 0."""
    if figure is None or figure.value is None:
        return "-"
    if figure.low is None or figure.high is None:
        return f"{figure.value:+.3f}"
    sure = " *" if figure.low > 0 or figure.high < 0 else ""
    return f"{figure.value:+.3f} ({figure.low:+.3f} to {figure.high:+.3f}){sure}"


__all__ = ["NAMES", "SHOWN", "as_markdown", "number", "plots", "ranged", "seen", "signed", "to_html", "to_markdown"]

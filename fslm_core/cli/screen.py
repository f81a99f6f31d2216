"""What the command line prints. Standard output carries results alone; all else goes to standard error.

Data is shown, never obeyed: control characters, escape sequences, marks that turn the direction of text and whatever
else cannot be seen come out as ``\\x1b`` and the like, and nothing is read as markup.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import typer

from ..errors import CheckError, FslmError, LockError, RunFailed
from ..serve.text import UNSEEN, as_json

if TYPE_CHECKING:
    from rich.console import RenderableType

_WIDE = 10_000
_UNSAFE = re.compile(f"[\x00-\x09\x0b-\x1f{UNSEEN}]")


def prepare() -> None:
    """Write UTF-8 whatever the locale says."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def clean(text: object) -> str:
    """Return text that a terminal cannot take for anything but text; line ends stay.

    >>> clean("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return _UNSAFE.sub(lambda m: m[0].encode("unicode_escape").decode(), str(text))


def result(text: str) -> None:
    """Print to standard output."""
    typer.echo(text)


def say(text: object) -> None:
    """Print one line (or several) to standard error."""
    typer.echo(clean(text), err=True)


def warn(text: object) -> None:
    """Print a warning to standard error."""
    typer.echo(f"{typer.style('warning', fg='yellow')}: {clean(text)}", err=True)


def show_error(error: FslmError) -> None:
    """Print ``error[code] where: what`` and, below it, what was found and expected and what to do next."""
    place = f"{clean(error.where)}: " if error.where else ""
    reason = error.error if isinstance(error, RunFailed) else error
    code = typer.style(f"error[{reason.code}]", fg="red", bold=True)
    lines = [f"{code} {place}{_indented(error.what)}"]
    listed = reason.findings if isinstance(reason, CheckError) else ()
    listed = reason.differences if isinstance(reason, LockError) else listed
    lines += [f"  - {_indented(part)}" for part in listed]
    notes = [("note", note) for note in error.notes]
    rows = (("found", error.found), ("expected", error.expected), *notes, ("next", error.hint))
    lines += [f"  {typer.style(name, bold=True)}: {_indented(text)}" for name, text in rows if text]
    if sys.stderr.isatty():
        lines.append(f"  more: `fslm errors {reason.code}`")
    typer.echo("\n".join(lines), err=True)


def show_traceback(error: BaseException) -> None:
    """Print an error's traceback, with those of the errors behind it."""
    import traceback

    typer.echo(clean("".join(traceback.format_exception(error))), err=True)


def _indented(text: object) -> str:
    return clean(text).replace("\n", "\n    ")


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table to standard output; no cell is cut."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for head in heads:
        grid.add_column(head, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(clean(value)) for value in row))
    render(grid, width=_WIDE)


def render(drawing: RenderableType, *, width: int = 100, err: bool = False) -> None:
    """Print what Rich can draw, as wide as the terminal, or ``width`` where there is none.

    Args:
        err: to standard error, in place of standard output.
    """
    from rich.console import Console

    if (sys.stderr if err else sys.stdout).isatty():
        Console(highlight=False, markup=False, emoji=False, stderr=err).print(drawing)
        return
    lines = io.StringIO()
    Console(highlight=False, markup=False, emoji=False, file=lines, width=width).print(drawing)
    typer.echo("\n".join(line.rstrip() for line in lines.getvalue().splitlines()), err=err)


__all__ = ["as_json", "clean", "prepare", "render", "result", "say", "show_error", "show_traceback", "table", "warn"]

"""``fslm graph``: a stack as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..explain.graph import graph_of
from ..extras import require
from ..folders import put_file
from . import screen
from .session import session_of

app = typer.Typer(add_completion=False)


@app.command()
def graph(
    ctx: typer.Context,
    stack: Annotated[str, typer.Argument(metavar="STACK", help="The stack's name; `fslm list` shows them.")],
    svg: Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Write a picture as SVG.")] = None,
    png: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="Write a picture as PNG; needs fslm-core[eval].")
    ] = None,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print Mermaid text; so does no option at all.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Draw a stack: its steps, and which fields lead where, as Mermaid text, SVG or PNG.

    No weight is loaded, and nothing is asked for from outside. Exit code 3 says that the stack is not wired as it
    could run; `fslm check` says more.
    """
    if mermaid and as_json:
        raise UsageError(
            "there is one standard output",
            where="fslm graph",
            found="--mermaid and --json",
            hint="give one of them; --svg and --png write files beside it",
        )
    found = graph_of(session_of(ctx).stack(stack))
    if svg is not None:
        from ..explain.picture import svg as drawn

        put_file(svg, drawn(found))
    if png is not None:
        from ..explain.picture import png as painted

        require(["matplotlib"], extra="eval", what="painting a PNG")
        put_file(png, painted(found))
    if as_json:
        screen.result(screen.as_json(found.to_dict()))
    elif mermaid or (svg is None and png is None):
        from ..explain.mermaid import mermaid as text

        screen.result(text(found).rstrip("\n"))


__all__ = ["app"]

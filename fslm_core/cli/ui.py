"""``fslm ui``: a page to look at traces."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import StoreError
from ..extras import require
from ..store import TraceStore
from . import screen
from .label import stack_of
from .session import Session, content_of, session_of

if TYPE_CHECKING:
    from ..engine import Engine

app = typer.Typer(add_completion=False)


@app.command("ui")
def ui(
    ctx: typer.Context,
    host: Annotated[str, typer.Option(help="Where to listen; beyond this machine only with a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8600,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="What whoever opens the page must know. Others on this machine can see it among its processes; the"
            " variable FSLM_UI__KEY hides it.",
        ),
    ] = None,
    blame: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What `fslm blame --json` wrote, to be shown as a plot.")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Show, and neither label nor replay.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, the page's address, once it can be opened.")
    ] = False,
) -> None:
    """Serve a page to look at traces, on this machine alone.

    A run is shown step by step, with what each was asked, what it wrote and how probable each token was; its messages
    can be labelled, and edited and replayed. Ctrl-C ends it.
    """
    require(["starlette", "uvicorn"], extra="ui", what="fslm ui")
    from ..page.desk import Desk, Replayer
    from ..page.reading import read_blame
    from ..page.serving import address_of, check_place, listen, server

    session = session_of(ctx)
    set_key = session.settings.ui.key
    known = key if key is not None else set_key.get_secret_value() if set_key is not None else None
    check_place(host, known)
    store, readonly = _opened(session, read_only)
    with store, listen(host, port) as made:
        replayer = None if readonly else Replayer(lambda: _engine(session))
        stacks = partial(stack_of, session)
        desk = Desk(store, replayer, readonly=readonly, blame=blame, key=known, stacks=stacks)
        if blame is not None:
            read_blame(desk)  # a wrong file is told before anybody looks
        address = address_of(made, host)
        if as_json:
            screen.result(screen.as_json({"url": address, "trace": str(store.path), "read_only": bool(readonly)}))
        else:
            screen.say(f"{address} shows {store.path}{f' ({readonly})' if readonly else ''}; Ctrl-C ends it")
        server(desk, host).run(sockets=[made])


def _opened(session: Session, read_only: bool) -> tuple[TraceStore, str]:
    """The trace, and why it can only be read; empty where it can be written."""
    path = session.settings.trace_path
    store = TraceStore.open(path, readonly=True)  # there must be one: none is made here
    if read_only:
        return store, "nothing can be changed here: --read-only"
    if not store.is_indexed():
        screen.say("making the index for searching; the first time this takes a while")
    try:
        writable = TraceStore.open(path)
    except StoreError as error:
        return store, f"nothing can be changed here: {error.what}"
    store.close()
    return writable, ""


def _engine(session: Session) -> Engine:
    from ..engine import Engine

    session.hold()
    return Engine(settings=session.settings, host=session.host, content=content_of(session.settings))


__all__ = ["app"]

"""``fslm sessions``: what is remembered of sessions, how one is forked, and how it is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated

import typer

from ..errors import UnknownNameError, UsageError
from ..store import SavedSession, Sessions
from ..wording import counted
from . import screen
from .confirm import confirm_forgetting
from .session import session_of

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Look at what is remembered of sessions, fork one, or forget it."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("list")
def list_(
    ctx: typer.Context,
    stack: Annotated[str | None, typer.Option(help="Only sessions of this stack.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list, states left out.")] = False,
) -> None:
    """List the sessions, the one written last first."""
    with _store(ctx) as store:
        found = store.list(stack)
    if as_json:
        screen.result(screen.as_json([one.model_dump(exclude={"state"}) for one in found]))
    elif found:
        rows = ([one.id, one.stack, one.version, _moment(one.updated), one.parent or ""] for one in found)
        screen.table(["session", "stack", "turns", "last written", "forked from"], rows)
    else:
        screen.say("no such session is remembered")


@app.command()
def show(
    ctx: typer.Context,
    session: Annotated[str, typer.Argument(metavar="ID", help="The session's id.")],
    as_json: AsJson = False,
) -> None:
    """Show a session: whose it is, when it was written and by which run, and its state."""
    with _store(ctx) as store:
        found = _named(store, session)
    if as_json:
        screen.result(screen.as_json(found.model_dump()))
        return
    screen.result(screen.clean("\n".join(_facts(found))))
    screen.result(screen.as_json(found.state))


@app.command()
def fork(
    ctx: typer.Context,
    session: Annotated[str, typer.Argument(metavar="ID", help="The session to begin from.")],
    to: Annotated[
        str | None, typer.Argument(metavar="[NEW]", help="What to call it; made from ID if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a new session that begins where another stands now; from here on each goes its own way.

    Its id goes to standard output.
    """
    with _writing(ctx) as store:
        _named(store, session)
        made = store.fork(session, to)
    screen.result(screen.as_json(made.model_dump()) if as_json else screen.clean(made.id))


@app.command()
def forget(
    ctx: typer.Context,
    sessions: Annotated[list[str] | None, typer.Argument(metavar="ID…", help="Ids of sessions.")] = None,
    stack: Annotated[str | None, typer.Option(help="Every session of this stack.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every session.")] = False,
    expired: Annotated[bool, typer.Option("--expired", help="Only those whose sessions.keep_days are over.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed where nobody can be asked.")] = False,
    as_json: AsJson = False,
) -> None:
    """Forget sessions for good: nothing of them stays in the session store or its log.

    The trace keeps what it kept of their runs; see `fslm trace forget`.
    """
    names = tuple(sessions or ())
    if bool(names) + bool(stack) + every + expired != 1:
        raise UsageError(
            "forgetting needs ids, --stack, --all or --expired, and one of them only",
            where="fslm sessions forget",
            hint="name sessions as `fslm sessions list` shows them: fslm sessions forget ID",
        )
    with _writing(ctx) as store:
        chosen = names or tuple(one.id for one in store.list(stack) if not expired)
        for name in names:
            _named(store, name)
        if chosen and not yes:
            confirm_forgetting(chosen, counted(len(chosen), "session"), where="fslm sessions forget")
        gone = store.forget(*names, stack=stack, everything=every)
    if as_json:
        screen.result(screen.as_json({"sessions": list(gone)}))
    else:
        screen.say(f"{counted(len(gone), 'session')} forgotten")


def _named(store: Sessions, id: str) -> SavedSession:
    found = store.find(id)
    if found is None:
        raise UnknownNameError.of("session", id, (one.id for one in store.list()))
    return found


def _facts(found: SavedSession) -> Iterator[str]:
    yield f"session {found.id}  stack {found.stack}  {counted(found.version, 'turn')}"
    yield f"  begun        {_moment(found.created)}"
    by = f" by run {found.run}" if found.run else ""
    yield f"  last written {_moment(found.updated)}{by}"
    if found.parent:
        yield f"  forked from  {found.parent}"


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().isoformat(" ", "seconds")


def _store(ctx: typer.Context) -> Sessions:
    settings = session_of(ctx).settings
    return Sessions.open(settings.sessions_path, keep_days=settings.sessions.keep_days, readonly=True)


@contextmanager
def _writing(ctx: typer.Context) -> Iterator[Sessions]:
    _store(ctx).close()  # there must be one: none is made here
    settings = session_of(ctx).settings
    with Sessions.open(settings.sessions_path, keep_days=settings.sessions.keep_days) as store:
        yield store


__all__ = ["app"]

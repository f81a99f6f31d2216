"""``fslm lock``: what runs here, written down, compared, and put back."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .. import govern
from ..engine.lock import WAYS_ON, Drift, Lock, read
from ..errors import LockError, UsageError
from . import screen
from .session import Session, session_of

app = typer.Typer(add_completion=False)


@app.command()
def lock(
    ctx: typer.Context,
    stacks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STACK]...", help="Lock what these need; everything that is loaded where none is given."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The lock file; the setting lock_file by default, fslm.lock.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; tell what differs from the lock.")] = False,
    restore: Annotated[
        bool, typer.Option("--restore", help="Go back to the lock before: pip installs the versions it names.")
    ] = False,
    install: Annotated[
        bool, typer.Option("--install", help="Make what is installed equal to the lock as it stands, with pip.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --install or --restore: only print pip's commands.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write down what runs here, tell what differs from it, or go back to the lock before.

    The lock file names the core, every plugin with its version and a hash of its files, every stage with its
    fingerprint, the adapters, templates, schemas and base models by their hashes, and the settings that change what is
    written. `fslm --locked run …` (or locked = true in the settings) refuses whatever differs. The lock that was there
    is kept as fslm.lock.previous; --restore puts it back and makes the plugins installed equal to it. With --check,
    exit code 1 says that something differs.
    """
    asked = [f"--{name}" for name, given in (("check", check), ("install", install), ("restore", restore)) if given]
    _refuse_contradictions(stacks or (), asked, dry_run=dry_run)
    session = session_of(ctx)
    path = out or session.settings.lock_file
    if dry_run:
        _show_plan(session, path, back=restore, as_json=as_json)
    elif install or restore:
        _put_back(session, path, back=restore, as_json=as_json)
    elif check:
        _check(session, path, as_json=as_json)
    else:
        _write(session, path, stacks or (), as_json=as_json)


def _refuse_contradictions(stacks: Sequence[str], asked: Sequence[str], *, dry_run: bool) -> None:
    found = None
    if len(asked) > 1 or (stacks and asked):
        found = " and ".join([*asked, *map(shlex.quote, stacks)])
    elif dry_run and not {"--install", "--restore"} & set(asked):
        found = "--dry-run without --install or --restore"
    if found is not None:
        raise UsageError(
            "this cannot be asked for together",
            where="fslm lock",
            found=found,
            expected="fslm lock [STACK]..., or one of --check, --install and --restore",
            hint="leave one out; which stacks a lock is limited to stands in its file",
        )


def _write(session: Session, path: Path, stacks: Sequence[str], *, as_json: bool) -> None:
    written = govern.write(path, session.host, session.settings, session.backend, stacks)
    changed = written.before != written.lock
    if as_json:
        data = {"path": str(path), "written": changed, "changes": _data(written.changes)}
        screen.result(screen.as_json(data))
    for change in written.changes:
        screen.say(f"  {change}")
    for info in session.host.plugins:
        if info.state == "quarantined":
            screen.warn(f"plugin {info.name} ({info}) is not loaded, so it is not locked: {info.reason}")
    if loose := [name for name, plugin in sorted(written.lock.plugins.items()) if plugin.source == "editable"]:
        screen.say(f"editable, so that pip cannot bring them back: {', '.join(loose)}")
    screen.say(f"{path}: {'locked' if changed else 'unchanged,'} {_counts(written.lock)}")


def _counts(lock: Lock) -> str:
    counts = [(len(lock.plugins), "plugin"), (len(lock.stages), "stage"), (len(lock.checkpoints), "base model")]
    return ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts)


def _check(session: Session, path: Path, *, as_json: bool) -> None:
    drifts = govern.check(path, session.host, session.settings, session.backend)
    if as_json:
        screen.result(screen.as_json({"path": str(path), "holds": not drifts, "differences": _data(drifts)}))
    elif drifts:
        _tell(drifts)
    if drifts:
        screen.say(f"next: {WAYS_ON}")
        raise typer.Exit(1)
    screen.say(f"{path}: all is as it was locked")


def _show_plan(session: Session, path: Path, *, back: bool, as_json: bool) -> None:
    place = govern.previous_of(path) if back else path
    commands = govern.plan(govern.lock_before(path) if back else read(path), session.host, place).commands
    if as_json:
        screen.result(screen.as_json({"path": str(path), "commands": commands, "done": False}))
        return
    for command in commands:
        screen.result(shlex.join(command))
    if not commands:
        screen.say(f"the plugins are those of {place}: there is nothing for pip to do")


def _put_back(session: Session, path: Path, *, back: bool, as_json: bool) -> None:
    done = (govern.restore if back else govern.install)(path, session.host, tell=screen.say)
    if as_json:
        data = {"path": str(path), "commands": done.commands, "done": True, "differences": _data(done.left)}
        screen.result(screen.as_json(data))
    if done.left:
        raise LockError(
            f"the plugins {'and the lock before are back' if back else 'of the lock are installed'}, but not all is as"
            " it was locked",
            where=str(path),
            differences=[str(drift) for drift in done.left],
            hint="pip cannot change these: put them back by hand, or accept them with `fslm lock`",
        )
    again = "; the same command goes forward again" if back else ""
    screen.say(f"{path}: {'back at' if back else 'installed'} {_counts(done.lock)}{again}")


def _tell(drifts: Sequence[Drift]) -> None:
    rows = ([d.what, _cell(d.locked), _cell(d.found)] for d in drifts)
    screen.table(["what", "locked", "found"], rows)


def _cell(value: str | None) -> str:
    return "nothing" if value is None else value or "none"


def _data(drifts: Sequence[Drift]) -> list[dict[str, str | None]]:
    return [asdict(drift) for drift in drifts]


__all__ = ["app"]

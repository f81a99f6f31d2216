"""``fslm plugins``: what became of each plugin, what there is to say of one, and which may be loaded."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tomlkit
import typer
from tomlkit.exceptions import ParseError

from ..errors import SettingsError
from ..plugins import PluginHost, PluginInfo, normal
from ..settings import load, user_file
from . import screen
from .gate import gate
from .session import session_of

app = typer.Typer(add_completion=False, invoke_without_command=True)

_NAME = typer.Argument(metavar="NAME", help="The plugin's name, or its distribution's.")


@app.callback()
def plugins(
    ctx: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False
) -> None:
    """List the plugins, and why one is not loaded; show, verify, enable or disable one."""
    if ctx.invoked_subcommand is not None:
        return
    from .root import VERBS

    host = session_of(ctx).host
    infos = host.plugins
    if as_json:
        keys = ("name", "distribution", "version", "state", "reason", "core")
        screen.result(screen.as_json([{key: getattr(info, key) for key in keys} for info in infos]))
        return
    if infos:
        screen.table(["plugin", "distribution", "state", "reason"], ([i.name, i, i.state, i.reason] for i in infos))
    else:
        screen.say("no plugin is installed")
    for verb in sorted(host.commands):
        if verb in VERBS:
            screen.warn(f"a plugin's verb {verb!r} is left out: fslm has its own")
        else:
            screen.result(f"verb: fslm {screen.clean(verb)}")


@app.command()
def show(
    ctx: typer.Context,
    name: Annotated[str, _NAME],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list, of the plugins of that name.")] = False,
) -> None:
    """Show how a plugin is installed, what it offers, and what its adapters were trained with."""
    from ..govern import describe
    from . import plugin_pages

    pages = describe(session_of(ctx).host, name)
    if as_json:
        screen.result(screen.as_json([asdict(page) for page in pages]))
        return
    for page in pages:
        plugin_pages.show(page)


@app.command()
def verify(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Plugins or distributions; all by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Compare every installed file with its wheel's RECORD, and every adapter with its fslm.json.

    Exit code 1 says that something differs. Nothing of a plugin is imported while a file differs, and no weight is
    loaded.
    """
    from ..govern import verify as compare
    from . import plugin_pages

    found = compare(session_of(ctx).host, names or ())
    if as_json:
        screen.result(screen.as_json([{**asdict(one), "ok": one.ok} for one in found]))
    elif found:
        plugin_pages.verified(found)
    else:
        screen.say("no plugin is installed")
    if not all(one.ok for one in found):
        raise typer.Exit(1)


@app.command()
def enable(ctx: typer.Context, name: Annotated[str, _NAME]) -> None:
    """Let a plugin be loaded again; nothing is imported."""
    affected = session_of(ctx).host.named(name)
    names = {normal(part) for info in affected for part in (info.name, info.distribution)} | {normal(name)}

    def change(document: Any) -> None:
        blocked = _listed(document, "disable")
        for index in reversed(range(len(blocked))):
            if normal(blocked[index]) in names:
                del blocked[index]
        allowed = _listed(document, "plugins")
        if "plugins" in document and not names & set(map(normal, allowed)):
            allowed.append(name)

    _edit(user_file(), change)
    _tell(affected, wanted="loaded")


@app.command()
def disable(ctx: typer.Context, name: Annotated[str, _NAME]) -> None:
    """Keep a plugin from being imported; nothing is imported."""
    affected = session_of(ctx).host.named(name)

    def change(document: Any) -> None:
        if "disable" not in document:
            document["disable"] = []
        if normal(name) not in map(normal, _listed(document, "disable")):
            document["disable"].append(name)

    _edit(user_file(), change)
    _tell(affected, wanted="disabled")


def _tell(affected: list[PluginInfo], *, wanted: str) -> None:
    """Say how it is now; a stronger source than the user's file may have the last word."""
    now = {(info.name, info.distribution): info for info in PluginHost(load()).found()}
    for before in affected:
        info = now[before.name, before.distribution]
        state = "enabled" if info.state == "loaded" else info.state
        screen.say(f"plugin {info.name} ({info}) is {state}, in {user_file()}")
        if info.state == "quarantined":
            screen.warn(info.reason)
        elif info.state != wanted:
            screen.warn(f"plugin {info.name} is still {state}: ./fslm.toml, FSLM_PLUGINS or FSLM_DISABLE is stronger")


def _edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change a settings file in place, its comments and order kept; it is written whole or not at all.

    Raises:
        SettingsError: it is not TOML, or cannot be written.
    """
    target = path.resolve()
    try:
        text = target.read_text(encoding="utf-8") if target.exists() else ""
        document = tomlkit.parse(text)
        change(document)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", dir=target.parent, delete=False) as file:
            try:
                file.write(tomlkit.dumps(document))
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, target.stat().st_mode & 0o777 if target.exists() else 0o644)
                os.replace(file.name, target)
            except BaseException:
                os.unlink(file.name)
                raise
    except (ParseError, UnicodeError) as error:
        raise SettingsError(
            f"the settings file is not TOML: {error}", where=str(path), hint="mend it by hand"
        ) from None
    except OSError as error:
        raise SettingsError(
            f"the settings file cannot be written: {error.strerror}",
            where=str(path),
            hint="give yourself write access, or name another file with FSLM_CONFIG",
        ) from None


def _listed(document: Any, key: str) -> Any:
    value = document.get(key, [])
    if not isinstance(value, list):
        raise SettingsError(
            f"{key!r} is not a list", where=str(user_file()), found=str(value), hint="write it as a list of names"
        )
    return value


app.command("gate")(gate)

__all__ = ["app"]

"""Which installed plugins own a name, and a host that loads these and no others.

A plugin's names equal its entry-point name or begin with it and a dot, so the name says whose it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from ..errors import UnknownNameError, UsageError
from ..hooks import GROUP
from ..plugins import PluginHost
from ..settings import Settings
from ..stack import Stack
from ..stage import Stage


def owns(plugin: str, name: str) -> bool:
    """Whether a plugin of this entry-point name may offer something of that name.

    >>> owns("support", "support.intent"), owns("support", "supporters")
    (True, False)
    """
    return name == plugin or name.startswith(plugin + ".")


def points() -> list[EntryPoint]:
    """The entry points of all installed plugins."""
    return list(entry_points(group=GROUP))


def names_of(thing: Stack[Any, Any] | Stage[Any, Any] | str) -> list[str]:
    """The names that decide which plugins have a part in it: its own, those of its stages, and of their bases."""
    if isinstance(thing, str):
        return [thing]
    if isinstance(thing, Stack):
        return [thing.name, *(name for stage in thing.stages for name in names_of(stage))]
    models = [model for model in (thing.model, *thing.variants.values()) if model is not None]
    return [thing.name, *(model.base for model in models)]


def host_for(names: Iterable[str], settings: Settings) -> PluginHost:
    """A host of the installed plugins that own these names, and of nothing else."""
    wanted = list(names)
    owners = {point.name for point in points() if any(owns(point.name, name) for name in wanted)}
    return PluginHost(settings.model_copy(update={"plugins": tuple(sorted(owners))}), installed=bool(owners))


def host_to_run(things: Iterable[Stack[Any, Any] | Stage[Any, Any] | str], settings: Settings) -> PluginHost:
    """A host of the installed plugins that have a part in these, and of nothing else.

    Args:
        things: stacks and stages, or the names of installed ones, whose stages may be of other plugins.
    """
    wanted = list(things)
    names = [name for thing in wanted for name in names_of(thing)]
    host = host_for(names, settings)
    offered: dict[str, Any] = {**host.stages, **host.stacks}
    more = [
        name for thing in wanted if isinstance(thing, str) and thing in offered for name in names_of(offered[thing])
    ]
    return host_for([*names, *more], settings) if more else host


def host_of(things: Iterable[object], named: dict[str, object], settings: Settings) -> PluginHost:
    """A host of what is named, and of nothing else.

    Args:
        things: modules, or names of installed distributions or of entry points.
        named: modules or objects by the plugin name they get.

    Raises:
        UnknownNameError: nothing of that name is installed.
        UsageError: an object without a name.
    """
    extra, chosen = dict(named), set[str]()
    for thing in things:
        if isinstance(thing, str):
            chosen |= _installed(thing)
        elif isinstance(thing, ModuleType):
            own = {point.name for point in points() if point.module == thing.__name__}
            if own:
                chosen |= own
            else:
                extra[thing.__name__.rpartition(".")[2]] = thing
        else:
            raise UsageError(
                "an object needs a name to be a plugin",
                where="fslm_host(…)",
                found=thing,
                expected="a module, the name of a distribution, or name=object",
                hint="write fslm_host(demo=object)",
            )
    allowed = settings.model_copy(update={"plugins": tuple(sorted(chosen | extra.keys()))})
    return PluginHost(allowed, plugins=extra, installed=bool(chosen))


def _installed(name: str) -> set[str]:
    """The entry points of a distribution, or the one of that name."""
    known = points()
    found = {p.name for p in known if name in (p.name, p.dist.name if p.dist else None)}
    if not found:
        offers = {p.name for p in known} | {p.dist.name for p in known if p.dist}
        raise UnknownNameError.of("plugin", name, offers, where="fslm_host(…)")
    return found


__all__ = ["host_for", "host_of", "host_to_run", "names_of", "owns", "points"]

"""The plugins that are installed, by their metadata alone: nothing of theirs is imported here."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution
from typing import Literal

from .. import hooks
from ..settings import Settings
from .core import CoreNeed, core_need, running_core

State = Literal["loaded", "disabled", "quarantined"]


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin as it was found.

    Attributes:
        name: its entry-point name.
        distribution: what pip calls it.
        state: ``loaded``, ``disabled`` (never imported) or ``quarantined`` (it could not be loaded).
        reason: why it is not loaded.
        core: the versions of fslm-core that its metadata asks for, ``>=0.1,<0.2``; empty for any, None where it states
            none.
        cure: what to do about the reason, where that is known.
    """

    name: str
    distribution: str
    version: str
    state: State
    reason: str = ""
    core: str | None = None
    cure: str = ""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".rstrip()


@dataclass(frozen=True, slots=True)
class Found:
    """A plugin that is installed, or was handed over by a program.

    Attributes:
        module: what its entry point names; empty for one that was handed over.
        dist: its distribution; None for one that was handed over.
    """

    name: str
    distribution: str
    version: str
    load: Callable[[], object]
    module: str = ""
    dist: Distribution | None = None
    need: CoreNeed = CoreNeed()  # noqa: RUF009 (frozen)

    def info(self, state: State, reason: str = "", cure: str = "") -> PluginInfo:
        """The plugin in this state."""
        return PluginInfo(self.name, self.distribution, self.version, state, reason, self.need.versions, cure)


def candidates(extra: Mapping[str, object], *, installed: bool) -> list[Found]:
    """The plugins handed over and, with ``installed``, those of the environment, sorted by distribution and name."""
    found = [Found(name, name, "", lambda p=plugin: p) for name, plugin in extra.items()]  # type: ignore[misc]
    if installed:
        for point in importlib.metadata.entry_points(group=hooks.GROUP):
            dist = point.dist
            name, version = (dist.name, dist.version) if dist else ("?", "?")
            need = core_need(dist.requires or ()) if dist else CoreNeed()
            found.append(Found(point.name, name, version, point.load, point.module, dist, need))
    return sorted(found, key=lambda f: (f.distribution, f.name))


def judged(found: Found, settings: Settings) -> PluginInfo:
    """What the settings and the plugin's own metadata say of it; ``loaded`` where neither keeps it out."""
    if why := _blocked(found, settings):
        return found.info("disabled", why)
    plugin = f"{found.distribution} {found.version}"
    why, cure = found.need.refusal(plugin, found.distribution, running_core())
    return found.info("quarantined", f"{why}: {cure}", cure) if why else found.info("loaded")


def _blocked(found: Found, settings: Settings) -> str:
    names = {normal(found.name), normal(found.distribution)}
    if names & set(map(normal, settings.disable)):
        return "disabled by the settings"
    if settings.plugins is not None and not names & set(map(normal, settings.plugins)):
        return "not among the plugins the settings allow"
    return ""


def normal(name: str) -> str:
    """A name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


__all__ = ["Found", "PluginInfo", "State", "candidates", "judged", "normal"]

"""The plugins that are installed, by their metadata alone: nothing of theirs is imported here."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from .. import hooks
from ..settings import Settings

State = Literal["loaded", "disabled", "quarantined"]


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin as it was found.

    Attributes:
        name: its entry-point name.
        distribution: what pip calls it.
        state: ``loaded``, ``disabled`` (never imported) or ``quarantined`` (it could not be loaded).
        reason: why it is not loaded.
    """

    name: str
    distribution: str
    version: str
    state: State
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".rstrip()


@dataclass(frozen=True, slots=True)
class Found:
    name: str
    distribution: str
    version: str
    load: Callable[[], object]


def candidates(extra: Mapping[str, object], *, installed: bool) -> list[Found]:
    """The plugins handed over and, with ``installed``, those of the environment, sorted by distribution and name."""
    found = [Found(name, name, "", lambda p=plugin: p) for name, plugin in extra.items()]  # type: ignore[misc]
    if installed:
        for point in importlib.metadata.entry_points(group=hooks.GROUP):
            dist = point.dist
            found.append(Found(point.name, dist.name if dist else "?", dist.version if dist else "?", point.load))
    return sorted(found, key=lambda f: (f.distribution, f.name))


def blocked(found: Found, settings: Settings) -> str:
    """Why the settings keep a plugin from being loaded; empty where they do not."""
    names = {normal(found.name), normal(found.distribution)}
    if names & set(map(normal, settings.disable)):
        return "disabled by the settings"
    if settings.plugins is not None and not names & set(map(normal, settings.plugins)):
        return "not among the plugins the settings allow"
    return ""


def normal(name: str) -> str:
    """A name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


__all__ = ["Found", "PluginInfo", "State", "blocked", "candidates", "normal"]

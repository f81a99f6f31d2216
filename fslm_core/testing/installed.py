"""A plugin as it is installed: its distribution, its entry points, what it requires, what importing it costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import (
    Distribution,
    EntryPoint,
    PackageNotFoundError,
    distribution,
)
from pathlib import Path
from types import ModuleType
from typing import Any

from packaging.requirements import Requirement

from ..hooks import GROUP
from ..plugins import Installed as Disk
from ..plugins import PluginHost, normal
from ..plugins.core import CORE, core_need, running_core
from ..plugins.finding import candidates
from ..stack import Stack
from ..stage import Stage
from .broken import ContractBroken
from .clean import clean_settings
from .owners import owns, points

HEAVY = ("torch", "transformers", "peft")
_REINSTALL = "install the plugin as its users would: `python -m pip install -e .` in its folder"


@dataclass(frozen=True)
class Installed:
    """An installed distribution that offers plugins."""

    dist: Distribution
    points: tuple[EntryPoint, ...]

    @property
    def name(self) -> str:
        """What pip calls it."""
        return self.dist.name

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that its entry points name."""
        return tuple(point.module for point in self.points)

    @property
    def disk(self) -> Disk:
        """How it lies on this machine."""
        return Disk(next(found for found in candidates({}, installed=True) if found.distribution == self.name))

    @cached_property
    def host(self) -> PluginHost:
        """A host of this distribution's plugins and no others."""
        names = tuple(point.name for point in self.points)
        return PluginHost(clean_settings(Path("data"), plugins=names))


def installed_for(thing: Stage[Any, Any] | Stack[Any, Any], name: str | None = None) -> Installed:
    """The installed distribution that a stage or stack comes from.

    Args:
        name: of the distribution, where it is known; else it is told by the thing's name, or by where its models are
            defined.

    Raises:
        ContractBroken: no installed distribution fits.
    """
    if name is not None:
        return named(name)
    own = [point for point in points() if owns(point.name, thing.name) and point.dist is not None]
    dists = {point.dist.name for point in own if point.dist is not None}
    package = thing.output.__module__.partition(".")[0]
    if len(dists) != 1:
        same = (point for point in points() if point.module.partition(".")[0] == package)
        dists = {point.dist.name for point in same if point.dist is not None}
    if len(dists) != 1:
        raise ContractBroken(
            f"no installed plugin has the name {thing.name}",
            where=_place(thing),
            found=f"plugins {', '.join(sorted(p.name for p in points())) or '(none)'}",
            expected=f"in [project.entry-points.{GROUP}] a line such as {thing.name.partition('.')[0]} = {package!r}",
            hint=_REINSTALL + ", or set `distribution` in the test class",
        )
    return named(dists.pop())


def named(name: str) -> Installed:
    """The installed distribution of that name.

    Raises:
        ContractBroken: it is not installed, or offers no plugin.
    """
    try:
        dist = distribution(name)
    except PackageNotFoundError:
        raise ContractBroken("the distribution is not installed", where=name, hint=_REINSTALL) from None
    found = tuple(point for point in dist.entry_points if point.group == GROUP)
    if not found:
        raise ContractBroken(
            f"the distribution has no entry point in group {GROUP!r}",
            where=name,
            expected=f'[project.entry-points.{GROUP}] with a line such as `reviews = "fslm_reviews"` in pyproject.toml',
            hint=_REINSTALL,
        )
    return Installed(dist, found)


def for_module(module: ModuleType | str) -> Installed:
    """The installed distribution whose plugin is this module, or has this name.

    Raises:
        ContractBroken: there is none.
    """
    name = module if isinstance(module, str) else module.__name__
    for point in points():
        if point.dist is not None and name in (point.name, point.dist.name, point.module):
            return named(point.dist.name)
    raise ContractBroken(
        "no entry point names this plugin",
        where=name,
        found=f"entry points {', '.join(f'{p.name} = {p.value}' for p in points()) or '(none)'}",
        hint=_REINSTALL,
    )


def check_prefix(thing: Stage[Any, Any] | Stack[Any, Any], installed: Installed) -> None:
    """A name equals the plugin's entry-point name or begins with it and a dot.

    Raises:
        ContractBroken: it does not.
    """
    names = [point.name for point in installed.points]
    if not any(owns(name, thing.name) for name in names):
        raise ContractBroken(
            "the name does not carry the plugin's prefix",
            where=_place(thing),
            found=thing.name,
            expected=" or ".join(f"{name!r}, or a name that begins with {name + '.'!r}" for name in names),
            hint="rename it, or the entry point; a stack that cannot load tells by the name which plugin it wants",
        )


def check_loaded(installed: Installed) -> None:
    """The distribution's plugins load on their own.

    Raises:
        ContractBroken: one is quarantined; the text says why.
    """
    for info in installed.host.plugins:
        if info.distribution == installed.name and info.state != "loaded":
            raise ContractBroken(
                f"the plugin is {info.state}", where=f"plugin {info.name} of {info}", found=info.reason,
                hint="mend what is named; `fslm plugins` shows the same",
            )  # fmt: skip


def check_offered(thing: Stage[Any, Any] | Stack[Any, Any], installed: Installed) -> None:
    """The plugin offers this very stage or stack.

    Raises:
        ContractBroken: it offers none of that name, or another one.
    """
    host = installed.host
    kind = "stage" if isinstance(thing, Stage) else "stack"
    offers: dict[str, Any] = dict(host.stages if isinstance(thing, Stage) else host.stacks)
    offered = offers.get(thing.name)
    if offered is thing:
        return
    raise ContractBroken(
        f"the plugin {'does not offer this' if offered is None else 'offers another'} {kind} of that name",
        where=_place(thing),
        found=", ".join(offers) or "nothing",
        hint=f"return it from the plugin's fslm_{kind}s(), and test the object that is returned there",
    )


def check_requirement(installed: Installed, *, carries_adapter: bool = False) -> None:
    """The distribution says which fslm-core it needs. That this core is among them, :func:`check_loaded` says.

    Args:
        carries_adapter: it then needs the extra ``torch`` as well.

    Raises:
        ContractBroken: the metadata says nothing of it, names no version, or lacks the extra.
    """
    wanted = list(installed.dist.requires or ())
    where = f"dependencies of {installed.name}"
    extra = "[torch]" if carries_adapter else ""
    hint = f'write `dependencies = ["{CORE}{extra}>={_minor(running_core())}"]` in pyproject.toml and install it again'
    if not core_need(wanted).versions:
        raise ContractBroken(
            f"the metadata does not say which {CORE} the plugin needs",
            where=where,
            found=", ".join(wanted) or "no requirement at all",
            expected=f"a range of versions of {CORE}",
            hint=hint,
        )
    if carries_adapter and not any("torch" in r.extras for r in map(Requirement, wanted) if normal(r.name) == CORE):
        raise ContractBroken(
            "the plugin carries an adapter, but its metadata does not ask for what runs one",
            where=where,
            found=", ".join(wanted),
            expected=f"{CORE}[torch]",
            hint=hint,
        )


def check_light(installed: Installed, heavy: Iterable[str] = HEAVY) -> None:
    """Importing the plugin in a fresh interpreter loads no model library.

    Raises:
        ContractBroken: it loads one, or it cannot be imported.
    """
    for module in installed.modules:
        loaded = _loaded_by(module, tuple(sys.path), tuple(heavy))
        if loaded:
            raise ContractBroken(
                f"importing the plugin loads {', '.join(loaded)}",
                where=module,
                hint="import it within the function that uses it: `fslm --help` imports every plugin",
            )


@lru_cache(maxsize=256)
def _loaded_by(module: str, path: tuple[str, ...], heavy: tuple[str, ...]) -> tuple[str, ...]:
    code = (
        f"import sys, json; sys.path[:] = json.loads(sys.argv[1]); import {module};"
        f" print(json.dumps([n for n in {list(heavy)!r} if n in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(path)], capture_output=True, text=True, encoding="utf-8"
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise ContractBroken(
            "the plugin cannot be imported in a fresh interpreter",
            where=module,
            found=said[-1] if said else f"exit code {done.returncode}",
            hint=f"see `python -c 'import {module}'`",
        )
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def _minor(text: str) -> str:
    return ".".join(text.split(".")[:2])


def _place(thing: Stage[Any, Any] | Stack[Any, Any]) -> str:
    return f"{'stage' if isinstance(thing, Stage) else 'stack'} {thing.name}"


__all__ = [
    "HEAVY",
    "Installed",
    "check_light",
    "check_loaded",
    "check_offered",
    "check_prefix",
    "check_requirement",
    "for_module",
    "installed_for",
    "named",
]

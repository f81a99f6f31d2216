"""The plugins of one engine: what they offer, who owns what, and what they have to say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from ..errors import DuplicateNameError, PluginLoadError, UnknownNameError
from ..events import Event
from ..lazy import lazy
from ..message import Problem
from ..settings import Settings
from ..stack import Stack
from ..stage import Stage
from .finding import Found, PluginInfo, candidates, judged, normal
from .installed import Installed
from .loading import Kind, Loaded, Offers, Owned, is_own

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ..backends.protocol import Backend
    from ..checkpoints import Checkpoint

T = TypeVar("T")


class PluginHost:
    """The plugins of one engine. There is no global one.

    Args:
        settings: which plugins to load.
        plugins: modules or objects to register beside the installed ones, by name (for tests and programs).
        installed: False leaves installed plugins aside.

    Nothing is imported before the first question that needs it.
    """

    def __init__(
        self, settings: Settings, *, plugins: Mapping[str, object] | None = None, installed: bool = True
    ) -> None:
        self.settings = settings
        self._extra = dict(plugins or {})
        self._installed = installed

    # -- what there is ------------------------------------------------------------------------------------------

    def found(self) -> list[PluginInfo]:
        """List the plugins by their metadata alone: sorted, blocked ones and those of another core marked, none
        imported."""
        return [judged(found, self.settings) for found in self._candidates]

    @property
    def plugins(self) -> list[PluginInfo]:
        """List the plugins, loading them: what became of each, and why."""
        return list(self._loaded.infos)

    @property
    def stages(self) -> dict[str, Stage[Any, Any]]:
        """All stages by name."""
        return dict(self._loaded.stages.owned)

    @property
    def stacks(self) -> dict[str, Stack[Any, Any]]:
        """All stacks by name."""
        return dict(self._loaded.stacks.owned)

    @property
    def checkpoints(self) -> dict[str, Checkpoint]:
        """The checkpoints plugins offer, by name."""
        return dict(self._loaded.checkpoints.owned)

    @property
    def backends(self) -> dict[str, Callable[[Settings], Backend]]:
        """The backends plugins offer, by name."""
        return dict(self._loaded.backends.owned)

    @property
    def commands(self) -> dict[str, Callable[..., Any]]:
        """The verbs plugins add to the command line, by name."""
        return dict(self._loaded.commands.owned)

    def stage(self, name: str) -> Stage[Any, Any]:
        """Return the stage of this name.

        Raises:
            UnknownNameError: there is none; the text offers near names, and says if a plugin of that name is disabled.
            PluginLoadError: the plugin of that name could not be loaded; what it raised is the ``__cause__``.
            DuplicateNameError: two distributions own the name.
        """
        return self._get(self._loaded.stages, name)

    def stack(self, name: str) -> Stack[Any, Any]:
        """Return the stack of this name; raises as :meth:`stage` does."""
        return self._get(self._loaded.stacks, name)

    def owner(self, stage: Stage[Any, Any]) -> PluginInfo | None:
        """The plugin a stage came from, or None for a stage no plugin offers."""
        known = self._loaded.stages
        return known.owner.get(stage.name) if known.owned.get(stage.name) is stage else None

    def complaint(self, stage: Stage[Any, Any]) -> str | None:
        """Why a stage must not run although a stack holds it: two plugins own its name, or its own is not loaded."""
        if stage.name in self._loaded.stages.contested:
            first, second = self._loaded.stages.contested[stage.name]
            return f"the stage {stage.name} has two owners, {first} and {second}: disable one of them"
        if self.owner(stage) is None and (info := self.absent_owner(stage.name)) is not None:
            return f"the stage {stage.name} belongs to plugin {info}, which is {info.state}: {info.reason}"
        return None

    def absent_owner(self, name: str) -> PluginInfo | None:
        """The plugin whose name this is, where it is installed but disabled or quarantined; else None."""
        for info in self._loaded.infos:
            if info.state != "loaded" and is_own(name, info):
                return info
        return None

    # -- what belongs to whom -----------------------------------------------------------------------------------

    def named(self, name: str) -> list[PluginInfo]:
        """The plugins of this name, or of the distribution of this name, by their metadata alone; none is imported.

        Raises:
            UnknownNameError: nothing that is installed has that name.
        """
        found = self.found()
        chosen = [info for info in found if normal(name) in (normal(info.name), normal(info.distribution))]
        if not chosen:
            known = {part for info in found for part in (info.name, info.distribution)}
            raise UnknownNameError.of("plugin", name, known)
        return chosen

    def installation(self, info: PluginInfo) -> Installed:
        """How a plugin lies in this environment; nothing is imported."""
        return Installed(
            next(f for f in self._candidates if (f.name, f.distribution) == (info.name, info.distribution))
        )

    def offers(self, info: PluginInfo) -> Offers:
        """What one plugin offers, and the hooks it implements; nothing where it is not loaded."""
        return self._loaded.offers(info)

    def owner_of(self, kind: Kind, name: str) -> PluginInfo | None:
        """The plugin that offers the stage, stack, checkpoint, backend or verb of this name; None where none does."""
        return self._loaded.owned_of(kind).owner.get(name)

    # -- what plugins have to say -------------------------------------------------------------------------------

    def check_message(self, stage: Stage[Any, Any], message: BaseModel, input: BaseModel) -> list[Problem]:
        """Ask the plugin that owns the stage, and those the settings trust with others, to judge a message."""
        owner = self.owner(stage)
        problems: list[Problem] = []
        for impl, info in self._impls("fslm_check_message"):
            if info is not owner and not {info.name, info.distribution} & set(self.settings.foreign_checks):
                continue
            try:
                said = self._loaded.call("fslm_check_message", impl, info, stage=stage, message=message, input=input)
                answer = list(said or ())
                if wrong := [p for p in answer if not isinstance(p, Problem)]:
                    raise TypeError(f"returned {type(wrong[0]).__name__} where Problem was expected")
            except BaseException as error:  # a check that fails refuses, and one that calls sys.exit() fails
                answer = [Problem("refused", f"the check of {info} failed: {type(error).__name__}: {error}")]
            problems += [Problem(p.kind, p.text, p.field, info.name) for p in answer]
        return problems

    @property
    def observers(self) -> list[tuple[str, Callable[[Event], None]]]:
        """The observers, as (plugin name, function)."""

        def bind(impl: pluggy.HookImpl, info: PluginInfo) -> Callable[[Event], None]:
            call = self._loaded.call
            return lambda event: call("fslm_observe", impl, info, event=event)

        return [(info.name, bind(impl, info)) for impl, info in self._impls("fslm_observe")]

    # -- finding ------------------------------------------------------------------------------------------------

    @lazy
    def _candidates(self) -> list[Found]:
        return candidates(self._extra, installed=self._installed)

    @lazy
    def _loaded(self) -> Loaded:
        loaded = Loaded(trace_hooks=self.settings.trace_hooks)
        for found in self._candidates:
            if (info := judged(found, self.settings)).state == "loaded":
                loaded.add(found)
            else:
                loaded.infos.append(info)
        return loaded

    def _impls(self, hook: str) -> Iterator[tuple[pluggy.HookImpl, PluginInfo]]:
        for impl in getattr(self._loaded.manager.hook, hook).get_hookimpls():
            yield impl, self._loaded.info_of[id(impl.plugin)]

    def _get(self, owned: Owned[T], name: str) -> T:
        if name in owned.contested:
            first, second = owned.contested[name]
            raise DuplicateNameError(
                f"two plugins own the {owned.kind} {name!r}",
                where="the plugins loaded",
                found=f"{first} and {second}",
                hint=f"disable one: fslm plugins disable {second.distribution}",
            )
        if name in owned.owned:
            return owned.owned[name]
        if (info := self.absent_owner(name)) is not None:
            what = f"the {owned.kind} {name!r} belongs to plugin {info}, which is {info.state}"
            where = f"plugin {info.name}"
            if info.state == "disabled":
                cure = f"fslm plugins enable {info.name}"
                raise UnknownNameError(what, where=where, found=info.reason, hint=cure)
            cure = info.cure or f"mend or reinstall {info.distribution}, then run `fslm plugins`"
            raise PluginLoadError(what, where=where, found=info.reason, hint=cure) from self._loaded.faults.get(info)
        raise UnknownNameError.of(owned.kind, name, owned.owned)


__all__ = ["PluginHost"]

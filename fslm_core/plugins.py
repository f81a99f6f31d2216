"""Find plugins, drop the blocked ones before anything is imported, load each alone, and know who owns what."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pluggy

from . import hooks
from .errors import DuplicateNameError, FslmError, PluginLoadError, UnknownNameError, shorten
from .events import Event
from .lazy import lazy
from .message import Problem
from .settings import Settings
from .stack import Stack
from .stage import Stage

if TYPE_CHECKING:
    from pydantic import BaseModel

    from .backends.protocol import Backend
    from .checkpoints import Checkpoint

State = Literal["loaded", "disabled", "quarantined"]
T = TypeVar("T")
Named = list[tuple[str, T]]


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
class _Found:
    name: str
    distribution: str
    version: str
    load: Callable[[], object]


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
        """List the plugins by their metadata alone: sorted, blocked ones marked, none imported."""
        return [
            PluginInfo(f.name, f.distribution, f.version, "disabled" if (why := self._blocked(f)) else "loaded", why)
            for f in self._candidates
        ]

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
            if info.state != "loaded" and _is_own(name, info):
                return info
        return None

    # -- what plugins have to say -------------------------------------------------------------------------------

    def check_message(self, stage: Stage[Any, Any], message: BaseModel) -> list[Problem]:
        """Ask the plugin that owns the stage, and those the settings trust with others, to judge a message."""
        owner = self.owner(stage)
        problems: list[Problem] = []
        for impl, info in self._impls("fslm_check_message"):
            if info is not owner and not {info.name, info.distribution} & set(self.settings.foreign_checks):
                continue
            try:
                answer = list(_call(impl, stage=stage, message=message) or ())
                if wrong := [p for p in answer if not isinstance(p, Problem)]:
                    raise TypeError(f"returned {type(wrong[0]).__name__} where Problem was expected")
            except BaseException as error:  # a check that fails refuses, and one that calls sys.exit() fails
                answer = [Problem("refused", f"the check of {info} failed: {type(error).__name__}: {error}")]
            problems += [Problem(p.kind, p.text, p.field, info.name) for p in answer]
        return problems

    @property
    def observers(self) -> list[tuple[str, Callable[[Event], None]]]:
        """The observers, as (plugin name, function)."""

        def bind(impl: pluggy.HookImpl) -> Callable[[Event], None]:
            return lambda event: _call(impl, event=event)

        return [(info.name, bind(impl)) for impl, info in self._impls("fslm_observe")]

    # -- finding ------------------------------------------------------------------------------------------------

    @lazy
    def _candidates(self) -> list[_Found]:
        found = [_Found(name, name, "", lambda p=plugin: p) for name, plugin in self._extra.items()]  # type: ignore[misc]
        if self._installed:
            for point in importlib.metadata.entry_points(group=hooks.GROUP):
                dist = point.dist
                found.append(_Found(point.name, dist.name if dist else "?", dist.version if dist else "?", point.load))
        return sorted(found, key=lambda f: (f.distribution, f.name))

    def _blocked(self, found: _Found) -> str:
        names = {_normal(found.name), _normal(found.distribution)}
        if names & set(map(_normal, self.settings.disable)):
            return "disabled by the settings"
        if self.settings.plugins is not None and not names & set(map(_normal, self.settings.plugins)):
            return "not among the plugins the settings allow"
        return ""

    @lazy
    def _loaded(self) -> _Loaded:
        loaded = _Loaded()
        for found in self._candidates:
            if why := self._blocked(found):
                loaded.infos.append(PluginInfo(found.name, found.distribution, found.version, "disabled", why))
            else:
                loaded.add(found)
        return loaded

    def _impls(self, hook: str) -> Iterator[tuple[pluggy.HookImpl, PluginInfo]]:
        for impl in getattr(self._loaded.manager.hook, hook).get_hookimpls():
            yield impl, self._loaded.info_of[id(impl.plugin)]

    def _get(self, owned: _Owned[T], name: str) -> T:
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
            cure = f"mend or reinstall {info.distribution}, then run `fslm plugins`"
            raise PluginLoadError(what, where=where, found=info.reason, hint=cure) from self._loaded.faults[info]
        raise UnknownNameError.of(owned.kind, name, owned.owned)


class _Owned(dict[str, T]):
    """Names of one kind, each with its owner; a name with two owners is nobody's."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.owner: dict[str, PluginInfo] = {}
        self.contested: dict[str, tuple[PluginInfo, PluginInfo]] = {}

    @property
    def owned(self) -> dict[str, T]:
        return self

    def take(self, name: str, thing: T, info: PluginInfo) -> None:
        if name in self.contested:
            return
        if name in self:
            self.contested[name] = (self.owner.pop(name), info)
            del self[name]
        else:
            self[name] = thing
            self.owner[name] = info


class _Loaded:
    """The plugins that were loaded, and what they offer."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(hooks.PROJECT)
        self.manager.add_hookspecs(hooks)
        self.infos: list[PluginInfo] = []
        self.faults: dict[PluginInfo, BaseException] = {}
        self.info_of: dict[int, PluginInfo] = {}
        self.stages: _Owned[Stage[Any, Any]] = _Owned("stage")
        self.stacks: _Owned[Stack[Any, Any]] = _Owned("stack")
        self.checkpoints: _Owned[Checkpoint] = _Owned("checkpoint")
        self.backends: _Owned[Callable[[Settings], Backend]] = _Owned("backend")
        self.commands: _Owned[Callable[..., Any]] = _Owned("command")

    def add(self, found: _Found) -> None:
        """Load one plugin, or quarantine it with its reason; nothing of a quarantined plugin stays."""
        info = PluginInfo(found.name, found.distribution, found.version, "loaded")
        try:
            plugin = found.load()
            self._register(plugin, info)
            offers = self._collect(plugin, info)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a plugin raises must not stop the others
            self._quarantine(found, error)
        else:
            self.infos.append(info)
            for owned, things in offers:
                for name, thing in things:
                    owned.take(name, thing, info)

    def _register(self, plugin: object, info: PluginInfo) -> None:
        if isinstance(plugin, type):
            raise PluginLoadError(
                "the entry point names a class",
                where=f"plugin {info}",
                found=plugin,
                expected="a module, or an object with hook implementations",
                hint="name the module that holds the @hookimpl functions",
            )
        if (other := self.info_of.get(id(plugin))) is not None:
            raise PluginLoadError(
                "another plugin has registered the same module",
                where=f"plugin {info}",
                found=f"{other.name} of {other}",
                hint="give each entry point a module of its own",
            )
        self.manager.register(plugin, name=_key(info))
        self.info_of[id(plugin)] = info
        self.manager.check_pending()
        impls = [i for caller in self.manager.get_hookcallers(plugin) or () for i in caller.get_hookimpls()]
        mine = [impl for impl in impls if impl.plugin is plugin]
        if not mine:
            raise PluginLoadError(
                "it implements no hook",
                where=f"plugin {info}",
                expected="functions marked @hookimpl",
                hint="mark them: `from fslm_core import hookimpl`",
            )
        if any(impl.hookwrapper or impl.wrapper for impl in mine):
            raise PluginLoadError(
                "a hook wrapper has no place here: plugins declare, the engine decides",
                where=f"plugin {info}",
                hint="write a plain @hookimpl function",
            )

    def _collect(self, plugin: object, info: PluginInfo) -> list[tuple[_Owned[Any], list[tuple[str, Any]]]]:
        from .checkpoints import Checkpoint

        def listed(hook: str, kind: type[T]) -> list[tuple[str, T]]:
            things = self._answers(plugin, hook, Iterable, info)
            for thing in things:
                if not isinstance(thing, kind):
                    raise PluginLoadError(
                        f"{hook} returned the wrong type",
                        where=f"plugin {info}",
                        found=type(thing).__name__,
                        expected=f"a list of {kind.__name__}",
                        hint=f"return only {kind.__name__} objects from it",
                    )
            return _named(hook, [(thing.name, thing) for thing in things], info)

        def with_their_own(stages: Named[Stage[Any, Any]], stacks: Named[Stack[Any, Any]]) -> Named[Stage[Any, Any]]:
            """Stages that only a stack mentions are the plugin's own all the same: its checks judge them."""
            steps = {id(s): s for _, stack in stacks for s in stack.stages if _is_own(s.name, info)}
            unlisted = [(s.name, s) for s in steps.values() if not any(s is listed for _, listed in stages)]
            return _named("fslm_stacks", [*stages, *unlisted], info)

        def mapped(hook: str, prefixed: bool) -> list[tuple[str, Callable[..., Any]]]:
            pairs = [
                (n, f) for answer in self._answers(plugin, hook, Mapping, info, whole=True) for n, f in answer.items()
            ]
            for name, thing in pairs:
                if not isinstance(name, str) or not callable(thing):
                    raise PluginLoadError(
                        f"{hook} returned the wrong type",
                        where=f"plugin {info}",
                        found=type(thing).__name__,
                        expected="a dict of name to function",
                        hint="write {'name': function}",
                    )
            return _named(hook, pairs, info) if prefixed else pairs

        stages: Named[Stage[Any, Any]] = listed("fslm_stages", Stage)
        stacks: Named[Stack[Any, Any]] = listed("fslm_stacks", Stack)
        return [
            (self.stages, with_their_own(stages, stacks)),
            (self.stacks, stacks),
            (self.checkpoints, listed("fslm_checkpoints", Checkpoint)),
            (self.backends, mapped("fslm_backends", True)),
            (self.commands, mapped("fslm_commands", False)),
        ]

    def _answers(self, plugin: object, hook: str, kind: Any, info: PluginInfo, *, whole: bool = False) -> list[Any]:
        answers: list[Any] = []
        for impl in getattr(self.manager.hook, hook).get_hookimpls():
            if impl.plugin is not plugin:
                continue
            answer = _call(impl)
            if not isinstance(answer, kind) or isinstance(answer, str):
                raise PluginLoadError(
                    f"{hook} returned the wrong type",
                    where=f"plugin {info}",
                    found=type(answer).__name__,
                    expected=kind.__name__.lower(),
                    hint="return a dict" if whole else "return a list, empty if there is nothing to offer",
                )
            answers += [answer] if whole else list(answer)
        return answers

    def _quarantine(self, found: _Found, error: BaseException) -> None:
        info = PluginInfo(found.name, found.distribution, found.version, "quarantined", _reason(error))
        self.infos.append(info)
        self.faults[info] = error
        if self.manager.has_plugin(_key(info)):
            self.info_of.pop(id(self.manager.unregister(name=_key(info))), None)


def _named(hook: str, pairs: Sequence[tuple[str, T]], info: PluginInfo) -> list[tuple[str, T]]:
    seen: set[str] = set()
    for name, _ in pairs:
        if not _is_own(name, info):
            raise PluginLoadError(
                f"{hook} offers a name outside the plugin's own",
                where=f"plugin {info}",
                found=name,
                expected=f"{info.name!r}, or a name that starts with {info.name + '.'!r}",
                hint="rename it, or the entry point",
            )
        if name in seen:
            raise PluginLoadError(
                f"{hook} offers one name twice",
                where=f"plugin {info}",
                found=name,
                hint="rename or drop one of the two",
            )
        seen.add(name)
    return list(pairs)


def _is_own(name: str, info: PluginInfo) -> bool:
    return name == info.name or name.startswith(info.name + ".")


def _key(info: PluginInfo) -> str:
    return f"{info.distribution}:{info.name}"


def _call(impl: pluggy.HookImpl, **arguments: Any) -> Any:
    """Call one plugin's implementation with the arguments it takes."""
    return impl.function(*(arguments[name] for name in impl.argnames))


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "it called sys.exit() while it was loaded"
    if isinstance(error, FslmError):
        place = (
            f"{error.where}: " if isinstance(error, PluginLoadError) else ""
        )  # the plugin is named beside the reason
        return shorten("; ".join(part.strip() for part in str(error).removeprefix(place).splitlines()), 500)
    return shorten(f"{type(error).__name__}: {error}", 500)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


__all__ = ["PluginHost", "PluginInfo", "State"]

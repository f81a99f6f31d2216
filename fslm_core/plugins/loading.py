"""Load each plugin alone, take what it offers or quarantine it whole, and know who owns what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pluggy

from .. import hooks
from ..errors import FslmError, PluginLoadError, shorten
from ..settings import Settings
from ..stack import Stack
from ..stage import Stage
from .calling import Caller, plainly, traced
from .finding import Found, PluginInfo

if TYPE_CHECKING:
    from ..backends.protocol import Backend
    from ..checkpoints import Checkpoint

T = TypeVar("T")
Named = list[tuple[str, T]]
Kind = Literal["stage", "stack", "checkpoint", "backend", "command"]


class Owned(dict[str, T]):
    """Names of one kind, each with its owner; a name with two owners is nobody's."""

    def __init__(self, kind: Kind) -> None:
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


@dataclass(frozen=True, slots=True)
class Offers:
    """What one plugin offers, each kind sorted by name, and the hooks it implements."""

    stages: tuple[Stage[Any, Any], ...]
    stacks: tuple[Stack[Any, Any], ...]
    checkpoints: tuple[Checkpoint, ...]
    backends: tuple[str, ...]
    commands: tuple[str, ...]
    hooks: tuple[str, ...]


class Loaded:
    """The plugins that were loaded, and what they offer."""

    def __init__(self, *, trace_hooks: bool = False) -> None:
        self.call: Caller = traced if trace_hooks else plainly
        self.manager = pluggy.PluginManager(hooks.PROJECT)
        self.manager.add_hookspecs(hooks)
        self.infos: list[PluginInfo] = []
        self.faults: dict[PluginInfo, BaseException] = {}
        self.info_of: dict[int, PluginInfo] = {}
        self.stages: Owned[Stage[Any, Any]] = Owned("stage")
        self.stacks: Owned[Stack[Any, Any]] = Owned("stack")
        self.checkpoints: Owned[Checkpoint] = Owned("checkpoint")
        self.backends: Owned[Callable[[Settings], Backend]] = Owned("backend")
        self.commands: Owned[Callable[..., Any]] = Owned("command")

    def add(self, found: Found) -> None:
        """Load one plugin, or quarantine it with its reason; nothing of a quarantined plugin stays."""
        info = found.info("loaded")
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

    def owned_of(self, kind: Kind) -> Owned[Any]:
        """All things of one kind."""
        return next(owned for owned in self._all if owned.kind == kind)

    def offers(self, info: PluginInfo) -> Offers:
        """What one plugin offers; nothing where it was not loaded."""

        def of(owned: Owned[T]) -> list[tuple[str, T]]:
            return [(name, thing) for name, thing in sorted(owned.items()) if owned.owner[name] == info]

        implemented = (
            hook
            for hook in hooks.HOOKS
            for impl in getattr(self.manager.hook, hook).get_hookimpls()
            if self.info_of[id(impl.plugin)] == info
        )
        return Offers(
            stages=tuple(stage for _, stage in of(self.stages)),
            stacks=tuple(stack for _, stack in of(self.stacks)),
            checkpoints=tuple(checkpoint for _, checkpoint in of(self.checkpoints)),
            backends=tuple(name for name, _ in of(self.backends)),
            commands=tuple(name for name, _ in of(self.commands)),
            hooks=tuple(implemented),
        )

    @property
    def _all(self) -> tuple[Owned[Any], ...]:
        return (self.stages, self.stacks, self.checkpoints, self.backends, self.commands)

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

    def _collect(self, plugin: object, info: PluginInfo) -> list[tuple[Owned[Any], list[tuple[str, Any]]]]:
        from ..checkpoints import Checkpoint

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
            steps = {id(s): s for _, stack in stacks for s in stack.stages if is_own(s.name, info)}
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
            answer = self.call(hook, impl, info)
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

    def _quarantine(self, found: Found, error: BaseException) -> None:
        info = found.info("quarantined", _reason(error))
        self.infos.append(info)
        self.faults[info] = error
        if self.manager.has_plugin(_key(info)):
            self.info_of.pop(id(self.manager.unregister(name=_key(info))), None)


def _named(hook: str, pairs: Sequence[tuple[str, T]], info: PluginInfo) -> list[tuple[str, T]]:
    seen: set[str] = set()
    for name, _ in pairs:
        if not is_own(name, info):
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


def is_own(name: str, info: PluginInfo) -> bool:
    """Whether a name is the plugin's own: its entry point's, or that, a dot and more."""
    return name == info.name or name.startswith(info.name + ".")


def _key(info: PluginInfo) -> str:
    return f"{info.distribution}:{info.name}"


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "it called sys.exit() while it was loaded"
    if isinstance(error, FslmError):
        place = (
            f"{error.where}: " if isinstance(error, PluginLoadError) else ""
        )  # the plugin is named beside the reason
        return shorten("; ".join(part.strip() for part in str(error).removeprefix(place).splitlines()), 500)
    return shorten(f"{type(error).__name__}: {error}", 500)


__all__ = ["Kind", "Loaded", "Offers", "Owned", "is_own"]

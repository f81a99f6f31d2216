"""What runs here, in the words of a lock file: found by looking at files and metadata, without loading a weight."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel

from .. import adapter as adapters
from ..backends.protocol import Backend
from ..checkpoints import Checkpoint, Folder, resolve
from ..errors import LockError
from ..plugins import PluginHost, PluginInfo
from ..plugins.core import running_core
from ..schema import schema_id_of
from ..settings import OpenAISettings, Settings, TorchSettings
from ..stack import Shape, Stack, places
from ..stage import Stage
from .lock import (
    Drift,
    Lock,
    LockedCheckpoint,
    LockedPlugin,
    LockedStage,
    Setting,
    environment_differences,
    read,
    refuse,
    work_differences,
)
from .models import Model, model_of
from .tokens import tokenized, tokenizer_bases

AnyStage = Stage[Any, Any]
_TORCH = ("device", "executor", "precision")


def fingerprint_of(stage: AnyStage, model: Model | None, base_sha256: str | None, backend: str) -> str:
    """The stage's fingerprint with the model that it runs here.

    Args:
        base_sha256: of the checkpoint; None for a backend that reads no weights.
        backend: the backend's name.
    """
    return stage.fingerprint(
        checkpoint=base_sha256 or (model.slm.base if model else None),
        adapter=model.adapter.identity if model and model.adapter else None,
        backend=backend,
    )


@dataclass(frozen=True, slots=True)
class _Scope:
    """What a lock speaks of. None stands for everything."""

    stacks: Sequence[Stack[Any, Any]]
    stages: Mapping[str, AnyStage]
    distributions: Collection[str] | None


def look(host: PluginHost, settings: Settings, backend: Backend, *, stacks: Sequence[str] | None = None) -> Lock:
    """What a lock of this environment says.

    Args:
        backend: its name and capabilities are asked for; it is not warmed.
        stacks: limit it to what these need; None takes everything that is loaded.

    Raises:
        UnknownNameError: there is no such stack.
        AdapterError: an adapter is not whole.
        CheckpointUnavailableError: a base model whose hash nobody states is not on this machine.
        LockError: a plugin's file cannot be read.
    """
    scope = _scope(host, settings, backend, None if stacks is None else [host.stack(name) for name in stacks])
    lock = _environment(host, settings, backend, scope, stacks)
    checkpoints: dict[str, LockedCheckpoint] = {}
    stages: dict[str, LockedStage] = {}
    for name, stage in sorted(scope.stages.items()):
        model = None if stage.tool is not None else model_of(stage, host, settings, backend.capabilities)
        weights = model is not None and backend.capabilities.weights
        sha256 = _sha256_of(model.checkpoint, host, settings) if model is not None and weights else None
        stages[name] = stage_here(stage, host, model, sha256, backend.name)
        if model is not None and sha256 is not None:
            checkpoints[model.checkpoint.name] = _checkpoint_here(model.checkpoint, sha256)
    for base in (base for stack in scope.stacks for base in tokenizer_bases(stack, host).values()):
        if base.name not in checkpoints:
            checkpoints[base.name] = _checkpoint_here(base, _sha256_of(base, host, settings))
    return lock.model_copy(update={"stages": stages, "checkpoints": checkpoints})


def drift(lock: Lock, host: PluginHost, settings: Settings, backend: Backend) -> list[Drift]:
    """All that differs here from a lock.

    Raises:
        AdapterError, CheckpointUnavailableError, LockError: as :func:`look`.
    """
    early = environment_drift(lock, host, settings, backend)
    if lock.stacks is not None and (gone := [name for name in lock.stacks if name not in host.stacks]):
        return [*early, *(Drift(f"stack {name}", "in the lock", None) for name in gone)]
    found = look(host, settings, backend, stacks=lock.stacks)
    return [*early, *work_differences(lock, found, wanted=lock.stages)]


def environment_drift(lock: Lock, host: PluginHost, settings: Settings, backend: Backend) -> list[Drift]:
    """What differs of the core, the backend, the settings and the plugins: all that can be told before a stack is asked
    for.

    Raises:
        AdapterError: an adapter that the settings name is not whole.
        LockError: a plugin's file cannot be read.
    """
    there = None if lock.stacks is None else [s for n, s in host.stacks.items() if n in lock.stacks]
    scope = _scope(host, settings, backend, there, also=lock.plugins)
    found = _environment(host, settings, backend, scope, lock.stacks)
    idle = {i.distribution: f"{i.version} ({i.state}: {i.reason})".lstrip() for i in host.plugins if i.reason}
    return environment_differences(lock, found, idle)


def hold(settings: Settings, host: PluginHost, backend: Backend) -> Lock:
    """Read the lock file, and refuse what differs of all that can be told before a stack is asked for.

    Raises:
        LockError: something differs, or there is no lock file.
        AdapterError: an adapter that the settings name is not whole.
    """
    lock = read(settings.lock_file)
    refuse(environment_drift(lock, host, settings, backend), settings.lock_file)
    return lock


def stack_drift(
    lock: Lock,
    stack: Stack[Any, Any],
    host: PluginHost,
    models: Mapping[str, Model | None],
    bases: Mapping[str, str],
    backend: str,
) -> list[Drift]:
    """What differs of one stack's stages and checkpoints.

    Args:
        models: the model of each step, by the step's name; None for a tool.
        bases: SHA-256 of each checkpoint on this machine, by name; those of tokenizers that a shape works with, too.
        backend: the backend's name.
    """
    if lock.stacks is not None and stack.name not in lock.stacks:
        return [Drift(f"stack {stack.name}", None, "asked for")]
    stages: dict[str, LockedStage] = {}
    checkpoints: dict[str, LockedCheckpoint] = {}
    for path, step in places(stack):
        if isinstance(step.node, Shape):
            continue
        model = models[path]
        sha256 = bases.get(model.checkpoint.name) if model is not None else None
        stages[step.stage.name] = stage_here(step.stage, host, model, sha256, backend)
        if model is not None and sha256 is not None:
            checkpoints[model.checkpoint.name] = _checkpoint_here(model.checkpoint, sha256)
    for base in tokenizer_bases(stack, host).values():
        checkpoints[base.name] = _checkpoint_here(base, bases[base.name])
    found = Lock(core=lock.core, backend=backend, plugins=lock.plugins, stages=stages, checkpoints=checkpoints)
    return work_differences(lock, found)


def stage_here(
    stage: Stage[BaseModel, BaseModel], host: PluginHost, model: Model | None, base_sha256: str | None, backend: str
) -> LockedStage:
    """What a lock says of one stage."""
    owner = host.owner(stage)
    return LockedStage(
        plugin=owner.distribution if owner else "",
        fingerprint=fingerprint_of(stage, model, base_sha256, backend),
        checkpoint=model.checkpoint.name if model else "",
        adapter=model.adapter.sha256 if model and model.adapter else "",
        template="" if stage.tool else hashlib.sha256(stage.template.source.encode()).hexdigest(),
        variant=(model.variant or "") if model else "",
        tool=stage.tool.version if stage.tool else "",
        input_schema=schema_id_of(stage.input),
        output_schema=schema_id_of(stage.output),
    )


def _checkpoint_here(checkpoint: Checkpoint, sha256: str) -> LockedCheckpoint:
    """What a lock says of a checkpoint."""
    source = checkpoint.source
    return LockedCheckpoint(sha256=sha256, source="a folder" if isinstance(source, Folder) else str(source))


def _sha256_of(checkpoint: Checkpoint, host: PluginHost, settings: Settings) -> str:
    """The hash that the checkpoint must have here, or, where its definition states none, the one it has."""
    if checkpoint.sha256 is not None:
        return checkpoint.sha256
    offline = settings.model_copy(update={"offline": True})
    return resolve(checkpoint, offline, extra=host.checkpoints).sha256


def _scope(
    host: PluginHost,
    settings: Settings,
    backend: Backend,
    stacks: Sequence[Stack[Any, Any]] | None,
    *,
    also: Iterable[str] = (),
) -> _Scope:
    """The stages a lock speaks of, and the distributions that have a part in them."""
    if stacks is None:
        return _Scope(tuple(host.stacks.values()), host.stages, None)
    stages = {stage.name: stage for stack in stacks for stage in stack.stages}
    owners: list[PluginInfo | None] = [host.owner_of("backend", backend.name)]
    owners += [host.owner_of("stack", stack.name) for stack in stacks]
    owners += [host.owner(stage) for stage in stages.values()]
    bases = [stage.model.base for stage in stages.values() if stage.model is not None]
    bases += [base for stack in stacks for base in tokenized(stack)]
    owners += [host.owner_of("checkpoint", base) for base in bases]
    names = {owner.distribution for owner in owners if owner is not None}
    judges = {i.distribution for i in host.plugins if {i.name, i.distribution} & set(settings.foreign_checks)}
    return _Scope(stacks, stages, names | judges | set(also))


def _environment(
    host: PluginHost, settings: Settings, backend: Backend, scope: _Scope, stacks: Sequence[str] | None
) -> Lock:
    return Lock(
        core=running_core(),
        backend=backend.name,
        stacks=None if stacks is None else tuple(sorted(stacks)),
        settings=_settings(settings, None if scope.distributions is None else scope.stages),
        plugins=_plugins(host, scope.distributions),
    )


def _plugins(host: PluginHost, distributions: Collection[str] | None) -> dict[str, LockedPlugin]:
    found: dict[str, list[PluginInfo]] = {}
    for info in host.plugins:
        if info.state == "loaded" and (distributions is None or info.distribution in distributions):
            found.setdefault(info.distribution, []).append(info)
    return {name: _plugin(host, infos) for name, infos in found.items()}


def _plugin(host: PluginHost, infos: Sequence[PluginInfo]) -> LockedPlugin:
    installed = host.installation(infos[0])
    try:
        files = installed.sha256()
    except OSError as error:
        raise LockError(
            f"a file of {infos[0]} cannot be read: {error.strerror}",
            where=str(error.filename),
            hint=f"give yourself read access, or install {infos[0].distribution} again",
        ) from None
    names = tuple(sorted(info.name for info in infos))
    return LockedPlugin(version=infos[0].version, names=names, source=installed.source, files=files)


def _settings(settings: Settings, stages: Collection[str] | None) -> dict[str, Setting]:
    """Those that change what is written and are not as they are by default; an adapter's place is told by its hash."""
    found: dict[str, Setting] = {}
    if settings.profile is not None:
        found["profile"] = settings.profile
    if settings.foreign_checks:
        found["foreign_checks"] = sorted(settings.foreign_checks)
    for key in _TORCH:
        if (value := getattr(settings.torch, key)) != getattr(TorchSettings(), key):
            found[f"torch.{key}"] = value
    if settings.openai.base_url != OpenAISettings().base_url:
        found["openai.base_url"] = _without_password(settings.openai.base_url)
    found |= {f"openai.models.{stage}": model for stage, model in settings.openai.models.items()}
    for name, override in settings.stages.items():
        if stages is not None and name not in stages:
            continue
        if override.variant is not None:
            found[f"stages.{name}.variant"] = override.variant
        if override.allow_untrained:
            found[f"stages.{name}.allow_untrained"] = True
        if override.adapter is not None:
            found[f"stages.{name}.adapter"] = adapters.inspect(override.adapter).sha256
    return found


def _without_password(url: str) -> str:
    """A URL without the user and password that may stand before its host.

    >>> _without_password("https://me:secret@models.example:8000/v1")
    'https://models.example:8000/v1'
    """
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


__all__ = ["drift", "environment_drift", "fingerprint_of", "hold", "look", "stack_drift"]

"""All there is to say of one plugin: how it is installed, what it offers, what its adapters were trained with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import adapter as adapters
from ..errors import AdapterError
from ..plugins import Installed, PluginHost, PluginInfo, Source, State
from ..settings import StageSettings
from ..stage import SLM, Stage


@dataclass(frozen=True, slots=True)
class StagePage:
    """A stage. ``base`` is None for a tool, ``tool`` (its version) for any other."""

    name: str
    input: str
    output: str
    description: str
    base: str | None
    tuned: bool
    tool: str | None
    variants: tuple[str, ...]
    replaced: str | None
    """The adapter that the settings put in place of its own."""


@dataclass(frozen=True, slots=True)
class StackPage:
    """A stack."""

    name: str
    input: str
    output: str
    steps: tuple[str, ...]
    description: str


@dataclass(frozen=True, slots=True)
class CheckpointPage:
    """A base model that the plugin knows how to get."""

    name: str
    source: str
    licence: str
    languages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AdapterPage:
    """An adapter, and what its ``fslm.json`` says; what that does not say is empty or None.

    Attributes:
        variant: the stage's variant it belongs to; None for its own model.
        size: bytes of the weights.
        data_sha256: of the rows it was trained on.
        problem: what is wrong with the folder; all else is then empty.
    """

    stage: str
    variant: str | None
    place: str
    sha256: str
    rank: int
    size: int
    base: str
    languages: tuple[str, ...]
    licences: dict[str, str]
    data_sha256: str | None
    scores: dict[str, float]
    recipe: dict[str, Any]
    problem: str


@dataclass(frozen=True, slots=True)
class PluginPage:
    """One plugin.

    Attributes:
        core: the versions of fslm-core it needs; empty for any, None where it states none.
        source: where pip got it from; ``origin`` is the address, where that was no index.
        place: its package's folder, or its module's file.
        size: bytes of its ``files``.
        stages, stacks, checkpoints, backends, verbs, hooks, adapters: empty where it is not loaded.
    """

    name: str
    distribution: str
    version: str
    state: State
    reason: str
    summary: str
    licence: str
    core: str | None
    source: Source
    origin: str
    place: str
    files: int
    size: int
    hooks: tuple[str, ...]
    stages: tuple[StagePage, ...]
    stacks: tuple[StackPage, ...]
    checkpoints: tuple[CheckpointPage, ...]
    backends: tuple[str, ...]
    verbs: tuple[str, ...]
    adapters: tuple[AdapterPage, ...]


def describe(host: PluginHost, name: str) -> list[PluginPage]:
    """Gather what there is to say of the plugins of this name, or of the distribution of this name. No weight is read.

    Raises:
        UnknownNameError: nothing that is installed has the name.
    """
    named = {(info.name, info.distribution) for info in host.named(name)}
    return [_page(host, info) for info in host.plugins if (info.name, info.distribution) in named]


def _page(host: PluginHost, info: PluginInfo) -> PluginPage:
    installed, offers = host.installation(info), host.offers(info)
    metadata, files = installed.metadata, installed.files()
    return PluginPage(
        name=info.name,
        distribution=info.distribution,
        version=info.version,
        state=info.state,
        reason=info.reason,
        summary=metadata.get("Summary", ""),
        licence=metadata.get("License-Expression") or metadata.get("License", "").partition("\n")[0],
        core=info.core,
        source=installed.source,
        origin=installed.origin,
        place=str(installed.place or ""),
        files=len(files),
        size=sum(path.stat().st_size for path in files.values() if path.is_file()),
        hooks=offers.hooks,
        stages=tuple(_stage(stage, host) for stage in offers.stages),
        stacks=tuple(
            StackPage(s.name, s.input.__name__, s.output.__name__, tuple(p.name for p in s.steps), s.description)
            for s in offers.stacks
        ),
        checkpoints=tuple(CheckpointPage(c.name, str(c.source), c.licence, c.languages) for c in offers.checkpoints),
        backends=offers.backends,
        verbs=offers.commands,
        adapters=tuple(_adapter(*owned, installed) for stage in offers.stages for owned in _owned(stage)),
    )


def _stage(stage: Stage[Any, Any], host: PluginHost) -> StagePage:
    override = host.settings.stages.get(stage.name, StageSettings())
    return StagePage(
        name=stage.name,
        input=stage.input.__name__,
        output=stage.output.__name__,
        description=stage.description,
        base=stage.model.base if stage.model else None,
        tuned=stage.model is None or not stage.model.untuned,
        tool=stage.tool.version if stage.tool else None,
        variants=tuple(sorted(stage.variants)),
        replaced=str(override.adapter) if override.adapter else None,
    )


def _owned(stage: Stage[Any, Any]) -> Iterator[tuple[str, str | None, SLM, Path]]:
    """The adapters of a stage: its own, and those of its variants."""
    models: list[tuple[str | None, SLM | None]] = [(None, stage.model), *sorted(stage.variants.items())]
    for variant, slm in models:
        if slm is not None and slm.adapter is not None:
            yield stage.name, variant, slm, slm.adapter


def _adapter(stage: str, variant: str | None, slm: SLM, path: Path, installed: Installed) -> AdapterPage:
    place = installed.name_of(path)
    try:
        found = adapters.inspect(path)
    except AdapterError as error:
        return AdapterPage(stage, variant, place, "", 0, 0, slm.base, (), {}, None, {}, {}, error.what)
    record = found.record
    return AdapterPage(
        stage=stage,
        variant=variant,
        place=place,
        sha256=found.sha256,
        rank=found.rank,
        size=found.size,
        base=slm.base,
        languages=tuple(record.languages) if record else (),
        licences=record.licences if record else {},
        data_sha256=record.data_sha256 if record else None,
        scores=record.scores if record else {},
        recipe=record.recipe if record else {},
        problem="",
    )


__all__ = ["AdapterPage", "CheckpointPage", "PluginPage", "StackPage", "StagePage", "describe"]

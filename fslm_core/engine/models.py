"""From a stage and the settings to the model a backend runs: variants, an operator's overrides, hashes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from .. import adapter as adapters
from ..adapter import AdapterInfo
from ..backends.protocol import Capabilities, ModelRef
from ..checkpoints import Checkpoint, ResolvedCheckpoint, find
from ..errors import AdapterError
from ..message import CANDIDATE
from ..plugins import PluginHost
from ..schema import schema_id_of
from ..settings import Settings, StageSettings
from ..stage import SLM, Stage


@dataclass(frozen=True, slots=True)
class Model:
    """The model a stage runs here, found on disk but not loaded.

    Attributes:
        slm: as the stage or its variant declares it, with the operator's adapter in place.
        variant: the variant's name, or None for the stage's own model.
        overridden: True where the operator replaced the adapter.
        candidate: True where this is what an operator tries beside the stage's own model.
        adapter: what its folder says, or None where there is no adapter.
    """

    stage: str
    slm: SLM
    checkpoint: Checkpoint
    adapter: AdapterInfo | None
    variant: str | None = None
    overridden: bool = False
    allow_untrained: bool = False
    candidate: bool = False

    def __str__(self) -> str:
        """For people: base, adapter, and what is unusual about it."""
        parts = [self.slm.base]
        if self.adapter is not None:
            parts.append(f"+ adapter {self.adapter.sha256[:12]} (rank {self.adapter.rank})")
        elif self.slm.untuned:
            parts.append("(untuned)")
        if self.variant:
            parts.append(f"[variant {self.variant}]")
        if self.overridden:
            parts.append("[adapter replaced by the settings]")
        if self.candidate:
            parts.append("[candidate]")
        return " ".join(parts)

    def ref(self, resolved: ResolvedCheckpoint | None) -> ModelRef:
        """The model as a backend sees it; ``resolved`` is None for a backend that reads no weights."""
        return ModelRef(
            checkpoint=self.checkpoint.name,
            path=resolved.path if resolved else None,
            adapter=self.adapter.path if self.adapter else None,
            adapter_sha256=self.adapter.sha256 if self.adapter else None,
            stage=f"{self.stage}{CANDIDATE}" if self.candidate else self.stage,
        )


def model_of(stage: Stage[Any, Any], host: PluginHost, settings: Settings, capabilities: Capabilities) -> Model:
    """Choose a stage's model and look at its adapter's files.

    Raises:
        UnknownNameError: the base is no known checkpoint.
        AdapterError: the adapter's folder is not whole, or its hash is not the one promised.
    """
    override = settings.stages.get(stage.name, StageSettings())
    slm, variant = stage.variant(override.variant or settings.profile)
    if override.adapter is not None:
        slm = replace(slm, adapter=override.adapter, sha256=override.sha256)
    return Model(
        stage.name,
        slm,
        find(slm.base, host.checkpoints),
        _adapter(stage, slm, capabilities),
        variant,
        overridden=override.adapter is not None,
        allow_untrained=override.allow_untrained,
    )


def candidate_of(stage: Stage[Any, Any], model: Model, settings: Settings, capabilities: Capabilities) -> Model | None:
    """What the operator tries beside a stage's ``model``: the same base with another adapter. None where nothing is.

    Raises:
        AdapterError: the adapter's folder is not whole, or its hash is not the one promised.
    """
    override = settings.stages.get(stage.name, StageSettings())
    if override.candidate is None:
        return None
    slm = replace(model.slm, adapter=override.candidate, sha256=override.candidate_sha256)
    return replace(model, slm=slm, adapter=_adapter(stage, slm, capabilities), overridden=False, candidate=True)


def _adapter(stage: Stage[Any, Any], slm: SLM, capabilities: Capabilities) -> AdapterInfo | None:
    """What the folder of the model's adapter says, its hash checked; None for a backend that reads no weights."""
    adapter = adapters.inspect(slm.adapter) if slm.adapter is not None and capabilities.weights else None
    if adapter is not None and slm.sha256 is not None and adapter.sha256 != slm.sha256:
        raise AdapterError(
            "the adapter's weights are not the ones promised",
            where=f"stage {stage.name}, {adapter.path}",
            found=f"SHA-256 {adapter.sha256}",
            expected=slm.sha256,
            hint="copy the adapter again, or correct the hash if the change is meant",
        )
    if adapter is not None and adapter.record is not None and adapter.record.sha256 not in (None, adapter.sha256):
        raise AdapterError(
            f"the adapter's weights are not those that its {adapters.RECORD} was written for",
            where=f"stage {stage.name}, {adapter.path}",
            found=f"SHA-256 {adapter.sha256}",
            expected=adapter.record.sha256,
            hint="install the plugin again, or copy the adapter's folder whole; see `fslm plugins verify`",
        )
    return adapter


def disagreements(
    stage: Stage[BaseModel, BaseModel], model: Model, base_sha256: str | None
) -> tuple[list[str], list[str]]:
    """Compare an adapter's training record with the stage as it is now.

    Args:
        base_sha256: of the checkpoint on this machine, or None if it is not here yet.

    Returns:
        (errors, warnings): another base or output schema is an error unless ``allow_untrained``; a changed template or
        input schema is a warning, and so is an adapter without a record.
    """
    if model.adapter is None:
        return [], []
    errors: list[str] = []
    warnings: list[str] = []
    if (model.overridden or model.candidate) and model.slm.sha256 is None:
        key = "candidate_sha256" if model.candidate else "sha256"
        warnings.append(
            f"the settings do not say which adapter is meant, and whatever lies in {model.adapter.path} is run; write"
            f' {key} = "{model.adapter.sha256}"'
        )
    record = model.adapter.record
    if record is None:
        return [], [*warnings, f"the adapter has no {adapters.RECORD}: nobody can say what it was trained for"]
    if record.base != model.checkpoint.name:
        errors.append(f"the adapter was made for the base {record.base}, not for {model.checkpoint.name}")
    elif base_sha256 and record.base_sha256 and record.base_sha256 != base_sha256:
        errors.append(
            f"the adapter was made for other weights of {record.base}"
            f" ({record.base_sha256[:12]}, here {base_sha256[:12]})"
        )
    if record.output_schema != stage.schema.id:
        errors.append(f"the output schema of {stage.output.__name__} changed since the adapter was trained")
    if record.template != hashlib.sha256(stage.template.source.encode()).hexdigest():
        warnings.append("the prompt template changed since the adapter was trained")
    if record.input_schema != schema_id_of(stage.input):
        warnings.append(f"the input schema of {stage.input.__name__} changed since the adapter was trained")
    if record.stage != stage.name:
        warnings.append(f"the adapter was trained for the stage {record.stage}")
    if model.allow_untrained:
        return [], [*warnings, *(f"{error} (allowed by allow_untrained)" for error in errors)]
    hint = f'; train it again, or set allow_untrained for [stages."{stage.name}"]'
    return [error + hint for error in errors], warnings


__all__ = ["Model", "candidate_of", "disagreements", "model_of"]

"""The whole static check of a stack: wiring, adapters, capabilities and context, before a weight is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..backends.protocol import Capabilities
from ..checkpoints import ResolvedCheckpoint, resolve
from ..errors import CheckError, CheckpointUnavailableError, FslmError
from ..plugins import PluginHost, PluginInfo
from ..settings import Settings, StageSettings
from ..stack import Shape, Stack, Step, Wiring, places
from ..stage import Stage
from ..store import unmarked
from .models import Model, candidate_of, disagreements, model_of
from .tokens import lacks


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step as it would run here.

    Attributes:
        name: its path in the stack.
        model: None for a tool stage, for a shape, or where it could not be found.
        prompt_tokens: tokens of the text the template itself holds, chat template left aside; None where the
            checkpoint is not on this machine yet.
        max_tokens: the bound on its output; None for a tool stage and a shape.
        candidate: the model that an operator tries beside it, in this ``share`` of its runs; None where there is none.
    """

    name: str
    step: Step
    plugin: PluginInfo | None
    model: Model | None
    prompt_tokens: int | None
    max_tokens: int | None
    candidate: Model | None = None
    share: float = 0.0


@dataclass
class Report:
    """What the check found. ``wiring`` is None where the stack could not be wired."""

    stack: str
    wiring: Wiring | None = None
    steps: list[StepReport] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def raise_if_refused(self) -> None:
        """Raise if there is any error.

        Raises:
            CheckError: with all of them.
        """
        if self.errors:
            raise CheckError(self.stack, self.errors)


def check_stack(
    stack: Stack[Any, Any],
    *,
    host: PluginHost,
    settings: Settings,
    capabilities: Capabilities = Capabilities(),  # noqa: B008 (frozen)
    strict: bool = False,
) -> Report:
    """Check a stack without loading a weight or reaching for a network.

    Args:
        capabilities: what the backend offers; all of it by default.
        strict: make errors of the warnings about models and templates.
    """
    report = Report(stack.name)
    try:
        report.wiring = stack.wiring
        report.warnings += stack.wiring.warnings
        report.warnings += unmarked(stack)
    except CheckError as error:
        report.errors += error.findings
    for path, step in places(stack):
        if isinstance(step.node, Shape):
            report.errors += (f"step {path}: {lack}" for lack in lacks(step.node, host))
            if step.node.samples and not capabilities.sampling:
                report.errors.append(f"step {path}: the backend cannot sample, which this {step.node.kind} asks for")
            report.steps.append(StepReport(path, step, None, None, None, None))
        else:
            _check_stage(path, step, step.node, report, host, settings, capabilities)
    if strict:
        report.errors += report.warnings
        report.warnings = []
    return report


def _check_stage(
    path: str,
    step: Step,
    stage: Stage[Any, Any],
    report: Report,
    host: PluginHost,
    settings: Settings,
    capabilities: Capabilities,
) -> None:
    place = f"step {path}: "
    plugin = host.owner(stage)
    if (complaint := host.complaint(stage)) is not None:
        report.errors.append(place + complaint)
    override = settings.stages.get(stage.name, StageSettings())
    if override.adapter is not None:  # the operator's adapter tunes what the plugin left bare
        report.warnings = [w for w in report.warnings if not w.startswith(f"{place}untuned: ")]
    if stage.tool is not None:
        if override.candidate is not None:
            report.errors.append(f"{place}it is a tool, and has no adapter that a candidate could be tried beside")
        report.steps.append(StepReport(path, step, plugin, None, None, None))
        return
    report.errors += (place + need for need in _needs(stage, capabilities))
    model, base, candidate = None, None, None
    try:
        model = model_of(stage, host, settings, capabilities)
        base = _cached(model, host, settings) if capabilities.weights else None
    except FslmError as error:
        report.errors.append(place + _on_one_line(error))
    static = None
    readable = "schema" in vars(stage) and "template" in vars(stage)
    if model is not None and readable:
        errors, warnings = disagreements(stage, model, base.sha256 if base else None)
        report.errors += (place + e for e in errors)
        report.warnings += (place + w for w in warnings)
        candidate = _candidate(path, stage, model, base, report, settings, capabilities)
        wanted = override.variant if stage.name in settings.stages else settings.profile
        if wanted and model.variant is None and stage.variants:
            report.warnings.append(f"{place}it has no variant {wanted!r}, so its own model runs")
        if base is not None:
            static = _static_tokens(stage, base)
            report.errors += (place + e for e in _overflow(static, stage.max_tokens, base))
    bound = stage.max_tokens if "schema" in vars(stage) else None
    report.steps.append(StepReport(path, step, plugin, model, static, bound, candidate, override.shadow))


def _candidate(
    path: str,
    stage: Stage[Any, Any],
    model: Model,
    base: ResolvedCheckpoint | None,
    report: Report,
    settings: Settings,
    capabilities: Capabilities,
) -> Model | None:
    """The candidate, checked as the adapter that it may replace."""
    place = f"step {path}: candidate: "
    try:
        candidate = candidate_of(stage, model, settings, capabilities)
    except FslmError as error:
        report.errors.append(place + _on_one_line(error))
        return None
    if candidate is not None:
        if not capabilities.adapters:
            report.errors.append(f"{place}the backend cannot run adapters")
        errors, warnings = disagreements(stage, candidate, base.sha256 if base else None)
        report.errors += (place + e for e in errors)
        report.warnings += (place + w for w in warnings)
    return candidate


def _on_one_line(error: FslmError) -> str:
    return "; ".join(part.strip() for part in str(error).splitlines())


def _needs(stage: Stage[Any, Any], capabilities: Capabilities) -> Iterator[str]:
    decoding = stage.decoding
    if not capabilities.grammar:
        yield "the backend cannot hold an output to a grammar"
    if stage.model is not None and stage.model.adapter is not None and not capabilities.adapters:
        yield "the backend cannot run adapters"
    if decoding.temperature > 0 and not capabilities.sampling:
        yield "the backend cannot sample (temperature above 0)"


def _cached(model: Model, host: PluginHost, settings: Settings) -> ResolvedCheckpoint | None:
    """The checkpoint if it is on this machine; nothing is fetched."""
    try:
        return resolve(model.checkpoint, settings.model_copy(update={"offline": True}), extra=host.checkpoints)
    except CheckpointUnavailableError:
        return None


def _static_tokens(stage: Stage[Any, Any], base: ResolvedCheckpoint) -> int | None:
    """Tokens of the template's own text, by the checkpoint's tokenizer; None where ``tokenizers`` is not installed."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    tokenizer = Tokenizer.from_file(str(base.path / "tokenizer.json"))
    return sum(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in stage.template.static_texts)


def _overflow(static: int | None, max_tokens: int, base: ResolvedCheckpoint) -> Iterator[str]:
    if base.context_length is None:
        return
    if max_tokens + (static or 0) >= base.context_length:
        yield (
            f"the prompt cannot fit: {static or 0} static tokens and an output of up to {max_tokens} leave no room in a"
            f" context of {base.context_length}; lower max_length in the output model or set Decoding(max_tokens=…)"
        )


__all__ = ["Report", "StepReport", "check_stack"]

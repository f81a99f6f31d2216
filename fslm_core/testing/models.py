"""The models of a stage: its base is known, its adapters are whole, and they were made for the stage as it is now."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .. import adapter as adapters
from ..backends.protocol import Capabilities
from ..checkpoints import find
from ..engine import check_stack
from ..engine.models import disagreements, model_of
from ..errors import FslmError
from ..plugins import PluginHost
from ..settings import Settings
from ..stack import Stack
from ..stage import Stage
from .broken import ContractBroken
from .clean import clean_settings
from .wheel import models_of


def profiles(stage: Stage[Any, Any]) -> list[str | None]:
    """What the setting ``profile`` may choose: None for the stage's own model, then its variants."""
    return [None, *stage.variants]


def check_bases(stage: Stage[Any, Any], host: PluginHost) -> None:
    """Every base is a checkpoint that fslm, the plugin or the Hub's pinned names know.

    Raises:
        ContractBroken: one is not.
    """
    for model in models_of(stage):
        try:
            find(model.base, host.checkpoints)
        except FslmError as error:
            raise ContractBroken(
                f"the base is no known checkpoint: {error.what}",
                where=f"stage {stage.name}",
                found=model.base,
                expected=error.expected or "a name of `fslm models`, or hf:owner/name@commit",
                hint=error.hint,
            ) from None


def check_adapters(stage: Stage[Any, Any], host: PluginHost) -> None:
    """Every adapter's folder is whole, and its weights have the hash that the stage promises.

    Raises:
        ContractBroken: a file is missing, cut short or other than promised.
    """
    for profile in profiles(stage):
        try:
            model_of(stage, host, _settings(profile), Capabilities())
        except FslmError as error:
            raise ContractBroken(
                f"the adapter cannot be used: {error.what}",
                where=f"stage {stage.name}{_of(profile)}, {error.where}",
                found=error.found,
                expected=error.expected,
                hint=error.hint,
            ) from None


def check_records(stage: Stage[Any, Any], host: PluginHost, allowed: Sequence[str] = ()) -> None:
    """Every adapter's ``fslm.json`` agrees with the stage: base, template, input and output schema.

    Args:
        allowed: regular expressions of findings that are meant, and may stay.

    Raises:
        ContractBroken: it does not agree, or there is none.
    """
    for profile in profiles(stage):
        model = model_of(stage, host, _settings(profile), Capabilities())
        errors, warnings = disagreements(stage, model, None)
        findings = _unforeseen([*errors, *warnings], allowed)
        if findings:
            raise ContractBroken(
                f"{adapters.RECORD} does not agree with the stage: {'; '.join(findings)}",
                where=f"stage {stage.name}{_of(profile)}, {model.slm.adapter}",
                hint="train the adapter again with the stage as it is, or undo what changed"
                " (what is meant goes into `warnings` of the test class)",
            )


def check_clean(stack: Stack[Any, Any], host: PluginHost, allowed: Sequence[str] = ()) -> None:
    """What ``fslm check`` finds: no error, and no warning but those allowed.

    Args:
        allowed: regular expressions of warnings that are meant.

    Raises:
        ContractBroken: there is an error, or a warning that is not allowed.
    """
    report = check_stack(stack, host=host, settings=_settings(None))
    if report.errors:
        raise ContractBroken(
            f"the check refuses it: {'; '.join(report.errors)}",
            where=f"stack {stack.name}",
            hint=f"mend what is named; `fslm check {stack.name}` shows the whole wiring",
        )
    if findings := _unforeseen(report.warnings, allowed):
        raise ContractBroken(
            f"the check warns: {'; '.join(findings)}",
            where=f"stack {stack.name}",
            hint=f"mend it, or say that it is meant: `warnings = ({re.escape(findings[0].partition(': ')[2])[:40]!r},)`"
            " in the test class",
        )


def _unforeseen(findings: Iterable[str], allowed: Sequence[str]) -> list[str]:
    return [finding for finding in findings if not any(re.search(pattern, finding) for pattern in allowed)]


def _settings(profile: str | None) -> Settings:
    return clean_settings(Path("data"), profile=profile)


def _of(profile: str | None) -> str:
    return f", variant {profile}" if profile else ""


__all__ = ["check_adapters", "check_bases", "check_clean", "check_records", "profiles"]

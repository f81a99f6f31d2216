"""The control: the same contexts given to the bare base model, without the stack, by lm-eval's own ``hf`` model."""

from __future__ import annotations

from typing import Any

from ...backends.protocol import Capabilities
from ...checkpoints import resolve
from ...engine.models import model_of
from ...errors import UsageError
from ...extras import require
from ...plugins import PluginHost
from ...settings import Settings, default
from ...stack import Stack
from .options import WHERE, Options


def control_of(options: Options) -> Any:
    """lm-eval's own model for the checkpoint that the stack's stages share, without an adapter.

    Raises:
        UnknownNameError: there is no such stack or checkpoint.
        UsageError: the stack has several bases, or none; or it is told how to score choices.
        MissingExtraError: a package that lm-eval's model needs is not installed.
        CheckpointError: the checkpoint cannot be had.
    """
    if given := sorted(options.model_fields_set & {"choice", "chains", "temperature"}):
        raise UsageError(
            "the control scores choices as they are, after the context as it is",
            where=WHERE,
            found=", ".join(given),
            hint="leave it out beside control=base",
        )
    require(("torch", "transformers", "accelerate", "peft"), extra="train", what="lm-eval's model for the control")
    settings = default()
    host = PluginHost(settings)
    stack = host.stack(options.stack)
    base = options.base or _base_of(stack, host, settings)
    path = resolve(base, settings, extra=host.checkpoints).path
    from lm_eval.models.huggingface import HFLM

    own = None if settings.torch.device == "auto" else settings.torch.device
    more = {
        "device": options.device or own,
        "batch_size": options.batch_size,
        "max_batch_size": options.max_batch_size,
    }
    return HFLM(pretrained=str(path), **{name: value for name, value in more.items() if value is not None})


def _base_of(stack: Stack[Any, Any], host: PluginHost, settings: Settings) -> str:
    stages = [stage for stage in stack.stages if stage.tool is None]
    bases = sorted({model_of(stage, host, settings, Capabilities()).checkpoint.name for stage in stages})
    if len(bases) != 1:
        raise UsageError(
            "the stack has not one base model that could be the control",
            where=f"stack {stack.name}",
            found=", ".join(bases) or "no stage with a model",
            hint="name a checkpoint: base=NAME",
        )
    return bases[0]


__all__ = ["control_of"]

"""Models in memory: one base per checkpoint folder, its adapters beside it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch

from ...errors import CheckpointError
from ..protocol import ModelRef
from . import adapters
from .machine import FAST_BFLOAT16


class Resident:
    """A loaded base model and the adapters it carries. Used by one thread only.

    Attributes:
        model: the transformers model, in evaluation mode; which adapter is at work depends on :meth:`use`.
        together: False for models that cannot take rows of different lengths in one batch.
        broken: True when an adapter was put in only in part; the model must not be used again.
    """

    def __init__(self, path: Path, device: torch.device, precision: str = "auto") -> None:
        dtype = _dtype(precision, device)
        try:
            self.model = _load(path, dtype=dtype, attn_implementation="sdpa")
        except CheckpointError as error:
            if "does not support" not in str(error):
                raise
            self.model = _load(path, dtype=dtype, attn_implementation="eager")
        self.model.to(device)
        self.device = device
        self.together = _attends_everywhere(self.model)
        self.broken = False
        self._tuner: Any = None
        self._active: str | None = None
        self._names: dict[tuple[Path, str | None], str] = {}

    def use(self, ref: ModelRef) -> None:
        """Let the adapter of ``ref`` work from now on, or none where it has none.

        Raises:
            AdapterError: the adapter does not fit this base exactly.
        """
        name = None if ref.adapter is None else self._name(ref.adapter, ref)
        if name == self._active:
            return
        if name is None:
            self._tuner.disable_adapter_layers()
        else:
            self._tuner.enable_adapter_layers()
            self._tuner.set_adapter(name, inference_mode=True)
        self._active = name

    def _name(self, path: Path, ref: ModelRef) -> str:
        key = (path, ref.adapter_sha256)
        if key not in self._names:
            config = self.model.config
            adapter = adapters.read(path, sha256=ref.adapter_sha256, checkpoint=ref.checkpoint, config=config)
            if adapter.name not in self._names.values():
                self.broken = True
                self._tuner = adapters.attach(self.model, self._tuner, adapter)
                self._tuner.disable_adapter_layers()
                self._active, self.broken = None, False
            self._names[key] = adapter.name
        return self._names[key]


def _dtype(precision: str, device: torch.device) -> str:
    """What transformers should load: the checkpoint's own type, where this machine multiplies it quickly."""
    if precision != "auto" or device.type != "cpu":
        return precision
    able = torch.cpu.get_capabilities()
    return "auto" if any(able.get(name) for name in FAST_BFLOAT16) else "float32"


def _attends_everywhere(model: Any) -> bool:
    """True for plain attention; sliding windows would count a batch's padding, recurrent states would read it."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"]
    return not getattr(model, "_is_stateful", False) and set(kinds) == {"full_attention"}


def _load(path: Path, **options: Any) -> Any:
    """Load a causal language model without a word on the host's screen.

    Raises:
        CheckpointError: the weights cannot be read, or not all are there.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as chatter

    bars, level = chatter.is_progress_bar_enabled(), chatter.get_verbosity()
    chatter.disable_progress_bar()
    chatter.set_verbosity(logging.ERROR)
    safely = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    maker: Any = AutoModelForCausalLM
    try:
        model, report = maker.from_pretrained(path, output_loading_info=True, **safely, **options)
    except Exception as error:  # transformers and safetensors raise nearly anything on a broken file
        raise CheckpointError(
            f"the weights cannot be loaded: {type(error).__name__}: {error}",
            where=str(path),
            hint="fetch the checkpoint again: `fslm models pull`, then `fslm models verify`",
        ) from error
    finally:
        chatter.set_verbosity(level)
        if bars:
            chatter.enable_progress_bar()
    missing = {name: sorted(map(str, keys))[:3] for name, keys in report.items() if keys and name != "unexpected_keys"}
    if missing:
        raise CheckpointError(
            "the weights are not complete",
            where=str(path),
            found=json.dumps(missing),
            hint="fetch the checkpoint again: `fslm models pull`, then `fslm models verify`",
        )
    return model.eval()


__all__ = ["Resident"]

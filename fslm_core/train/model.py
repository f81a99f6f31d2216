"""The model in training: the base as the serving backend loads it, and a LoRA in float32 on top."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapter import WEIGHTS, AdapterInfo
from ..errors import TrainError, shorten
from ..settings import TorchSettings
from .recipe import Lora


def load_base(path: Path, settings: TorchSettings) -> Any:
    """Load the base as the serving backend would, frozen: same precision, same device, no word on the screen.

    Raises:
        CheckpointError: the weights cannot be read, or not all are there.
    """
    from ..backends.torch.models import Resident

    name = settings.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    model = Resident(path, torch.device(name), settings.precision).model
    model.requires_grad_(False)
    return model


_LARGEST = 5_000_000
"""Bytes of an adapter's weights in bfloat16: it is shipped in a wheel and kept in a repository."""


def add_lora(base: Any, lora: Lora, *, seed: int) -> tuple[Any, int]:
    """Put a fresh LoRA on the base; returns the PEFT model and how many of the lowest layers stay bare.

    Raises:
        TrainError: the base has no module of a name in ``lora.targets``, or the adapter would be too large to ship.
    """
    from peft import LoraConfig, get_peft_model

    names = {name.rpartition(".")[2] for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)}
    if absent := sorted(set(lora.targets) - names):
        raise TrainError(
            "lora.targets names modules the base does not have",
            where="recipe, lora.targets",
            found=", ".join(absent),
            expected=", ".join(sorted(names)),
            hint="set lora.targets to some of these; the usual ones are q_proj, k_proj, v_proj, o_proj",
        )
    total = base.config.get_text_config().num_hidden_layers
    frozen = 0 if lora.layers is None else max(0, total - lora.layers)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        layers_to_transform=list(range(frozen, total)) if frozen else None,
    )
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT still asks transformers by an old name
        model = get_peft_model(base, config)
    size = 2 * sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    if size > _LARGEST:
        raise TrainError(
            "the adapter would be too large to ship",
            where="recipe, lora",
            found=f"{size:,} bytes",
            expected=f"at most {_LARGEST:,}",
            hint="set a smaller lora.rank, fewer lora.layers or fewer lora.targets",
        )
    return model, frozen


def begin_with(model: Any, start: AdapterInfo, base_sha256: str) -> None:
    """Set a fresh LoRA's tensors to those of an adapter that is there already.

    Raises:
        TrainError: it is of another shape, or was trained on another base.
    """
    from safetensors.torch import load_file

    trained_on = start.record.base_sha256 if start.record is not None else None
    if trained_on not in (None, base_sha256):
        raise TrainError(
            "the adapter to start from was trained on another base",
            where=f"recipe, lora.start: {start.path}",
            found=f"a base with the SHA-256 {trained_on}",
            expected=base_sha256,
            hint="leave lora.start out, or name an adapter of this base",
        )
    own = model.peft_config["default"].to_dict()
    tensors = lora_tensors(model)
    wanted = {name: tuple(t.shape) for name, t in tensors.items()}
    odd = [f"{key} = {start.config.get(key)}" for key in _SCALES if start.config.get(key, own[key]) != own[key]]
    odd += [f"{n} of {start.shapes.get(n, 'no shape')}" for n, shape in wanted.items() if start.shapes.get(n) != shape]
    odd += sorted(start.shapes.keys() - wanted.keys())
    if odd:
        raise TrainError(
            "the adapter to start from has another shape than the recipe's",
            where=f"recipe, lora.start: {start.path}",
            found=", ".join(odd[:3]) + (f" and {len(odd) - 3} more" if len(odd) > 3 else ""),
            expected=", ".join(f"{key} = {own[key]}" for key in ("r", *_SCALES[:1], "layers_to_transform")),
            hint="write its rank, alpha, targets and layers into [lora]; they stand in its adapter_config.json",
        )
    put_tensors(model, load_file(start.path / WEIGHTS))


_SCALES = ("lora_alpha", "use_rslora", "use_dora")
"""What makes other outputs of the same tensors."""


def load_lora(base: Any, folder: Path) -> Any:
    """Put a LoRA that lies in a folder on the base, to be trained further: the PEFT model, the LoRA in float32.

    Raises:
        TrainError: it does not fit the base.
    """
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # as in add_lora
        try:
            model = PeftModel.from_pretrained(base, str(folder), is_trainable=True)
        except (ValueError, RuntimeError) as error:
            raise TrainError(
                f"the adapter does not fit the base: {shorten(str(error), 200)}",
                where=str(folder),
                hint="name an adapter that was trained on this base",
            ) from None
    # Where PEFT writes a checkpoint it looks for this; a base's short name it would ask the hub for.
    model.peft_config["default"].base_model_name_or_path = base.name_or_path
    return model


def lora_tensors(model: Any) -> dict[str, Tensor]:
    """The adapter's tensors by the names PEFT saves them under, in float32, on the CPU."""
    from peft import get_peft_model_state_dict

    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: t.detach().to("cpu", torch.float32).clone() for name, t in own.items()}


def put_tensors(model: Any, tensors: dict[str, Tensor]) -> None:
    """Set the adapter's tensors; all of them must be there.

    Raises:
        TrainError: the names are not those of this model's adapter.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    if own.keys() != tensors.keys():
        raise TrainError(
            "a checkpoint belongs to another recipe",
            where="recipe, lora",
            hint="train from the start: leave out --resume",
        )
    set_peft_model_state_dict(model, tensors)


@contextmanager
def as_shipped(model: Any) -> Iterator[None]:
    """Within this, the model is what will be shipped: evaluation mode, adapter rounded to bfloat16."""
    exact = lora_tensors(model)
    put_tensors(model, {name: t.to(torch.bfloat16).to(torch.float32) for name, t in exact.items()})
    model.eval()
    try:
        yield
    finally:
        put_tensors(model, exact)
        model.train()


def write_adapter(model: Any, tensors: dict[str, Tensor], folder: Path) -> str:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` (bfloat16); returns the latter's SHA-256 (hex).

    The same tensors give the same bytes.
    """
    from safetensors.torch import save

    config = model.peft_config["default"].to_dict()
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in sorted(config.items())}
    plain["inference_mode"] = True
    text = json.dumps(plain, indent=2, default=str)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
    raw = save({k: t.to(torch.bfloat16).contiguous() for k, t in sorted(tensors.items())}, metadata={"format": "pt"})
    (folder / "adapter_model.safetensors").write_bytes(raw)
    return hashlib.sha256(raw).hexdigest()


__all__ = [
    "add_lora",
    "as_shipped",
    "begin_with",
    "load_base",
    "load_lora",
    "lora_tensors",
    "put_tensors",
    "write_adapter",
]

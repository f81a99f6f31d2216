"""LoRA adapters side by side on one base model, and never one that fits only in part.

PEFT answers a missing key, or a configuration it knows only in part, with a warning at most, and the base
model then speaks in the adapter's name. So an adapter is first tried on an empty copy of the base: what PEFT
would build from its configuration must equal what its file holds, tensor by tensor and shape by shape. Only
then is the served model touched.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import adapter as folders
from ...errors import AdapterError
from ...message import digest

if TYPE_CHECKING:
    from peft import LoraConfig, LoraModel
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

_SHAPE = {"r", "target_modules", "exclude_modules", "rank_pattern", "layers_to_transform", "layers_pattern"}
_SCALE = {"lora_alpha", "alpha_pattern", "use_rslora", "lora_dropout", "init_lora_weights", "fan_in_fan_out"}
_LABELS = {"peft_type", "task_type", "inference_mode", "base_model_name_or_path", "revision", "peft_version"}
_PLAIN = _SHAPE | _SCALE | _LABELS | {"auto_mapping"}
PREFIX = "base_model.model."
"""What PEFT's files put before the base's own names."""
_PLAIN_INIT = (True, False, "gaussian", "orthogonal")
"""Ways to initialise that leave the base weights alone; PiSSA, for one, does not."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A checked adapter: its configuration for PEFT, and its tensors by their names in the file."""

    name: str
    config: LoraConfig
    tensors: dict[str, Tensor]


def read(path: Path, *, sha256: str | None, checkpoint: str, config: PreTrainedConfig) -> Adapter:
    """Read an adapter folder and make sure that it fits its base exactly.

    Args:
        path: a PEFT folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
        sha256: what ``adapter_model.safetensors`` must hash to (hex), or None for any.
        checkpoint: the base's name, compared with the one the adapter was trained on.
        config: of the model that it must fit.

    Raises:
        AdapterError: a file is missing or cut short, the hash is another, it is not a plain LoRA, it was
            trained on another base, or a tensor is missing, unexpected or of another shape.
    """
    info = folders.inspect(path)
    _refuse_other_base(info, checkpoint)
    lora = _config(info)
    _compare(info, _expected(lora, config, path))  # before any weight is read, so that no file is larger than it may be
    raw = (path / folders.WEIGHTS).read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != (sha256 or found) or found != info.sha256:
        raise AdapterError(
            "the adapter's weights are not those that were asked for",
            where=str(path),
            found=f"SHA-256 {found}",
            expected=f"SHA-256 {sha256 or info.sha256}",
            hint="install the plugin again, or mend the sha256 in the settings",
        )
    name = "a" + digest(found, json.dumps(info.config, sort_keys=True))  # equal weights may be scaled otherwise
    return Adapter(name, lora, _tensors(raw, path))


def attach(base: PreTrainedModel, tuner: LoraModel | None, adapter: Adapter) -> LoraModel:
    """Put a checked adapter into ``base``, beside those its ``tuner`` has already.

    The weights take the base's dtype and device. Which adapter is active afterwards is for the caller to set.

    Returns:
        The tuner, made if there was none.

    Raises:
        AdapterError: PEFT did not take every tensor; the base is spoilt.
    """
    from peft import LoraModel, set_peft_model_state_dict

    if tuner is None:
        tuner = LoraModel(base, adapter.config, adapter.name, low_cpu_mem_usage=True)
    else:
        tuner.peft_config[adapter.name] = adapter.config
        tuner.inject_adapter(base, adapter.name, low_cpu_mem_usage=True)
    host: Any = base
    tensors = {key: value.to(host.device, host.dtype) for key, value in adapter.tensors.items()}
    result: Any = set_peft_model_state_dict(host, tensors, adapter_name=adapter.name, low_cpu_mem_usage=True)
    missing = [key for key in result.missing_keys if f".{adapter.name}." in key]
    if missing or result.unexpected_keys:
        raise AdapterError(
            "the adapter could not be loaded whole",
            where=f"adapter {adapter.name}",
            found=f"missing {missing[:3]}, unexpected {list(result.unexpected_keys)[:3]}",
            hint="make the adapter again with its `train/` recipe",
        )
    base.eval()
    return tuner


def _refuse_other_base(info: folders.AdapterInfo, checkpoint: str) -> None:
    """Compare the recorded base's name; a path or a Hub name says nothing here, the shapes decide then."""
    named = info.record.base if info.record else info.config.get("base_model_name_or_path")
    is_name = isinstance(named, str) and named and not any(c in named for c in "/\\:")
    if (info.record or is_name) and named != checkpoint:
        raise AdapterError(
            "the adapter was trained on another base",
            where=str(info.path),
            found=named,
            expected=checkpoint,
            hint=f"give the stage the base {named!r}, or train an adapter on {checkpoint!r}",
        )


def _config(info: folders.AdapterInfo) -> LoraConfig:
    from peft import LoraConfig

    known = LoraConfig().to_dict()
    _refuse_wild_patterns(info)
    odd = {
        name: value
        for name, value in info.config.items()
        if name not in _PLAIN and value and value != _jsonable(known.get(name))
    }
    if info.config.get("init_lora_weights", True) not in _PLAIN_INIT:
        odd["init_lora_weights"] = info.config["init_lora_weights"]
    alpha = info.config.get("lora_alpha", 8)
    if not (type(alpha) in (int, float) and math.isfinite(alpha)):
        odd["lora_alpha"] = alpha
    if info.config.get("task_type") not in ("CAUSAL_LM", None):
        odd["task_type"] = info.config["task_type"]
    if odd:
        raise AdapterError(
            "the adapter is not a plain LoRA for a causal language model",
            where=str(info.path / folders.CONFIG),
            found=", ".join(f"{name} = {value!r}" for name, value in odd.items()),
            expected="low-rank A and B matrices on linear layers, and nothing else",
            hint="train it without these options",
        )
    plain = {name: info.config[name] for name in _PLAIN & info.config.keys() & known.keys()}
    try:
        return LoraConfig(**{**plain, "inference_mode": True, "init_lora_weights": True})
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        raise AdapterError(
            f"PEFT refuses the adapter's configuration: {error}",
            where=str(info.path),
            hint="install the plugin again, or make the adapter with its `train/` recipe",
        ) from None


_PATTERNS = ("target_modules", "exclude_modules", "layers_pattern")
_KEYED = ("rank_pattern", "alpha_pattern")
_LONGEST_PATTERN = 200
_MOST_REPEATS = 3
_WILD = re.compile(r"[)\]}*+?][*+{]|\(\?[^:]|\\[1-9]")
"""A group, a class or a repetition that is itself repeated; a look-around; a reference back."""


def _refuse_wild_patterns(info: folders.AdapterInfo) -> None:
    """PEFT matches these against the names of modules; a few characters of some kinds would keep it busy for ever."""
    texts: list[object] = []
    for name in _PATTERNS:
        value = info.config.get(name)
        texts += value if isinstance(value, list) else [value]
    for name in _KEYED:
        value = info.config.get(name)
        if not isinstance(value, dict | None):
            texts.append(0)
        else:
            texts += value or ()
            texts += ("" if type(n) in (int, float) and n > 0 else 0 for n in (value or {}).values())
    for text in texts:
        if text is not None and not (isinstance(text, str) and _is_tame(text)):
            raise AdapterError(
                "the adapter names its modules in a way that is not accepted",
                where=str(info.path / folders.CONFIG),
                found=str(text),
                expected="names, or short regular expressions without nested repetitions, with ranks above 0",
                hint="write the names of the modules as a list, as `fslm train` does",
            )


def _is_tame(pattern: str) -> bool:
    few = sum(pattern.count(sign) for sign in "*+{") <= _MOST_REPEATS
    return len(pattern) <= _LONGEST_PATTERN and few and _WILD.search(pattern) is None


def _jsonable(value: object) -> object:
    return list(value) if isinstance(value, set | tuple) else value


def _expected(lora: LoraConfig, config: PreTrainedConfig, path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes PEFT would give this configuration's tensors, found on a copy of the base without weights."""
    import torch
    from peft import LoraModel, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        empty: Any = AutoModelForCausalLM.from_config(config)
    _refuse_absent_targets(lora, empty, path)
    try:
        LoraModel(empty, lora, "trial", low_cpu_mem_usage=True)
        built = get_peft_model_state_dict(empty, adapter_name="trial", save_embedding_layers=False)
    except Exception as error:  # PEFT raises nearly anything of a configuration it does not understand
        raise AdapterError(
            f"the adapter does not fit its base: {error}",
            where=str(path),
            hint="run it on the base it was trained on, or make it again with its `train/` recipe",
        ) from None
    return {PREFIX + key: tuple(tensor.shape) for key, tensor in built.items()}


def _refuse_absent_targets(lora: LoraConfig, empty: Any, path: Path) -> None:
    """PEFT is content when one of several target modules exists; here all of them must."""
    if lora.target_modules is None or isinstance(lora.target_modules, str):
        return
    names = [name for name, _ in empty.named_modules()]
    absent = [t for t in lora.target_modules if not any(n == t or n.endswith("." + t) for n in names)]
    if absent:
        raise AdapterError(
            "the adapter targets modules its base does not have",
            where=str(path),
            found=", ".join(sorted(absent)),
            hint="run it on the base it was trained on",
        )


def _compare(info: folders.AdapterInfo, expected: dict[str, tuple[int, ...]]) -> None:
    problems = [f"missing {key}" for key in sorted(expected.keys() - info.shapes.keys())]
    problems += [f"unexpected {key}" for key in sorted(info.shapes.keys() - expected.keys())]
    problems += [
        f"{key} is {list(info.shapes[key])}, not {list(expected[key])}"
        for key in sorted(expected.keys() & info.shapes.keys())
        if info.shapes[key] != expected[key]
    ]
    if problems:
        raise AdapterError(
            f"the adapter does not fit its base and configuration ({len(problems)} tensors differ)",
            where=str(info.path),
            found="; ".join(problems[:3]) + ("; …" if len(problems) > 3 else ""),
            expected=f"{len(expected)} tensors of rank {info.rank} on the base's layers",
            hint="run it on the base it was trained on, or make it again with its `train/` recipe",
        )


def _tensors(raw: bytes, path: Path) -> dict[str, Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors: dict[str, Tensor] = load(raw)
    except SafetensorError as error:
        raise AdapterError(
            f"the weights cannot be read: {error}",
            where=str(path / folders.WEIGHTS),
            hint="install the plugin again, or copy the file whole",
        ) from None
    for key, tensor in tensors.items():
        if not (tensor.is_floating_point() and bool(torch.isfinite(tensor).all())):
            raise AdapterError(
                "a tensor holds no finite numbers",
                where=str(path / folders.WEIGHTS),
                found=key,
                hint="make the adapter again with its `train/` recipe, with a lower learning rate if it stays so",
            )
    return tensors


__all__ = ["PREFIX", "Adapter", "attach", "read"]

"""What can be known of an adapter folder without loading it: its base, shape, hash, and how it was trained."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import AdapterError, shorten
from .folders import sha256_of
from .weights import HeaderError, read_header

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
RECORD = "fslm.json"
_MAX_JSON = 16 << 20
"""Bytes of a configuration or a record."""
_LARGEST_RANK = 65_536


class AdapterRecord(BaseModel):
    """``fslm.json``: what an adapter was trained with. A stage that no longer agrees with it is refused."""

    model_config = ConfigDict(extra="allow", frozen=True)

    format: int = 1
    stage: str
    base: str
    """The checkpoint's name."""
    base_sha256: str | None = None
    sha256: str | None = None
    """Of the adapter's weights, hex; None in records that were written before it was kept."""
    template: str
    """SHA-256 (hex) of the prompt template's source."""
    input_schema: str
    output_schema: str
    data_sha256: str | None = None
    recipe: dict[str, Any] = {}
    languages: list[str] = []
    licences: dict[str, str] = {}
    scores: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """An adapter folder as it lies on disk.

    Attributes:
        sha256: of ``adapter_model.safetensors``, hex.
        rank: the LoRA rank its configuration names.
        shapes: tensor name to shape, from the file's header.
        record: ``fslm.json``, or None where there is none.
    """

    path: Path
    sha256: str
    rank: int
    size: int
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    record: AdapterRecord | None

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of the weights and of what the configuration makes of them: equal weights scaled by another
        ``lora_alpha`` are another adapter."""
        decides = {name: value for name, value in self.config.items() if name not in _IDLE}
        text = json.dumps([self.sha256, decides], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


_IDLE = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "init_lora_weights",
        "lora_dropout",
        "peft_version",
        "revision",
        "task_type",
    }
)
"""Keys of a configuration that change nothing of what the adapter computes."""
_AGAIN = "install the plugin again, or make the adapter with its `train/` recipe"


def inspect(path: Path) -> AdapterInfo:
    """Read an adapter folder's configuration, weights' header and record; load no weight.

    Raises:
        AdapterError: a file is missing, cut short, not what its name says, or not a plain LoRA.
    """
    weights = path / WEIGHTS
    try:
        stat = weights.stat()
        parts = [
            (path / CONFIG).stat().st_mtime_ns,
            (path / RECORD).stat().st_mtime_ns if (path / RECORD).exists() else 0,
        ]
    except OSError as error:
        raise AdapterError(
            "the adapter folder is not complete",
            where=str(path),
            found=f"{os.path.basename(error.filename or str(path))}: {error.strerror}",
            expected=f"{CONFIG} and {WEIGHTS}",
            hint=_AGAIN,
        ) from None
    return _inspect(path, stat.st_size, stat.st_mtime_ns, tuple(parts))


@lru_cache(maxsize=256)
def _inspect(path: Path, size: int, changed: int, others: tuple[int, ...]) -> AdapterInfo:
    config = _json(path / CONFIG)
    rank = config.get("r")
    if config.get("peft_type") != "LORA" or type(rank) is not int or not 0 < rank <= _LARGEST_RANK:
        raise AdapterError(
            "the adapter is not a LoRA",
            where=str(path / CONFIG),
            found=f"{config.get('peft_type')!r}, r = {rank!r}",
            expected="LORA, and its rank r",
            hint="give a folder that PEFT wrote for a LoRA; no other kind is run",
        )
    shapes = _shapes(path / WEIGHTS, size)
    sha256 = sha256_of(path / WEIGHTS)
    record = None
    if (path / RECORD).exists():
        try:
            record = AdapterRecord.model_validate(_json(path / RECORD))
        except ValidationError as error:
            first = error.errors()[0]
            raise AdapterError(
                f"{RECORD} is not a training record: {shorten('.'.join(map(str, first['loc'])))}: {first['msg']}",
                where=str(path / RECORD),
                hint="install the plugin again; without that file the adapter runs too, but nothing vouches for it",
            ) from None
    return AdapterInfo(path, sha256, rank, size, config, shapes, record)


def _json(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise ValueError("it is no regular file")
        with path.open("rb") as file:
            raw = file.read(_MAX_JSON + 1)
        if len(raw) > _MAX_JSON:
            raise ValueError(f"it is longer than {_MAX_JSON >> 20} MiB")
        value = json.loads(raw.decode("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise AdapterError(f"the file is not JSON: {error}", where=str(path), hint=_AGAIN) from None
    if not isinstance(value, dict):
        raise AdapterError(
            "the file does not hold a JSON object", where=str(path), found=type(value).__name__, hint=_AGAIN
        )
    return value


def _shapes(path: Path, size: int) -> dict[str, tuple[int, ...]]:
    """Read a safetensors header and check it against the file's length."""
    try:
        header = read_header(path)
    except (HeaderError, OSError) as error:
        raise AdapterError(
            f"the weights file is cut short or not safetensors: {error}",
            where=str(path),
            found=f"{size} bytes",
            hint="install the plugin again, or copy the file whole",
        ) from None
    if header.size != size:
        raise AdapterError(
            "the weights file is cut short or has something after its end",
            where=str(path),
            found=f"{size} bytes",
            expected=f"{header.size} bytes",
            hint="install the plugin again, or copy the file whole",
        )
    return header.shapes


__all__ = ["CONFIG", "RECORD", "WEIGHTS", "AdapterInfo", "AdapterRecord", "inspect"]

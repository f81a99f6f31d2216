"""Base and adapter weights with numpy alone: read, merge, write. Tensors are float32 in memory."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_PREFIX = "base_model.model."
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def read(path: Path) -> dict[str, Floats]:
    """Read a safetensors file of BF16, F16 or F32 tensors."""
    raw = np.memmap(path, np.uint8, "r")
    size = int(raw[:8].view("<u8")[0])
    header: dict[str, Any] = json.loads(bytes(raw[8 : 8 + size]))
    header.pop("__metadata__", None)
    tensors: dict[str, Floats] = {}
    for name, entry in header.items():
        start, end = (8 + size + n for n in entry["data_offsets"])
        tensors[name] = _floats(bytes(raw[start:end]), entry["dtype"]).reshape(entry["shape"])
    return tensors


def _floats(data: bytes, kind: str) -> Floats:
    if kind == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    plain = {"F16": "<f2", "F32": "<f4"}[kind]
    return np.frombuffer(data, plain).astype(np.float32)


def write(path: Path, tensors: Mapping[str, Floats], kind: str) -> None:
    """Write a safetensors file; ``kind`` is BF16, F16 or F32."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        size = tensor.size * (4 if kind == "F32" else 2)
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(_packed(tensor, kind))


def _packed(tensor: Floats, kind: str) -> bytes:
    if kind == "BF16":  # to the nearest, ties to even
        bits = np.ascontiguousarray(tensor).view(np.uint32)
        return ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16).astype("<u2").tobytes()
    return tensor.astype({"F16": "<f2", "F32": "<f4"}[kind]).tobytes()


def base(folder: Path) -> dict[str, Floats]:
    """Read a checkpoint folder's weights."""
    tensors: dict[str, Floats] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= read(file)
    return tensors


def config(folder: Path) -> dict[str, Any]:
    """Read a folder's ``config.json`` or ``adapter_config.json``."""
    for name in ("config.json", "adapter_config.json"):
        if (folder / name).exists():
            data: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
            return data
    raise FileNotFoundError(folder / "config.json")


def lora(folder: Path) -> tuple[dict[str, tuple[Floats, Floats]], float]:
    """Read a PEFT folder: A [rank, in] and B [out, rank] of every weight it changes, and the factor of B·A."""
    settings = config(folder)
    if settings.get("rank_pattern") or settings.get("alpha_pattern") or settings.get("use_dora"):
        raise ValueError(f"{folder} is no plain LoRA")
    tensors = read(folder / "adapter_model.safetensors")
    rank = int(settings["r"])
    scale = settings["lora_alpha"] / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    suffix = ".lora_A.weight"
    pairs = {
        name.removeprefix(_PREFIX).removesuffix(suffix) + ".weight": (
            a,
            tensors[name.removesuffix(suffix) + ".lora_B.weight"],
        )
        for name, a in tensors.items()
        if name.endswith(suffix)
    }
    return pairs, float(scale)


def merged(base_folder: Path, adapter: Path | None) -> tuple[dict[str, Floats], frozenset[str]]:
    """Return base + scale·B·A in float32, and the names of the tensors that the adapter changed."""
    tensors = base(base_folder)
    if adapter is None:
        return tensors, frozenset()
    pairs, scale = lora(adapter)
    for name, (a, b) in pairs.items():
        tensors[name] = tensors[name] + np.float32(scale) * (b @ a)
    return tensors, frozenset(pairs)


def key(*folders: Path | None) -> str:
    """Return a short name for these folders' weights, by what they hold."""
    hasher = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.glob("*.safetensors")) if folder else ():
            with file.open("rb") as stream:
                hasher.update(hashlib.file_digest(stream, "sha256").digest())
        hasher.update(b"/")
    return hasher.hexdigest()[:12]


def once(place: Path, make: Callable[[Path], None]) -> Path:
    """Return ``place``; where it is not there yet, ``make`` it beside and move it there whole."""
    if not place.exists():
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        shutil.rmtree(beside, ignore_errors=True)
        make(beside)
        beside.rename(place)
    return place


def merged_folder(base_folder: Path, adapter: Path | None, work_dir: Path, kind: str = "F32") -> Path:
    """Return a checkpoint folder with the adapter merged in, made on first use. ``kind`` is F32, F16 or BF16."""

    def make(folder: Path) -> None:
        folder.mkdir()
        tensors, _ = merged(base_folder, adapter)
        write(folder / "model.safetensors", tensors, kind)
        dtype = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[kind]
        (folder / "config.json").write_text(json.dumps(config(base_folder) | {"dtype": dtype}), encoding="utf-8")
        for name in present(base_folder, _TOKENIZER):
            shutil.copy(base_folder / name, folder / name)

    return once(work_dir / f"merged-{kind.lower()}-{key(base_folder, adapter)}", make)


def present(folder: Path, names: Iterable[str]) -> Iterator[str]:
    """Yield those of ``names`` that are files in ``folder``."""
    return (name for name in names if (folder / name).is_file())


__all__ = ["Floats", "base", "config", "key", "lora", "merged", "merged_folder", "once", "present", "read", "write"]

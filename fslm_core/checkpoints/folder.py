"""What is in a checkpoint folder: which files count, what they hash to, whether they are whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import CheckpointCorruptError, CheckpointError, CheckpointUnavailableError
from ..folders import sha256_of
from ..forking import lock_that_forks_wait_for
from ..weights import HeaderError, read_header
from .definitions import MANIFEST, Checkpoint, Folder, ResolvedCheckpoint, digest

PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
"""The files of a checkpoint that count: weights, configuration, tokenizer, chat template."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")
_TOKENIZER = ("tokenizer", "special_tokens_map", "added_tokens", "chat_template", "vocab", "merges", "spiece")
_MAX_JSON = 64 << 20
"""Bytes of a file that is read as JSON here."""
_LARGEST = {
    **dict.fromkeys(("num_hidden_layers", "n_layer"), 1000),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head"), 4096),
    **dict.fromkeys(("hidden_size", "n_embd", "head_dim"), 1 << 17),
    **dict.fromkeys(("intermediate_size", "n_inner"), 1 << 21),
    "vocab_size": 1 << 23,
    "max_position_embeddings": 1 << 28,
}
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")

_hashed: dict[Path, tuple[tuple[int, ...], str]] = {}
_hashed_lock = lock_that_forks_wait_for()


def files_of(path: Path) -> list[Path]:
    """Return the files of the folder that count, sorted by name."""
    found = {file for pattern in PATTERNS for file in path.glob(pattern) if file.is_file()}
    return sorted(file for file in found if file.name != MANIFEST)


def hashes_of(path: Path, *, again: bool = False) -> dict[str, str]:
    """Return the SHA-256 of every file that counts, by name.

    A file is read in full the first time a process asks. Asked again, one whose inode, size and times
    have not changed since is taken as it was, unless ``again``.
    """
    return {file.name: _hash(file, again) for file in files_of(path)}


def _hash(path: Path, again: bool) -> str:
    stat = path.stat()
    mark = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    with _hashed_lock:
        known = _hashed.get(path)
    if known is not None and known[0] == mark and not again:
        return known[1]
    found = sha256_of(path)
    with _hashed_lock:
        _hashed[path] = (mark, found)
    return found


_COPY_AGAIN = "copy the folder whole; one of the cache is got again with `fslm models pull`"


def require_model(path: Path, name: str) -> None:
    """Check that the folder is a whole transformers model in safetensors, without reading its weights.

    Raises:
        CheckpointUnavailableError: there is no such folder.
        CheckpointError: pickled weights only, an adapter, a file that is needed and not there.
        CheckpointCorruptError: a safetensors file or ``config.json`` that is cut short.
    """
    if not path.is_dir():
        raise CheckpointUnavailableError(
            f"the checkpoint {name!r} is not there", where=str(path), found="no folder", hint="check the path"
        )
    if (path / "adapter_config.json").exists():
        raise CheckpointError(
            "the folder is an adapter, not a checkpoint",
            where=str(path),
            hint="give it to a stage as SLM(base=…, adapter=…)",
        )
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        raise _without_safetensors(path)
    for needed in ("config.json", "tokenizer.json"):
        if not (path / needed).is_file():
            raise CheckpointError(
                f"the checkpoint {name!r} has no {needed}",
                where=str(path),
                hint="save model and tokenizer with save_pretrained() of transformers into one folder",
            )
    for file in weights:
        _require_whole(file)
    for shard in _shards(path) - {file.name for file in weights}:
        raise CheckpointCorruptError(f"a part of the weights is missing: {shard}", where=str(path), hint=_COPY_AGAIN)


def _without_safetensors(path: Path) -> CheckpointError:
    pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
    if pickles:
        return CheckpointError(
            "the checkpoint has pickled weights only, and fslm never loads those: they can run any code",
            where=str(path),
            found=", ".join(pickles),
            expected="*.safetensors",
            hint="convert it where you trust it: save_pretrained() of transformers writes safetensors",
        )
    return CheckpointError(
        "the folder holds no weights",
        where=str(path),
        expected="*.safetensors",
        hint="name the folder that save_pretrained() of transformers wrote",
    )


def _require_whole(file: Path) -> None:
    """Compare a safetensors file's size with what its header says."""
    try:
        header = read_header(file)
    except (HeaderError, OSError) as error:
        raise CheckpointCorruptError(
            f"{file.name} is not a safetensors file: {error}", where=str(file), hint=_COPY_AGAIN
        ) from None
    size = file.stat().st_size
    if header.size != size:
        raise CheckpointCorruptError(
            f"{file.name} is cut short or has something after its end",
            where=str(file),
            found=f"{size} bytes",
            expected=f"{header.size} bytes",
            hint=_COPY_AGAIN,
        )


def _shards(path: Path) -> set[str]:
    index = path / "model.safetensors.index.json"
    shards = _read_json(index).get("weight_map", {}) if index.exists() else {}
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise CheckpointCorruptError(f"{index.name} names no files", where=str(path), hint=_COPY_AGAIN)
    return set(shards.values())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no regular file")
        with path.open("rb") as file:
            raw = file.read(_MAX_JSON + 1)
        if len(raw) > _MAX_JSON:
            raise ValueError(f"it is longer than {_MAX_JSON >> 20} MiB")
        data = json.loads(raw)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointCorruptError(
            f"{path.name} cannot be read: {error}", where=str(path), hint=_COPY_AGAIN
        ) from None
    if not isinstance(data, dict):
        raise CheckpointCorruptError(f"{path.name} is not a JSON object", where=str(path), hint=_COPY_AGAIN)
    return data


def describe(checkpoint: Checkpoint, path: Path, hashes: Mapping[str, str]) -> ResolvedCheckpoint:
    """Return what is known of the checkpoint in ``path``, whose files have ``hashes``."""
    config = _read_json(path / "config.json")
    config = config.get("text_config") or config
    _require_plausible(config, path)
    said = next((config[key] for key in _CONTEXT_KEYS if isinstance(config.get(key), int)), None)
    return ResolvedCheckpoint(
        checkpoint=checkpoint,
        path=path,
        sha256=digest(hashes),
        tokenizer_sha256=digest({n: h for n, h in hashes.items() if n.startswith(_TOKENIZER)}),
        context_length=checkpoint.context_length or said,
        size=sum((path / name).stat().st_size for name in hashes),
    )


def _require_plausible(config: Any, path: Path) -> None:
    """Refuse sizes that no model has, before somebody builds it: a billion layers fit in twenty bytes."""
    if not isinstance(config, dict):
        raise CheckpointCorruptError("config.json tells of no model", where=str(path), hint=_COPY_AGAIN)
    for name, most in _LARGEST.items():
        size = config.get(name)
        if size is not None and not (type(size) is int and 0 < size <= most):
            raise CheckpointCorruptError(
                f"config.json names a size that no model has: {name}",
                where=str(path),
                found=size,
                expected=f"1 to {most:,}",
                hint=_COPY_AGAIN,
            )


def require_promised(checkpoint: Checkpoint, path: Path, hashes: Mapping[str, str]) -> None:
    """Check ``hashes`` against what the definition itself promises.

    Raises:
        CheckpointCorruptError: other bytes.
    """
    found = digest(hashes)
    if checkpoint.sha256 is not None and found != checkpoint.sha256:
        hint = "get it again" if isinstance(checkpoint.source, Folder) else pull_again(checkpoint)
        raise CheckpointCorruptError(
            f"the checkpoint {checkpoint.name!r} is not the one that is meant",
            where=str(path),
            found=f"sha256 {found}",
            expected=f"sha256 {checkpoint.sha256}",
            hint=hint,
        )


def write_manifest(checkpoint: Checkpoint, path: Path) -> None:
    """Write what the folder is and what its files hash to; the last file written into it."""
    hashes = hashes_of(path)
    about = describe(checkpoint, path, hashes)
    manifest = {
        "format": 1,
        "name": checkpoint.name,
        "title": checkpoint.title,
        "licence": checkpoint.licence,
        "languages": list(checkpoint.languages),
        "source": {"kind": type(checkpoint.source).__name__, **asdict(checkpoint.source)},
        "sha256": about.sha256,
        "context_length": about.context_length,
        "files": {n: {"sha256": h, "size": (path / n).stat().st_size} for n, h in hashes.items()},
    }
    (path / MANIFEST).write_text(json.dumps(manifest, indent=2, default=str) + "\n", encoding="utf-8")


def read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """Return the files a cached folder must hold: name to ``sha256`` and ``size``.

    Raises:
        CheckpointCorruptError: no manifest, or one that cannot be understood.
    """
    files = _read_json(path / MANIFEST).get("files")
    if not isinstance(files, dict) or not all(_is_entry(entry) for entry in files.values()):
        raise CheckpointCorruptError(f"{MANIFEST} cannot be understood", where=str(path), hint=_COPY_AGAIN)
    return files


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and {"sha256", "size"} <= entry.keys()


def missing_or_resized(path: Path, files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what is wrong at a glance: files gone, of another size, or too many. No file is read."""
    sizes = {file.name: file.stat().st_size for file in files_of(path)}
    gone = [f"{name} is missing" for name in files if name not in sizes]
    other = [
        f"{name} has {sizes[name]} bytes, not {files[name]['size']}"
        for name in files
        if name in sizes and sizes[name] != files[name]["size"]
    ]
    return gone + other + [f"{name} does not belong there" for name in sizes if name not in files]


def require_unchanged(checkpoint: Checkpoint, path: Path, *, again: bool = False) -> dict[str, str]:
    """Check a cached folder against its manifest and the definition; return its hashes.

    Raises:
        CheckpointCorruptError: a file is missing, too many, of another size or of other bytes.
    """
    try:
        files = read_manifest(path)
        wrong = missing_or_resized(path, files)
        hashes = {} if wrong else hashes_of(path, again=again)
    except CheckpointCorruptError as error:
        error.hint = pull_again(checkpoint)
        raise
    changed = [name for name in hashes if hashes[name] != files[name]["sha256"]]
    wrong += [f"{name} has other bytes than when it was written" for name in changed]
    if wrong:
        raise CheckpointCorruptError(
            f"the checkpoint {checkpoint.name!r} in the cache is damaged",
            where=str(path),
            found="; ".join(wrong),
            hint=pull_again(checkpoint),
        )
    require_promised(checkpoint, path, hashes)
    return hashes


def pull_again(checkpoint: Checkpoint) -> str:
    """The command that mends a cached checkpoint."""
    return f"run `fslm models pull {checkpoint.name}`"


def flush(path: Path) -> None:
    """Make the folder and all its files safe against a power cut."""
    for file in [*(f for f in path.iterdir() if f.is_file()), path]:
        if os.name == "nt" and file.is_dir():
            continue
        handle = os.open(file, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows flushes what one may write
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


__all__ = [
    "PATTERNS",
    "describe",
    "files_of",
    "flush",
    "hashes_of",
    "missing_or_resized",
    "pull_again",
    "read_manifest",
    "require_model",
    "require_promised",
    "require_unchanged",
    "write_manifest",
]

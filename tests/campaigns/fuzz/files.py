"""Doors for files from elsewhere: adapters, checkpoints, GGUF, rows for training."""

from __future__ import annotations

import json
import shutil
import struct
from contextlib import suppress
from functools import cache
from typing import Any

from fslm_core import adapter
from fslm_core.errors import AdapterError, CheckpointError, TrainError

from . import Target
from .taking import apart, parts, scratch


def safetensors(header: Any, body: bytes = b"") -> bytes:
    """A safetensors file; ``header`` is JSON data, or bytes to stand in its place."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def adapter_folder(data: bytes) -> None:
    """An adapter of any configuration, record and weights."""
    folder = scratch("adapter")
    for name, part in zip((adapter.CONFIG, adapter.RECORD, adapter.WEIGHTS), apart(data, 3), strict=True):
        (folder / name).write_bytes(part)
        if name == adapter.RECORD and not part:
            (folder / name).unlink()
    adapter._inspect.cache_clear()
    try:
        info = adapter.inspect(folder)
    except AdapterError as error:
        assert len(str(error)) < 5000, "an error repeats its file at length"
    else:
        assert all(isinstance(n, int) and n >= 0 for shape in info.shapes.values() for n in shape)


def adapter_config(data: bytes) -> None:
    """Settings of an adapter that PEFT is asked to build: refused, or built on an empty base in no time."""
    from fslm_core.backends.torch import adapters

    folder = scratch("adapter-config")
    (folder / adapter.CONFIG).write_bytes(data)
    (folder / adapter.WEIGHTS).write_bytes(safetensors({}))
    adapter._inspect.cache_clear()
    with suppress(AdapterError):
        adapters.read(folder, sha256=None, checkpoint="fuzz", config=_config())


@cache
def _config() -> Any:
    from transformers import LlamaConfig

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaConfig(vocab_size=32, **sizes)


def checkpoint_folder(data: bytes) -> None:
    """A checkpoint of any configuration, index, weights and manifest, unread by transformers."""
    from fslm_core.checkpoints import Checkpoint, Folder, resolve
    from fslm_core.checkpoints.folder import missing_or_resized, read_manifest
    from fslm_core.settings import Settings

    folder = scratch("checkpoint")
    names = ("config.json", "model.safetensors.index.json", "model.safetensors", "fslm-checkpoint.json")
    for name, part in zip(names, apart(data, 4), strict=True):
        (folder / name).write_bytes(part)
        if name == names[1] and not part:
            (folder / name).unlink()
    (folder / "tokenizer.json").write_bytes(b"{}")
    with suppress(CheckpointError):
        resolve(Checkpoint("fuzz", Folder(folder)), Settings(offline=True))
    with suppress(CheckpointError):
        missing_or_resized(folder, read_manifest(folder))


def gguf(data: bytes) -> None:
    """A GGUF of any bytes, converted where it can be read."""
    from fslm_core.checkpoints.convert import convert

    folder = scratch("gguf")
    (folder / "a.gguf").write_bytes(data)
    made = folder / "made"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    with suppress(CheckpointError):
        convert(folder / "a.gguf", made)
    written = sum(file.stat().st_size for file in made.iterdir())
    assert written <= 8 * len(data) + 100_000, "it writes far more than it was given"


def training_rows(data: bytes) -> None:
    """A JSONL file of any bytes: rows, or problems that name their line."""
    from fslm_core import SLM, Stage
    from fslm_core.train.rows import Problems, read_rows

    from .texts import Everything, Loose

    stage = Stage("fuzz.stage", input=Loose, output=Everything, prompt="{{ text }}", model=SLM("b", tuned=True))
    file = scratch("rows") / "rows.jsonl"
    file.write_bytes(data)
    with suppress(TrainError):
        problems = Problems()
        read_rows(file, stage, problems)
        problems.refuse()


_RECORD = {"stage": "a.b", "base": "b", "template": "0" * 64, "input_schema": "0", "output_schema": "0"}
_CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
_TENSOR = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def _adapter_seeds() -> list[bytes]:
    config, record, zeros = json.dumps(_CONFIG).encode(), json.dumps(_RECORD).encode(), bytes(16)
    good = safetensors({"a": _TENSOR, "__metadata__": {"format": "pt"}}, zeros)
    headers: list[Any] = [
        {"a": {**_TENSOR, "shape": [-2, -2]}},
        {"a": {**_TENSOR, "shape": [True, 4]}},
        {"a": {**_TENSOR, "shape": "ab"}},
        {"a": {**_TENSOR, "shape": [10**400] * 50 + [0]}},
        {"a": {**_TENSOR, "dtype": []}},
        {"a": None},
        [],
        b"[" * 3000,
        {"a": {**_TENSOR, "data_offsets": [0.0, 16.0]}},
        {"a": {**_TENSOR, "data_offsets": [-16, 0]}},
        b'{"a":1,"a":2}',
        {"a": _TENSOR, "b": _TENSOR},
        {"a": {**_TENSOR, "data_offsets": "ab"}},
        {"a": {**_TENSOR, "data_offsets": [0]}},
    ]
    return [
        parts(config, record, good),
        parts(config, b"", good),
        parts(b"[" * 3000, record, good),
        parts(config, b'{"stage": 1, "scores": {"a": "b"}}', good),
        parts(b'{"peft_type":"LORA","r":true}', b"", good),
        parts(config, record, struct.pack("<Q", 2**60)),
        *(parts(config, b"", safetensors(h, zeros)) for h in headers),
    ]


def _config_seeds() -> list[bytes]:
    odd: list[dict[str, Any]] = [
        {},
        {"target_modules": "all-linear"},
        {"target_modules": r".*\.(q|v)_proj"},
        {"target_modules": 5},
        {"target_modules": ["q_proj", 5]},
        {"target_modules": "((.*)*)*X"},
        {"rank_pattern": [1]},
        {"r": -1},
        {"r": 10**30},
        {"rank_pattern": {"((a+)+)+$": 3}},
        {"layers_to_transform": "x"},
        {"alpha_pattern": 5},
        {"layers_pattern": "(("},
        {"exclude_modules": {"a": 1}},
        {"lora_alpha": "x"},
        {"lora_dropout": "nan"},
        {"auto_mapping": {"a": "b"}},
        {"use_rslora": [[]]},
        {"rank_pattern": {"q_proj": -3}},
        {"peft_version": 5},
        {"lora_alpha": 1e999},
        {"rank_pattern": {"q_proj": "x"}},
        {"layers_to_transform": [10**400]},
    ]
    return [json.dumps(_CONFIG | change).encode() for change in odd]


def _checkpoint_seeds() -> list[bytes]:
    good = safetensors({"a": _TENSOR}, bytes(16))
    config = b'{"model_type": "llama", "max_position_embeddings": 64}'
    index, manifest = b'{"weight_map": {"a": "model.safetensors"}}', b'{"files": {"a": {"sha256": "0", "size": 1}}}'
    odd = [b'{"weight_map": {"a": []}}', b'{"weight_map": [1]}', b"[" * 3000, b"{}"]
    configs = [b'{"text_config": "x"}', b'{"text_config": [1]}', b"[" * 3000, b'{"max_position_embeddings": -1}']
    weights = [
        safetensors({"a": {**_TENSOR, "data_offsets": o}}, bytes(16)) for o in ([0], ["a", "b"], [0, None], [0, -9])
    ]
    return [
        parts(config, index, good, manifest),
        parts(config, b"", good, b"{}"),
        parts(config, b"", good, b'{"files": {"a": 1}}'),
        *(parts(config, i, good, manifest) for i in odd),
        *(parts(c, b"", good, manifest) for c in configs),
        *(parts(config, b"", w, manifest) for w in [*weights, safetensors(b"[" * 3000), safetensors(b"[]")]),
    ]


def small_gguf(**changes: Any) -> bytes:
    """A whole GGUF of a tiny Llama: one token row, no layers."""
    keys: dict[str, tuple[int, bytes]] = {
        "general.architecture": (8, _text(b"llama")),
        "llama.attention.head_count": _u32(1),
        "llama.embedding_length": _u32(32),
        "llama.feed_forward_length": _u32(32),
        "llama.block_count": _u32(1),
        "llama.context_length": _u32(64),
        "llama.attention.layer_norm_rms_epsilon": (6, struct.pack("<f", 1e-5)),
        "tokenizer.ggml.model": (8, _text(b"gpt2")),
        "tokenizer.ggml.pre": (8, _text(b"gpt-2")),
        "tokenizer.ggml.tokens": (9, struct.pack("<IQ", 8, 2) + _text(b"a") + _text(b"b")),
        "tokenizer.ggml.token_type": (9, struct.pack("<IQii", 5, 2, 1, 3)),
        "tokenizer.ggml.merges": (9, struct.pack("<IQ", 8, 0)),
        "tokenizer.ggml.eos_token_id": _u32(1),
        **changes,
    }
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, len(keys))
    head += b"".join(_text(k.encode()) + struct.pack("<I", kind) + value for k, (kind, value) in keys.items())
    head += _text(b"token_embd.weight") + struct.pack("<IQQIQ", 2, 32, 2, 0, 0)
    return head + bytes(-len(head) % 32) + bytes(32 * 2 * 4)


def _text(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


def _u32(number: int) -> tuple[int, bytes]:
    return 4, struct.pack("<I", number)


def _gguf_seeds() -> list[bytes]:
    odd: list[dict[str, Any]] = [
        {"general.alignment": _u32(0)},
        {"general.alignment": (8, _text(b"x"))},
        {"llama.attention.head_count": _u32(0)},
        {"llama.attention.head_count": (8, _text(b"x"))},
        {"tokenizer.ggml.tokens": _u32(1)},
        {"tokenizer.ggml.tokens": (9, struct.pack("<IQ", 8, 2**60))},
        {"tokenizer.ggml.eos_token_id": _u32(99)},
        {"tokenizer.ggml.tokens": (9, struct.pack("<IQ", 0, 2**62))},
        {"x": (9, struct.pack("<IQ", 9, 1) * 1500)},
        {"tokenizer.ggml.token_type": _u32(1)},
        {"tokenizer.ggml.merges": (7, b"\1")},
        {"x": (99, b"")},
        {"tokenizer.chat_template": _u32(1)},
        {"tokenizer.ggml.pre": (9, struct.pack("<IQ", 8, 0))},
        {"general.architecture": (9, struct.pack("<IQ", 8, 0))},
    ]
    good = small_gguf()
    tensor = good.index(b"token_embd") + len(b"token_embd.weight")
    shapes = [struct.pack("<I", n) + good[tensor + 4 :] for n in (0, 1, 2**31)]
    shapes += [struct.pack("<IQQ", 2, *pair) + good[tensor + 20 :] for pair in ((0, 2), (2**62, 2**62), (32, 0))]
    huge = [struct.pack("<4sIQQ", b"GGUF", 3, *pair) + good[24:] for pair in ((2**60, 1), (1, 2**60), (2**63, 2**63))]
    return [good, *(small_gguf(**change) for change in odd), *(good[:tensor] + s for s in shapes), *huge, b"GGUF"]


def _row_seeds() -> list[bytes]:
    from .texts import _seeds_in, _seeds_out

    good = b'{"input": {"text": "a"}, "output": %b}' % _seeds_out()[0]
    return [
        good,
        good + b"\r\n\n" + good,
        *(b'{"input": %b, "output": {}}' % i for i in _seeds_in()),
        b"\xef\xbb\xbf" + good,
        b"{" * 3000,
        b"[" * 100_000,
        good.replace(b'"text"', b'"text": "b", "text"'),
        good.decode().encode("utf-16"),
    ]


_JSON_WORDS = (
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"NaN",
    b"[",
    b"]",
    b"{",
    b"}",
    b'"shape":',
    b'"r":',
    b'"data_offsets":',
    b'"target_modules":',
    b'"text_config":',
    b"9" * 400,
    b'"weight_map":',
    b'"BF16"',
)
_GGUF_WORDS = (
    b"GGUF",
    struct.pack("<Q", 2**60),
    struct.pack("<Q", 0),
    struct.pack("<I", 8),
    struct.pack("<I", 9),
    b"blk.0.",
)
TARGETS = (
    Target("adapter", adapter_folder, _adapter_seeds, _JSON_WORDS),
    Target("adapter-config", adapter_config, _config_seeds, _JSON_WORDS, torch=True, slow=True),
    Target("checkpoint", checkpoint_folder, _checkpoint_seeds, _JSON_WORDS),
    Target("gguf", gguf, _gguf_seeds, _GGUF_WORDS, torch=True),
    Target("training-rows", training_rows, _row_seeds, _JSON_WORDS),
)

__all__ = ["TARGETS", "safetensors", "small_gguf"]

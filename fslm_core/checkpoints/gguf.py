"""Read a GGUF file: its metadata, and its tensors as bfloat16, a slice at a time.

The format is described at https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Only what small
Llama-family files hold is read: plain floats and the blocks of 32 (Q4_0, Q4_1, Q8_0). Values are computed in
float32 and rounded once, to the nearest bfloat16 (ties to even), so the result is the same on every machine.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointCorruptError, CheckpointError

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
BFloat16 = npt.NDArray[np.uint16]
"""The bit patterns of bfloat16 numbers, which numpy has no type for."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_ALIGNMENT = 1 << 16
_MAX_DIMENSIONS = 4
_MAX_ITEMS = 1 << 22
"""Of a list in the header; a vocabulary is the longest there is."""
_SLICE = 1 << 18
_COPY_AGAIN = "get or copy the file again, whole"
"""Numbers converted at once: few enough to stay in a processor's cache."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where one tensor lies. ``shape`` is in the order of torch, slowest dimension first."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True)
class _Format:
    name: str
    numbers: int
    """How many numbers a block holds."""
    size: int
    """How many bytes a block takes."""
    decode: Callable[[Bytes], Floats]
    """Blocks of shape (n, size) to numbers of shape (n, numbers)."""


def _half(blocks: Bytes, start: int) -> Floats:
    return np.ascontiguousarray(blocks[:, start : start + 2]).view(np.float16).astype(np.float32)


def _nibbles(blocks: Bytes) -> Floats:
    """The low halves of 16 bytes, then their high halves."""
    return np.concatenate([blocks & 15, blocks >> 4], axis=1).astype(np.float32)


def _q4_0(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:]) - np.float32(8))


def _q4_1(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]) + _half(blocks, 2)


def _q8_0(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _bf16(blocks: Bytes) -> Floats:
    return (np.ascontiguousarray(blocks).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


_FORMATS = {
    0: _Format("F32", 1, 4, lambda blocks: np.ascontiguousarray(blocks).view(np.float32)),
    1: _Format("F16", 1, 2, lambda blocks: _half(blocks, 0)),
    2: _Format("Q4_0", 32, 18, _q4_0),
    3: _Format("Q4_1", 32, 20, _q4_1),
    8: _Format("Q8_0", 32, 34, _q8_0),
    30: _Format("BF16", 1, 2, _bf16),
}


def to_bfloat16(numbers: Floats) -> BFloat16:
    """Round float32 to the nearest bfloat16, ties to even. The numbers must be finite.

    >>> [hex(n) for n in to_bfloat16(np.array([1.0, 1.00390625, -2.5], np.float32))]
    ['0x3f80', '0x3f80', '0xc020']
    """
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    return ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


class GGUF:
    """An open GGUF file.

    Attributes:
        metadata: every key and value of its header.
        tensors: what it holds, by name, in the order of the file.

    Raises:
        CheckpointCorruptError: the file is no GGUF, or ends too soon.
        CheckpointError: it holds a kind of tensor that is not read here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file() or path.stat().st_size == 0:
            raise CheckpointCorruptError("the GGUF file is empty", where=str(path), hint=_COPY_AGAIN)
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            self.metadata, self.tensors, self._start = _Header(self._data).read()
        except (struct.error, UnicodeDecodeError, ValueError, KeyError) as error:
            self.close()
            raise CheckpointCorruptError(
                f"the GGUF file cannot be read: {error}", where=str(path), hint=_COPY_AGAIN
            ) from None
        try:
            taken = sum(self._check(tensor) for tensor in self.tensors.values())
            if taken > len(self._data):
                raise CheckpointCorruptError("the tensors overlap", where=str(path), hint=_COPY_AGAIN)
        except CheckpointError:
            self.close()
            raise

    def __enter__(self) -> GGUF:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the mapped file back."""
        with contextlib.suppress(BufferError):  # a slice is still held; the mapping goes when it does
            self._data.close()

    def _check(self, tensor: Tensor) -> int:
        """The bytes a tensor takes."""
        form = _FORMATS.get(tensor.kind)
        if form is None:
            raise CheckpointError(
                f"the tensor {tensor.name} is of a kind that fslm does not read",
                where=str(self.path),
                found=f"ggml type {tensor.kind}",
                expected="one of " + ", ".join(f.name for f in _FORMATS.values()),
                hint="save the model as a safetensors folder with transformers and name that folder",
            )
        size = prod(tensor.shape) // form.numbers * form.size
        if tensor.shape[-1] % form.numbers or self._start + tensor.offset + size > len(self._data):
            raise CheckpointCorruptError(
                f"the tensor {tensor.name} is cut short", where=str(self.path), hint=_COPY_AGAIN
            )
        return size

    def slices(self, tensor: Tensor, heads: int | None = None) -> Iterator[BFloat16]:
        """Yield the tensor's numbers in order, flat, a slice at a time.

        Args:
            tensor: one of :attr:`tensors`.
            heads: for the query and key matrices of a Llama: how many heads their rows make. llama.cpp
                stores each head's two rotary halves interleaved; they are taken apart again.
        """
        form = _FORMATS[tensor.kind]
        width = tensor.shape[-1] // form.numbers
        rows = prod(tensor.shape[:-1])
        raw = np.frombuffer(self._data, np.uint8, rows * width * form.size, self._start + tensor.offset)
        table = raw.reshape(rows, width * form.size)
        if heads:
            table = table.reshape(heads, rows // heads // 2, 2, -1).swapaxes(1, 2).reshape(rows, -1)
        step = max(1, _SLICE // tensor.shape[-1])
        for first in range(0, rows, step):
            blocks = table[first : first + step].reshape(-1, form.size)
            with np.errstate(invalid="ignore", over="ignore"):
                numbers = form.decode(blocks)
            if not np.isfinite(numbers).all():
                raise CheckpointCorruptError(
                    f"the tensor {tensor.name} holds no finite numbers", where=str(self.path), hint=_COPY_AGAIN
                )
            yield to_bfloat16(numbers).reshape(-1)


class _Header:
    """A cursor over the bytes before the tensors."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def read(self) -> tuple[dict[str, Any], dict[str, Tensor], int]:
        magic, version, tensors, keys = self._take("4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"it starts with {magic!r}, version {version}, not with GGUF, version 2 or 3")
        metadata = {}
        for _ in range(keys):
            key = self._string()
            metadata[key] = self._value(self._take("I")[0])
        table = [self._tensor() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= _MAX_ALIGNMENT:
            raise ValueError(f"an alignment of {alignment!r}")
        return metadata, {t.name: t for t in table}, -(-self._at // alignment) * alignment

    def _take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + form, self._data, self._at)
        self._at += struct.calcsize("<" + form)
        return values

    def _string(self) -> str:
        (length,) = self._take("Q")
        raw = self._data[self._at : self._at + length]
        if len(raw) != length:
            raise ValueError("it ends in the middle of a text")
        self._at += length
        return raw.decode("utf-8")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            item, count = self._take("IQ")
            if item == _ARRAY or count > _MAX_ITEMS:
                raise ValueError("a list of lists, or one too long")
            if item in _SCALARS:
                return list(self._take(f"{count}{_SCALARS[item]}"))
            return [self._value(item) for _ in range(count)]
        return self._take(_SCALARS[kind])[0]

    def _tensor(self) -> Tensor:
        name = self._string()
        (dimensions,) = self._take("I")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise ValueError(f"the tensor {name} has {dimensions} dimensions")
        shape = self._take(f"{dimensions}Q")
        if 0 in shape:
            raise ValueError(f"the tensor {name} is empty")
        kind, offset = self._take("IQ")
        return Tensor(name, tuple(reversed(shape)), kind, offset)


__all__ = ["GGUF", "BFloat16", "Tensor", "to_bfloat16"]

"""The header of a safetensors file, read as a stranger's: what it claims is checked before it is believed.

The format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from .schema import loads

MAX_HEADER = 16 << 20
"""Bytes; some hundred thousand tensors."""
_MAX_DIMENSIONS = 16
_MAX_LENGTH = 2**48
_WIDTHS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}


class HeaderError(ValueError):
    """What is wrong with a header, in words."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says it holds.

    Attributes:
        shapes: tensor name to shape.
        size: how long the file must be, in bytes.
    """

    shapes: dict[str, tuple[int, ...]]
    size: int


def read_header(path: Path) -> Header:
    """Read and check a file's header; no weight is read.

    The file's real length is left to the caller to compare, for whom a file cut short is another matter.

    Raises:
        HeaderError: the header is longer than the file or than 16 MiB, is no JSON, or tells of tensors that cannot be:
            of a type or a shape unknown, of other bytes than their shape takes, overlapping or with holes between.
        OSError: the file cannot be read.
    """
    if not path.is_file():
        raise HeaderError("it is no regular file")
    with path.open("rb") as file:
        head = file.read(8)
        if len(head) < 8:
            raise HeaderError("it is cut short")
        (length,) = struct.unpack("<Q", head)
        if length > path.stat().st_size - 8:
            raise HeaderError("its header is longer than the file: it is cut short, or no such file")
        if length > MAX_HEADER:
            raise HeaderError(f"its header is longer than {MAX_HEADER >> 20} MiB")
        raw = file.read(length)
    try:
        header = loads(raw)
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"its header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise HeaderError("its header is no JSON object")
    spans = {name: _span(name, entry) for name, entry in header.items() if name != "__metadata__"}
    end = 0
    for name, (start, stop, _) in sorted(spans.items(), key=lambda item: item[1][:2]):
        if start != end:
            raise HeaderError(f"its tensors overlap or leave holes, at {name[:80]!r}")
        end = stop
    return Header({name: shape for name, (_, _, shape) in spans.items()}, 8 + length + end)


def _span(name: str, entry: Any) -> tuple[int, int, tuple[int, ...]]:
    """Where a tensor's bytes begin and end after the header, and its shape."""
    if not isinstance(entry, dict):
        raise HeaderError(f"{name[:80]!r} is no tensor")
    shape, place, kind = entry.get("shape"), entry.get("data_offsets"), entry.get("dtype")
    if not (_are_lengths(shape) and len(shape) <= _MAX_DIMENSIONS):
        raise HeaderError(f"the tensor {name[:80]!r} has no shape that can be")
    if not (_are_lengths(place) and len(place) == 2 and place[0] <= place[1]):
        raise HeaderError(f"the tensor {name[:80]!r} has no place in the file")
    if not (isinstance(kind, str) and kind in _WIDTHS):
        raise HeaderError(f"the tensor {name[:80]!r} is of no known type")
    if place[1] - place[0] != math.prod(shape) * _WIDTHS[kind]:
        raise HeaderError(f"the bytes of the tensor {name[:80]!r} do not match its shape")
    return place[0], place[1], tuple(shape)


def _are_lengths(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < _MAX_LENGTH for n in value)


__all__ = ["MAX_HEADER", "Header", "HeaderError", "read_header"]

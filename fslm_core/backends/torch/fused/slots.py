"""Memory for keys and values: slots of a few lengths, in blocks that are made when needed and bounded in bytes.

A row owns one slot from its admission to its end. What a freed slot holds stays until the slot is given away
again, so that a later row with the same beginning need not compute it anew.
"""

from __future__ import annotations

import itertools
import math
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .shape import Shape

_SLOTS = 8
"""The most slots in a block."""
_SHORTEST = 64


class Block:
    """Slots of one length that lie side by side.

    Attributes:
        kv: float32 [layers, slots, 2, kv_heads, length, head], keys and values.
        keys: float32 [layers, slots, kv_heads, length, head], a view of ``kv``; ``values`` the like.
        layers: ``kv``, layer by layer, as float32 [slots * parts * length, head] with ``parts`` = 2 * kv_heads.
        taps: float32 [slots, length, hidden]: the residual stream before the first layer that any adapter touches.
        tokens: int64 [slots, length], the ids of what each slot holds.
    """

    def __init__(self, shape: Shape, count: int, length: int, device: torch.device) -> None:
        self.length = length
        self.parts = 2 * shape.kv_heads
        self.kv = _zeros((shape.layers, count, 2, shape.kv_heads, length, shape.head), device)
        self.keys, self.values = self.kv.unbind(2)
        self.layers = self.kv.view(shape.layers, count * self.parts * length, shape.head).unbind(0)
        self.taps = _zeros((count, length, shape.hidden), device)
        self.tokens = np.zeros((count, length), dtype=np.int64)
        self.slots = [Slot(self, index) for index in range(count)]

    def common(self, ids: NDArray[np.int64]) -> list[int]:
        """Of how many leading ids, int64 [any], each slot's equal these; whether they mean anything is not asked."""
        width = min(len(ids), self.length)
        same = self.tokens[:, :width] == ids[:width]
        first: list[int] = np.where(same.all(1), width, same.argmin(1)).tolist()
        return first

    @property
    def idle(self) -> bool:
        """True if no slot is in use."""
        return not any(slot.busy for slot in self.slots)


@dataclass(slots=True, eq=False)
class Slot:
    """Room for one row.

    Attributes:
        adapter: under which its keys and values were computed, by name; None for the base.
        whole: of how many tokens, from the first, it holds keys and values in every layer.
        lower: of how many in the layers below every adapter, with their taps; at least ``whole``.
        freed: a count that grows with every freeing, to find the slot that has been free longest.
    """

    block: Block
    index: int
    busy: bool = False
    adapter: str | None = None
    whole: int = 0
    lower: int = 0
    freed: int = 0

    @property
    def tokens(self) -> NDArray[np.int64]:
        """The ids of what it holds, int64 [length]; what stands after ``lower`` means nothing."""
        row: NDArray[np.int64] = self.block.tokens[self.index]
        return row

    @property
    def kv(self) -> Tensor:
        """Its keys and values, float32 [layers, 2, kv_heads, length, head]."""
        return self.block.kv[:, self.index]

    @property
    def taps(self) -> Tensor:
        """Its taps, float32 [length, hidden]."""
        return self.block.taps[self.index]

    def forget(self) -> None:
        """Hold nothing that others may use."""
        self.whole = self.lower = 0

    def wipe(self) -> None:
        """Hold nothing that is no number, after a failure."""
        self.forget()
        self.kv.zero_()

    def cleanse(self) -> None:
        """Wipe it if it holds anything that is no number: the next owner's masks do not keep that out."""
        if not bool(torch.isfinite(self.kv.sum())):
            self.wipe()

    def hold(self, ids: NDArray[np.int64], adapter: str | None, whole: int, lower: int) -> None:
        """Say what was put here: the beginning of ``ids``, int64 [any]."""
        self.tokens[:lower] = ids[:lower]
        self.adapter, self.whole, self.lower = adapter, whole, lower

    def extend(self, ids: Sequence[int], start: int) -> None:
        """Say that these ids were computed in every layer, from position ``start`` on.

        Where what comes before was forgotten, they are forgotten with it.
        """
        stop = start + len(ids)
        self.tokens[start:stop] = ids
        if self.lower >= start:
            self.lower = max(self.lower, stop)
        if self.whole >= start:
            self.whole = stop

    def copy(self, other: Slot, tokens: int, layers: int | None = None) -> None:
        """Copy keys, values and taps of another slot's first tokens, in all layers or the lowest few."""
        self.kv[:layers, :, :, :tokens] = other.kv[:layers, :, :, :tokens]
        self.taps[:tokens] = other.taps[:tokens]


class Slots:
    """All blocks of one model.

    Args:
        budget: bytes that all blocks together may take; one row alone may exceed it.
    """

    def __init__(self, shape: Shape, budget: int, device: torch.device) -> None:
        self._shape = shape
        self._budget = budget
        self._device = device
        self._blocks: list[Block] = []
        self._clock = itertools.count(1)

    @property
    def bytes_per_token(self) -> int:
        """Of keys, values and tap."""
        return 4 * (2 * self._shape.layers * self._shape.kv_heads * self._shape.head + self._shape.hidden)

    @property
    def reserved(self) -> int:
        """Bytes in blocks. The operating system gives them as they are first written."""
        return sum(len(b.slots) * b.length for b in self._blocks) * self.bytes_per_token

    def __iter__(self) -> Iterator[Slot]:
        """Every slot, in use or not."""
        return itertools.chain.from_iterable(block.slots for block in self._blocks)

    def common(self, ids: NDArray[np.int64]) -> Iterator[tuple[Slot, int]]:
        """Every slot, and of how many leading ids, int64 [any], its tokens equal these."""
        for block in self._blocks:
            yield from zip(block.slots, block.common(ids), strict=True)

    def take(self, tokens: int, prefer: Slot | None = None) -> Slot | None:
        """Give a slot for a row of at most this many tokens, or None while there is no room for it.

        Args:
            tokens: prompt and longest answer.
            prefer: a free slot to take if it is long enough, for what it holds already.
        """
        length = _rounded(tokens)
        if prefer is not None and not prefer.busy and prefer.block.length >= length:
            slot: Slot | None = prefer
        else:
            slot = self._spare(length, 2 * length) or self._made(length)
        if slot is not None:
            slot.busy = True
        return slot

    def free(self, slot: Slot) -> None:
        """Take a slot back; what it holds stays readable."""
        slot.busy = False
        slot.freed = next(self._clock)

    def _spare(self, least: int, most: float) -> Slot | None:
        """Of the free slots of a length between these, one of the shortest, and of those the one free longest."""
        fitting = [s for b in self._blocks if least <= b.length <= most for s in b.slots if not s.busy]
        return min(fitting, key=lambda s: (s.block.length, s.freed)) if fitting else None

    def _made(self, length: int) -> Slot | None:
        size = length * self.bytes_per_token
        have = sum(len(b.slots) for b in self._blocks if b.length == length)
        most = _SLOTS - have % _SLOTS if have else 1  # a row alone takes little
        count = max(1, min(most, self._budget // 4 // size))
        while self.reserved + count * size > self._budget:
            idle = [b for b in self._blocks if b.idle]
            if idle:
                self._blocks.remove(min(idle, key=lambda b: max(s.freed for s in b.slots)))
            elif count > 1:
                count = 1
            elif self._blocks:
                return self._spare(length, math.inf)
            else:
                break  # alone, a row gets what it needs
        block = Block(self._shape, count, length, self._device)
        self._blocks.append(block)
        return block.slots[0]


def _zeros(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Zeros: what a mask hides is multiplied all the same, and must be a number.

    On a CPU they take memory page by page as they are written to; in huge pages, whole slots would be taken at once.
    """
    if device.type != "cpu":
        return torch.zeros(shape, device=device)
    size = 4 * math.prod(shape)
    own = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    pages = mmap.mmap(-1, size, **own)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.float32).view(shape)


def _rounded(tokens: int) -> int:
    """The least of 64, 96, 128, 192, 256, 384, … that is not below ``tokens``."""
    length = _SHORTEST
    while length < tokens:
        length = length * 3 // 2 if length & (length - 1) == 0 else length // 3 * 4
    return length


__all__ = ["Block", "Slot", "Slots"]

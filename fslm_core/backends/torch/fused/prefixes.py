"""Static beginnings of prompts, computed once and copied into every row that starts with them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from ..encoding import Encoded, Ids
from .slots import Slot

Key = tuple[str | None, Ids]
"""An adapter's name, which is a hash of its content, and token ids."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """Keys and values float32 [layers, 2, kv_heads, tokens, head]; taps float32 [tokens, hidden]."""

    kv: Tensor
    taps: Tensor

    @property
    def bytes(self) -> int:
        return self.kv.nbytes + self.taps.nbytes


def beginning(prompt: Encoded) -> int:
    """How many of a prompt's first tokens are the same for every input; never all, for the last is to be computed."""
    return min(prompt.static, len(prompt.ids) - 1)


class Prefixes:
    """The prefix store of one model: what was used longest ago makes room.

    Args:
        budget: bytes to stay within.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()

    def __len__(self) -> int:
        """How many beginnings are kept."""
        return len(self._kept)

    def length(self, adapter: str | None, prompt: Encoded) -> int:
        """How many of a prompt's first tokens are kept: its beginning, or none."""
        ids = prompt.ids[: beginning(prompt)]
        return len(ids) if (adapter, ids) in self._kept else 0

    def put(self, slot: Slot, tokens: int) -> None:
        """Keep the first tokens of what ``slot`` holds in every layer, unless they are kept already."""
        key = (slot.adapter, tuple(slot.tokens[:tokens].tolist()))
        kv, taps = slot.kv[:, :, :, :tokens], slot.taps[:tokens]
        if key in self._kept or kv.nbytes + taps.nbytes > self._budget:
            return
        self._kept[key] = _Kept(kv.clone(memory_format=torch.contiguous_format), taps.clone())
        while sum(kept.bytes for kept in self._kept.values()) > self._budget:
            self._kept.popitem(last=False)

    @torch.inference_mode()
    def fill(self, slot: Slot, adapter: str | None, ids: Ids) -> None:
        """Copy a beginning that is kept into ``slot``."""
        kept = self._kept[adapter, ids]
        self._kept.move_to_end((adapter, ids))
        slot.kv[:, :, :, : len(ids)] = kept.kv
        slot.taps[: len(ids)] = kept.taps

    def clear(self) -> None:
        """Keep nothing."""
        self._kept.clear()


__all__ = ["Prefixes", "beginning"]

"""The packed forward: tokens of many rows as one list, without padding.

Tokens of one adapter stand together, so each adapter's thin matrices are applied to its own slice. Where a row's
beginning was already computed under another adapter, only the layers from the lowest one that any adapter touches
(``depth``) are computed again for it, from the kept residual stream (the *tap*).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from .lora import Place, Tuned
from .slots import Block, Slot
from .weights import Weights

_SHORT = 8
"""Segments of at most this many tokens share one attention call with their neighbours."""


@dataclass(slots=True)
class Segment:
    """One row's part of a forward: the tokens at positions ``start`` to ``stop`` of its slot.

    Attributes:
        ids: their token ids.
        lower: from which position on the layers below ``depth`` are computed; those before are in the slot already.
        wanted: of how many of the last tokens the final hidden state is asked for.
    """

    slot: Slot
    ids: Sequence[int]
    start: int
    lower: int
    adapter: Tuned | None
    wanted: int = 1

    @property
    def stop(self) -> int:
        """One past the last position."""
        return self.start + len(self.ids)


class Model:
    """Packed weights and the arithmetic over them.

    Attributes:
        depth: the lowest layer that any adapter touches; layers below give the same for every adapter.
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.depth = weights.shape.layers
        self._device = weights.norm.device
        widths = {weights.shape.hidden, weights.shape.head}
        self._floors = {n: torch.tensor(math.sqrt(weights.shape.eps * n), device=self._device) for n in widths}
        """By width: what a vector's length is joined with, so that the norm's epsilon is in its mean square."""

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment]) -> Tensor:
        """Run all layers over the segments, whose slots take their keys and values.

        Returns:
            The normed hidden states asked for, float32 [sum of wanted, hidden], in the order of ``segments``.
        """
        shape = self.weights.shape
        order = sorted(range(len(segments)), key=lambda i: _by_adapter(segments[i]))
        ordered = [segments[i] for i in order]
        fresh = [s for s in ordered if s.stop > s.lower]
        ids = [token for s in fresh for token in s.ids[s.lower - s.start :]]
        x = self.weights.embedding[self._indices(ids)].float()
        tapped = self.depth < shape.layers
        again = any(s.lower > s.start for s in ordered)
        first = self.depth if tapped else 0
        below = _Plan([(s, s.lower) for s in fresh], self.weights, range(first if again else shape.layers))
        if tapped and fresh:
            x = self._through(x, range(self.depth), below)
            below.keep(x)
        if again:
            above = _Plan([(s, s.start) for s in ordered], self.weights, range(first, shape.layers))
            x = above.tapped(x.new_empty((above.tokens, shape.hidden)))
        else:
            above = below
        x = self._through(x, range(first, shape.layers - 1), above)
        x = self._last(x, ordered, above)
        ends = dict(zip(order, np.cumsum([s.wanted for s in ordered]).tolist(), strict=True))
        rows = [ends[i] - s.wanted + j for i, s in enumerate(segments) for j in range(s.wanted)]
        return self._norm(x[self._indices(rows)], self.weights.norm)

    def _indices(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS norm over the last dimension, float32 [tokens, …, width], in the fewest operations.

        ``weight`` carries the root of the width already, see :class:`.weights.Layer`.
        """
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return torch.mul(x, weight).div_(torch.hypot(length, self._floors[weight.shape[0]]))

    def _through(self, x: Tensor, layers: range, plan: _Plan) -> Tensor:
        """Pass x, float32 [tokens, hidden], through some layers."""
        for index in layers:
            x = self._mixed(x, self._heads(x, index, plan), index, plan)
        return x

    def _last(self, x: Tensor, ordered: Sequence[Segment], plan: _Plan) -> Tensor:
        """The last layer: keys and values of every token, all else for the tokens that are asked for.

        Returns:
            float32 [sum of wanted, hidden], in the order of ``ordered``.
        """
        index = self.weights.shape.layers - 1
        heads = self._heads(x, index, plan)
        asked = [(s, s.stop - s.wanted) for s in ordered if s.wanted]
        picked = [end - s.wanted + j for s, end in zip(ordered, plan.ends, strict=True) for j in range(s.wanted)]
        if len(picked) == plan.tokens:
            return self._mixed(x, heads, index, plan)
        if not picked:
            return x[:0]
        places = self._indices(picked)
        last = _Plan(asked, self.weights, range(index, index + 1))
        return self._mixed(x[places], heads[places], index, last)

    def _heads(self, x: Tensor, index: int, plan: _Plan) -> Tensor:
        """Queries, keys and values, float32 [tokens, heads + 2 * kv_heads, head], the latter two put into the slots."""
        shape, layer = self.weights.shape, self.weights.layers[index]
        h = self._norm(x, layer.before)
        qkv = layer.qkv(h)
        plan.add(index, "qkv", h, qkv)
        heads = qkv.view(-1, shape.heads + 2 * shape.kv_heads, shape.head)
        turned = heads[:, : shape.heads + shape.kv_heads]
        if layer.query_norm is not None and layer.key_norm is not None:
            turned[:, : shape.heads] = self._norm(turned[:, : shape.heads], layer.query_norm)
            turned[:, shape.heads :] = self._norm(turned[:, shape.heads :], layer.key_norm)
        torch.view_as_complex(turned.view(-1, shape.heads + shape.kv_heads, shape.head // 2, 2)).mul_(plan.turns)
        plan.store(index, heads[:, shape.heads :])
        return heads

    def _mixed(self, x: Tensor, heads: Tensor, index: int, plan: _Plan) -> Tensor:
        """What a layer makes of x, float32 [tokens, hidden], once keys and values are in place."""
        layer = self.weights.layers[index]
        mixed = plan.attend(index, heads[:, : self.weights.shape.heads])
        y = layer.out(mixed)
        plan.add(index, "out", mixed, y)
        x = y.add_(x)
        h = self._norm(x, layer.after)
        both = layer.gate_up(h)
        plan.add(index, "gate_up", h, both)
        gate, up = both.split(self.weights.shape.inner, 1)
        h = functional.silu(gate).mul_(up)
        y = layer.down(h)
        plan.add(index, "down", h, y)
        return y.add_(x)


def _by_adapter(segment: Segment) -> tuple[str, int, int]:
    return (segment.adapter.name if segment.adapter else "", id(segment.slot.block), segment.slot.index)


@dataclass(frozen=True, slots=True)
class _Call:
    """One attention call: ``rows`` neighbouring slots of a block, each with ``columns`` queries.

    A row with fewer tokens repeats its last; the repetitions come to the same and are written to the same place.

    Attributes:
        keys: for each of the plan's layers, float32 [rows, kv_heads, length, head]; ``values`` the like.
        first: where its queries start among those of all calls.
        mask: float32 [rows, 1, columns * group, length], or [rows, 1, 1, length] for one column: minus infinity where
            a query must not look; None where all may.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    rows: int
    columns: int
    first: int
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class _Store:
    """Where the tokens in one block go.

    Attributes:
        packed: which of the packed tokens they are, int64 [tokens]; None for all of them.
        rows: of each token's keys and values in ``block.layers``, int64 [tokens * parts].
        places: of each token in the flat taps, int64 [tokens].
    """

    block: Block
    packed: Tensor | None
    rows: Tensor
    places: Tensor


class _Plan:
    """Where each packed token goes, worked out once for several layers of a forward.

    Args:
        parts: segments, those of one adapter together, and from which position on each takes part.
        layers: the neighbouring layers it serves; a view of each one's keys and values costs time for every call.
    """

    def __init__(self, parts: Sequence[tuple[Segment, int]], weights: Weights, layers: range) -> None:
        self._shape = weights.shape
        self._device = weights.norm.device
        self._layers = layers
        counts = [s.stop - start for s, start in parts]
        stops = np.cumsum(counts, dtype=np.int64)
        self.ends: list[int] = stops.tolist()
        self.tokens = self.ends[-1] if parts else 0
        starts = [stop - count for stop, count in zip(self.ends, counts, strict=True)]
        positions = [np.arange(start, s.stop) for s, start in parts]
        at = self._indices(np.concatenate([np.zeros(0, np.int64), *positions]))
        angles = at[:, None, None].float() * weights.frequencies  # float32 [tokens, 1, head / 2]
        self.turns = torch.polar(torch.full_like(angles, weights.stretch), angles)
        self._adapters: list[tuple[Tuned, int, int]] = []
        for adapter, group in groupby(range(len(parts)), key=lambda i: parts[i][0].adapter):
            members = list(group)
            if adapter is not None:
                self._adapters.append((adapter, starts[members[0]], self.ends[members[-1]]))
        blocks: dict[int, list[int]] = {}
        for i, (segment, _) in enumerate(parts):
            blocks.setdefault(id(segment.slot.block), []).append(i)
        self._stores: list[_Store] = []
        self._calls: list[_Call] = []
        asking: list[NDArray[np.int64]] = []
        for members in blocks.values():
            members.sort(key=lambda i: parts[i][0].slot.index)
            block = parts[members[0]][0].slot.block
            packed = np.concatenate([np.arange(starts[i], self.ends[i]) for i in members])
            slots = np.concatenate([np.full(counts[i], parts[i][0].slot.index) for i in members])
            at_slot = np.concatenate([positions[i] for i in members])
            rows = (slots[:, None] * block.parts + np.arange(block.parts)) * block.length + at_slot[:, None]
            whole = len(blocks) == 1 and bool((np.diff(packed) == 1).all())
            self._stores.append(
                _Store(
                    block,
                    None if whole else self._indices(packed),
                    self._indices(rows.reshape(-1)),
                    self._indices(slots * block.length + at_slot),
                )
            )
            self._calls += self._grouped(block, members, parts, starts, counts, asking)
        self._asking, self._answers = self._arranged(np.concatenate([np.zeros(0, np.int64), *asking]))

    def _indices(self, values: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values).to(self._device)

    def _arranged(self, asking: NDArray[np.int64]) -> tuple[Tensor | None, Tensor | None]:
        """Say which packed token asks at each place of the calls, and where each one's answer stands; None for itself.

        Args:
            asking: int64 [rows * columns, of all calls one after another].
        """
        if len(asking) == self.tokens and bool((np.diff(asking, prepend=-1) == 1).all()):
            return None, None
        answers = np.empty(self.tokens, dtype=np.int64)
        answers[asking] = np.arange(len(asking))
        return self._indices(asking), self._indices(answers)

    def _grouped(
        self,
        block: Block,
        members: Sequence[int],
        parts: Sequence[tuple[Segment, int]],
        starts: Sequence[int],
        counts: Sequence[int],
        asking: list[NDArray[np.int64]],
    ) -> list[_Call]:
        """Neighbouring slots with short segments share a call; every long segment has its own."""
        runs: list[list[int]] = []
        for i in members:
            follows = runs and parts[runs[-1][-1]][0].slot.index + 1 == parts[i][0].slot.index
            if follows and counts[i] <= _SHORT and counts[runs[-1][-1]] <= _SHORT:
                runs[-1].append(i)
            else:
                runs.append([i])
        return [self._call(block, run, parts, starts, counts, asking) for run in runs]

    def _call(
        self,
        block: Block,
        run: Sequence[int],
        parts: Sequence[tuple[Segment, int]],
        starts: Sequence[int],
        counts: Sequence[int],
        asking: list[NDArray[np.int64]],
    ) -> _Call:
        columns = max(counts[i] for i in run)
        offsets = np.array([np.minimum(np.arange(columns), counts[i] - 1) for i in run])
        looks = offsets + np.array([[parts[i][1]] for i in run])  # the position of each query
        length = int(looks.max()) + 1
        mask = None
        if int(looks.min()) + 1 < length:
            allowed = np.arange(length) <= looks[..., None]
            bias = np.where(allowed, np.float32(0), np.float32(-math.inf))
            if columns > 1:
                bias = bias.repeat(self._shape.group, axis=1)
            mask = torch.from_numpy(bias[:, None]).to(self._device)
        first = sum(map(len, asking))
        asking.append((offsets + np.array([[starts[i]] for i in run])).reshape(-1))
        near = slice(parts[run[0]][0].slot.index, parts[run[0]][0].slot.index + len(run))
        served = slice(self._layers.start, self._layers.stop)
        keys = block.keys[served, near, :, :length].unbind(0)
        values = block.values[served, near, :, :length].unbind(0)
        return _Call(keys, values, len(run), columns, first, mask)

    def add(self, layer: int, place: Place, x: Tensor, y: Tensor) -> None:
        """Let every adapter add to y, float32 [tokens, out], what it makes of x, float32 [tokens, in]."""
        for adapter, start, stop in self._adapters:
            if (delta := adapter.deltas.get((layer, place))) is None:
                continue
            if stop - start == self.tokens:
                delta.add(x, y)
            else:
                delta.add(x[start:stop], y[start:stop])

    def store(self, layer: int, kv: Tensor) -> None:
        """Put keys and values, float32 [tokens, 2 * kv_heads, head], into the slots."""
        for s in self._stores:
            own = kv if s.packed is None else kv[s.packed]
            s.block.layers[layer].index_copy_(0, s.rows, own.flatten(0, 1))

    def keep(self, x: Tensor) -> None:
        """Put the residual stream, float32 [tokens, hidden], into the slots' taps."""
        for s in self._stores:
            s.block.taps.view(-1, self._shape.hidden).index_copy_(0, s.places, x if s.packed is None else x[s.packed])

    def tapped(self, x: Tensor) -> Tensor:
        """Fill x, float32 [tokens, hidden], from the slots' taps, and return it."""
        for s in self._stores:
            kept = s.block.taps.view(-1, self._shape.hidden)[s.places]
            if s.packed is None:
                return kept
            x.index_copy_(0, s.packed, kept)
        return x

    def attend(self, layer: int, queries: Tensor) -> Tensor:
        """Mix values by attention: queries float32 [tokens, heads, head] to float32 [tokens, heads * head]."""
        shape = self._shape
        if self._asking is not None:
            queries = queries[self._asking]
        answers = []
        for c in self._calls:
            q = queries if len(self._calls) == 1 else queries[c.first : c.first + c.rows * c.columns]
            near = (c.keys[layer - self._layers.start], c.values[layer - self._layers.start], c.mask)
            if c.columns == 1:  # a kernel of its own, a third quicker
                out = functional.scaled_dot_product_attention(q.unsqueeze(2), *near, enable_gqa=True)
            else:
                q = q.reshape(c.rows, c.columns, shape.kv_heads, shape.group, shape.head).transpose(1, 2).flatten(2, 3)
                out = functional.scaled_dot_product_attention(q, *near)
                out = out.view(c.rows, shape.kv_heads, c.columns, shape.group, shape.head).transpose(1, 2)
            answers.append(out.reshape(c.rows * c.columns, -1))
        mixed = answers[0] if len(answers) == 1 else torch.cat(answers)
        return mixed if self._answers is None else mixed[self._answers]


__all__ = ["Model", "Segment"]

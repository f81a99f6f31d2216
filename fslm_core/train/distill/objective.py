"""The loss with a teacher: the same head at the same target positions, the same packing and precision."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...checkpoints import ResolvedCheckpoint
from ...settings import TorchSettings
from ..model import load_base
from ..objective import Example, Objective, Timed
from ..recipe import Distill
from .divergence import divergence
from .teacher import Teacher


def load_teacher(teacher: Teacher, base: Any, checkpoint: ResolvedCheckpoint, settings: TorchSettings) -> Any:
    """Load the teacher as the serving backend would, to be read only.

    Args:
        base: the student's base, still without an adapter, loaded from ``checkpoint``; a teacher on the same
            checkpoint shares its weights.

    Raises:
        AdapterError: its adapter does not fit exactly.
        CheckpointError: its weights cannot be read.
    """
    from ...backends.torch import adapters

    if teacher.checkpoint.sha256 == checkpoint.sha256:
        model = copy.deepcopy(base, {id(weight): weight for weight in base.parameters()})
    else:
        model = load_base(teacher.checkpoint.path, settings)
    if (info := teacher.adapter) is not None:
        record = info.record
        name = record.base if record is not None and record.base_sha256 else teacher.base  # its hash was compared
        adapter = adapters.read(info.path, sha256=info.sha256, checkpoint=name, config=model.config)
        adapters.attach(model, None, adapter)
    return model.eval().requires_grad_(False)


class Reader(Objective):
    """A teacher's logits at the rows' target positions.

    Where its layers may be called one by one, it goes through each row once, and what its head reads there is kept;
    otherwise, or if that would take more than ``cache_bytes``, it goes through every batch.
    """

    def __init__(self, model: Any, examples: Sequence[Example], *, cache_bytes: int = 2 << 30) -> None:
        super().__init__(model, examples, frozen=0)
        config = self.base.config.get_text_config()
        self.kept_bytes = sum(len(e.target) for e in examples) * config.hidden_size * self.base.dtype.itemsize
        self.caches = self._split and self.kept_bytes <= cache_bytes
        self._kept: list[Tensor] | None = None

    def prepare(self, batches: Iterable[Sequence[int]]) -> Iterable[int]:
        """Go through all rows and keep what the head reads; yields the number of rows done so far."""
        if not self.caches:
            return
        kept: list[Tensor] = [torch.empty(0)] * len(self.examples)
        done = 0
        for rows in batches:
            sizes = [len(self.examples[row].target) for row in rows]
            for row, states in zip(rows, self._read(rows).split(sizes), strict=True):
                kept[row] = states.clone()
            done += len(rows)
            yield done
        self._kept = kept

    @torch.no_grad()
    def logits(self, rows: Sequence[int]) -> Tensor:
        """The logits where a target token is predicted, row after row: (tokens, vocabulary)."""
        with self._quick():
            if not self.caches:
                return self._logits(rows, self._targets(rows)[0])
            states = self._read(rows) if self._kept is None else torch.cat([self._kept[row] for row in rows])
            logits: Tensor = self.base.get_output_embeddings()(states)
            return logits

    @torch.no_grad()
    def _read(self, rows: Sequence[int]) -> Tensor:
        """What the head reads where a target token is predicted, row after row: (tokens, hidden)."""
        before, begun = self.seconds, time.perf_counter()
        with self._quick():
            states = self._states(rows, self._targets(rows)[0])
        self.seconds = before + time.perf_counter() - begun  # all layers, and not the frozen ones once more
        return states


class Distilled(Objective):
    """Computes the mean over target tokens of cross-entropy and of the divergence from a teacher, as ``ways`` mixes
    them, each token weighted by its row; the divergence alone is among its figures.
    """

    def __init__(
        self, model: Any, examples: Sequence[Example], *, frozen: int, teacher: Reader, ways: Distill, **more: Any
    ) -> None:
        super().__init__(model, examples, frozen=frozen, **more)
        self.teacher, self.ways = teacher, ways

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Return the loss of a batch: a scalar, the weighted mean over its target tokens."""
        ways = self.ways
        places, labels, weights = self._targets(rows)
        taught = self.teacher.logits(rows)
        with self._quick():
            logits = self._logits(rows, places)
        width = min(logits.shape[-1], taught.shape[-1])  # beyond the vocabulary, heads may be padded differently
        own, shown = logits[:, :width], taught[:, :width]
        each = divergence(own, shown, ways.divergence, beta=ways.mixed, temperature=ways.temperature)
        apart = (each * weights).sum() / weights.sum()
        self.figures = {"divergence": float(apart.detach())}
        if ways.weight == 1:
            return apart
        each = functional.cross_entropy(logits.float(), labels, reduction="none")
        hard = (each * weights).sum() / weights.sum()
        return ways.weight * apart + (1 - ways.weight) * hard

    def time_steps(self, batches: Sequence[Sequence[int]]) -> Timed:
        """As :meth:`Objective.time_steps`; what the teacher's layers take, they take once where it is kept."""
        before = self.teacher.seconds
        step, once, own = super().time_steps(batches)
        read = self.teacher.seconds - before
        return Timed(step - read, once + read, own - read)


__all__ = ["Distilled", "Reader", "load_teacher"]

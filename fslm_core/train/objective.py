"""The loss of one stage's training, computed only where it has to be.

Three things are never computed twice or in vain, and none of them changes the result; how it is computed on a CPU is
:meth:`Objective._quick`'s.

- the head runs at target positions alone (a vocabulary of 49,152 costs as much as eight of SmolLM2-135M's layers);
- what all prompts begin with (the chat template's opening and the static part of the prompt) goes through the
  layers once a batch, and every row attends to it;
- layers below the lowest adapted one are frozen, so a row's hidden state above them is computed once for all
  epochs, and no gradient flows through them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from torch import Tensor
from torch.nn import functional

from .attention import attending

Ids = tuple[int, ...]
PART = 768
"""Tokens, padding included, that go forward and backward together: more fill memory and are no faster."""
_SPLIT = frozenset({"llama"})
"""Architectures whose layers may be called one by one as :meth:`Objective._through` does."""


@dataclass(frozen=True, slots=True)
class Example:
    """A row as token ids; ``target`` ends with the end token. ``weight`` multiplies its loss."""

    prompt: Ids
    target: Ids
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)


class Timed(NamedTuple):
    """Seconds that some batches take.

    Attributes:
        step: each time.
        once: before the first step, for results that are kept.
        own: of the model alone, forward and backward, through all layers.
    """

    step: float
    once: float
    own: float


class Objective:
    """Computes the mean cross-entropy of target tokens, each weighted by its row.

    Args:
        model: a PEFT model on a causal language model, or one that is only read.
        examples: all rows of the training run.
        frozen: how many of the lowest layers hold no adapter.
        cache_bytes: how much memory the frozen layers' results may take; above it they are computed anew.

    Attributes:
        figures: what else is to be told of the newest loss.
        seconds: spent in batches on results that could be kept.
    """

    def __init__(self, model: Any, examples: Sequence[Example], *, frozen: int, cache_bytes: int = 4 << 30) -> None:
        self.model = model
        self.base = _base_of(model)
        self.decoder = self.base.get_decoder()
        self.examples = examples
        self._split = self.base.config.model_type in _SPLIT
        self.prefix = common_prefix([e.prompt for e in examples]) if self._split else ()
        self.frozen = frozen if self._split else 0
        self.figures: dict[str, float] = {}
        self.seconds = 0.0
        self._hidden: list[Tensor] | None = None
        self._prefix_hidden: Tensor | None = None
        tokens = sum(len(e) - len(self.prefix) for e in examples)
        self.caches = self.frozen > 0 and tokens * self.base.config.hidden_size * 4 <= cache_bytes

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        weight: Tensor = next(self.base.parameters())
        return weight.device

    def prepare(self, batches: Iterable[Sequence[int]]) -> Iterable[int]:
        """Run all rows through the frozen layers; yields the number of rows done so far.

        Does nothing, and yields nothing, where no layer is frozen or the results would not fit into memory.
        """
        if not self.caches:
            return
        hidden: list[Tensor] = [torch.empty(0)] * len(self.examples)
        done = 0
        for rows in batches:
            with torch.no_grad():
                prefix, out = self._through(0, self.frozen, *self._embedded(rows))
            self._prefix_hidden = prefix
            for i, row in enumerate(rows):
                hidden[row] = out[i, : self._length(row)].clone()
            done += len(rows)
            yield done
        self._hidden = hidden

    def time_steps(self, batches: Sequence[Sequence[int]]) -> Timed:
        """Run forward and backward over ``batches``, then forget the gradients."""
        self.model.train()
        before, begun = self.seconds, time.perf_counter()
        for rows in batches:
            self.descend(rows)
        self.model.zero_grad(set_to_none=True)
        whole, lower = time.perf_counter() - begun, self.seconds - before
        return Timed(whole - lower, lower, whole) if self.caches else Timed(whole, 0.0, whole)

    def descend(
        self, rows: Sequence[int], *, of: float | None = None, backward: Callable[[Tensor], None] = Tensor.backward
    ) -> Tensor:
        """Add the gradients of a batch's loss, a part of its rows at a time: memory is bounded, whatever the batch.

        Args:
            of: the weight of the whole batch, where these rows are not all of it.

        Returns:
            What these rows add to the batch's loss: a scalar.
        """
        own = self.weight(rows)
        total = torch.zeros((), device=self.device)
        figures: dict[str, float] = {}
        for part in self._parts(rows):
            weight = self.weight(part)
            loss = self.loss(part) * (weight / (own if of is None else of))
            backward(loss)
            total += loss.detach()
            for name, value in self.figures.items():
                figures[name] = figures.get(name, 0.0) + value * (weight / own)
        self.figures = figures
        return total

    def _parts(self, rows: Sequence[int]) -> Iterator[Sequence[int]]:
        """The rows as they are if they are few tokens, padding included; else shortest first, in parts that are."""
        if len(rows) * max(map(self._length, rows)) <= PART:
            yield rows
            return
        part: list[int] = []
        for row in sorted(rows, key=self._length):
            if part and (len(part) + 1) * self._length(row) > PART:
                yield part
                part = []
            part.append(row)
        yield part

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Return the loss of a batch: a scalar, the weighted mean over its target tokens."""
        places, labels, weights = self._targets(rows)
        with self._quick():
            logits = self._logits(rows, places)
        logits = logits.float()
        each = functional.cross_entropy(logits, labels, reduction="none")
        return (each * weights).sum() / weights.sum()

    def weight(self, rows: Sequence[int]) -> float:
        """By what :meth:`loss` divides: the target tokens of these rows, each weighted by its row."""
        return sum(example.weight * len(example.target) for example in map(self.examples.__getitem__, rows))

    @torch.no_grad()
    def row_losses(self, rows: Sequence[int]) -> list[float]:
        """Return each row's own loss: the mean over its target tokens, whatever the row's weight."""
        places, labels, _ = self._targets(rows)
        with self._quick():
            logits = self._logits(rows, places)
        each = functional.cross_entropy(logits.float(), labels, reduction="none")
        return [float(part.mean()) for part in each.split([len(self.examples[row].target) for row in rows])]

    @contextmanager
    def _quick(self) -> Iterator[None]:
        """On a CPU: attention by :func:`attending`; on a base in bfloat16 the adapter is multiplied in bfloat16 too."""
        with ExitStack() as stack:
            if self.device.type == "cpu":
                if self.base.dtype == torch.bfloat16:
                    stack.enter_context(disable_input_dtype_casting(self.model))
                    stack.enter_context(torch.autocast("cpu", torch.bfloat16))
                if self._split:
                    stack.enter_context(attending(self.base.config))
            yield

    def _logits(self, rows: Sequence[int], places: Tensor) -> Tensor:
        """The logits at ``places`` of the flattened batch: (places, vocabulary)."""
        logits: Tensor
        if self._split:
            logits = self.base.get_output_embeddings()(self._states(rows, places))
            return logits
        ids = self._ids(rows)
        columns, own = torch.unique(places % ids.shape[1], return_inverse=True)
        logits = self.base(input_ids=ids, use_cache=False, logits_to_keep=columns).logits
        return logits[places // ids.shape[1], own]

    def _states(self, rows: Sequence[int], places: Tensor) -> Tensor:
        """What the head reads at ``places``: (places, hidden)."""
        states: Tensor = self.decoder.norm(self._last(rows).flatten(0, 1)[places])
        return states

    def _length(self, row: int) -> int:
        """Tokens of a row that enter the model: all but the shared prefix and the end token."""
        return len(self.examples[row]) - len(self.prefix) - 1

    def _ids(self, rows: Sequence[int]) -> Tensor:
        longest = max(map(self._length, rows))
        ids = torch.zeros((len(rows), longest), dtype=torch.long)
        for i, row in enumerate(rows):
            example = self.examples[row]
            own = (example.prompt + example.target)[len(self.prefix) : -1]
            ids[i, : len(own)] = torch.tensor(own)
        return ids.to(self.device)

    def _targets(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Where in the flattened batch a target token is predicted, which one, and its weight."""
        longest = max(map(self._length, rows))
        places: list[int] = []
        labels: list[int] = []
        weights: list[float] = []
        for i, row in enumerate(rows):
            example = self.examples[row]
            first = i * longest + len(example.prompt) - len(self.prefix) - 1
            places += range(first, first + len(example.target))
            labels += example.target
            weights += [example.weight] * len(example.target)
        device = self.device
        return (
            torch.tensor(places, device=device),
            torch.tensor(labels, device=device),
            torch.tensor(weights, device=device),
        )

    def _embedded(self, rows: Sequence[int]) -> tuple[Tensor | None, Tensor]:
        embed = self.base.get_input_embeddings()
        prefix = embed(torch.tensor([self.prefix], device=self.device)) if self.prefix else None
        return prefix, embed(self._ids(rows))

    def _last(self, rows: Sequence[int]) -> Tensor:
        """The hidden states of a batch after the last layer, before the norm: (rows, longest, hidden)."""
        if self._hidden is not None:
            own = torch.nn.utils.rnn.pad_sequence([self._hidden[row] for row in rows], batch_first=True)
            prefix = self._prefix_hidden
        else:
            begun = time.perf_counter()
            with torch.no_grad():
                prefix, own = self._through(0, self.frozen, *self._embedded(rows))
            self.seconds += time.perf_counter() - begun
        return self._through(self.frozen, len(self.decoder.layers), prefix, own)[1]

    def _through(self, first: int, last: int, prefix: Tensor | None, own: Tensor) -> tuple[Tensor | None, Tensor]:
        """Run layers ``first`` to ``last`` (excluded) over the shared prefix, then over the rows that follow it.

        Args:
            prefix: (1, P, hidden) or None.
            own: (rows, T, hidden), padded on the right, which a causal model does not see.
        """
        start = 0 if prefix is None else prefix.shape[1]
        size = own.shape[1]
        places = torch.arange(start + size, device=own.device)[None]
        cos, sin = self.decoder.rotary_emb(own, places)
        mask = places[0, start:, None] >= places[0, None, :]
        for layer in self.decoder.layers[first:last]:
            shared = _Shared()
            if prefix is not None:
                prefix = layer(
                    prefix,
                    attention_mask=None,
                    past_key_values=shared,
                    position_ids=places[:, :start],
                    position_embeddings=(cos[:, :start], sin[:, :start]),
                )
            own = layer(
                own,
                attention_mask=mask[None, None] if start else None,
                past_key_values=shared,
                position_ids=places[:, start:],
                position_embeddings=(cos[:, start:], sin[:, start:]),
            )
        return prefix, own


def _base_of(model: Any) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model


class _Shared:
    """Stands in for a KV cache within one layer: holds the prefix's keys and values, and lets gradients through."""

    def __init__(self) -> None:
        self._prefix: tuple[Tensor, Tensor] | None = None

    def update(self, keys: Tensor, values: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Take a layer's keys and values (rows, heads, tokens, width); return those to attend to."""
        if self._prefix is None:
            self._prefix = (keys, values)
            return keys, values
        rows = keys.shape[0]
        before = [part.expand(rows, -1, -1, -1) for part in self._prefix]
        return torch.cat([before[0], keys], dim=2), torch.cat([before[1], values], dim=2)


def common_prefix(prompts: Sequence[Ids]) -> Ids:
    """What all prompts begin with, one token short of the shortest, so that every row has a token of its own.

    >>> common_prefix([(1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3)])
    (1, 2)
    """
    least, most = min(prompts), max(prompts)
    size = min(map(len, prompts)) - 1
    same = next((i for i, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), size)
    return least[: min(same, size)]


__all__ = ["Example", "Objective", "Timed", "common_prefix"]

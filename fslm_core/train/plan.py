"""The whole run as a list of batches, fixed before the first step: a function of the seed and nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

_POOL = 16
"""Batches' worth of rows sorted by length together: enough that rows of a batch are about equally long."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Batches of row indices in the order they are trained on; ``ends`` are the steps at which epochs end."""

    batches: tuple[tuple[int, ...], ...]
    ends: tuple[int, ...]


def make_plan(
    lengths: Sequence[int], *, epochs: int, seed: int, rows: int, tokens: int, draw: Sequence[float] | None = None
) -> Plan:
    """Shuffle, bucket by length and cut into batches, epoch by epoch.

    Args:
        lengths: tokens of each row.
        rows: most rows of a batch.
        tokens: most tokens of a batch, padding included; a single longer row makes a batch of its own.
        draw: weights for drawing rows with replacement; None takes every row once an epoch.
    """
    rng = random.Random(seed)
    batches: list[tuple[int, ...]] = []
    ends: list[int] = []
    for _ in range(epochs):
        order = list(range(len(lengths)))
        if draw is not None:
            order = rng.choices(order, weights=draw, k=len(order))
        rng.shuffle(order)
        batches += _epoch(order, lengths, rows, tokens, rng)
        ends.append(len(batches))
    return Plan(tuple(batches), tuple(ends))


def sorted_batches(lengths: Sequence[int], *, rows: int, tokens: int) -> list[tuple[int, ...]]:
    """All rows once, by length: for passes whose order does not matter."""
    return _cut(sorted(range(len(lengths)), key=lambda i: (lengths[i], i)), lengths, rows, tokens)


def _epoch(
    order: list[int], lengths: Sequence[int], rows: int, tokens: int, rng: random.Random
) -> list[tuple[int, ...]]:
    batches: list[tuple[int, ...]] = []
    for start in range(0, len(order), rows * _POOL):
        pool = sorted(order[start : start + rows * _POOL], key=lambda i: (lengths[i], i))
        batches += _cut(pool, lengths, rows, tokens)
    rng.shuffle(batches)
    return batches


def _cut(order: Sequence[int], lengths: Sequence[int], rows: int, tokens: int) -> list[tuple[int, ...]]:
    batches: list[tuple[int, ...]] = []
    batch: list[int] = []
    longest = 0
    for index in order:
        longest = max(longest, lengths[index])
        if batch and (len(batch) == rows or longest * (len(batch) + 1) > tokens):
            batches.append(tuple(batch))
            batch, longest = [], lengths[index]
        batch.append(index)
    return [*batches, tuple(batch)] if batch else batches


__all__ = ["Plan", "make_plan", "sorted_batches"]

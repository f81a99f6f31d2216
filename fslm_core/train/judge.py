"""The task score: what the model writes on the selection rows under the decoder that serves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..backends.protocol import Sampling
from ..backends.torch.encoding import Encoded, Ids
from ..backends.torch.generic import Batch
from ..backends.torch.row import Row as Writing
from ..backends.torch.vocabulary import Vocabulary
from ..schema import parse, plain_data
from ..stage import Stage
from .recipe import TaskScore
from .rows import Row


@dataclass(frozen=True, slots=True)
class _Model:
    """What the executor needs of a loaded model."""

    model: Any
    device: torch.device


def judge(
    model: Any,
    vocabulary: Vocabulary,
    stage: Stage[Any, Any],
    rows: Sequence[Row],
    prompts: Sequence[Ids],
    task: TaskScore,
    *,
    batch: int = 32,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """Decode every row greedily and compare.

    Args:
        model: the causal language model with its adapter in place, in evaluation mode.
        prompts: the rows' prompts as token ids.
        told: called with the number of rows done and the number of all rows.

    Returns:
        ``exact`` (all fields right), ``valid`` (schema and validators hold) and ``field.NAME`` for each
        field, as shares of all rows.
    """
    texts = decode(model, vocabulary, stage, rows, prompts, batch=batch, told=told)
    fields = list(stage.output.model_fields) if task.fields is None else list(task.fields)
    right = dict.fromkeys(fields, 0)
    exact = valid = 0
    for row, text in zip(rows, texts, strict=True):
        parsed = parse(text, stage.output, row.schema)
        if isinstance(parsed, list):
            continue
        valid += 1
        wrote, gold = plain_data(parsed), plain_data(row.output)
        same = [wrote[field] == gold[field] for field in fields]
        exact += all(same)
        for field, hit in zip(fields, same, strict=True):
            right[field] += hit
    total = len(rows)
    return {"exact": exact / total, "valid": valid / total, **{f"field.{f}": n / total for f, n in right.items()}}


def decode(
    model: Any,
    vocabulary: Vocabulary,
    stage: Stage[Any, Any],
    rows: Sequence[Row],
    prompts: Sequence[Ids],
    *,
    batch: int = 32,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """What the model writes for each row under its grammar, greedily; the arguments are those of :func:`judge`."""
    texts = [""] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: (len(prompts[i]), i))
    resident: Any = _Model(model, next(model.parameters()).device)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        writing = [_writing(vocabulary, stage, rows[i], prompts[i], i) for i in chosen]
        for row in writing:
            row.start()
        run = Batch(resident, writing)
        run.drop()
        while run.rows:
            run.step()
            run.drop()
        for row in writing:
            texts[row.index] = row.generation().text
        told(min(start + batch, len(order)), len(order))
    return texts


def _writing(
    vocabulary: Vocabulary,
    stage: Stage[Any, Any],
    row: Row,
    prompt: Ids,
    index: int,
) -> Writing:
    return Writing(
        prompt=Encoded(prompt),
        index=index,
        max_tokens=stage.max_tokens,
        sampling=Sampling(),
        seed=0,
        ends=frozenset(vocabulary.ends),
        grammar=vocabulary.grammar(row.schema.text),
        writer=vocabulary.writer(),
        emit=lambda text: None,
        stopped=lambda: False,
        submitted=time.monotonic(),
    )


__all__ = ["decode", "judge"]

"""Pairs from a stage's own answers: several are drawn for each row, those that are right stand against those wrong.

As A. Mitra and others do it in rounds, Orca-Math: Unlocking the potential of SLMs in Grade School Math (2024, arXiv
2402.14830): where none of a row's own answers is right, the row's gold answer stands against the wrong ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ...adapter import inspect
from ...backends.protocol import ModelRef, Request
from ...backends.torch.backend import TorchBackend
from ...backends.torch.vocabulary import Vocabulary
from ...checkpoints import ResolvedCheckpoint
from ...engine.asking import answer, request_of
from ...engine.loop import LoopThread
from ...errors import UsageError
from ...schema import canonical, loads, parse
from ...settings import TorchSettings
from ...stage import Stage
from ..encoding import encode_rows
from ..pairs import Pair
from ..progress import silent
from ..rows import Problems, Row

Accepts = Callable[[Row, BaseModel], bool]


def equals_gold(row: Row, answer: BaseModel) -> bool:
    """Whether an answer is the row's own, in all fields."""
    return canonical(answer) == row.target


def sample_pairs(
    stage: Stage[Any, Any],
    rows: Sequence[Row],
    checkpoint: ResolvedCheckpoint,
    adapter: Path | None,
    *,
    samples: int = 8,
    most: int = 1,
    temperature: float = 1.0,
    seed: int = 0,
    accepts: Accepts = equals_gold,
    settings: TorchSettings | None = None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> list[Pair]:
    """Draw answers under the stage's grammar and pair right ones with wrong ones.

    Args:
        adapter: of the stage as it is now; None for the bare base.
        samples: answers a row.
        most: pairs a row gives at most, each with another wrong answer.
        accepts: whether an answer to a row is right.
        told: called with the number of answers done and the number of all.

    Returns:
        Pairs of different answers; rows whose answers are all right give none. An answer that breaks a validator is
        wrong; one that is no JSON, for it was too long, is left aside.

    Raises:
        UsageError: greedy sampling, which would draw one answer again and again.
        TrainError: a row does not fit the stage.
        AdapterError: the adapter is not whole, or does not fit the base.
        BackendError: a model could not be run.
    """
    if temperature <= 0:
        raise UsageError(
            "greedy answers of a row are all the same",
            where="sample_pairs",
            found=f"temperature {temperature}",
            hint="draw with a temperature above 0, such as 1",
        )
    problems = Problems()
    encode_rows(rows, stage, Vocabulary(checkpoint.path), Path("rows"), problems, silent)
    problems.refuse(where="the rows to sample from")
    info = None if adapter is None else inspect(adapter)
    model = ModelRef(
        checkpoint.name,
        checkpoint.path,
        adapter=None if info is None else info.path,
        adapter_sha256=None if info is None else info.sha256,
        stage=stage.name,
    )
    decoding = replace(stage.decoding, temperature=temperature)
    requests: list[Request] = []
    for row in rows:
        prompt = stage.render(row.input)
        for n in range(len(requests), len(requests) + samples):
            requests.append(request_of(stage, prompt, row.schema, model, decoding=decoding, id=str(n), seed=seed + n))
    texts = _run(_answers(requests, settings or TorchSettings(), told))
    found: list[Pair] = []
    for place, row in enumerate(rows):
        found += _paired(row, stage, texts[place * samples : (place + 1) * samples], accepts, most)
    return found


async def _answers(requests: Sequence[Request], settings: TorchSettings, told: Callable[[int, int], None]) -> list[str]:
    """What is written for each request, by the executor that serves; many are in flight at once."""
    backend, done = TorchBackend(settings), 0
    places = asyncio.Semaphore(2 * settings.max_batch)

    async def one(request: Request) -> str:
        nonlocal done
        async with places:
            text = (await answer(backend, request, where=f"stage {request.model.stage}")).text
        done += 1
        told(done, len(requests))
        return text

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(request)) for request in requests]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    finally:
        await backend.aclose()
    return [task.result() for task in tasks]


def _run(work: Coroutine[Any, Any, list[str]]) -> list[str]:
    """Run a coroutine to its end, also where an event loop runs already, as in a notebook; Ctrl-C ends it."""
    loop = LoopThread("fslm-pairs")
    try:
        return loop.submit(work).result()
    finally:
        loop.close()


def _paired(row: Row, stage: Stage[Any, Any], texts: Sequence[str], accepts: Accepts, most: int) -> list[Pair]:
    right: dict[str, BaseModel] = {}
    wrong: list[str] = []
    for text in dict.fromkeys(texts):
        parsed = parse(text, stage.output, row.schema)
        if isinstance(parsed, list):
            if _is_json(text):
                wrong.append(text)
        elif accepts(row, parsed):
            right[canonical(parsed)] = parsed
        else:
            wrong.append(canonical(parsed))
    better = list(right.items()) or [(row.target, row.output)]
    made = []
    for number, rejected in enumerate(wrong[:most]):
        target, output = better[number % len(better)]
        if rejected != target:
            made.append(Pair(replace(row, target=target, output=output), rejected))
    return made


def _is_json(text: str) -> bool:
    try:
        loads(text)
    except (ValueError, RecursionError):
        return False
    return True


__all__ = ["Accepts", "equals_gold", "sample_pairs"]

"""What a step and its candidate have in common: how a model is asked, and how what it wrote is judged."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

from pydantic import BaseModel

from ..backends.protocol import Backend, Generation, ModelRef, Request, Sampling
from ..errors import BackendError
from ..message import Attempt, Problem, TokenTrace, Usage
from ..plugins import PluginHost
from ..prompt import Prompt
from ..schema import Schema, field_spans, parse
from ..stage import Decoding, Stage


def request_of(
    stage: Stage[Any, Any],
    prompt: Prompt,
    schema: Schema,
    model: ModelRef,
    *,
    decoding: Decoding | None = None,
    **more: Any,
) -> Request:
    """A request for one attempt at a stage's message.

    Args:
        decoding: in place of the stage's own.
        more: what a request says besides: ``id``, ``seed``, ``deadline``, ``priority``, ``group``, ``run``.
    """
    decoding = decoding or stage.decoding
    return Request(
        prompt=prompt,
        model=model,
        grammar=schema.text,
        max_tokens=decoding.max_tokens or stage.schema.max_bytes,
        sampling=Sampling(decoding.temperature, decoding.top_p, decoding.top_k),
        on_overflow=decoding.on_overflow,
        **more,
    )


async def answer(
    backend: Backend, request: Request, where: str, written: Callable[[str], Awaitable[None]] | None = None
) -> Generation:
    """Ask, and wait for the whole answer.

    Args:
        where: the place that errors name.
        written: awaited with each piece of text as it comes.

    Raises:
        BackendError: the backend failed, or ended without an answer.
        DeadlineExceeded: the request's deadline passed.
    """
    try:
        async with aclosing(backend.open(request)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                if isinstance(piece, Generation):
                    return piece
                if written is not None:
                    await written(piece.text)
    except BackendError as error:
        raise error.at(where) from error.__cause__
    raise BackendError(
        "the backend ended without an output",
        where=where,
        found=backend.name,
        expected="a Generation at the end of its stream",
        hint="report it to the backend's author",
    )


def judge(
    host: PluginHost, stage: Stage[Any, Any], input: BaseModel, schema: Schema, made: Generation, index: int
) -> tuple[Any, Attempt]:
    """Parse and check what was written.

    Args:
        input: what the stage was given.
        index: of the attempt.

    Returns:
        The message's content, or None where there is no valid one; and the attempt, without its prompt.
    """
    content: Any = None
    if made.finish_reason == "length":
        told = f"the output was cut at {stage.max_tokens} tokens; raise Decoding(max_tokens=…) of {stage.name}"
        problems = [Problem("length", told)]
    else:
        parsed = parse(made.text, stage.output, schema)
        problems = parsed if isinstance(parsed, list) else host.check_message(stage, parsed, input)
        content = None if problems else parsed
    usage = Usage(
        made.counts.prompt,
        made.counts.cached,
        made.counts.output,
        made.counts.forced,
        made.counts.forwards,
        made.times.queued,
        made.times.prefill,
        made.times.decode,
    )
    tokens = TokenTrace(made.tokens, made.texts, made.logprobs, made.forced) if made.tokens else None
    cut, ended, runners = made.truncated, made.finish_reason, _runners_up(made)
    return content, Attempt(index, None, made.text, tuple(problems), usage, tokens, cut, ended, runners)


def _runners_up(made: Generation) -> tuple[tuple[str, float] | None, ...]:
    """Text and log-probability of each second likeliest token; empty where the backend does not tell."""
    return tuple(
        None if runner is None or text is None else (text, runner[1])
        for text, runner in zip(made.runner_texts, made.runners_up, strict=False)
    )


def confidence_of(made: Generation) -> dict[str, float] | None:
    """Per top-level field, the product over its decided tokens of their probability among those the grammar allowed."""
    if made.logprobs is None:
        return None
    spans = field_spans(made.text)
    totals = dict.fromkeys(spans, 0.0)
    place = 0
    for text, logprob, forced in zip(made.texts, made.logprobs, made.forced, strict=True):
        start, place = place, place + len(text)
        if not forced:
            for name, (low, high) in spans.items():
                if start < high and place > low:
                    totals[name] += logprob
                    break
    return {name: math.exp(total) for name, total in totals.items()} or None


__all__ = ["answer", "confidence_of", "judge", "request_of"]

"""How likely the model of a step is to write given texts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from ..backends.protocol import Backend, Chunk, Request
from ..errors import BackendError, CapabilityError, UnknownNameError, UsageError
from ..prompt import Prompt
from ..stack import places
from ..stage import Decoding, Stage
from .asking import request_of
from .run import new_run_id
from .walk import Prepared


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely a text is.

    Attributes:
        logprob: the natural logarithm of the probability of all its tokens, one after the other; what ends an answer
            is not among them.
        greedy: whether the model, left to itself, begins with just this text; None where nobody asked.
    """

    logprob: float
    greedy: bool | None = None


async def likelihoods(
    backend: Backend, prepared: Prepared, step: str, prompt: Prompt, texts: Sequence[str], *, greedy: bool
) -> tuple[Likelihood, ...]:
    """See :meth:`fslm_core.engine.Engine.score`."""
    where = f"stack {prepared.stack.name}, step {step}"
    stage = _stage(prepared, step, where)
    if not backend.capabilities.score:
        raise CapabilityError(
            f"the {backend.name} backend cannot score", where=where, hint="use the torch backend for this stage"
        )
    if not texts:
        return ()
    request = replace(
        request_of(stage, prompt, stage.schema, prepared.refs[step], decoding=Decoding(), id=new_run_id()),
        grammar=None,
        max_tokens=max(1, *(len(text.encode()) for text in texts)),  # a token is a byte or more
    )
    try:
        found = await backend.score(request, texts)
        begun = await _begins_with(backend, request, texts) if greedy else (None,) * len(texts)
    except BackendError as error:
        raise error.at(where) from error.__cause__
    return tuple(map(Likelihood, found, begun))


def _stage(prepared: Prepared, step: str, where: str) -> Stage[Any, Any]:
    nodes = {path: inner.node for path, inner in places(prepared.stack)}
    if step not in nodes:
        raise UnknownNameError.of("step", step, nodes, where=f"stack {prepared.stack.name}", hint="see `fslm check`")
    node = nodes[step]
    if not isinstance(node, Stage) or node.tool is not None:
        raise UsageError(
            "only what a model writes has a likelihood",
            where=where,
            found=f"a {node.kind}" if not isinstance(node, Stage) else "a tool",
            expected="a stage with a model",
            hint="name another step",
        )
    return node


async def _begins_with(backend: Backend, request: Request, texts: Sequence[str]) -> tuple[bool, ...]:
    """Which of the texts the model's own, greedy answer begins with; it is stopped as soon as that is known."""
    written = ""
    async with aclosing(backend.open(request)) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            if isinstance(piece, Chunk):
                written += piece.text
                if not any(text.startswith(written) and text != written for text in texts):
                    break
    return tuple(written.startswith(text) for text in texts)


__all__ = ["Likelihood", "likelihoods"]

"""Does an engine keep its adapters apart? A→B→A must equal A by itself.

A prefix cache that is not keyed by the adapter answers A's prompt from what B made of it. So the same token ids are put
to two adapters in turn, and every answer is compared with what the same adapter gives by itself, with empty caches and
asked once more:

    reset:  A → a0,  B → b1,  A → a1          a1 and a2 must be among a0 and a3
    reset:  B → b0,  A → a2,  B → b2          b1 and b2 must be among b0 and b3
    reset:  A,       A → a3
    reset:  B,       B → b3

for every stage A and its successor B in the stack's order, with A's own prompts. It is done under A's own grammar,
where A's trained answers have wide margins, and under a grammar of free text, for which no adapter was trained: there a
leak shows in nearly every text, while rounding may change one now and then. B's answers to A's prompts count as free
text.

An engine that has kept a prompt computes less of it the second time, in parts of other sizes, and rounds otherwise: in
few bits that may choose another token. What an adapter says without the other one being there is no leak.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import BaseModel, Field

from fslm_core.backends.protocol import ModelRef, Request
from fslm_core.schema import normalise

OWN_ALLOWED = 0.1
"""The share of answers under the stage's grammar that may differ."""
FREE_ALLOWED = 0.5
"""The share of free texts that may differ."""
FREE_TOKENS = 32

Ask = Callable[[Request], Awaitable[str]]


class Anything(BaseModel):
    """Free text."""

    text: Annotated[str, Field(max_length=24)]


@dataclass(frozen=True)
class Isolation:
    """What was found.

    Attributes:
        compared: answers under the stage's grammar, and free texts, that were held against cold ones.
        differing: how many of each were others.
        sensitive: how many of the free texts differ between two adapters: where it is 0 the check says nothing.
    """

    compared: tuple[int, int]
    differing: tuple[int, int]
    sensitive: int

    @property
    def verdict(self) -> str:
        """``held``, ``fails``, or ``unknown`` where nothing could be compared.

        >>> [Isolation((9, 9), differing, sensitive=3).verdict for differing in ((0, 1), (2, 1))]
        ['held', 'fails']
        """
        if not self.compared[0] or not self.sensitive:
            return "unknown"
        own, free = (bad / all_ for bad, all_ in zip(self.differing, self.compared, strict=True))
        return "fails" if own > OWN_ALLOWED or free > FREE_ALLOWED else "held"


async def check(ask: Ask, reset: Callable[[], Awaitable[None]], requests: Mapping[str, Sequence[Request]]) -> Isolation:
    """Put the requests of each stage to its own adapter and to the next stage's, in the order that the module tells.

    Args:
        ask: gives the text of one request, asked alone.
        reset: empties every cache.
        requests: some real ones by stage, in the stack's order; no prompt twice.
    """
    stages = [name for name, own in requests.items() if own]
    if len(stages) < 2:
        return Isolation((0, 0), (0, 0), 0)
    neutral = normalise(Anything).text
    cases = []
    for name, after in zip(stages, [*stages[1:], stages[0]], strict=True):
        other = requests[after][0].model
        for request in requests[name]:
            free = replace(request, id=f"{request.id}/free", grammar=neutral, max_tokens=FREE_TOKENS)
            cases += [(request, other, False), (free, other, True)]

    first = await _turns(ask, reset, [(request, (request.model, other, request.model)) for request, other, _ in cases])
    second = await _turns(ask, reset, [(request, (other, request.model, other)) for request, other, _ in cases])
    twice_a = await _turns(ask, reset, [(request, (request.model, request.model)) for request, _, _ in cases])
    twice_b = await _turns(ask, reset, [(request, (other, other)) for request, other, _ in cases])
    own, free, bad_own, bad_free, sensitive = 0, 0, 0, 0, 0
    turns = zip(cases, first, second, twice_a, twice_b, strict=True)
    for (_, _, is_free), (a0, b1, a1), (b0, a2, b2), (_, a3), (_, b3) in turns:
        bad_a = (a1 not in (a0, a3)) + (a2 not in (a0, a3))
        bad_b = (b1 not in (b0, b3)) + (b2 not in (b0, b3))
        free, bad_free = free + 2, bad_free + bad_b
        if is_free:
            free, bad_free, sensitive = free + 2, bad_free + bad_a, sensitive + (a0 != b0)
        else:
            own, bad_own = own + 2, bad_own + bad_a
    return Isolation((own, free), (bad_own, bad_free), sensitive)


async def _turns(
    ask: Ask, reset: Callable[[], Awaitable[None]], cases: Sequence[tuple[Request, Sequence[ModelRef]]]
) -> list[list[str]]:
    await reset()
    return [[await ask(replace(request, model=model)) for model in models] for request, models in cases]


__all__ = ["Ask", "Isolation", "check"]

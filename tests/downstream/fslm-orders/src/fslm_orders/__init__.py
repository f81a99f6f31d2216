"""Why does somebody write about an order, and about which?"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from fslm_core import SLM, Problem, Scored, Stack, Stage, Step, files, hookimpl, tool

from .messages import About, Case, Found, Letter, Why

here = files(__name__)
_ORDER = re.compile(r"\b[A-Z]{2}-[0-9]{4}\b")


@tool("orders.number", version="1", pure=True)
def number(letter: Letter) -> Scored[Found]:
    """Find the order's number; of several, the first, with less confidence."""
    found = _ORDER.findall(letter.text)
    return Scored(Found(order=found[0] if found else None), {"order": 1 / max(len(found), 1)})


reason = Stage(
    "orders.reason",
    input=About,
    output=Why,
    prompt=here / "reason/prompt.jinja",
    model=SLM(base="smollm2-135m"),
    description="Why the customer writes, and the words that say so.",
)
orders = Stack(
    "orders",
    input=Letter,
    output=Case,
    steps=[number, Step(reason, bind={"text": "input.text", "order": "number.order"}, when="number.order is not none")],
    description="The order a letter is about, and why it was written.",
)


@hookimpl
def fslm_stages() -> list[Stage[Any, Any]]:
    return [number, reason]


@hookimpl
def fslm_stacks() -> list[Stack[Any, Any]]:
    return [orders]


@hookimpl
def fslm_check_message(message: BaseModel, input: BaseModel) -> Iterable[Problem]:
    if isinstance(message, Why) and isinstance(input, About) and message.quote not in input.text:
        yield Problem("refused", "the quotation is not in the letter", "quote")

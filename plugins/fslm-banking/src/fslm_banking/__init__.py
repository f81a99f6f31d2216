"""Which of fifteen banking matters is a customer's question about?"""

from __future__ import annotations

from typing import Any

from fslm_core import SLM, Stack, Stage, files, hookimpl

from .messages import BankingInput, Topic

here = files(__name__)

topic = Stage(
    "banking.topic",
    input=BankingInput,
    output=Topic,
    prompt=here / "topic/prompt.jinja",
    model=SLM(base="smollm2-135m", adapter=here / "topic/adapter"),
    description="Which of fifteen banking matters a question is about.",
)

stack = Stack(
    "banking",
    input=BankingInput,
    output=Topic,
    steps=[topic],
    description="Which of fifteen banking matters a question is about.",
)


@hookimpl
def fslm_stages() -> list[Stage[Any, Any]]:
    return [topic]


@hookimpl
def fslm_stacks() -> list[Stack[Any, Any]]:
    return [stack]

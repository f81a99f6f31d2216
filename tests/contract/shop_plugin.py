"""A plugin that provokes errors, each by an ordinary mistake: the one that the pinned error texts are made with."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from fslm_core import SLM, Cascade, Problem, Scored, Stack, Stage, hookimpl, tool
from fslm_core.backends.protocol import Capabilities, Chunk, Generation, ModelRef, Request


class Enquiry(BaseModel):
    """What a customer wrote."""

    text: str = Field(max_length=2_000)


class Said(BaseModel):
    """What is said to a customer."""

    said: str = Field(max_length=2_000)


class Order(BaseModel):
    """What was ordered."""

    number: str = Field(max_length=20)
    count: int


class Topic(BaseModel):
    """What it is about."""

    topic: Literal["ORDER", "REFUND"]


@tool("shop.loud", version="1", pure=True)
async def loud(message: Enquiry) -> Said:
    """Say it loud; "empty" is refused, "wait" never ends."""
    if message.text == "empty":
        raise ValueError("there is nothing on the shelf")
    if message.text == "memory":
        raise MemoryError
    if message.text == "deep":
        return await loud.tool.function(message)  # type: ignore[no-any-return, union-attr, misc]
    if message.text == "exit":
        raise SystemExit(3)
    if message.text == "wait":
        await asyncio.Event().wait()
    if message.text == "wrong":
        return Order(number="7", count=1)  # type: ignore[return-value]
    if message.text == "forgotten":
        asyncio.get_running_loop().create_task(_fails())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    if message.text == "killed":
        raise KeyboardInterrupt
    return Said(said=message.text.upper())


async def _fails() -> None:
    raise ValueError("nobody waited for this")


@tool("shop.slow", version="1", timeout=0.2)
def slow(message: Enquiry) -> Said:
    """Take longer than it may."""
    time.sleep(60)
    return Said(said=message.text)


@tool("shop.take", version="1", pure=True)
def take(message: Order) -> Order:
    """Take an order."""
    return message


@tool("shop.guess", version="1")
def guess(message: Enquiry) -> Scored[Topic]:
    """Guess what it is about, and say how sure that is."""
    return Scored(Topic(topic="REFUND"), {"topic": 0.4})


topic = Stage(
    "shop.topic",
    input=Enquiry,
    output=Topic,
    prompt="{% block user %}Topic of: {{ text }}{% endblock %}",
    model=SLM("smollm2-135m", tuned=True),
)
lost = Stage("shop.lost", input=Order, output=Topic, prompt="{{ colour }}", model=SLM("smollm2-135m", tuned=True))


class PlayBackend:
    """Does with every request what the text says."""

    name = "shop.play"
    capabilities = Capabilities(weights=False)

    async def warm(self, models: Sequence[ModelRef]) -> list[str]:
        """There is nothing to load."""
        return [""] * len(models)

    async def open(self, request: Request) -> AsyncIterator[Chunk | Generation]:
        """Answer nonsense, nothing, or with an error that nobody foresaw."""
        said = request.prompt.text("user") or ""
        if "trips" in said:
            raise LookupError("a fault of this backend")
        if "silent" not in said:
            yield Generation('{"topic":"REFUND"}' if "refund" in said else '{"topic":"WEATHER"}')

    async def score(self, request: Request, continuations: Sequence[str]) -> tuple[float, ...]:
        """Nothing here scores."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """There is nothing to give back."""


def audit() -> None:
    """Fail, as code does."""
    raise LookupError("no such ledger")


def leave(how: str) -> None:
    """End in an unusual way."""
    if how == "text":
        raise SystemExit("the ledger is closed")
    if how == "number":
        raise SystemExit(7)
    if how == "base":
        raise BaseException("not even an Exception")
    if how == "memory":
        raise MemoryError
    if how == "deep":
        leave(how)
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "thread":
        import threading

        thread = threading.Thread(target=audit)
        thread.start()
        thread.join()
    if how == "finaliser":
        _Sulking()
    if how == "warning":
        import warnings

        warnings.warn("this will go away", FutureWarning, stacklevel=1)
    if how == "log":
        import logging

        try:
            audit()
        except LookupError:
            logging.getLogger("ledger").exception("the ledger failed")
    if how == "cwd":
        gone = Path.cwd() / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()
        Path.cwd()


class _Sulking:
    def __del__(self) -> None:
        raise ValueError("not while I am tidied up")


@hookimpl
def fslm_stages() -> list[Stage[BaseModel, BaseModel]]:
    return [loud, slow, take, guess, topic, lost]  # type: ignore[list-item]


@hookimpl
def fslm_stacks() -> list[Stack[BaseModel, BaseModel]]:
    bind = {name: f"take.{name}" for name in Order.model_fields}
    sure: Cascade[Enquiry, Topic] = Cascade("shop.sure", [guess], abstain_below={"topic": 0.8})
    return [
        Stack("shop", input=Enquiry, output=Said, steps=[loud]),  # type: ignore[list-item]
        Stack("shop.slow", input=Enquiry, output=Said, steps=[slow]),  # type: ignore[list-item]
        Stack("shop.order", input=Order, output=Order, steps=[take], bind=bind),  # type: ignore[list-item]
        Stack("shop.topic", input=Enquiry, output=Topic, steps=[topic]),  # type: ignore[list-item]
        Stack("shop.asks", input=Enquiry, output=Topic, steps=[sure]),  # type: ignore[list-item]
        Stack("shop.lost", input=Enquiry, output=Topic, steps=[lost]),  # type: ignore[list-item]
    ]


@hookimpl
def fslm_check_message(message: BaseModel) -> list[Problem]:
    if isinstance(message, Said) and message.said == "RUDE":
        return [Problem("rule", "it is rude", "said")]
    if isinstance(message, Said) and message.said == "HOOK":
        raise ValueError("the check itself failed")
    return []


@hookimpl
def fslm_backends() -> dict[str, object]:
    return {"shop.play": lambda settings: PlayBackend()}


@hookimpl
def fslm_commands() -> dict[str, object]:
    return {"audit": audit, "leave": leave}

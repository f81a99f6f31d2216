"""A plugin for the tests of the command line: stacks that shout, label, order and fail, a backend, and two verbs."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Literal

import typer
from pydantic import BaseModel, Field

from fslm_core import SLM, Stack, Stage, hookimpl, tool
from fslm_core.backends.protocol import Capabilities, Chunk, Generation, ModelRef, Request


class Said(BaseModel):
    text: str = Field(max_length=2_000_000)


class Shout(BaseModel):
    shout: str = Field(max_length=2_000_000)


class Order(BaseModel):
    number: str = Field(max_length=20)
    count: int
    note: str = Field("", max_length=20)


class Call(BaseModel):
    text: str = Field(max_length=200, json_schema_extra={"sensitive": False})
    phone: str = Field(max_length=40, json_schema_extra={"sensitive": True})


class Label(BaseModel):
    label: Literal["good", "bad"]


@tool("demo.shout", version="1", pure=True)
async def shout(message: Said) -> Shout:
    """Say it loud; fail at "boom", and never end at "wait"."""
    if message.text == "boom":
        raise ValueError("too loud \x1b[31m[bold]")
    if message.text == "wait":
        print("waiting", file=sys.stderr, flush=True)
        await asyncio.Event().wait()
    return Shout(shout=message.text.upper())


@tool("demo.take", version="1", pure=True)
def take(message: Order) -> Order:
    """Take an order."""
    return message


@tool("demo.call", version="1", pure=True)
def call(message: Call) -> Call:
    """Take a call; fail at "boom", quoting the number."""
    if message.text == "boom":
        raise ValueError(f"nobody at {message.phone}")
    return message


label = Stage(
    "demo.label", input=Said, output=Label, prompt="Text: {{ text }}", model=SLM(base="smollm2-135m", tuned=True)
)
bare = Stage("demo.bare", input=Said, output=Label, prompt="Text: {{ text }}", model=SLM(base="smollm2-135m"))
lost = Stage("demo.lost", input=Order, output=Label, prompt="{{ nothing }}", model=SLM(base="smollm2-135m"))


class RuleBackend:
    """Labels a text by whether it says "good", each token of the answer with probability 0.5."""

    name = "demo.rule"
    capabilities = Capabilities(weights=False)

    async def warm(self, models: Sequence[ModelRef]) -> list[str]:
        """There is nothing to load."""
        return [""] * len(models)

    async def open(self, request: Request) -> AsyncIterator[Chunk | Generation]:
        """Answer by the last turn."""
        value = "good" if "good" in (request.prompt.text("user") or "") else "bad"
        texts = ('{"label":"', value, '"}')
        text = "".join(texts)
        yield Chunk(text)
        yield Generation(
            text,
            tokens=(1, 2, 3),
            texts=texts,
            logprobs=(0.0, -0.6931471805599453, 0.0),
            runners_up=(None, None, None),
            forced=(True, False, True),
        )

    async def score(self, request: Request, continuations: Sequence[str]) -> tuple[float, ...]:
        """Nothing here scores."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """There is nothing to give back."""


class StuckBackend(RuleBackend):
    """Loads its models for ever, on a thread, as weights are loaded."""

    name = "demo.stuck"

    async def warm(self, models: Sequence[ModelRef]) -> list[str]:
        """Never come back."""
        print("loading", file=sys.stderr, flush=True)
        await asyncio.to_thread(threading.Event().wait)
        return []


def greet(name: str, loud: bool = False) -> None:
    """Greet someone."""
    typer.echo(f"hello {name.upper() if loud else name}")


def run() -> None:
    """Try to stand in for fslm's own verb."""
    typer.echo("shadowed")


@hookimpl
def fslm_stages() -> list[object]:
    return [shout, take, call, label, bare, lost]


@hookimpl
def fslm_stacks() -> list[object]:
    return [
        Stack("demo", input=Said, output=Shout, steps=[shout]),
        Stack("demo.order", input=Order, output=Order, steps=[take], bind={n: f"take.{n}" for n in Order.model_fields}),
        Stack("demo.call", input=Call, output=Call, steps=[call], bind={n: f"call.{n}" for n in Call.model_fields}),
        Stack("demo.label", input=Said, output=Label, steps=[label]),
        Stack("demo.bare", input=Said, output=Label, steps=[bare]),
        Stack("demo.lost", input=Said, output=Label, steps=[lost]),
    ]


@hookimpl
def fslm_backends() -> dict[str, object]:
    return {"demo.rule": lambda settings: RuleBackend(), "demo.stuck": lambda settings: StuckBackend()}


@hookimpl
def fslm_commands() -> dict[str, object]:
    return {"greet": greet, "run": run}

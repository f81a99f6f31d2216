"""A plugin for the tests of sessions: a stack that remembers what was said, and one that does not."""

from __future__ import annotations

import asyncio
import sys

from pydantic import BaseModel, Field

from fslm_core import Stack, Step, hookimpl, tool


class Said(BaseModel):
    text: str = Field(max_length=1000)
    mood: str = Field("calm", max_length=20)


class Dialogue(BaseModel):
    turns: list[str] = Field([], max_length=100)


class Reply(BaseModel):
    reply: str = Field(max_length=2000)


class Heard(BaseModel):
    text: str = Field(max_length=1000)
    mood: str = Field(max_length=20)
    turns: list[str] = Field(max_length=100)


class Remembered(BaseModel):
    turns: list[str] = Field(max_length=100)


class Secret(BaseModel):
    text: str = Field(max_length=1000, json_schema_extra={"sensitive": True})


@tool("talk.answer", version="1")
async def answer(heard: Heard) -> Reply:
    """Count the turns; fail at "boom", and never end at "wait"."""
    if heard.text == "boom":
        raise ValueError("too loud \x1b[31m[bold]")
    if heard.text == "wait":
        print("waiting", file=sys.stderr, flush=True)
        await asyncio.Event().wait()
    return Reply(reply=f"{len(heard.turns)} before {heard.text} ({heard.mood})")


@tool("talk.remember", version="1")
def remember(heard: Heard) -> Remembered:
    """Add what was said."""
    return Remembered(turns=[*heard.turns, heard.text])


@tool("talk.plain", version="1")
def plain(said: Said) -> Reply:
    """Say it again."""
    return Reply(reply=said.text)


@tool("talk.hush", version="1")
def hush(said: Secret) -> Reply:
    """Keep it to oneself."""
    return Reply(reply=f"I know of {said.text}")


@hookimpl
def fslm_stages() -> list[object]:
    return [answer, remember, plain, hush]


@hookimpl
def fslm_stacks() -> list[object]:
    return [
        Stack(
            "talk",
            input=Said,
            output=Reply,
            steps=[Step(answer), Step(remember)],
            session=Dialogue,
            writes="remember",
        ),
        Stack("talk.plain", input=Said, output=Reply, steps=[plain]),
        Stack("talk.hush", input=Secret, output=Reply, steps=[hush]),
    ]

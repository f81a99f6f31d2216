"""What the tests of sessions talk with: a stack that remembers what was said, and an engine for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fslm_core import Engine, PluginHost, Scored, Settings, Stack, tool
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.store import SavedSession, Sessions


class Said(BaseModel):
    text: str


class Dialogue(BaseModel):
    turns: list[str] = []
    topic: str = "none"


class Heard(BaseModel):
    text: str
    turns: list[str]


class Reply(BaseModel):
    reply: str


class Remembered(BaseModel):
    turns: list[str]


@tool("talk.answer", version="1")
async def answer(heard: Heard) -> Reply:
    if heard.text == "boom":
        raise ValueError("no")
    if heard.text.startswith("wait"):
        HELD.begun.set()
        await HELD.go.wait()
    return Reply(reply=f"{len(heard.turns)}: {heard.text}")


@tool("talk.remember", version="1")
def remember(heard: Heard) -> Remembered:
    return Remembered(turns=[*heard.turns, heard.text])


class Seen(BaseModel):
    text: str
    so_far: list[str]


class Numbers(BaseModel):
    turns: list[int]


class Wrong(BaseModel):
    turns: str


class Out(BaseModel):
    reply: str
    topic: str


@tool("talk.look", version="1")
def look(seen: Seen) -> Remembered:
    return Remembered(turns=[*seen.so_far, seen.text])


@tool("talk.wrong", version="1")
def wrong(said: Said) -> Wrong:
    return Wrong(turns=said.text)


@tool("talk.number", version="1")
def number(said: Said) -> Numbers:
    return Numbers(turns=[1])


@tool("talk.hello", version="1")
def hello(said: Said) -> Reply:
    return Reply(reply=said.text)


@tool("talk.doubt", version="1")
def doubt(heard: Heard) -> Scored[Reply]:
    return Scored(Reply(reply="perhaps"), confidence={"reply": 0.1})


class Held:
    """Where a turn waits until a test lets it go. Its event belongs to the loop that first waits for it."""

    begun: threading.Event
    go: asyncio.Event


HELD = Held()


def stack_of(**more: Any) -> Stack[Any, Any]:
    given = {"steps": [answer, remember], "session": Dialogue, "writes": "remember", **more}
    return Stack("talk", input=Said, output=Reply, **given)


talk = stack_of()


def engine_of(settings: Settings, **more: Any) -> Engine:
    host = PluginHost(settings, plugins={}, installed=False)
    return Engine(settings=settings, host=host, **{"backend": ScriptedBackend(), "content": "full", **more})


@contextmanager
def open_sessions(folder: Path, **more: Any) -> Iterator[Sessions]:
    with Sessions.open(folder / "sessions.db", **more) as store:
        yield store


def put(
    store: Sessions, id: str, read: SavedSession | None, state: str = '{"n":1}', *, stack: str = "talk", run: str = "r"
) -> SavedSession:
    return store.put(id, state, stack=stack, schema_id="s", run=run, read=read)

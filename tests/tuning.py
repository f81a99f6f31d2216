"""A two-step stack on a tiny random model, its rows and its recipe: what the tests of tuning work with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from fslm_core.backends.protocol import Request
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.hooks import hookimpl
from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings, load
from fslm_core.stack import Stack
from fslm_core.stage import SLM, Stage
from fslm_core.tune import TuneResult, plan_stack, tune_stack

TOPICS = {"chair": "GOODS", "table": "GOODS", "refund": "MONEY", "invoice": "MONEY"}
ANSWERS = {"GOODS": "ship", "MONEY": "pay"}


class Note(BaseModel):
    """What someone wrote."""

    text: str = Field(max_length=80)


class Topic(BaseModel):
    """What it is about."""

    topic: Literal["GOODS", "MONEY"] = Field(description="What the note is about")


class Given(BaseModel):
    """What the second step is given."""

    text: str
    topic: Literal["GOODS", "MONEY"]


class Reply(BaseModel):
    """What to do."""

    action: Literal["ship", "pay"]


class Demo:
    """A plugin with a stack of two steps, and a backend that answers as ``teacher`` says."""

    def __init__(self, base: Path, teacher: Mapping[str, Callable[[Request], str] | str] | None = None) -> None:
        self.answers = dict(teacher or {})
        topic: Stage[Note, Topic] = Stage(
            "demo.topic", input=Note, output=Topic, prompt="Topic of: {{ text }}", model=SLM(base=str(base))
        )
        reply: Stage[Given, Reply] = Stage(
            "demo.reply", input=Given, output=Reply, prompt="{{ topic }}: {{ text }}", model=SLM(base=str(base))
        )
        self.stack = Stack("demo", input=Note, output=Reply, steps=[topic, reply])

    @hookimpl
    def fslm_stages(self) -> list[Stage[Any, Any]]:
        """Its stages."""
        return [step.stage for step in self.stack.steps]

    @hookimpl
    def fslm_stacks(self) -> list[Stack[Any, Any]]:
        """Its stack."""
        return [self.stack]

    @hookimpl
    def fslm_backends(self) -> Mapping[str, Callable[[Settings], Any]]:
        """One that answers, and one that never does."""
        return {
            "demo.teacher": lambda settings: ScriptedBackend(self.answers),
            "demo.stuck": lambda settings: ScriptedBackend(self.answers, gate=asyncio.Event()),
        }


class Reason(BaseModel):
    """Why."""

    reason: Literal["stock", "cash"]


class Reasoned(BaseModel):
    """What the last of three steps is given."""

    text: str
    reason: Literal["stock", "cash"]


class Deep(Demo):
    """The same with a step between the two."""

    def __init__(self, base: Path, teacher: Mapping[str, Callable[[Request], str] | str] | None = None) -> None:
        super().__init__(base, teacher)
        topic = self.stack.steps[0].stage
        model = SLM(base=str(base))
        reason: Stage[Given, Reason] = Stage(
            "demo.reason", input=Given, output=Reason, prompt="{{ topic }}: {{ text }}", model=model
        )
        reply: Stage[Reasoned, Reply] = Stage(
            "demo.reply", input=Reasoned, output=Reply, prompt="{{ reason }}: {{ text }}", model=model
        )
        self.stack = Stack("demo", input=Note, output=Reply, steps=[topic, reason, reply])


RECIPE = """
seed = 3
[data]
train = "rows.jsonl"
dev_fraction = 0.25
select_fraction = 0.2
near = 1.0
[train]
epochs = 1
[train.lora]
rank = 2
layers = 1
[train.optim]
lr = 5e-3
batch_rows = 8
"""
TEACHER = """
[teacher]
backend = "demo.teacher"
model = "teacher-of-the-test"
concurrency = 2
"""


def rows(count: int = 48, *, topics: bool = True) -> list[dict[str, Any]]:
    """Half are about goods, half about money; with or without what the first step should say."""
    made = []
    for i in range(count):
        word = list(TOPICS)[i % 4]
        topic = TOPICS[word]
        row: dict[str, Any] = {"input": {"text": f"{word} {'xyz'[i % 3]}{i}"}, "output": {"action": ANSWERS[topic]}}
        if topics:
            row["steps"] = {"topic": {"topic": topic}}
        made.append(row)
    return made


def topic_of(request: Request) -> str:
    """A teacher that knows the topic."""
    text = "".join(span.text for span in request.prompt.spans)
    return json.dumps({"topic": next(topic for word, topic in TOPICS.items() if word in text)}, separators=(",", ":"))


def write(path: Path, data: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in data))


def place(folder: Path, data: list[dict[str, Any]], recipe: str = RECIPE) -> Path:
    """A folder with a recipe and rows; returns the recipe."""
    write(folder / "rows.jsonl", data)
    (folder / "tune.toml").write_text(recipe)
    return folder / "tune.toml"


def tune(recipe: Path, demo: Demo, **more: Any) -> TuneResult:
    settings = load(files=())
    host = PluginHost(settings, plugins={"demo": demo}, installed=False)
    return tune_stack("demo", recipe, settings=settings, host=host, **more)


def plan(recipe: Path, demo: Demo, **more: Any) -> Any:
    settings = load(files=())
    host = PluginHost(settings, plugins={"demo": demo}, installed=False)
    return plan_stack("demo", recipe, settings=settings, host=host, **more)

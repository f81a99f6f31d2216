"""A planner of random weights, sampled: whatever it writes is a plan, and it comes to an end within its bounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from fslm_core.engine import Engine, Run
from fslm_core.errors import RunFailed, StageFailedError
from fslm_core.message import Message
from fslm_core.plugins import PluginHost
from fslm_core.schema import canonical, plain_data
from fslm_core.settings import load
from fslm_core.shapes import Agent
from fslm_core.stack import Stack
from fslm_core.stage import SLM, Decoding, tool

pytestmark = pytest.mark.torch

RUNS = 12


class Numbers(BaseModel):
    a: Annotated[int, Field(ge=0, le=3)]
    b: Annotated[int, Field(ge=0, le=3)]


class Total(BaseModel):
    total: int


class Word(BaseModel):
    word: Annotated[str, Field(max_length=3)]
    kind: Literal["red", "blue"] | None


class Answer(BaseModel):
    text: Annotated[str, Field(max_length=3)]


class Given(BaseModel):
    text: str
    offered: list[str]


@tool("t.add", version="1")
def add(numbers: Numbers) -> Total:
    if numbers.a == numbers.b:
        raise ValueError("twins")
    return Total(total=numbers.a + numbers.b)


@tool("t.paint", version="1")
def paint(word: Word) -> Answer:
    return Answer(text=word.word)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    settings = load(files=(), data_dir=tmp_path_factory.mktemp("data"), torch={"device": "cpu"})
    with Engine(settings=settings, host=PluginHost(settings, installed=False), trace=False) as opened:
        yield opened


def stack_of(base: Path, **more: Any) -> Stack[Any, Any]:
    agent = Agent(
        "t.agent",
        input=Given,
        output=Answer,
        tools=[add, paint],
        model=SLM(str(base)),
        prompt="{{ text }}{% for turn in record %}{{ turn.tool }}{{ turn.result }}{% endfor %}",
        decoding=Decoding(temperature=1.0),
        available="input.offered",
        record=100,
        most=4,
        **more,
    )
    return Stack("t", input=Given, output=Answer, steps=[agent], bind={"text": "agent.text"})


def ran(engine: Any, stack: Stack[Any, Any], seed: int, offered: list[str]) -> Run[Any]:
    try:
        found: Run[Any] = engine.run(stack, {"text": "x", "offered": offered}, seed=seed)
    except RunFailed as failed:
        assert isinstance(failed.error, StageFailedError), failed.error
        assert "did not finish" in str(failed.error)
        return failed.run  # type: ignore[no-any-return]
    return found


def content(found: object) -> dict[str, Any]:
    assert isinstance(found, Message)
    return plain_data(found.content)


def told(run: Run[Any]) -> dict[str, str]:
    return {path: canonical(found.content) for path, found in run.messages.items() if isinstance(found, Message)}


@pytest.mark.parametrize("offered", [["add", "paint"], ["paint"], []])
def test_whatever_it_writes_is_a_plan_and_it_ends(
    engine: Any, tiny_model: Callable[..., Path], offered: list[str]
) -> None:
    stack = stack_of(tiny_model())
    ends = set()
    for seed in range(RUNS):
        run = ran(engine, stack, seed, offered)
        plans = [content(m)["next"] for path, m in run.messages.items() if ".plan[" in path]
        assert 1 <= len(plans) <= 4
        assert {plan["tool"] for plan in plans} <= {*offered, "finish"}
        ends.add(content(run.messages["agent.ending"])["why"])
    assert "finish" in ends and (len(ends) > 1) is bool(offered)


def test_where_it_must_finish_there_is_an_output_and_one_seed_gives_one_run(
    engine: Any, tiny_model: Callable[..., Path]
) -> None:
    stack = stack_of(tiny_model(), exhausted="finish")
    runs = [ran(engine, stack, seed, ["add", "paint"]) for seed in range(RUNS)]
    assert all(run.status == "succeeded" for run in runs)
    assert told(ran(engine, stack, 3, ["add", "paint"])) == told(runs[3])
    assert len({str(told(run)) for run in runs}) > 1

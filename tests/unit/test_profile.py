"""Where a run's time went: wall time is shared out once, whatever ran side by side."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from rich.console import Console

from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.engine import Engine
from fslm_core.errors import RunFailed
from fslm_core.explain.profile import PHASES, Profile, Tried, drawn, of_run, of_stored, profile
from fslm_core.message import Usage
from fslm_core.settings import load
from fslm_core.shapes import Route
from fslm_core.stack import Stack, Step
from fslm_core.stage import SLM, Decoding, Stage, tool
from fslm_core.store import TraceStore


class Enquiry(BaseModel):
    text: str = Field(max_length=100)


class Topic(BaseModel):
    topic: Literal["ORDER", "REFUND"]


class Answer(BaseModel):
    topic: Literal["ORDER", "REFUND"]
    text: str = Field(max_length=100)


def shown(found: Profile) -> str:
    lines = io.StringIO()
    Console(file=lines, width=120).print(drawn(found))
    return lines.getvalue()


def stage(name: str, **options: object) -> Stage[Enquiry, Topic]:
    model = SLM("smollm2-135m", tuned=True)
    return Stage(name, input=Enquiry, output=Topic, prompt="Topic of {{ text }}", model=model, **options)  # type: ignore[arg-type]


@tool("shop.say", version="1")
def say(message: Enquiry) -> Enquiry:
    """Say it again."""
    return message


def shop(first: Stage[Enquiry, Topic]) -> Stack[Enquiry, Answer]:
    steps = [Step(first, name="topic"), Step(say, name="say")]
    return Stack("shop", input=Enquiry, output=Answer, steps=steps, bind={"topic": "topic.topic", "text": "say.text"})


usages = st.builds(
    lambda parts, extra: Usage(
        render=parts[0],
        queued=parts[1],
        prefill=parts[2],
        decode=parts[3],
        validate=parts[4],
        seconds=sum(parts) + extra,
    ),
    st.tuples(*[st.floats(0, 3) for _ in range(5)]),
    st.floats(0, 1),
)
tried = st.builds(
    lambda start, tries, is_tool: Tried("step", start, tuple(tries), is_tool),
    st.floats(0, 10),
    st.lists(usages, min_size=1, max_size=3),
    st.booleans(),
)


@given(st.floats(0.01, 20), st.lists(tried, max_size=5))
def test_all_parts_make_the_wall_time_and_none_is_negative(seconds: float, steps: list[Tried]) -> None:
    found = profile(seconds, steps)
    assert found.between + sum(step.wall for step in found.steps) == pytest.approx(seconds)
    assert sum(found.phases.values()) == pytest.approx(seconds)
    assert min([found.between, *found.phases.values()]) >= 0
    for step, given_step in zip(found.steps, steps, strict=True):
        assert sum(step.phases.values()) == pytest.approx(step.wall)
        assert step.wall <= step.seconds + 1e-9
        assert step.seconds == pytest.approx(sum(usage.seconds for usage in given_step.usages))


def test_steps_one_after_another_keep_their_own_time() -> None:
    one = Usage(queued=1.0, prefill=2.0, decode=3.0, seconds=7.0, render=0.25, validate=0.5)
    found = profile(16.0, [Tried("a", 1.0, (one,)), Tried("b", 8.0, (one,))])
    expected = {"render": 0.25, "queue": 1.0, "prefill": 2.0, "decode": 3.0, "validate": 0.5, "tool": 0, "engine": 0.25}
    assert [step.phases for step in found.steps] == [pytest.approx(expected)] * 2
    assert (found.between, found.beside) == (2.0, False)
    assert "took" not in shown(found)


def test_of_steps_side_by_side_each_moment_is_shared() -> None:
    long, short = Usage(decode=4.0, seconds=4.0), Usage(decode=2.0, seconds=2.0)
    found = profile(5.0, [Tried("a", 0.0, (long,)), Tried("b", 1.0, (short,)), Tried("c", 1.0, (short,))])
    assert [step.wall for step in found.steps] == pytest.approx([2 + 2 / 3, 2 / 3, 2 / 3])
    assert [step.seconds for step in found.steps] == [4.0, 2.0, 2.0]
    assert found.phases["decode"] == pytest.approx(4.0)
    assert found.beside
    assert "took" in shown(found)


def test_a_run_is_profiled_as_it_went_and_so_is_its_trace(tmp_path: Path) -> None:
    backend = ScriptedBackend({"shop.topic": ['{"topic":"WEATHER"}', '{"topic":"ORDER"}']})
    settings = load(files=(), data_dir=tmp_path)
    first = stage("shop.topic", decoding=Decoding(attempts=2, temperature=1.0))
    with Engine(settings=settings, backend=backend) as engine:
        run = engine.run(shop(first), {"text": "a table"})
    found = of_run(run)
    steps = {step.name: step for step in found.steps}
    assert set(steps) == {"topic", "say"}
    assert (steps["topic"].attempts, steps["topic"].forwards, steps["topic"].output) == (2, 2, 2)
    assert steps["topic"].prompt == run.usage.prompt > 0
    assert steps["say"].phases["tool"] > 0
    assert steps["say"].phases["decode"] == 0
    asked, again = (attempt.usage for attempt in run.messages["topic"].attempts)  # type: ignore[union-attr]
    assert asked.render > 0
    assert again.render == 0  # once a step
    assert min(asked.validate, again.validate) > 0
    for usage in (asked, again):
        assert usage.seconds >= usage.render + usage.queued + usage.validate
    assert sum(found.phases.values()) == pytest.approx(run.seconds)
    with TraceStore.open(settings.trace_path) as store:
        stored = of_stored(store.run())
    assert {step.name: step.seconds for step in stored.steps} == {step.name: step.seconds for step in found.steps}
    assert json.loads(json.dumps(stored.to_dict()))["phases"].keys() == set(PHASES)


def test_a_step_that_failed_is_in_the_profile(tmp_path: Path) -> None:
    backend = ScriptedBackend({"shop.topic": '{"topic":"WEATHER"}'})
    settings = load(files=(), data_dir=tmp_path)
    first = stage("shop.topic", decoding=Decoding(attempts=3, temperature=1.0))
    with Engine(settings=settings, backend=backend) as engine, pytest.raises(RunFailed) as failed:
        engine.run(shop(first), {"text": "a table"})
    with TraceStore.open(settings.trace_path) as store:
        stored = of_stored(store.run())
    for found in (of_run(failed.value.run), stored):
        steps = {step.name: step for step in found.steps}
        assert steps["topic"].attempts == 3
        assert steps["topic"].output == 3


def test_usage_of_earlier_traces_is_read() -> None:
    from fslm_core.store.rows import _usage

    assert _usage('{"prompt": 7, "seconds": 0.5}') == Usage(prompt=7, seconds=0.5)


def test_a_hostile_name_is_text() -> None:
    found = profile(1.0, [Tried("a\x1b[31m\nb", 0.0, (Usage(seconds=1.0),))])
    assert "\x1b[31m" not in shown(found)


def test_a_nested_step_has_its_own_time_and_a_shape_has_none(tmp_path: Path) -> None:
    backend = ScriptedBackend({"shop.topic": '{"topic":"ORDER"}'})
    settings = load(files=(), data_dir=tmp_path)
    inner = shop(stage("shop.topic"))
    route = Route("shop.desk", by="input.text", cases={"a table": Step(inner, name="inner")}, default=inner)
    outer = Stack("shop", input=inner.input, output=inner.output, steps=[route], bind={"text": "desk.text"})
    with Engine(settings=settings, backend=backend) as engine:
        run = engine.run(outer, {"text": "a table"})
    assert {"desk", "desk.choice", "desk.inner"} < set(run.messages)
    found = of_run(run)
    assert {step.name for step in found.steps} == {"desk.inner.topic", "desk.inner.say"}
    assert sum(found.phases.values()) == pytest.approx(run.seconds)
    with TraceStore.open(settings.trace_path) as store:
        assert {step.name for step in of_stored(store.run()).steps} == {step.name for step in found.steps}


def test_what_ran_many_times_is_one_line() -> None:
    one = Usage(prompt=2, seconds=1.0)
    found = profile(10.0, [Tried(f"each.note[{n}]", 1.0, (one,)) for n in range(500)])
    lines = [line for line in shown(found).splitlines() if line.startswith("each")]
    assert len(lines) == 2 and "each.note, 500 times" in lines[0]
    assert lines[1].split()[-6] == "1000"
    assert len(found.to_dict()["steps"]) == 500

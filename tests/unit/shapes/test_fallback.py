"""Fallbacks: who answers, what leads on to the next, and what never does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel, Field, field_validator

from fslm_core import SLM, Cascade, Engine, Fallback, Scored, Stack, Stage, Step, tool
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.errors import (
    BackendError,
    CheckError,
    DeadlineExceeded,
    EngineStateError,
    ReviewNeeded,
    RunFailed,
    StackError,
    StageFailedError,
    StoreError,
)
from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings
from fslm_core.shapes import Answered


class Town(BaseModel):
    town: str


class Weather(BaseModel):
    weather: str = Field(max_length=40)

    @field_validator("weather")
    @classmethod
    def _not_fine(cls, weather: str) -> str:
        if weather == "fine":
            raise ValueError("it never is")
        return weather


class Report(BaseModel):
    report: str


say = Stage("t.say", input=Town, output=Weather, prompt="{{ town }}", model=SLM("smollm2-135m", tuned=True))
ask = Stage(
    "t.ask",
    input=Town,
    output=Weather,
    prompt="{% if town == 'Oslo' %}{{ town.no_such }}{% endif %}{{ town }}",
    model=SLM("smollm2-135m", tuned=True),
)


@tool("t.station", version="1")
def station(town: Town) -> Weather:
    raise OSError("no answer")


@tool("t.almanac", version="1")
def almanac(town: Town) -> Weather:
    return Weather(weather="rain")


@tool("t.letter", version="1")
def letter(town: Town) -> Report:
    return Report(report="snow")


@tool("t.doubt", version="1")
def doubt(town: Town) -> Scored[Weather]:
    return Scored(Weather(weather="fog"), {"weather": 0.1})


@tool("t.stuck", version="1")
async def stuck(town: Town) -> Weather:
    await asyncio.Event().wait()
    raise AssertionError


@tool("t.exits", version="1")
def exits(town: Town) -> Weather:
    raise SystemExit(3)


def fall(*steps: Any, **more: Any) -> Fallback[Any, Any]:
    return Fallback("t.any", list(steps), **more)


def stack(node: Any) -> Stack[Any, Any]:
    return Stack("t", input=Town, output=Weather, steps=[Step(node, name="any")])


def run(node: Any, backend: Any = None, town: str = "Bergen", **more: Any) -> Any:
    host = PluginHost(Settings(), installed=False)
    with Engine(trace=False, host=host, backend=backend or ScriptedBackend()) as engine:
        return engine.run(stack(node), {"town": town}, **more)


def answer(found: Any) -> dict[str, Any]:
    content: Answered = found.messages["any.answer"].content
    return content.model_dump()


def test_the_first_that_gives_a_valid_message_answers() -> None:
    found = run(fall(almanac, station))
    assert found.output.weather == "rain"
    assert answer(found) == {"step": "almanac", "value": False, "failed": []}
    assert list(found.messages) == ["any.almanac", "any.answer", "any"]
    assert found.messages["any"].parents == (f"{found.id}/any.almanac/0/0",)


@pytest.mark.parametrize(
    ("node", "backend", "code"),
    [
        (station, None, "tool"),
        (exits, None, "tool"),
        (say, ScriptedBackend({"t.say": "no JSON"}), "stage-failed"),
        (say, ScriptedBackend({"t.say": '{"weather":"fine"}'}), "stage-failed"),
        (say, ScriptedBackend({"t.say": BackendError("gone", where="there")}), "backend"),
        (Step(almanac, when="input.town != 'Bergen'"), None, "skipped"),
        (Step(almanac, when="input.town / 0"), None, "prompt"),
        (Step(station, on_error="skip"), None, "tool"),
    ],
)
def test_a_steps_own_failure_leads_on(node: Any, backend: Any, code: str) -> None:
    found = run(
        fall(Step(node, name="one") if not isinstance(node, Step) else node, Step(almanac, name="two")), backend
    )
    assert found.output.weather == "rain" and answer(found)["step"] == "two"
    assert [failed["code"] for failed in answer(found)["failed"]] == [code]


def test_a_template_that_fails_leads_on() -> None:
    found = run(fall(ask, almanac), ScriptedBackend({"t.ask": '{"weather":"sun"}'}), town="Oslo")
    assert answer(found)["failed"] == [{"step": "ask", "code": "prompt"}]
    assert run(fall(ask, almanac), ScriptedBackend({"t.ask": '{"weather":"sun"}'})).output.weather == "sun"


def test_where_nobody_answers_the_last_error_is_the_shapes() -> None:
    backend = ScriptedBackend({"t.say": "no JSON"})
    with pytest.raises(RunFailed) as failed:
        run(fall(say, station, Step(almanac, when="input.town == 'Rome'")), backend)
    assert failed.value.error.code == "tool" and "step any.station" in str(failed.value)
    assert answer(failed.value.run)["step"] is None
    assert [one["code"] for one in answer(failed.value.run)["failed"]] == ["stage-failed", "tool", "skipped"]


def test_where_all_are_passed_over_it_says_so() -> None:
    with pytest.raises(RunFailed) as failed:
        run(fall(Step(almanac, when="input.town == 'Rome'"), Step(station, on_error="skip")))
    assert isinstance(failed.value.error, StageFailedError)
    assert str(failed.value).startswith("stack t, step any: every step was passed over")


def test_or_a_declared_value_that_no_run_can_change() -> None:
    made = fall(station, value=Weather(weather="unknown"))
    found = run(made)
    assert found.output.weather == "unknown"
    assert answer(found) == {"step": None, "value": True, "failed": [{"step": "station", "code": "tool"}]}
    found.output.weather = "changed"
    assert run(made).output.weather == "unknown"


def test_each_step_gives_the_output_by_itself() -> None:
    made = fall(station, letter, bind={"weather": "letter.report"}, output=Weather)
    assert run(made).output.weather == "snow"
    with pytest.raises(CheckError, match="the check found"):
        _ = stack(fall(station, letter)).wiring


def test_what_makes_no_valid_output_leads_on() -> None:
    @tool("t.fine", version="1")
    def fine(town: Town) -> Report:
        return Report(report="fine")

    found = run(fall(fine, almanac, output=Weather, bind={"weather": "fine.report"}))
    assert found.output.weather == "rain" and answer(found)["failed"] == [{"step": "fine", "code": "stage-failed"}]


# -- what leads nowhere ----------------------------------------------------------------------------------------------


def test_a_deadline_is_no_failure_to_fall_back_from() -> None:
    with pytest.raises(RunFailed) as failed:
        run(fall(stuck, almanac, value=Weather(weather="unknown")), timeout=0.2)
    assert isinstance(failed.value.error, DeadlineExceeded)
    assert not failed.value.run.messages


def test_nor_is_a_person_who_is_asked() -> None:
    unsure = Cascade("t.unsure", [doubt], abstain_below={"weather": 0.9})
    found = run(fall(unsure, almanac, value=Weather(weather="unknown")))
    assert found.status == "review" and isinstance(found.error, ReviewNeeded)


@pytest.mark.parametrize(
    "error", [StoreError("full", where="it"), EngineStateError("closed", where="it"), OSError("x")]
)
def test_nor_what_is_wrong_with_the_machine(error: Exception) -> None:
    with pytest.raises(RunFailed):
        run(fall(say, almanac), ScriptedBackend({"t.say": error}))


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_one_step_and_no_value_are_nothing_to_fall_back_on() -> None:
    with pytest.raises(CheckError) as refused:
        _ = stack(fall(station)).wiring
    assert refused.value.findings == ("step any: there is nothing to fall back on; pass another step, or value=…",)


def test_more_than_a_hundred_steps_are_refused() -> None:
    with pytest.raises(CheckError) as refused:
        _ = stack(fall(*(Step(almanac, name=f"a{i}") for i in range(101)))).wiring
    assert "101 steps; at most 100" in str(refused.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"weather": "x"}, "value is not of the shape's output model"),
        (Town(town="x"), "value is not of the shape's output model"),
        (Weather.model_construct(weather="fine"), "value is not valid"),
        (Weather.model_construct(weather="\ud800"), "value is not valid"),
    ],
)
def test_a_value_is_an_instance_of_the_output_model(value: Any, said: str) -> None:
    with pytest.raises(StackError, match=said):
        fall(station, value=value)


def test_its_value_is_in_its_plan() -> None:
    plans = {tuple(fall(station, value=value).plan()) for value in (Weather(weather="a"), Weather(weather="b"))}
    assert len(plans) == 2

"""Agents: what a planner is given and may write, the rounds and their bounds, and every end an agent can come to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, Field, field_validator, model_validator

from fslm_core import SLM, Decoding, Engine, Scored, Settings, Stack, Stage, Step, check_stack, tool
from fslm_core.errors import (
    CheckError,
    DeadlineExceeded,
    ReviewNeeded,
    StackError,
    StageFailedError,
    ToolError,
    TrainError,
)
from fslm_core.message import Message, Skipped
from fslm_core.plugins import PluginHost
from fslm_core.schema import normalise, plain_data
from fslm_core.shapes import Agent, Turn, plan_model
from fslm_core.shapes.agent.record import Record
from fslm_core.testing import KitEngine, run_stack
from fslm_core.testing.outcome import Outcome
from fslm_core.train.rows import Problems, read_rows

MODEL = SLM("smollm2-135m", tuned=True)


class Ask(BaseModel):
    question: str
    services: list[str] | None = None
    customer: str = "nobody"


class Place_(BaseModel):
    city: Annotated[str, Field(max_length=30)]
    day: Literal["today", "tomorrow"] = "today"

    @field_validator("city")
    @classmethod
    def _known(cls, city: str) -> str:
        if city == "Atlantis":
            raise ValueError("it sank")
        return city


class Sky(BaseModel):
    sky: str


class Numbers(BaseModel):
    a: Annotated[int, Field(ge=0, le=99)]
    b: Annotated[int, Field(ge=0, le=99)]


class Total(BaseModel):
    total: int


class Answer(BaseModel):
    text: Annotated[str, Field(max_length=40)]

    @field_validator("text")
    @classmethod
    def _polite(cls, text: str) -> str:
        if text == "no":
            raise ValueError("say more")
        return text


class Greeting(BaseModel):
    customer: str  # without a bound: it is not the planner's to write
    word: Literal["hello", "bye"]


class Double(BaseModel):
    total: int | None


class Loose(BaseModel):
    text: str
    extra: dict[str, int] = {}


def exclaim(word: str) -> str:
    if word.endswith("!!!"):
        raise ValueError("too loud")
    return f"{word}!"


class Shout(BaseModel):
    word: Annotated[str, Field(max_length=9), AfterValidator(exclaim)]


@tool("t.louder", version="1")
def louder(shout: Shout) -> Sky:
    return Sky(sky=shout.word)


@tool("t.weather", version="1")
def weather(place: Place_) -> Sky:
    """Tells the weather."""
    if place.city == "Nowhere":
        raise OSError("cannot reach db://user:hunter2@host")
    return Sky(sky=f"sun over {place.city}")


@tool("t.add", version="1")
def add(numbers: Numbers) -> Total:
    """Adds two numbers."""
    return Total(total=numbers.a + numbers.b)


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"next": {"tool": name, "arguments": arguments}}


PARIS = call("weather", city="Paris", day="today")
THREE = call("add", a=1, b=2)
DONE = call("finish", text="done")


def agent(**more: Any) -> Agent[Any, Any]:
    kept = {"input": Ask, "output": Answer, "tools": [weather, add], "model": MODEL, **more}
    return Agent("t.agent", **kept)


def stack_of(node: Any, output: type[BaseModel] = Answer) -> Stack[Any, Any]:
    return Stack("t", input=Ask, output=output, steps=[node])


def go(node: Any, *plans: Any, given: Any = None, **more: Any) -> Outcome[Any]:
    replies = {"t.agent.plan": list(plans)} if plans else None
    return run_stack(stack_of(node), {"question": "?", **(given or {})}, replies=replies, **more)


def prompt(outcome: Outcome[Any], step: str) -> str:
    found = outcome.attempts[step][-1].prompt
    assert found is not None
    return "\n".join(text for _, text in found.turns)


def message(outcome: Outcome[Any], step: str) -> Message[Any]:
    found = outcome.messages[step]
    assert isinstance(found, Message)
    return found


def ending(outcome: Outcome[Any]) -> dict[str, Any]:
    return plain_data(message(outcome, "agent.ending").content)


def findings(node: Any) -> str:
    with pytest.raises(CheckError) as caught:
        _ = stack_of(node).wiring
    return "\n".join(caught.value.findings)


# -- a whole passage ---------------------------------------------------------------------------------------------------


def test_it_plans_acts_reads_and_finishes() -> None:
    done = go(agent(), PARIS, THREE, DONE)
    assert done.output == Answer(text="done")
    assert list(done.messages) == [
        *(
            "agent.plan[0]",
            "agent.weather[0]",
            "agent.plan[1]",
            "agent.add[1]",
            "agent.plan[2]",
            "agent.ending",
            "agent",
        )
    ]
    assert message(done, "agent.weather[0]").content == Sky(sky="sun over Paris")
    last = prompt(done, "agent.plan[2]")
    assert 'weather {"city":"Paris","day":"today"} gave {"sky":"sun over Paris"}' in last
    assert 'add {"a":1,"b":2} gave {"total":3}' in last
    assert "weather" not in prompt(done, "agent.plan[0]").partition("question")[2]


def test_the_trace_says_what_came_of_what() -> None:
    done = go(agent(), PARIS, DONE)
    node = {name: found.node_id for name, found in done.messages.items()}
    given = done.run.input.node_id if done.run else ""
    assert message(done, "agent.plan[0]").parents == (given,)
    assert message(done, "agent.weather[0]").parents == (node["agent.plan[0]"],)
    assert set(message(done, "agent.plan[1]").parents) == {given, node["agent.weather[0]"]}
    assert message(done, "agent").parents == (node["agent.plan[1]"],)
    assert message(done, "agent.ending").parents == (node["agent.plan[0]"], node["agent.plan[1]"])
    assert done.records is not None and {"agent.plan[0]", "agent.ending"} <= {n.step for n in done.records.nodes}


def test_a_closing_message_says_how_it_ended() -> None:
    told = ending(go(agent(), PARIS, THREE, DONE))
    assert told.pop("tokens") > 0
    assert told == {"why": "finish", "finished": True, "rounds": 3, "calls": {"weather": 1, "add": 1}, "failed": 0}


def test_the_same_seed_gives_the_same_run() -> None:
    node = agent(decoding=Decoding(temperature=1.0))
    one, other = (go(node, PARIS, DONE, seed=7) for _ in range(2))
    assert {k: m.content_id for k, m in one.messages.items() if isinstance(m, Message)} == {
        k: m.content_id for k, m in other.messages.items() if isinstance(m, Message)
    }
    assert message(one, "agent.plan[1]").work_key == message(other, "agent.plan[1]").work_key
    assert message(one, "agent.plan[1]").work_key != message(go(node, PARIS, DONE, seed=8), "agent.plan[1]").work_key


# -- what the planner may write ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "problem"),
    [
        (call("delete", city="Paris"), "'delete' is not one of"),
        (call("weather", city="Paris"), "'day' is missing"),
        (call("weather", city="Paris", day="today", a=1), "'a' is not a field"),
        (call("add", a=1, b=100), "beyond its maximum"),
        (call("finish", text="x" * 41), "longer than 40"),
        ({"next": None}, "none of the types"),
    ],
)
def test_only_declared_tools_and_arguments_are_taken(plan: Any, problem: str) -> None:
    go(agent(), plan).assert_failed(StageFailedError, match=problem)


def test_what_a_step_binds_is_no_argument() -> None:
    @tool("t.greet", version="1")
    def greet(greeting: Greeting) -> Sky:
        return Sky(sky=f"{greeting.word} {greeting.customer}")

    node = agent(tools=[Step(greet, bind={"customer": "input.customer"})])
    assert node.cards["greet"].arguments == 'word: "hello" | "bye"'
    done = go(node, call("greet", word="bye"), DONE, given={"customer": "Ann"})
    assert message(done, "agent.greet[0]").content == Sky(sky="bye Ann")
    assert "'customer' is not a field" in str(go(node, call("greet", customer="Bob", word="bye")).error)


def test_what_another_tool_gave_last_may_be_bound() -> None:
    @tool("t.double", version="1")
    def double(last: Double) -> Total:
        return Total(total=2 * (last.total or 0))

    tools = [add, Step(double, bind={"total": "add.total"})]
    node = agent(tools=tools, output=Double, bind={"total": "double.total"})
    replies = {"t.agent.plan": [call("double"), THREE, call("double"), call("finish")]}
    done = run_stack(stack_of(node, Double), {"question": "?"}, replies=replies)
    assert [message(done, f"agent.double[{i}]").content for i in (0, 2)] == [Total(total=0), Total(total=6)]
    assert done.output == Double(total=6)
    assert "agent.double[2]" in "".join(message(done, "agent").parents)


def test_the_input_may_say_which_tools_there_are() -> None:
    node = agent(available="input.services")
    done = go(node, THREE, DONE, given={"services": ["add"]})
    narrowed = message(done, "agent.plan[0]").narrowed
    assert narrowed is not None and "weather" not in str(narrowed) and "finish" in str(narrowed)
    assert "weather" not in prompt(done, "agent.plan[0]") and "add(a, b) Adds" in prompt(done, "agent.plan[0]")
    go(node, PARIS, given={"services": ["add"]}).assert_failed(StageFailedError, match="'weather' is not one of")
    go(node, THREE, given={"services": []}).assert_failed(StageFailedError, match="'add' is not one of")
    assert go(node, PARIS, DONE, given={"services": None}).output == Answer(text="done")
    unknown = go(node, DONE, given={"services": ["add", "swim"]}).assert_failed(StageFailedError)
    assert "it has weather, add" in str(unknown) and "swim" not in str(unknown)


def test_its_prompt_may_be_an_authors_own() -> None:
    own = "{{ question }} {% for t in tools %}<{{ t.name }}>{% endfor %} {{ record | length }} {{ available[-1] }}"
    assert prompt(go(agent(prompt=own), DONE), "agent.plan[0]").endswith("? <weather><add> 0 finish")


def test_braces_in_a_description_are_words() -> None:
    odd = Stage("t.odd", input=Numbers, output=Total, tool=add.tool, description="Fills {{ x }} and {% y %}.")
    assert "{ { x }} and { % y %}" in prompt(go(agent(tools=[odd]), DONE), "agent.plan[0]")


# -- tools that fail ---------------------------------------------------------------------------------------------------


def test_a_failure_is_told_without_a_secret_and_it_goes_on() -> None:
    done = go(agent(), call("weather", city="Nowhere", day="today"), DONE)
    assert done.output == Answer(text="done")
    said = prompt(done, "agent.plan[1]")
    assert "failed tool: OSError" in said and "hunter2" not in said
    failed = message(done, "agent.failed[0]")
    assert plain_data(failed.content) == {"tool": "weather", "code": "tool", "reason": "OSError"}
    assert failed.node_id in message(done, "agent.plan[1]").parents
    assert ending(done)["failed"] == 1


def test_a_validators_reason_is_told() -> None:
    done = go(agent(), call("weather", city="Atlantis", day="today"), DONE)
    assert "failed stage-failed: city: Value error, it sank" in prompt(done, "agent.plan[1]")


def test_an_output_that_is_refused_may_be_mended() -> None:
    done = go(agent(), call("finish", text="no"), DONE)
    assert done.output == Answer(text="done")
    assert 'finish {"text":"no"} failed stage-failed: text: Value error, say more' in prompt(done, "agent.plan[1]")


def test_a_failure_may_end_it() -> None:
    go(agent(on_tool_error="fail"), call("weather", city="Nowhere", day="today")).assert_failed(ToolError, "raised")
    go(agent(on_tool_error="fail"), call("finish", text="no")).assert_failed(StageFailedError, "say more")


def test_a_tool_that_is_passed_over_is_told_of() -> None:
    fails = call("weather", city="Nowhere", day="today")
    done = go(agent(tools=[Step(weather, on_error="skip"), add]), fails, DONE)
    assert "failed skipped: on_error: tool" in prompt(done, "agent.plan[1]")
    assert isinstance(done.messages["agent.weather[0]"], Skipped)
    done = go(agent(tools=[Step(weather, when="input.customer == 'Ann'"), add]), PARIS, DONE)
    assert "failed skipped: input.customer" in prompt(done, "agent.plan[1]")


def test_a_persons_turn_is_no_failure() -> None:
    @tool("t.unsure", version="1")
    def unsure(numbers: Numbers) -> Total:
        raise ReviewNeeded("nobody is sure", hint="decide")

    done = go(agent(tools=[unsure]), call("unsure", a=1, b=2), DONE)
    assert isinstance(done.error, ReviewNeeded) or (done.run is not None and done.run.status == "review")


def test_a_failure_that_ends_it_closes_the_account_too() -> None:
    ends = [
        go(agent(), THREE, "no plan"),
        go(agent(on_tool_error="fail"), call("weather", city="Nowhere", day="today")),
    ]
    ends.append(go(agent(most=1, exhausted="finish"), call("finish", text="no")))
    assert [(ending(done)["why"], ending(done)["finished"]) for done in ends] == [("failed", False)] * 3
    assert all(isinstance(done.error, StageFailedError) for done in ends)
    assert "say more" in str(ends[2].error)


# -- bounds ------------------------------------------------------------------------------------------------------------


def different(count: int) -> list[Any]:
    return [call("add", a=number, b=0) for number in range(count)]


def test_rounds_have_a_bound_and_the_last_calls_nothing() -> None:
    done = go(agent(most=3), *different(9))
    error = done.assert_failed(StageFailedError, match="its 3 rounds are spent")
    assert "it called add 2 times" in str(error) and "most=" in str(error) and "stack t, step agent" in str(error)
    assert [name for name in done.messages if "add" in name] == ["agent.add[0]", "agent.add[1]"]
    assert (ending(done)["why"], ending(done)["finished"], ending(done)["rounds"]) == ("rounds", False, 3)


def test_where_rounds_are_spent_it_may_be_made_to_finish() -> None:
    done = go(agent(most=3, exhausted="finish"), *different(2), DONE)
    assert done.output == Answer(text="done")
    assert (ending(done)["why"], ending(done)["finished"], ending(done)["rounds"]) == ("rounds", True, 3)
    narrowed = str(message(done, "agent.plan[2]").narrowed)
    assert "finish" in narrowed and "weather" not in narrowed and "'add'" not in narrowed
    go(agent(most=3, exhausted="finish"), *different(3)).assert_failed(StageFailedError, match="'add' is not one of")
    assert go(agent(most=1, exhausted="finish"), DONE).output == Answer(text="done")


def test_each_tool_may_be_called_so_often() -> None:
    done = go(agent(each=1), PARIS, THREE, DONE)
    assert done.output == Answer(text="done")
    narrowed = [str(message(done, f"agent.plan[{index}]").narrowed) for index in range(3)]
    assert ["weather" in tree for tree in narrowed] == [True, False, False]
    assert ["'add'" in tree for tree in narrowed] == [True, True, False]
    go(agent(each=1), PARIS).assert_failed(StageFailedError, match="'weather' is not one of")
    fails = call("weather", city="Nowhere", day="today")
    go(agent(each=2), fails, PARIS, PARIS).assert_failed(StageFailedError, match="'weather' is not one of")


def test_tokens_have_a_bound() -> None:
    done = go(agent(tokens=1), *different(9))
    error = done.assert_failed(StageFailedError, match="its 1 tokens are spent")
    assert f"({ending(done)['tokens']} were read and written)" in str(error)
    assert ending(done)["rounds"] == 1 and ending(done)["why"] == "tokens"
    done = go(agent(tokens=1, exhausted="finish"), THREE, DONE)
    assert done.output == Answer(text="done") and ending(done)["why"] == "tokens"


def endless() -> Stage[Any, Any]:
    @tool("t.wait", version="1")
    async def wait(numbers: Numbers) -> Total:
        await asyncio.Event().wait()
        raise AssertionError

    return wait


def test_seconds_have_a_bound() -> None:
    plan = call("wait", a=1, b=1)
    done = go(agent(tools=[endless()], seconds=0.05), plan)
    done.assert_failed(StageFailedError, match=r"its 0\.05 s are spent")
    assert ending(done)["why"] == "seconds"
    done = go(agent(tools=[endless()], seconds=0.05, exhausted="finish"), plan, DONE)
    assert done.output == Answer(text="done") and ending(done)["why"] == "seconds"


def test_seconds_stop_all_that_is_at_work_at_once() -> None:
    twice = [Step(endless(), name=name) for name in ("one", "other")]
    both = Stack("t.both", input=Numbers, output=Total, steps=twice, bind={"total": "one.total"})
    node = agent(tools=[both], seconds=0.05, exhausted="finish")
    assert go(node, call("both", a=1, b=1), DONE).output == Answer(text="done")


@pytest.mark.parametrize("exhausted", ["fail", "finish"])
def test_a_runs_own_deadline_is_the_runs(exhausted: str) -> None:
    node = agent(tools=[endless()], seconds=60, exhausted=exhausted, on_tool_error="tell")
    with KitEngine([stack_of(node)], replies={"t.agent.plan": [call("wait", a=1, b=1), DONE]}) as engine:
        done = engine.outcome(stack_of(node), {"question": "?"}, timeout=0.1)
    done.assert_failed(DeadlineExceeded)
    assert "agent.ending" not in done.messages


def test_a_planner_that_repeats_itself_is_stopped() -> None:
    done = go(agent(), PARIS, THREE, PARIS, THREE, PARIS, DONE)
    error = done.assert_failed(StageFailedError, match="the same call with the same arguments")
    assert "it called weather 2 times, add 2 times" in str(error)
    assert ending(done)["why"] == "repeating" and ending(done)["rounds"] == 5
    done = go(agent(exhausted="finish"), PARIS, PARIS, PARIS, DONE)
    assert done.output == Answer(text="done") and ending(done)["calls"] == {"weather": 2}


def test_an_output_that_is_refused_again_and_again_is_no_loop_without_end() -> None:
    go(agent(), call("finish", text="no")).assert_failed(StageFailedError, match="it called finish 2 times, 2 of these")


def test_a_record_keeps_to_its_bound() -> None:
    @tool("t.recite", version="1")
    def recite(numbers: Numbers) -> Sky:
        return Sky(sky="x" * 500)

    plans = [call("recite", a=number, b=0) for number in range(6)]
    done = go(agent(tools=[recite], record=400), *plans, DONE)
    said = prompt(done, "agent.plan[6]")
    assert "earlier calls left out: 5" in said and '{"a":5,"b":0}' in said and '{"a":4,"b":0}' not in said
    assert len(said) < 1000


def test_a_record_leaves_out_the_oldest() -> None:
    record = Record(100)
    for number in range(5):
        record.add("t", f"{number}", "y" * 30, ())
    assert [turn.arguments for turn in record.turns()] == ["2", "3", "4"] and record.omitted == 2
    record.add("t", "z" * 99, "y" * 99, ())
    (turn,) = record.turns()
    assert (len(turn.arguments), len(turn.result)) == (25, 50)
    assert Record(100).turns() == [] and Record(100).summary() == "nothing"


# -- cancelling --------------------------------------------------------------------------------------------------------


def test_cancelling_a_run_leaves_nothing_at_work() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    @tool("t.wait", version="1")
    async def wait(numbers: Numbers) -> Total:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    stack = stack_of(agent(tools=[wait], seconds=60, exhausted="finish"))

    async def main() -> None:
        backend = KitEngine([stack], replies={"t.agent.plan": [call("wait", a=1, b=1), DONE]})
        async with backend as engine:
            task = asyncio.create_task(engine.arun(stack, {"question": "?"}))
            while not began.is_set():
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert ended.is_set()


# -- nesting -----------------------------------------------------------------------------------------------------------


def test_a_stack_is_a_tool() -> None:
    inner = Stack("t.sums", input=Numbers, output=Total, steps=[add], description="Adds in two steps.")
    done = go(agent(tools=[inner]), call("sums", a=1, b=2), DONE)
    assert message(done, "agent.sums[0].add").content == message(done, "agent.sums[0]").content == Total(total=3)


def test_an_agent_is_a_tool_of_an_agent() -> None:
    class Short(BaseModel):
        question: Annotated[str, Field(max_length=20)]

    inner = Agent("t.inner", input=Short, output=Answer, tools=[add], model=MODEL, description="Knows sums.")
    outer = agent(tools=[inner])
    plans = [call("inner", question="1+2"), DONE]
    replies = {"t.agent.plan": plans, "t.inner.plan": [THREE, call("finish", text="3")]}
    done = run_stack(stack_of(outer), {"question": "?"}, replies=replies)
    assert done.output == Answer(text="done")
    assert message(done, "agent.inner[0].add[0]").content == Total(total=3)
    assert 'inner {"question":"1+2"} gave {"text":"3"}' in prompt(done, "agent.plan[1]")
    stuck = run_stack(stack_of(outer), {"question": "?"}, replies={"t.agent.plan": plans, "t.inner.plan": THREE})
    assert stuck.output == Answer(text="done")
    assert "failed stage-failed" in prompt(stuck, "agent.plan[1]")
    assert ending(stuck)["tokens"] > plain_data(message(stuck, "agent.inner[0].ending").content)["tokens"] > 0


def test_a_step_of_its_stack_may_answer_for_it() -> None:
    class Maybe(BaseModel):
        text: str | None

    stack = Stack("t", input=Ask, output=Maybe, steps=[Step(agent(most=1), on_error="skip")])
    done = run_stack(stack, {"question": "?"}, replies={"t.agent.plan": THREE})
    assert done.output == Maybe(text=None)


def test_a_stage_with_a_model_is_a_tool() -> None:
    guess = Stage("t.guess", input=Numbers, output=Answer, prompt="{{ a }}?", model=MODEL, description="Guesses.")
    replies: dict[str, Any] = {"t.agent.plan": [call("guess", a=1, b=2), DONE], "t.guess": {"text": "hm"}}
    done = run_stack(stack_of(agent(tools=[guess])), {"question": "?"}, replies=replies)
    assert 'guess {"a":1,"b":2} gave {"text":"hm"}' in prompt(done, "agent.plan[1]")
    assert message(done, "agent.guess[0]").content == Answer(text="hm")


def test_validators_of_arguments_are_heard_once_and_their_refusal_is_told() -> None:
    done = go(agent(tools=[louder]), call("louder", word="hey"), call("louder", word="hey!!!"), DONE)
    assert message(done, "agent.louder[0]").content == Sky(sky="hey!")
    assert "failed stage-failed: word: Value error, too loud" in prompt(done, "agent.plan[2]")
    go(agent(tools=[louder]), call("louder", word="far too long")).assert_failed(StageFailedError, "longer than 9")


def test_whether_a_tool_runs_may_depend_on_its_arguments() -> None:
    done = go(agent(tools=[Step(add, when="arguments.a < 2"), weather]), THREE, call("add", a=2, b=2), DONE)
    assert isinstance(done.messages["agent.add[0]"], Message) and isinstance(done.messages["agent.add[1]"], Skipped)


# -- the planner is an ordinary stage ----------------------------------------------------------------------------------


def test_its_model_may_be_overridden_by_name() -> None:
    node = agent(variants={"big": SLM("smollm2-135m", adapter=None, tuned=False)})
    stages = {"t.agent.plan": {"variant": "big"}}
    chosen = Settings.model_validate({"stages": stages})
    report = check_stack(stack_of(node), host=PluginHost(chosen, installed=False), settings=chosen)
    (plan,) = [step for step in report.steps if step.name == "agent.plan"]
    assert plan.model is not None and plan.model.variant == "big" and not report.errors
    assert plan.max_tokens == node.planner.schema.max_bytes


def test_rows_to_train_on_need_not_tell_a_first_rounds_progress(tmp_path: Path) -> None:
    first = {"input": {"question": "1+2?"}, "output": THREE}
    turn = {"tool": "add", "arguments": "{}", "result": "{}"}
    then = {"input": {"question": "1+2?", "record": [turn], "available": ["weather", "finish"]}, "output": PARIS}
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in (first, then)), encoding="utf-8")
    one, other = read_rows(rows, agent().planner, problems := Problems()).rows
    problems.refuse()
    assert one.target == json.dumps(THREE, separators=(",", ":"))
    assert "add" in str(one.schema.tree) and "'add'" not in str(other.schema.tree)
    rows.write_text(json.dumps({**then, "output": THREE}) + "\n", encoding="utf-8")
    read_rows(rows, agent().planner, problems)
    with pytest.raises(TrainError, match="'add' is not one of"):
        problems.refuse()


# -- a planner of one's own --------------------------------------------------------------------------------------------


class Given(BaseModel):
    record: list[Turn]
    available: list[str]


def test_a_function_may_plan() -> None:
    plan = plan_model([weather, add], Answer)

    def choose(given: Given) -> Any:
        chosen = DONE if given.record else THREE
        return Scored(plan.model_validate(chosen), {"next": 0.75})

    policy = Stage("t.policy", input=Given, output=plan, tool=_tool(choose))
    done = go(agent(model=None, planner=policy))
    assert done.output == Answer(text="done")
    assert message(done, "agent").confidence == {"text": 0.75}
    out_of_reach = agent(model=None, planner=policy, available="input.services")
    go(out_of_reach, given={"services": []}).assert_failed(StageFailedError, match="chose add, which is not to be had")


def test_a_planner_may_think_first() -> None:
    class Thought(BaseModel):
        thought: Annotated[str, Field(max_length=50)]

    def thinker(**more: Any) -> Stage[Any, Any]:
        plan = plan_model([weather, add], Answer, base=Thought)
        kept = {"input": Given, "output": plan, "prompt": "{{ record | length }}", "model": MODEL, **more}
        return Stage("t.agent.plan", **kept)

    node = agent(model=None, planner=thinker(narrow={"next": "available"}))
    assert go(node, {"thought": "hm", **THREE}, {"thought": "ah", **DONE}).output == Answer(text="done")
    assert "narrow={'next': 'available'}" in findings(agent(model=None, planner=thinker()))


def test_a_shape_may_plan() -> None:
    class Mood(BaseModel):
        mood: Literal["brave", "tired"]

    class Moody(Given):
        mood: Literal["brave", "tired"]

    plan = plan_model([weather, add], Answer)
    feel = Stage("t.feel", input=Given, output=Mood, prompt="{{ record | length }}", model=MODEL)
    narrow = {"next": "available"}
    then = Stage("t.then", input=Moody, output=plan, prompt="{{ mood }}", model=MODEL, narrow=narrow)
    node = agent(model=None, planner=Stack("t.planner", input=Given, output=plan, steps=[feel, then]))
    replies: dict[str, Any] = {"t.feel": {"mood": "brave"}, "t.then": [THREE, DONE]}
    done = run_stack(stack_of(node), {"question": "?"}, replies=replies)
    assert done.output == Answer(text="done") and "agent.plan[1].then" in done.messages


def _tool(function: Callable[[Any], Any]) -> Any:
    from fslm_core.stage import Tool

    return Tool(function, "1")


# -- what the check refuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"tools": []}, "needs a tool"),
        ({"tools": [add, add]}, "two tools have one name"),
        ({"tools": [Step(add, name="finish")]}, "the name by which a planner ends"),
        ({"tools": [Step(add, name="plan")]}, "two steps have one name"),
        ({"tools": [Step(add, name="ending")]}, "under which the agent itself says something"),
        ({"tools": [Step(add, name="arguments")]}, "under which the agent itself says something"),
        ({"tools": ["add"]}, "what stands at a step"),
        ({"model": None}, "needs a model"),
        ({"planner": add}, "brings its model"),
        ({"most": 0}, "most is out of range"),
        ({"most": 1001}, "most is out of range"),
        ({"each": 0}, "each is out of range"),
        ({"tokens": 0}, "tokens is out of range"),
        ({"seconds": 0}, "seconds is out of range"),
        ({"exhausted": "give up"}, "exhausted is out of range"),
        ({"on_tool_error": "hide"}, "on_tool_error is out of range"),
        ({"record": 99}, "record is out of range"),
        ({"output": int}, "output is not a pydantic model"),
        ({"input": Given}, "the planner's own input has, too"),
    ],
)
def test_contradictions_are_refused_at_once(change: dict[str, Any], what: str) -> None:
    with pytest.raises(StackError, match=what):
        agent(**change)


def test_tools_that_no_grammar_can_bound_are_found() -> None:
    @tool("t.loose", version="1")
    def loose(given: Loose) -> Total:
        return Total(total=0)

    said = findings(agent(tools=[loose, add]))
    assert said.startswith("step agent.loose: a planner cannot write its arguments: text: the string has no bound")
    assert "write `text: Annotated[str, Field(max_length=…)]`" in said and "bind" in said
    assert len(said.splitlines()) == 1
    assert "step agent.output: a planner cannot write it: sky" in findings(
        Agent("t.agent", input=Ask, output=Sky, tools=[add], model=MODEL)
    )
    with pytest.raises(CheckError) as caught:
        _ = Agent("t.agent", input=Ask, output=Sky, tools=[loose], model=MODEL).wiring
    assert len(caught.value.findings) == 2


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"available": "input.question"}, "wants list[str] | None, but input.question is str"),
        ({"available": "input.nothing"}, "Ask has question, services, customer"),
        ({"available": "services"}, "the suppliers here are input.<field>"),
        ({"tools": [Step(add, bind={"c": "input.question"})]}, "'c', which is no field of Numbers"),
        ({"tools": [Step(add, bind={"a": "input.question"})]}, "wants int, but input.question is str"),
        ({"tools": [weather, Step(add, bind={"a": "weather.sky"})]}, "wants int, but weather.sky is str"),
        ({"bind": {"text": "add.total"}}, "wants str, but add.total is int"),
        ({"bind": {"text": "input.nothing"}}, "Ask has question, services, customer"),
        ({"prompt": "{{ wish }}"}, "uses 'wish', which is no field of Request"),
        ({"model": None, "planner": add}, "must write a field 'next'"),
        ({"model": None, "planner": add}, "never sees what came of its calls"),
    ],
)
def test_what_does_not_fit_is_found_before_it_runs(change: dict[str, Any], what: str) -> None:
    assert what in findings(agent(**change))


def test_a_planner_of_other_tools_is_refused() -> None:
    other = Stage("t.p", input=Given, output=plan_model([weather], Answer), tool=_tool(print))
    assert "must write a field 'next'" in findings(agent(model=None, planner=other))
    same = Stage("t.p", input=Given, output=plan_model([weather, add], Answer), tool=_tool(print))
    assert stack_of(agent(model=None, planner=same)).wiring.warnings == ()


def test_nothing_is_called_unused_and_the_planner_is_an_ordinary_stage() -> None:
    node = agent(model=SLM("smollm2-135m"))
    assert node.planner.name == "t.agent.plan"
    warnings = stack_of(node).wiring.warnings
    assert len(warnings) == 1 and warnings[0].startswith("step agent.plan: untuned")


def test_its_bounds_are_part_of_what_it_is() -> None:
    plans = {tuple(agent(**change).plan()) for change in ({}, {"most": 9}, {"tokens": 5}, {"exhausted": "finish"})}
    assert len(plans) == 4
    assert list(agent(tokens=9, each=2, seconds=2, available="input.services").labels()) == [
        "at most: 8 rounds, each tool 2 times, 9 tokens, 2 s, then fail",
        "on_tool_error: tell",
        "available: input.services",
    ]
    arrows = {(arrow.source, arrow.target): arrow.label for arrow in agent().arrows()}
    assert (
        arrows["plan", "arguments"] == "next" and arrows["add", "progress"] == arrows["weather", "progress"] == "record"
    )
    assert arrows["plan", "ending"] == "finish"


# -- privacy -----------------------------------------------------------------------------------------------------------


class Caller(BaseModel):
    question: str
    phone: str = Field(json_schema_extra={"sensitive": True})


class Dial(BaseModel):
    phone: str
    a: Annotated[int, Field(ge=0, le=9)]

    @model_validator(mode="after")
    def _barred(self) -> Dial:
        if self.a == 8:
            raise ValueError(f"{self.phone} is barred")
        return self


@tool("t.dial", version="1")
def dial(given: Dial) -> Sky:
    if given.a == 9:
        raise ValueError(given.phone)
    return Sky(sky=f"called {given.phone}")


@pytest.mark.parametrize("content", ["redacted", "none"])
@pytest.mark.parametrize("most", [5, 3])
def test_a_marked_value_stays_out_of_the_trace_and_of_errors(content: Any, most: int, tmp_path: Path) -> None:
    phone = "0470998877"
    node = Agent(
        "t.agent",
        input=Caller,
        output=Answer,
        tools=[Step(dial, bind={"phone": "input.phone"})],
        model=MODEL,
        most=most,
        prompt="{{ question }} {{ phone }} {% for turn in record %}{{ turn.result }}{% endfor %}",
    )
    stack = Stack("t", input=Caller, output=Answer, steps=[node])
    plans = [call("dial", a=1), call("dial", a=9), call("dial", a=8), call("finish", text=phone)]
    replies = {"t.agent.plan": plans}
    with KitEngine([stack], replies=replies, content=content) as engine:
        done = engine.outcome(stack, {"question": "?", "phone": phone})
        if most == 3:
            assert phone not in str(done.assert_failed(StageFailedError))
        else:
            assert done.output == Answer(text=phone)
            assert phone in prompt(done, "agent.plan[1]") and phone not in str(message(done, "agent.failed[1]").content)
            assert f"{phone} is barred" in prompt(done, "agent.plan[3]")
        folder = engine.settings.trace_path.parent
        assert phone.encode() not in b"".join(path.read_bytes() for path in folder.glob("trace.db*"))


# -- an engine that is shared ------------------------------------------------------------------------------------------


def test_runs_at_once_do_not_share_a_record(tmp_path: Path) -> None:
    plan = plan_model([add], Answer)

    class Asked(Given):
        question: str

    def choose(given: Asked) -> Any:
        if given.record:
            return plan.model_validate(call("finish", text=f"{given.record[0].result} {len(given.record)}"))
        return plan.model_validate(call("add", a=int(given.question), b=0))

    policy = Stage("t.policy", input=Asked, output=plan, tool=_tool(choose))
    stack = stack_of(agent(tools=[add], model=None, planner=policy))
    settings = Settings(data_dir=tmp_path)
    host = PluginHost(settings, installed=False)
    with Engine(settings=settings, host=host, trace=False, max_in_flight=8) as engine:
        outcomes = list(engine.map(stack, [{"question": str(n)} for n in range(30)], concurrency=8))
    assert [o.run.output.text for o in outcomes if o.run] == [f'{{"total":{n}}} 1' for n in range(30)]


def test_the_schema_of_a_plan_has_a_bound() -> None:
    schema = normalise(plan_model([weather, add], Answer))
    assert schema.max_bytes == len('{"next":{"tool":"finish","arguments":{"text":""}}}') + 6 * 40

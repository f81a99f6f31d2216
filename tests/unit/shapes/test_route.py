"""Routes: by a field, an expression or a stage; and what the check refuses of them."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from fslm_core import Engine, Route, Stack, Stage, Step, tool
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.errors import CheckError, RunFailed, StackError
from fslm_core.shapes import Choice
from fslm_core.stage import SLM


class Letter(BaseModel):
    text: str = Field(max_length=2000)
    kind: Literal["complaint", "praise", "other"] = "other"
    urgent: bool = False
    pages: int = 1


class Reply(BaseModel):
    reply: str = Field(max_length=100)


class Topic(BaseModel):
    topic: Literal["money", "goods"]


def answering(name: str, text: str) -> Stage[Any, Any]:
    @tool(f"t.{name}", version="1")
    def answer(letter: Letter) -> Reply:
        return Reply(reply=f"{text}: {letter.text}")

    return answer


sorry, thanks, other = answering("sorry", "sorry"), answering("thanks", "thanks"), answering("other", "noted")


class Told(BaseModel):
    text: str
    topic: Literal["money", "goods"]


@tool("t.pay", version="1")
def pay(told: Told) -> Reply:
    return Reply(reply=f"{told.topic} for {told.text}")


def stack_of(route: Route[Any, Any]) -> Stack[Letter, Reply]:
    return Stack("t", input=Letter, output=Reply, steps=[route])


def run(route: Route[Any, Any], **given: Any) -> Any:
    with Engine(trace=False) as engine:
        return engine.run(stack_of(route), {"text": "hello", **given})


def findings(route: Route[Any, Any]) -> str:
    with pytest.raises(CheckError) as caught:
        _ = stack_of(route).wiring
    return "\n".join(caught.value.findings)


@pytest.mark.parametrize(
    ("kind", "reply", "step", "default"),
    [
        ("complaint", "sorry: hello", "sorry", False),
        ("praise", "thanks: hello", "thanks", False),
        ("other", "noted: hello", "other", True),
    ],
)
def test_a_fields_value_chooses_and_the_choice_is_a_message(kind: str, reply: str, step: str, default: bool) -> None:
    route = Route("t.desk", by="input.kind", cases={"complaint": sorry, "praise": thanks}, default=other)
    made = run(route, kind=kind)
    assert made.output.reply == reply
    assert made.messages["desk.choice"].content == Choice(value=kind, step=step, default=default)
    assert list(made.messages) == ["desk.choice", f"desk.{step}", "desk"]
    assert made.messages["desk.choice"].parents == (made.input.node_id,)
    assert made.messages["desk"].parents == (made.messages[f"desk.{step}"].node_id,)


def test_values_that_are_no_text_are_compared_as_json() -> None:
    by_truth = Route("t.desk", by="input.urgent", cases={"true": sorry}, default=other)
    assert run(by_truth, urgent=True).output.reply == "sorry: hello"
    assert run(by_truth, urgent=False).output.reply == "noted: hello"
    by_number = Route("t.desk", by="input.pages", cases={"3": sorry}, default=other)
    assert run(by_number, pages=3).output.reply == "sorry: hello"


def test_an_expression_chooses() -> None:
    route = Route("t.desk", by="'long' if input.text|length > 5 else 'short'", cases={"long": sorry}, default=other)
    assert run(route, text="longer than that").output.reply.startswith("sorry")
    assert run(route, text="brief").output.reply.startswith("noted")


def test_a_stage_chooses_and_branches_may_use_what_it_said() -> None:
    topic = Stage("t.topic", input=Letter, output=Topic, prompt="{{ text }}", model=SLM("smollm2-135m", tuned=True))
    route = Route("t.desk", router=topic, cases={"money": pay}, default=other)
    backend = ScriptedBackend({"t.topic": '{"topic":"money"}'})
    with Engine(backend=backend, trace=False) as engine:
        made = engine.run(stack_of(route), {"text": "cash"})
    assert made.output.reply == "money for cash"
    assert list(made.messages) == ["desk.topic", "desk.choice", "desk.pay", "desk"]
    assert made.messages["desk.choice"].parents == (made.messages["desk.topic"].node_id,)


def test_a_branch_that_two_cases_share_is_one_step() -> None:
    route = Route("t.desk", by="input.kind", cases={"complaint": sorry, "praise": sorry}, default=sorry)
    assert [step.name for step in route.steps] == ["sorry"]
    assert run(route, kind="praise").output.reply == "sorry: hello"


def test_a_branch_that_leaves_a_field_of_the_output_unset_is_refused() -> None:
    @tool("t.topic", version="1")
    def topic(letter: Letter) -> Topic:
        return Topic(topic="money")

    route = Route("t.desk", by="input.kind", cases={"complaint": sorry}, default=topic, output=Reply)
    assert "step desk.output of topic: nobody supplies field 'reply' (str)" in findings(route)


def test_a_case_that_can_never_come_is_refused() -> None:
    route = Route("t.desk", by="input.kind", cases={"complainn": sorry}, default=other)
    assert "case 'complainn' can never come: input.kind is one of complaint, praise, other" in findings(route)


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("input.nothing", "by='input.nothing' asks for input.nothing; Letter has text, kind, urgent, pages"),
        ("elsewhere.kind", "by='elsewhere.kind' asks for 'elsewhere'; known here: input"),
        ("input.kind ==", "by: "),
        ("input.__class__", "Python internals"),
    ],
)
def test_an_expression_that_cannot_be_is_refused(by: str, said: str) -> None:
    assert said in findings(Route("t.desk", by=by, cases={"complaint": sorry}, default=other))


def test_what_a_route_needs_is_said_when_it_is_made() -> None:
    with pytest.raises(StackError, match="needs a default"):
        Route("t.desk", by="input.kind", cases={"complaint": sorry}, default=None)  # type: ignore[arg-type]
    with pytest.raises(StackError, match="needs a case"):
        Route("t.desk", by="input.kind", cases={}, default=other)
    with pytest.raises(StackError, match="needs a value to go by"):
        Route("t.desk", cases={"complaint": sorry}, default=other)
    with pytest.raises(StackError, match="a name under which the route itself says something"):
        Route("t.desk", by="input.kind", cases={"complaint": Step(sorry, name="choice")}, default=other)


def test_an_expression_that_fails_in_a_run_ends_it_with_its_text() -> None:
    route = Route("t.desk", by="1 // input.pages", cases={"1": sorry}, default=other)
    with pytest.raises(RunFailed, match="step desk, by: the expression failed"):
        run(route, pages=0)


def test_a_value_too_long_to_be_a_case_is_no_case() -> None:
    route = Route("t.desk", by="input.text", cases={"x": sorry}, default=other)
    with pytest.raises(RunFailed, match="too many to be a case"):
        run(route, text="y" * 1001)

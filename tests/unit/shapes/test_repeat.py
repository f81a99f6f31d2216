"""Loops: what is carried on, when they end, and that they always do."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import BaseModel, Field

from fslm_core import SLM, Decoding, Engine, Repeat, Stack, Stage, Step, tool
from fslm_core.backends.protocol import Request
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.engine import check_stack
from fslm_core.errors import CheckError, PromptError, RunFailed, StackError, StageFailedError
from fslm_core.plugins import PluginHost
from fslm_core.settings import Settings
from fslm_core.shapes import Rounds


class Start(BaseModel):
    value: int


class Number(BaseModel):
    value: int


class Noted(BaseModel):
    value: int
    note: str | None = None
    turn: int = 0


class Said(BaseModel):
    value: int
    note: str
    turn: int


class Done(BaseModel):
    value: int
    rounds: int


class Draft(BaseModel):
    text: str = Field(max_length=200)


class Topic(BaseModel):
    topic: str


@tool("t.double", version="1", pure=True)
def double(number: Number) -> Number:
    if number.value == 13:
        raise ValueError("thirteen")
    return Number(value=2 * number.value)


@tool("t.tell", version="1", pure=True)
def tell(noted: Noted) -> Said:
    return Said(value=noted.value + 1, note=f"{noted.note}+", turn=noted.turn)


@tool("t.tick", version="1")
def tick(number: Number) -> Number:
    return number


write = Stage("t.write", input=Draft, output=Draft, prompt="Better: {{ text }}", model=SLM("smollm2-135m", tuned=True))
warm = Stage(
    "t.warm",
    input=Topic,
    output=Draft,
    prompt="{{ topic }}",
    model=SLM("smollm2-135m", tuned=True),
    decoding=Decoding(temperature=0.7),
)


def loop(step: Any = double, until: str = "last.value > 100", **more: Any) -> Repeat[Any, Any]:
    options: dict[str, Any] = {"most": 10, "carry": {"value": "value"}}
    return Repeat("t.loop", step, until=until, **{**options, **more})


def stack(node: Any, input: type[BaseModel] = Start, output: type[BaseModel] = Number) -> Stack[Any, Any]:
    bind = {name: f"loop.{name}" for name in output.model_fields}
    return Stack("t", input=input, output=output, steps=[Step(node, name="loop")], bind=bind)


def run(made: Stack[Any, Any], value: Any = None, backend: Any = None, **more: Any) -> Any:
    host = PluginHost(Settings(), installed=False)
    with Engine(trace=False, host=host, backend=backend or ScriptedBackend()) as engine:
        return engine.run(made, value or {"value": 5}, **more)


def rounds(found: Any) -> Rounds:
    content: Rounds = found.messages["loop.rounds"].content
    return content


# -- rounds ----------------------------------------------------------------------------------------------------------


def test_it_runs_again_until_the_expression_holds() -> None:
    found = run(stack(loop()))
    assert found.output.value == 160 and rounds(found) == Rounds(rounds=5, held=True)
    assert list(found.messages) == [*(f"loop.double[{i}]" for i in range(5)), "loop.rounds", "loop"]
    assert found.messages["loop.double[0]"].parents == (f"{found.id}/input/0/0",)
    assert found.messages["loop.double[3]"].parents == (f"{found.id}/loop.double[2]/0/0",)
    assert found.messages["loop"].parents == (f"{found.id}/loop.double[4]/0/0",)


def test_the_body_runs_at_least_once() -> None:
    found = run(stack(loop(until="last.value > 0")))
    assert found.output.value == 10 and rounds(found).rounds == 1


def test_the_bound_is_hard() -> None:
    with pytest.raises(RunFailed) as failed:
        run(stack(loop(most=3)))
    assert isinstance(failed.value.error, StageFailedError)
    said = "stack t, step loop: it would not do after 3 rounds: last.value > 100"
    assert str(failed.value).startswith(said)
    assert rounds(failed.value.run) == Rounds(rounds=3, held=False)
    assert "loop.double[3]" not in failed.value.run.messages


def test_the_last_may_be_kept() -> None:
    found = run(stack(loop(most=3, exhausted="keep")))
    assert found.output.value == 40 and rounds(found) == Rounds(rounds=3, held=False)


def test_a_thousand_rounds() -> None:
    found = run(stack(loop(tick, until="round.number == 1000", most=1000, carry={})))
    assert rounds(found) == Rounds(rounds=1000, held=True)


def test_an_expression_may_ask_for_the_input_and_the_round() -> None:
    until = "last.value > 8 * input.value or round.number >= 3"
    assert rounds(run(stack(loop(until=until)))).rounds == 3
    assert rounds(run(stack(loop(until=until.replace("8", "3"))))).rounds == 2


def test_what_the_first_round_lacks_is_null() -> None:
    body = Step(tell, bind={"note": "last.note", "turn": "round.number"})
    made = loop(body, until="round.number == 3", carry={"value": "value"}, input=Start, output=Said)
    found = run(stack(made, output=Said))
    assert found.output == Said(value=8, note="None+++", turn=3)


def test_the_input_may_supply_the_first_under_another_name() -> None:
    body = Step(write, bind={"text": "input.topic"})
    made = Repeat("t.loop", body, until="round.number == 2", most=2, carry={"text": "text"}, input=Topic)
    backend = ScriptedBackend({"t.write": ['{"text":"one"}', '{"text":"two"}']})
    found = run(stack(made, Topic, Draft), {"topic": "rain"}, backend)
    assert found.output.text == "two"
    assert ["rain" in str(r.prompt) for r in backend.requests] == [True, False]
    assert "one" in str(backend.requests[1].prompt)


def test_each_round_has_its_own_seed() -> None:
    made = Repeat("t.loop", warm, until="last.text == 'yes'", most=9)
    backend = ScriptedBackend({"t.warm": ['{"text":"no"}', '{"text":"no"}', '{"text":"yes"}']})
    found = run(stack(made, Topic, Draft), {"topic": "rain"}, backend)
    assert rounds(found).rounds == 3 and len({request.seed for request in backend.requests}) == 3


def test_the_body_may_be_several_steps() -> None:
    body = Stack(
        "t.body", input=Number, output=Number, steps=[double, Step(double, name="twice", bind=TWICE)], bind=OUT
    )
    found = run(stack(loop(body)))
    assert found.output.value == 320 and rounds(found).rounds == 3
    assert "loop.body[2].twice" in found.messages


TWICE = {"value": "double.value"}
OUT = {"value": "twice.value"}


def test_loops_in_loops() -> None:
    inner = Repeat("t.inner", double, until="round.number == 2", most=2, carry={"value": "value"})
    found = run(stack(loop(inner)))
    assert found.output.value == 320 and rounds(found).rounds == 3
    assert "loop.inner[2].double[1]" in found.messages and "loop.inner[0].rounds" in found.messages


def test_the_output_may_tell_the_round() -> None:
    made = loop(output=Done, bind={"rounds": "round.number"})
    assert run(stack(made, output=Done)).output == Done(value=160, rounds=5)


# -- what goes wrong in a round --------------------------------------------------------------------------------------


def test_a_body_that_fails_ends_it() -> None:
    with pytest.raises(RunFailed) as failed:
        run(stack(loop()), {"value": 13})
    assert failed.value.error.code == "tool"
    assert "step loop.double[0]" in str(failed.value)


def test_a_round_may_be_passed_over() -> None:
    class Maybe(BaseModel):
        value: int | None

    body = Step(double, when="round.number != 2", bind={"value": "input.value"})
    made = loop(body, until="round.number == 3", carry={}, output=Maybe)
    found = run(stack(made, output=Maybe))
    assert found.output.value == 10 and "loop.double[1]" in found.messages
    ends = loop(body, until="round.number == 2", carry={}, output=Maybe)
    assert run(stack(ends, output=Maybe)).output.value is None


def test_an_expression_that_fails_says_where() -> None:
    with pytest.raises(RunFailed) as failed:
        run(stack(loop(until="last.value / 0 > 1")))
    assert isinstance(failed.value.error, PromptError)
    assert str(failed.value).startswith("stack t, step loop, until: the expression failed")


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_cycle_without_a_bound_is_refused_with_a_clear_text() -> None:
    with pytest.raises(StackError) as refused:
        Repeat("t.loop", double, until="last.value > 3")
    assert str(refused.value).splitlines() == [
        "repeat t.loop: a cycle without a bound",
        "  expected: at most 1000 rounds",
        "  next: pass most=4, or however many rounds it may take",
    ]


def test_a_cycle_of_bindings_is_refused_and_told_of_repeat() -> None:
    cycle = Stack("t", input=Start, output=Number, steps=[Step(double, bind={"value": "tell.value"}), tell])
    with pytest.raises(CheckError) as refused:
        _ = cycle.wiring
    assert any("what shall be done again is a Repeat(…, most=…)" in finding for finding in refused.value.findings)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"most": 0}, "most is out of range"),
        ({"most": 1001}, "most is out of range"),
        ({"most": True}, "most is out of range"),
        ({"most": 2.5}, "most is out of range"),
        ({"most": float("inf")}, "most is out of range"),
        ({"exhausted": "stop"}, "no such policy for its end"),
        ({"step": Step(double, name="last")}, "itself says something"),
        ({"step": Step(double, name="rounds")}, "itself says something"),
    ],
)
def test_an_argument_out_of_range_is_refused_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(StackError, match=said):
        loop(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"until": "last.colour == 3"}, "until='last.colour == 3' asks for last.colour; Number has value"),
        ({"until": "lost.value == 3"}, "asks for 'lost'; known here: input, last, round"),
        ({"until": "last.value =="}, "until: when: the expression does not parse"),
        ({"until": "round.count > 3"}, "asks for round.count; Round has number"),
        ({"until": "input.value > 3"}, "is the same in every round"),
        ({"until": "true"}, "is the same in every round"),
        ({"carry": {}}, "every round would be given the same and say the same"),
        ({"carry": {"colour": "value"}}, "bind or carry names 'colour', which is no field of Number"),
        ({"carry": {"value": "colour"}}, "field 'value' is bound to 'last.colour', but Number has value"),
        ({"step": Step(double, bind={"value": "last.value"})}, "so it must accept null"),
        ({"step": Step(double, on_error="skip")}, "so it must accept null"),
    ],
)
def test_what_cannot_be_is_found_before_anything_runs(options: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckError) as refused:
        _ = stack(loop(**options)).wiring
    assert any(said in finding for finding in refused.value.findings), refused.value


def test_a_fault_is_told_once() -> None:
    with pytest.raises(CheckError) as refused:
        _ = stack(loop(Step(double, when="nobody.value"))).wiring
    assert sum("'nobody'" in finding for finding in refused.value.findings) == 1


def test_a_body_is_no_step_that_nothing_uses() -> None:
    report = check_stack(stack(loop()), host=PluginHost(Settings(), installed=False), settings=Settings())
    assert not report.errors and not report.warnings


def test_what_decides_is_in_its_plan() -> None:
    options: tuple[dict[str, Any], ...] = ({}, {"most": 4}, {"until": "last.value > 9"}, {"exhausted": "keep"})
    assert len({tuple(loop(**one).plan()) for one in options}) == len(options)
    body = Step(tell, bind={"note": "last.note"})
    carried = [loop(body, carry={"value": "value", **more}) for more in ({}, {"turn": "turn"})]
    assert len({tuple(one.plan()) for one in carried}) == 2


def test_a_scripted_request_names_its_round() -> None:
    seen: list[str] = []

    def answer(request: Request) -> str:
        seen.append(request.id)
        return '{"text":"x"}'

    made = Repeat("t.loop", write, until="round.number == 2", most=2, carry={"text": "text"})
    run(stack(made, Draft, Draft), {"text": "a"}, ScriptedBackend({"t.write": answer}))
    assert [re.sub("^[^/]+", "", id) for id in seen] == ["/loop.write[0]/0/0", "/loop.write[1]/0/0"]

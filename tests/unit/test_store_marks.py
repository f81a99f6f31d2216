"""Which fields count as sensitive once a stack's wiring is followed, and what the check says of it."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from fslm_core import settings as fslm_settings
from fslm_core.engine.check import check_stack
from fslm_core.message import Marks
from fslm_core.plugins import PluginHost
from fslm_core.stack import Stack, Step
from fslm_core.stage import SLM, Stage, tool
from fslm_core.store import Redactor, marks_of, unmarked

SECRET: dict[str, Any] = {"json_schema_extra": {"sensitive": True}}
OPEN: dict[str, Any] = {"json_schema_extra": {"sensitive": False}}
MODEL = SLM(base="smollm2-135m", tuned=True)


class Person(BaseModel):
    name: str = Field(max_length=20)
    town: str = Field(max_length=20)


class Given(BaseModel):
    text: str = Field(max_length=100)
    phone: str = Field(max_length=20)
    person: Person
    choices: list[str] = Field(max_length=3)
    kind: Literal["a", "b"] = "a"


class Said(BaseModel):
    text: str = Field(max_length=100)


class ToCall(BaseModel):
    phone: str = Field(max_length=20, **SECRET)


class Called(BaseModel):
    reached: bool


class Reply(BaseModel):
    reached: bool


@tool("m.call", version="1")
def call(given: ToCall) -> Called:
    return Called(reached=True)


def marked(stack: Stack[Any, Any]) -> Marks:
    return marks_of(stack)


def test_a_mark_in_a_later_stage_reaches_back_to_the_input() -> None:
    stack = Stack("m", input=Given, output=Reply, steps=[call], bind={"reached": "call.reached"})
    assert marked(stack).made["input"] == {"phone"}
    assert marked(stack).given["call"] == {"phone"}
    (finding,) = unmarked(stack)
    assert finding.startswith("input.phone is not marked as sensitive") and '{"sensitive": True}' in finding
    report = check_stack(stack, host=PluginHost(fslm_settings.load(files=[])), settings=fslm_settings.load(files=[]))
    assert finding in report.warnings

    given = Given(text="555 0100 calls", phone="555 0100", person=Person(name="n", town="t"), choices=[])
    redactor = Redactor(given, marks=marked(stack))
    assert redactor.content(given, "input")["phone"] == "[redacted]"
    assert redactor.content(given, "input")["text"] == "[redacted] calls"


def test_a_mark_in_the_input_reaches_every_stage_that_is_given_the_field() -> None:
    class Marked(Given):
        person: Person = Field(**SECRET)

    class Named(BaseModel):
        name: str = Field(max_length=20)

    class Placed(BaseModel):
        person: Person

    named = Stage("m.named", input=Named, output=Called, prompt="{{ name }}", model=MODEL)
    placed = Stage("m.placed", input=Placed, output=Called, prompt="{{ person.name }}", model=MODEL)
    steps: list[Any] = [Step(named, bind={"name": "input.person.name"}), placed]
    stack = Stack("m", input=Marked, output=Reply, steps=steps, bind={"reached": "named.reached"})
    assert marked(stack).given["named"] == {"name"}
    assert marked(stack).given["placed"] == {"person"}
    assert unmarked(stack) == []


def test_a_mark_within_a_model_keeps_its_path() -> None:
    class Held(BaseModel):
        name: str = Field(max_length=20, **SECRET)
        town: str = Field(max_length=20)

    class Holding(BaseModel):
        person: Held

    stage = Stage("m.hold", input=Holding, output=Called, prompt="{{ person.town }}", model=MODEL)

    class Whole(Given):
        person: Held  # type: ignore[assignment]

    stack = Stack("m", input=Whole, output=Reply, steps=[stage], bind={"reached": "hold.reached"})
    assert marked(stack).given["hold"] == {"person.name"} == marked(stack).made["input"]


def test_what_a_marked_output_is_made_of_is_marked_but_for_labels_and_what_is_denied() -> None:
    class Denied(Given):
        text: str = Field(max_length=100, **OPEN)

    class Asked(BaseModel):
        text: str = Field(max_length=100)
        phone: str = Field(max_length=20)
        kind: Literal["a", "b"]

    class AskedOpenly(Asked):
        text: str = Field(max_length=100, **OPEN)

    class Extracted(BaseModel):
        name: str = Field(max_length=20, **SECRET)

    class Sorted(BaseModel):
        kind: Literal["x", "y"] = Field(**SECRET)

    extract = Stage("m.extract", input=Asked, output=Extracted, prompt="{{ text }}", model=MODEL)
    openly = Stage("m.openly", input=AskedOpenly, output=Extracted, prompt="{{ text }}", model=MODEL)
    sort = Stage("m.sort", input=Asked, output=Sorted, prompt="{{ text }}", model=MODEL)

    def inputs(stage: Stage[Any, Any], model: type[BaseModel], field: str) -> frozenset[str]:
        class Out(BaseModel):
            name: Any

        stack = Stack("m", input=model, output=Out, steps=[stage], bind={"name": f"{stage.name[2:]}.{field}"})
        return marked(stack).made["input"]

    assert inputs(extract, Given, "name") == {"text", "phone"}
    assert inputs(openly, Denied, "name") == {"phone"}
    assert inputs(sort, Given, "kind") == frozenset()  # a label of its author's is no piece of the input


def test_labels_that_are_narrowed_to_a_marked_list_are_marked() -> None:
    class Choosing(BaseModel):
        choices: list[str] = Field(max_length=3, **SECRET)
        text: str = Field(max_length=100)

    class Chosen(BaseModel):
        choice: str = Field(max_length=20)

    choose = Stage(
        "m.choose", input=Choosing, output=Chosen, prompt="{{ text }}", narrow={"choice": "choices"}, model=MODEL
    )
    stack = Stack("m", input=Given, output=Chosen, steps=[choose], bind={"choice": "choose.choice"})
    assert marked(stack).made["choose"] == {"choice"} == marked(stack).given["output"]
    assert marked(stack).made["input"] == {"choices"}
    narrowed = {"properties": {"choice": {"enum": ["somebody else's number"]}, "x": {"enum": ["yes", "no"]}}}
    redactor = Redactor(Given(text="t", phone="", person=Person(name="", town=""), choices=[]), marks=marked(stack))
    assert redactor.narrowed(narrowed, Chosen, "choose") == {
        "properties": {"choice": {"enum": ["[redacted]"]}, "x": {"enum": ["yes", "no"]}}
    }


def test_labels_below_that_are_narrowed_to_a_marked_list_are_marked() -> None:
    class Choosing(BaseModel):
        choices: list[str] = Field(max_length=3, **SECRET)
        text: str = Field(max_length=100)

    class Slot(BaseModel):
        name: str = Field(max_length=40)

    class Chosen(BaseModel):
        slots: list[Slot] = Field(max_length=2)

    narrow = {"slots.name": "choices"}
    choose = Stage("m.choose", input=Choosing, output=Chosen, prompt="{{ text }}", narrow=narrow, model=MODEL)
    stack = Stack("m", input=Given, output=Chosen, steps=[choose])
    assert marked(stack).made["choose"] == {"slots.name"} == marked(stack).given["output"]
    narrowed = choose.narrowed(Choosing(choices=["somebody else's number"], text="")).tree
    redactor = Redactor(Given(text="t", phone="", person=Person(name="", town=""), choices=[]), marks=marked(stack))
    assert "somebody" not in str(redactor.narrowed(narrowed, Chosen, "choose"))


def test_nothing_is_marked_where_nobody_marks_anything() -> None:
    class Phone(BaseModel):
        phone: str = Field(max_length=20)

    stage = Stage("m.dial", input=Phone, output=Called, prompt="{{ phone }}", model=MODEL)
    stack = Stack("m", input=Given, output=Reply, steps=[stage], bind={"reached": "dial.reached"})
    assert not marked(stack) and unmarked(stack) == []


@pytest.mark.parametrize(
    "text",
    [
        "Call +32 470 99-88-77 now",
        "Call +32470998877 now",
        "call 32.470.99.88.77",
        "CALL +32 470 99-88-77 ZQ",
        "470 99-88-77",
        '{"phone": "+32 470 99-88-77 \\u017cq"}',
    ],
)
def test_a_number_is_found_however_it_is_written(text: str) -> None:
    redactor = Redactor(ToCall(phone="+32 470 99-88-77"))
    assert "99" not in redactor.content(Said(text=text))["text"]
    assert redactor.content(Said(text="99 balloons"))["text"] == "99 balloons"


def test_what_json_escapes_is_found_and_composed_letters_too() -> None:
    redactor = Redactor(ToCall(phone='Zoë "Z" Ñandú'))
    for text in ('he is Zoe\u0308 "Z" N\u0303andu\u0301!', 'x "Zo\\u00eb \\"Z\\" \\u00d1and\\u00fa" y'):
        said = redactor.content(Said(text=text))["text"]
        assert "[redacted]" in said and "and" not in said

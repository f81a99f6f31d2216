"""What is made up fits: every value is accepted by schema and model, and the ends of every range occur."""

from __future__ import annotations

import datetime
import enum
import ipaddress
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, model_validator

from fslm_core.errors import SchemaError
from fslm_core.schema import canonical, normalise, parse, plain_data
from fslm_core.testing import from_schema, instances
from fslm_core.testing.strategies import data_for

THOROUGH = settings(max_examples=1000, phases=[Phase.generate], database=None)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "bl\u00fc"


class Part(BaseModel):
    name: Annotated[str, Field(min_length=1, max_length=3)]
    count: Annotated[int, Field(gt=2, lt=9)]


class Words(BaseModel):
    text: Annotated[str, Field(max_length=5)]
    code: Annotated[str, Field(pattern=r"^[A-Z]{2}\d+$", max_length=6)]
    label: Literal["a", "b"] | None
    colour: Colour


class Numbers(BaseModel):
    share: Annotated[float, Field(ge=0, le=1, multiple_of=0.01)]
    quarter: Annotated[float, Field(ge=0, le=1, multiple_of=0.25)]
    steps: Annotated[int, Field(ge=-7, le=20, multiple_of=5)]
    free: int
    sure: bool


class Shapes(BaseModel):
    parts: Annotated[list[Part], Field(min_length=1, max_length=3)]
    pair: tuple[bool, Annotated[int, Field(ge=0, le=1)]]


class Places(BaseModel):
    day: datetime.date
    at: datetime.time
    when: datetime.datetime
    key: uuid.UUID
    four: ipaddress.IPv4Address
    six: ipaddress.IPv6Address


class Both(BaseModel):
    kind: Literal["a", "b"] | None
    value: Annotated[str, Field(max_length=3)] | None

    @model_validator(mode="after")
    def _together(self) -> Both:
        if (self.kind is None) != (self.value is None):
            raise ValueError("together or not at all")
        return self


class Tree(BaseModel):
    name: str
    below: list[Tree] = []


class Loose(BaseModel):
    text: Annotated[str, Field(min_length=1)]
    numbers: list[float]
    named: dict[str, int]
    tags: set[str]
    anything: Any
    when: datetime.datetime | None = None
    long: Annotated[str, Field(max_length=100_000)] = ""


@pytest.mark.parametrize("model", [Words, Numbers, Shapes, Places, Both])
def test_every_value_fits_the_schema_and_the_model(model: type[BaseModel]) -> None:
    schema = normalise(model)

    @settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
    @given(instances(model), from_schema(schema))
    def fits(made: BaseModel, data: Any) -> None:
        assert isinstance(made, model)
        assert schema.problems(plain_data(made)) == []
        assert parse(canonical(made), model, schema) == made
        assert schema.problems(data) == []

    fits()


@pytest.mark.parametrize("model", [Tree, Loose])
def test_an_input_model_may_be_loose(model: type[BaseModel]) -> None:
    @settings(max_examples=25)
    @given(instances(model))
    def fits(made: BaseModel) -> None:
        assert type(made).model_validate(made.model_dump()) == made

    fits()


ENDS: dict[str, tuple[type[BaseModel], Callable[[Any], bool]]] = {
    "no text": (Words, lambda w: w.text == ""),
    "longest text": (Words, lambda w: len(w.text) == 5),
    "longest code": (Words, lambda w: len(w.code) == 6),
    "null": (Words, lambda w: w.label is None),
    "last label": (Words, lambda w: w.label == "b"),
    "last member": (Words, lambda w: w.colour is Colour.BLUE),
    "least share": (Numbers, lambda n: n.share == 0),
    "greatest share": (Numbers, lambda n: n.share == 1),
    "one quarter": (Numbers, lambda n: n.quarter == 0.75),
    "least multiple": (Numbers, lambda n: n.steps == -5),
    "greatest multiple": (Numbers, lambda n: n.steps == 20),
    "greatest integer": (Numbers, lambda n: n.free == 2**53 - 1),
    "least integer": (Numbers, lambda n: n.free == -(2**53 - 1)),
    "shortest list": (Shapes, lambda s: len(s.parts) == 1),
    "longest list": (Shapes, lambda s: len(s.parts) == 3),
    "least above a bound": (Shapes, lambda s: s.parts[0].count == 3),
    "greatest below a bound": (Shapes, lambda s: s.parts[0].count == 8),
    "both of a pair": (Shapes, lambda s: s.pair == (True, 1)),
    "a zone": (Places, lambda p: p.when.tzinfo is not None),
    "no zone": (Places, lambda p: p.when.tzinfo is None),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_ends_of_every_range_occur(end: str) -> None:
    model, is_end = ENDS[end]
    assert is_end(find(instances(model), is_end, settings=THOROUGH))


def test_what_validators_refuse_does_not_occur_and_both_of_what_they_allow_do() -> None:
    assert find(instances(Both), lambda b: b.kind is None) == Both(kind=None, value=None)
    assert find(instances(Both), lambda b: b.kind is not None).value is not None
    assert find(data_for(Both), lambda d: (d["kind"] is None) != (d["value"] is None)) == {"kind": None, "value": ""}


@settings(max_examples=25)
@given(st.data())
def test_optional_fields_are_there_and_are_not(data: st.DataObject) -> None:
    made = data.draw(data_for(Loose))
    assert {"text", "numbers", "named", "tags", "anything"} <= made.keys() <= Loose.model_fields.keys()


def test_a_pattern_that_python_does_not_know_is_told() -> None:
    class Letters(BaseModel):
        name: Annotated[str, Field(pattern=r"^\p{L}+$", max_length=4)]

    with pytest.raises(SchemaError, match="give a strategy of your own") as caught:
        instances(Letters)
    assert caught.value.where == "Letters.name"


def test_a_model_without_a_schema_is_told() -> None:
    class Odd(BaseModel):
        call: Callable[[], int]

    with pytest.raises(SchemaError, match="pydantic cannot express the model"):
        instances(Odd)

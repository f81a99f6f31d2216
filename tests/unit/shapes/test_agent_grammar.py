"""An agent's grammar, whatever its tools: all it admits is a plan, and every plan's canonical text is admitted."""

from __future__ import annotations

import random
from typing import Annotated, Any, Literal

import llguidance
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model

from fslm_core.schema import Schema, canonical, loads, normalise, parse
from fslm_core.shapes import plan_model
from fslm_core.stage import Stage, Tool
from fslm_core.testing import instances

pytestmark = pytest.mark.torch


class Place(BaseModel):
    city: Annotated[str, Field(max_length=4)]
    floor: Annotated[int, Field(ge=-2, le=30)] | None


class Kind(BaseModel):
    kind: Literal["a", "b"]


ANNOTATIONS: list[Any] = [
    Annotated[str, Field(max_length=5)],
    Annotated[str, Field(max_length=6, min_length=1, pattern="^[a-z]*$")],
    Annotated[int, Field(ge=0, le=12)],
    Annotated[float, Field(ge=0, le=1, multiple_of=0.25)],
    Annotated[list[Literal["x", "y"]], Field(max_length=2)],
    Literal["today", "tomorrow"] | None,
    bool,
    Place,
    Kind | None,
]
NAMES = st.from_regex(r"\A[a-z][a-z_]{0,6}\Z").filter(lambda name: name not in ("input", "output", "finish"))
FIELDS = st.sampled_from(["a", "b", "tool", "arguments", "next", "kind"])
MODELS = st.dictionaries(FIELDS, st.sampled_from(ANNOTATIONS), max_size=3).map(
    lambda fields: create_model("Made", **{name: (kind, ...) for name, kind in fields.items()})  # type: ignore[call-overload]
)
TOOLSETS = st.dictionaries(NAMES, MODELS, max_size=4)


def plan_for(tools: dict[str, type[BaseModel]], output: type[BaseModel]) -> type[BaseModel]:
    stages = [
        Stage(f"t.{name}", input=model, output=model, tool=Tool(lambda given: given, "1"))
        for name, model in tools.items()
    ]
    return plan_model(stages, output)


def matcher(schema: Schema) -> Any:
    text = llguidance.LLMatcher.grammar_from_json_schema(schema.text, defaults={"whitespace_flexible": False})
    made = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), text, log_level=0)
    assert not made.get_error(), made.get_error()
    return made


def admits(schema: Schema, text: str) -> bool:
    found = matcher(schema)
    return all(found.consume_token(byte) for byte in text.encode()) and bool(found.is_accepting())


def written(schema: Schema, chance: random.Random) -> str:
    """A text that the grammar admits, byte by byte by chance."""
    found, text = matcher(schema), bytearray()
    while not found.is_stopped() and not (found.is_accepting() and not _allowed(found)):
        byte = chance.choice(_allowed(found))
        assert found.consume_token(byte)
        text.append(byte)
        assert len(text) <= schema.max_bytes
    return text.decode()


def _allowed(found: Any) -> list[int]:
    mask = found.compute_bitmask()
    return [byte for byte in range(256) if mask[byte // 8] >> (byte % 8) & 1]


@settings(max_examples=40)
@given(tools=TOOLSETS, output=MODELS, chance=st.randoms(use_true_random=False))
def test_whatever_the_grammar_admits_is_a_plan(
    tools: dict[str, type[BaseModel]], output: type[BaseModel], chance: random.Random
) -> None:
    plan = plan_for(tools, output)
    schema = normalise(plan)
    text = written(schema, chance)
    made = parse(text, plan, schema)
    assert isinstance(made, plan), (text, made)
    chosen = loads(text)["next"]
    known = {name: list(model.model_fields) for name, model in tools.items()}
    assert list(chosen["arguments"]) == {**known, "finish": list(output.model_fields)}[chosen["tool"]]


@settings(max_examples=40)
@given(tools=TOOLSETS, output=MODELS, data=st.data())
def test_every_plans_canonical_text_is_admitted_and_comes_back(
    tools: dict[str, type[BaseModel]], output: type[BaseModel], data: st.DataObject
) -> None:
    plan = plan_for(tools, output)
    schema = normalise(plan)
    made = data.draw(instances(plan))
    text = canonical(made)
    assert admits(schema, text)
    assert parse(text, plan, schema) == made


@settings(max_examples=40)
@given(tools=TOOLSETS, output=MODELS, data=st.data())
def test_a_narrowed_grammar_admits_exactly_the_plans_that_are_left(
    tools: dict[str, type[BaseModel]], output: type[BaseModel], data: st.DataObject
) -> None:
    assume(tools)
    plan = plan_for(tools, output)
    names = list(tools)
    left = [*data.draw(st.lists(st.sampled_from(names), unique=True)), "finish"]
    schema = normalise(plan).narrow({"next": left})
    made: Any = data.draw(instances(plan))
    text = canonical(made)
    assert admits(schema, text) is (made.next.tool in left)
    assert isinstance(parse(text, plan, schema), plan) is (made.next.tool in left)

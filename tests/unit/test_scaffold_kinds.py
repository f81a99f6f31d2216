"""The source of a kind, its type and its example say the same."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, TypeAdapter

from fslm_core.scaffold.kinds import (
    Day,
    Kind,
    Labels,
    Many,
    Moment,
    Number,
    OneOf,
    Record,
    Slot,
    Text,
    Whole,
    YesNo,
    example_of,
    model_of,
    parts_of,
    said,
    slot_source,
    source_of,
    type_of,
)
from fslm_core.schema import canonical, normalise

MOOD = Labels(("bad", 'go"od'), "Mood")
PLACE = Record("Place", (Slot("city", Text(1, 20)), Slot("zip", Text(0, 9), nullable=True, optional=True)))
KINDS: list[Kind] = [
    Text(),
    Text(0),
    Text(3, 5),
    MOOD,
    Labels(("one",), "Mood"),
    Whole(-5, 100),
    Whole(None, None),
    Number(0, 20, 2),
    Number(None, None),
    YesNo(),
    Day(),
    Moment(),
    Many(MOOD, 4),
    Many(Text(1, 9), 1),
    OneOf((Whole(0, 9), Text(1, 9))),
    PLACE,
    Many(PLACE, 2),
]


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_the_source_is_the_type(kind: Kind) -> None:
    names: dict[str, Any] = {"Annotated": Annotated, "Field": Field, "datetime": datetime, "Place": model_of(PLACE)}
    for part in parts_of(kind):
        if isinstance(part, Labels):
            names[part.alias] = Literal.__getitem__(part.values)
    written, made = TypeAdapter(eval(source_of(kind), names)), TypeAdapter(type_of(kind))
    assert written.json_schema() == made.json_schema()
    assert written.dump_json(written.validate_python(example_of(kind))) == made.dump_json(
        made.validate_python(example_of(kind))
    )


@pytest.mark.parametrize("kind", [k for k in KINDS if "None" not in repr(k) and k != Text(0)], ids=repr)
def test_what_a_model_writes_has_a_grammar_and_the_example_fits(kind: Kind) -> None:
    model = model_of(Record("Out", (Slot("field", kind), Slot("maybe", kind, nullable=True))))
    schema = normalise(model)
    made = model.model_validate({"field": example_of(kind), "maybe": None})
    assert schema.problems(made.model_dump(mode="json")) == []
    assert len(canonical(made).encode()) <= schema.max_bytes


def test_a_slot_s_source_has_null_and_default() -> None:
    assert slot_source(Slot("mood", MOOD)) == "mood: Mood"
    assert slot_source(Slot("mood", MOOD, nullable=True)) == "mood: Mood | None"
    assert slot_source(Slot("mood", MOOD, nullable=True, optional=True)) == "mood: Mood | None = None"


def test_kinds_are_said_in_a_few_words() -> None:
    assert [said(kind) for kind in (Text(), Text(1, 2000), MOOD, Labels(("one",), "M"), Whole(0, 5), PLACE)] == [
        "text", "text, at most 2,000 characters", "one of 2 labels", 'always "one"', "whole number, 0 to 5",
        "object of city, zip",
    ]  # fmt: skip


def test_a_short_text_s_example_is_as_short() -> None:
    assert example_of(Text(1, 3)) == "Som" and example_of(Text(20, 30)) == "Some words."[:20].ljust(20, "x")

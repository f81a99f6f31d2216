"""The control: linear over labels, a look-up over copied texts, the commonest value for the rest."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from fslm_core.evaluate.control import LinearControl, commonest, is_copied, shape, spans, text_of
from fslm_core.evaluate.fields import fields_of

pytestmark = pytest.mark.torch


class Where(BaseModel):
    city: str | None


class Ticket(BaseModel):
    kind: Literal["order", "greeting", "city"]
    about: Literal["number", "place"] | None
    value: str | None
    to: Where
    count: int


def ticket(kind: str, about: str | None, value: str | None) -> dict[str, Any]:
    return {"kind": kind, "about": about, "value": value, "to": {"city": None}, "count": 3}


def train() -> tuple[list[str], list[dict[str, Any]]]:
    orders = [(f"where is order {n} please", ticket("order", "number", str(n))) for n in range(1200, 1260, 7)]
    cities = [(f"i move to {c} in May", ticket("city", "place", c)) for c in ("Rome", "New York", "Bonn", "Paris")]
    hello = [(text, ticket("greeting", None, None)) for text in ("hello", "good morning", "hi there", "hello you 77")]
    texts, gold = zip(*(orders + cities * 2 + hello), strict=True)
    return list(texts), list(gold)


def test_it_learns_labels_copies_what_it_never_saw_and_leaves_the_rest() -> None:
    control = LinearControl(*train(), fields_of(Ticket))
    assert control.ways == {
        "kind": "linear",
        "about": "linear",
        "value": "look-up",
        "to.city": "commonest value",
        "count": "commonest value",
    }
    said = control.predict(["where is order 98765 please", "i move to Rome in May", "hello you"])
    assert said[0] == ticket("order", "number", "98765")
    assert said[1] == ticket("city", "place", "Rome")
    assert said[2] == ticket("greeting", None, None)
    assert control.predict([]) == []


class Plain(BaseModel):
    value: str | None


def test_without_a_label_that_says_when_a_classifier_does() -> None:
    texts = [f"order {n}" for n in range(100, 120)] + ["good morning", "hello", "hi there"] * 4
    gold: list[dict[str, Any]] = [{"value": str(n)} for n in range(100, 120)] + [{"value": None}] * 12
    control = LinearControl(texts, gold, fields_of(Plain))
    assert control.predict(["order 555", "hello 5"]) == [{"value": "555"}, {"value": None}]


def test_one_label_alone_and_one_row_alone() -> None:
    control = LinearControl(["x"], [ticket("order", None, None)], fields_of(Ticket))
    assert control.predict(["anything", ""]) == [ticket("order", None, None)] * 2
    LinearControl([""], [ticket("order", None, None)], fields_of(Ticket))


def test_what_counts_as_copied() -> None:
    assert is_copied(["a b", "c d", "e"], ["b", "c", None])
    assert not is_copied(["a b", "c d"], ["no", "never"])
    assert not is_copied(["a"], [None])
    assert commonest([1, None, True, 1]) == 1 and commonest([True, 1, True]) is True


class Deep(BaseModel):
    text: str
    parts: list[Where]
    number: float | None


def test_the_text_of_an_input_is_all_that_it_says() -> None:
    assert text_of(Deep(text="a", parts=[Where(city="b"), Where(city=None)], number=0.5)) == "a\nb\n0.5"


@given(st.text(max_size=30))
def test_every_span_stands_in_the_text_and_shapes_are_stable(text: str) -> None:
    assert all(span in text and span == span.strip() for span in spans(text))
    assert len(shape(text)) <= len(text) and shape(shape(text)) == shape(text)

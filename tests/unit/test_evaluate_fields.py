"""How fields are compared: kinds read off models, text measures by hand-worked examples."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from fslm_core.evaluate.fields import FieldSpec, Mark, fields_of, label_of, normal_text, same, set_f1, token_f1


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Inner(BaseModel):
    note: str = Field(max_length=9)
    deep: Literal[1, 2] | None


class Everything(BaseModel):
    colour: Colour
    maybe: Colour | None
    flag: bool
    choice: Literal["a", 1] | None
    only: Literal["x"]
    text: str | None
    count: int
    share: float | None
    tags: list[Colour]
    inner: Inner
    perhaps: Inner | None
    mixed: int | str
    table: dict[str, int]
    nothing: None = None


def test_kinds_and_labels_are_read_off_the_model() -> None:
    found = {spec.name: (spec.kind, spec.labels) for spec in fields_of(Everything)}
    assert found == {
        "colour": ("label", ("red", "blue")),
        "maybe": ("label", ("red", "blue", "null")),
        "flag": ("label", ("false", "true")),
        "choice": ("label", ("a", "1", "null")),
        "only": ("label", ("x",)),
        "text": ("text", ()),
        "count": ("number", ()),
        "share": ("number", ()),
        "tags": ("list", ()),
        "inner.note": ("text", ()),
        "inner.deep": ("label", ("1", "2", "null")),
        "perhaps.note": ("text", ()),
        "perhaps.deep": ("label", ("1", "2", "null")),
        "mixed": ("other", ()),
        "table": ("other", ()),
        "nothing": ("other", ()),
    }


class Tree(BaseModel):
    name: str
    below: Tree | None


def test_a_model_that_holds_itself_is_followed_once() -> None:
    assert [(s.name, s.kind) for s in fields_of(Tree)] == [("name", "text"), ("below", "other")]


def test_a_value_below_a_null_is_null_and_one_that_nobody_knows_is_unknown() -> None:
    spec = FieldSpec("a.b", "text")
    assert spec.of({"a": {"b": "x"}}) == "x"
    assert spec.of({"a": None}) is None
    assert spec.of({"a": {}}) is Mark.UNKNOWN
    assert spec.of({}) is Mark.UNKNOWN
    assert spec.of(Mark.SKIPPED) is Mark.SKIPPED


@pytest.mark.parametrize(
    ("gold", "predicted", "f1"),
    [
        ("the red car", "red car", 1.0),
        ("red car", "car", 2 * 1 * 0.5 / 1.5),
        ("a b c d", "x y", 0.0),
        ("b b c", "b c c", 2 / 3),
        ("the", "a", 1.0),
        ("the", "x", 0.0),
        (None, None, 1.0),
        (None, "", 0.0),
        ("", None, 0.0),
    ],
)
def test_token_f1_by_hand(gold: str | None, predicted: str | None, f1: float) -> None:
    assert token_f1(gold, predicted) == pytest.approx(f1)


def test_texts_are_normalised_as_squad_does() -> None:
    assert normal_text("An  apple,\tTHE pear; theatre!") == "apple pear theatre"
    assert normal_text("A.") == ""


@pytest.mark.parametrize(
    ("gold", "predicted", "f1"),
    [(["a", "b", "c"], ["b", "d"], 0.4), (["a", "a"], ["a"], 1.0), ([], ["a"], 0.0), ([True], [1], 0.0)],
)
def test_set_f1_by_hand(gold: list[Any], predicted: list[Any], f1: float) -> None:
    assert set_f1(gold, predicted) == pytest.approx(f1)


_TEXTS = st.text(max_size=12) | st.sampled_from(["the cat", "a cat", "cat the", ""])


@given(_TEXTS | st.none(), _TEXTS | st.none())
def test_token_f1_is_a_symmetric_share(one: str | None, other: str | None) -> None:
    assert 0 <= token_f1(one, other) <= 1
    assert token_f1(one, other) == token_f1(other, one)
    assert token_f1(one, one) == 1


def test_what_looks_alike_is_told_apart() -> None:
    assert len({label_of(v) for v in (None, "null", True, "true", Mark.SKIPPED, "(skipped)", Mark.FAILED, "x")}) == 8
    assert not same(1, True) and not same(None, Mark.SKIPPED) and same(Mark.FAILED, Mark.FAILED)

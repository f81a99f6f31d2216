"""Names and strings for generated source: valid Python, whatever the words."""

from __future__ import annotations

import ast
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import create_model

from fslm_core.prompt import Template
from fslm_core.scaffold.text import class_name, field_name, is_claimed, listed, quoted, width_of
from fslm_core.wording import counted


@given(st.text())
def test_a_field_s_name_serves_python_pydantic_and_templates(words: str) -> None:
    name = field_name(words)
    assert name.isascii() and name.isidentifier() and name == name.lower() and not is_claimed(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert name in create_model("M", **{name: (str, ...)}).model_fields  # type: ignore[call-overload]
    assert Template(f"{{{{ {name} }}}}").variables == {name}


@given(st.lists(st.text(max_size=3), max_size=20))
def test_no_two_fields_have_one_name(words: list[str]) -> None:
    taken: set[str] = set()
    for word in words:
        name = field_name(word, taken)
        assert name not in taken
        taken.add(name)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("Customer Message", "customer_message"),
        ("orderID", "order_id"),
        ("Straße / Nr.", "strasse_nr"),
        ("model_dump", "model_dump_"),
        ("None", "none_"),
        ("datetime", "datetime_"),
        ("2nd", "field_2nd"),
        ("😀", "field"),
        ("x" * 99, "x" * 30),
    ],
)
def test_names_people_give_columns(words: str, name: str) -> None:
    assert field_name(words) == name


@given(st.text())
def test_a_quoted_text_reads_back_and_shows_no_line_end(text: str) -> None:
    source = quoted(text)
    assert ast.literal_eval(source) == text
    assert source.isprintable()


@given(st.from_regex(r"[a-z][a-z0-9_-]{0,20}", fullmatch=True), st.sets(st.text(max_size=3)))
def test_a_class_s_name_is_one(words: str, taken: set[str]) -> None:
    made = class_name(words, taken=taken)
    assert made.isidentifier() and made not in taken
    assert made not in ("BaseModel", "Field", "Literal", "Stack", "Stage", "Exception", "KeyError")


def test_widths_counts_and_lists() -> None:
    assert (width_of("é"), width_of("語")) == (1, 2)
    assert (counted(1, "row"), counted(1234, "row")) == ("1 row", "1,234 rows")
    assert (listed(["a"]), listed(["a", "b"]), listed("abc")) == ("a", "a and b", "a, b and c")

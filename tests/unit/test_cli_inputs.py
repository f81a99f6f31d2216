"""From what was typed or piped to a stack's input."""

from __future__ import annotations

import io
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from fslm_core.cli import inputs
from fslm_core.errors import InputError


class One(BaseModel):
    text: Annotated[str, Field(max_length=9)]
    language: str = "en"


class Two(BaseModel):
    number: str
    count: int


class Odd(BaseModel):
    count: int


class Choice(BaseModel):
    kind: Literal["a", "b"]
    size: int | None = None


@pytest.mark.parametrize(("model", "field"), [(One, "text"), (Two, None), (Odd, None), (Choice, None)])
def test_bare_text_fills_the_only_required_string(model: type[BaseModel], field: str | None) -> None:
    assert inputs.bare_field(model) == field


@given(st.text())
def test_bare_text_is_never_parsed(text: str) -> None:
    assert inputs.read(One, text, as_json=False, where="argument") == {"text": text}


def test_json_is_never_guessed() -> None:
    text = '{"text": "hi"}'
    assert inputs.read(One, text, as_json=False, where="argument") == {"text": text}
    assert inputs.read(One, text, as_json=True, where="argument") == {"text": "hi"}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"number": "1" "count": 2}', "Expecting ',' delimiter (line 1, column 16)"),
        ("", "Expecting value"),
        ("[1, 2]", "not a JSON object"),
        ('"number"', "not a JSON object"),
        ('{"count": 1, "count": 2}', "'count' stands twice"),
        ('{"count": NaN}', "NaN is no JSON number"),
        ('{"a":' * 100_000, "nested too deep"),
        ('{"count": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_malformed_json_says_where_and_what_was_expected(text: str, what: str) -> None:
    with pytest.raises(InputError) as caught:
        inputs.read(Two, text, as_json=False, where="standard input")
    assert what in caught.value.what
    assert caught.value.where == "standard input"
    assert caught.value.expected == "a JSON object with number (string), count (integer)"


def test_choices_and_optional_fields_are_described() -> None:
    assert inputs.describe(Choice) == "a JSON object with kind (one of a, b), size (integer or null, optional)"


def test_what_is_not_utf8_is_refused() -> None:
    with pytest.raises(InputError, match="not UTF-8: byte 4 is 0xe9"):
        inputs.decode(b"cafe\xe9", where="standard input")
    with pytest.raises(InputError, match="not UTF-8"):
        inputs.typed_or_piped("caf\udce9")


@pytest.mark.parametrize(
    ("piped", "text"),
    [(b"hi\n", "hi"), (b"hi\r\n", "hi"), (b"hi\n\n", "hi\n"), (b"\xef\xbb\xbfhi", "hi"), (b"", ""), (b"\n a", "\n a")],
)
def test_standard_input_loses_one_line_end(piped: bytes, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(piped)))
    assert inputs.typed_or_piped("-") == (text, "standard input")

"""Numbers are found where they stand, in digits and in words, and nothing else is."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fslm_math.finding import find, implied, rewritten
from fslm_math.steps import shown


def values(text: str) -> list[str]:
    return [shown(number.value) for number in find(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("She had 1,234 pens and 5 cups.", ["1234", "5"]),
        ("It costs $60.00, not $.75.", ["60", "0.75"]),
        ("1/2 of 2 1/2 cups", ["0.5", "2.5"]),
        ("1/3 of a cup", ["1", "3"]),
        ("twenty-five, one hundred and six, two thousand", ["25", "106", "2000"]),
        ("Thirty pens for three people", ["30", "3"]),
        ("20% off 5kg", ["20", "5"]),
        ("one of them", []),
        ("the 3rd time, room A4, someone, often, tenth", []),
        ("no number", []),
        ("seven eight", []),
    ],
)
def test_what_is_found(text: str, found: list[str]) -> None:
    assert values(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [("half as many as a dozen", ["2", "12"]), ("20% in three weeks", ["7", "100"]), ("weekend behalf", [])],
)
def test_what_words_bring_along(text: str, found: list[str]) -> None:
    assert implied(text) == found


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=6))
def test_every_number_is_found_where_it_stands(numbers: list[int]) -> None:
    text = "There are " + " pens and ".join(map(str, numbers)) + " pens."
    found = list(find(text))
    assert [number.value for number in found] == numbers
    assert [int(text[number.start : number.end]) for number in found] == numbers


@given(st.text(max_size=300))
def test_any_text_is_read_and_offsets_are_in_order(text: str) -> None:
    found = list(find(text))
    places = [place for number in found for place in (number.start, number.end)]
    assert places == sorted(places)
    assert all(isinstance(number.value, Fraction) and number.value >= 0 for number in found)


@given(st.text(max_size=200))
def test_rewriting_twice_changes_no_value(text: str) -> None:
    found = list(find(text))
    if all("/" not in shown(number.value) for number in found):
        assert values(rewritten(text, found))[: len(found)] == [shown(number.value) for number in found] or not found

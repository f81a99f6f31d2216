"""One form for what can be said in many."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fslm_assistant.values import alike, canonical, date_of, snapped, time_of

MONDAY = date(2026, 3, 2)


@pytest.mark.parametrize(
    ("said", "time"),
    [
        ("half past 6 in the evening", "18:30"),
        ("quarter to five in the afternoon", "16:45"),
        ("evening 4:45", "16:45"),
        ("twelve in the afternoon", "12:00"),
        ("12 am", "00:00"),
        ("7 o'clock in the morning", "07:00"),
        ("18:30", "18:30"),
        ("noon", "12:00"),
        ("two", None),
        ("25:00", None),
        ("Blue Lantern", None),
    ],
)
def test_times(said: str, time: str | None) -> None:
    assert time_of(said) == time


@pytest.mark.parametrize(
    ("said", "day"),
    [
        ("today", "2026-03-02"),
        ("later today", "2026-03-02"),
        ("the day after tomorrow", "2026-03-04"),
        ("next Monday", "2026-03-09"),
        ("this Friday", "2026-03-06"),
        ("Tuesday next week", "2026-03-10"),
        ("March 8th", "2026-03-08"),
        ("8th of this month", "2026-03-08"),
        ("the 11th", "2026-03-11"),
        ("31st of February", None),
        ("Sunnyvale", None),
        ("Friends", None),
    ],
)
def test_dates(said: str, day: str | None) -> None:
    assert date_of(said, MONDAY) == day


@given(st.text(max_size=40))
def test_a_canonical_form_is_its_own(text: str) -> None:
    once = canonical(text, MONDAY)
    assert canonical(once, MONDAY) == once


@given(st.text(max_size=40), st.text(max_size=40))
def test_to_be_alike_goes_both_ways(one: str, other: str) -> None:
    assert alike(one, one, MONDAY)
    assert alike(one, other, MONDAY) == alike(other, one, MONDAY)


@given(st.text(max_size=20), st.lists(st.sampled_from(["1", "2", "True", "False", "cheap"]), unique=True))
def test_what_is_snapped_to_is_one_of_the_values(text: str, values: list[str]) -> None:
    assert snapped(text, values) in (None, *values)


def test_alike_in_any_form() -> None:
    assert alike("half past 6 in the evening", "6:30 pm", MONDAY)
    assert alike("NYC", "New York", MONDAY)
    assert alike("3.90", "3.9", MONDAY)
    assert not alike("6:30 am", "6:30 pm", MONDAY)

"""The calculator is exact, and refuses what comes to no number."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fslm_math.steps import CalculationError, calculate, choices, shown

VALUES = st.integers(0, 10**12).map(str) | st.decimals(0, 1000, places=3).map(lambda d: f"{d:f}")


def test_results_are_used_and_written_out() -> None:
    assert calculate(["9*10", "7*5", "x-y"]) == (Fraction(55), ["9 * 10 = 90", "7 * 5 = 35", "90 - 35 = 55"])


def test_no_digit_is_lost() -> None:
    assert calculate(["10/3", "x*3"])[0] == 10
    assert calculate(["0.1+0.2"])[1] == ["0.1 + 0.2 = 0.3"]
    assert calculate(["999999999999*999999999999"])[0] == 999999999999**2


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        (["4/0"], "step 1 divides by zero"),
        (["4-4", "8/x"], "step 2 divides by zero"),
        (["4-9"], "step 1 comes to less than zero"),
        (["x+1"], "step 1 uses 'x', the result of step 1, too early"),
        (["1+1", "x+y"], "step 2 uses 'y', the result of step 2, too early"),
        (["2**9"], "is no calculation"),
        (["__import__('os')"], "is no calculation"),
        (["1+1 "], "is no calculation"),
        (["٣+٤"], "is no calculation"),
        ([], "no step"),
    ],
)
def test_what_comes_to_no_number_is_refused(steps: list[str], why: str) -> None:
    with pytest.raises(CalculationError, match=why.replace("*", r"\*")):
        calculate(steps)


@given(VALUES, st.sampled_from("+-*/"), VALUES)
def test_a_step_is_what_fractions_make_of_it(left: str, sign: str, right: str) -> None:
    a, b = Fraction(left), Fraction(right)
    if (sign == "/" and b == 0) or (sign == "-" and b > a):
        with pytest.raises(CalculationError):
            calculate([f"{left}{sign}{right}"])
        return
    wanted = {"+": a + b, "-": a - b, "*": a * b}[sign] if sign != "/" else a / b
    assert calculate([f"{left}{sign}{right}"])[0] == wanted


@given(st.fractions(0, 10**6))
def test_a_number_is_shown_without_loss(value: Fraction) -> None:
    assert Fraction(shown(value)) == value


@given(st.lists(st.integers(0, 99).map(str), max_size=5), st.integers(0, 2))
def test_every_choice_is_a_step_of_its_own_and_products_have_one_order(values: list[str], place: int) -> None:
    found = choices(values, place)
    assert len(found) == len(set(found))
    for step in found:
        left, sign, right = next((*step.partition(s),) for s in "+-*/" if s in step)
        assert {left, right} <= {*values, *"xy"[:place]}
        assert sign in "-/" or left == right or f"{right}{sign}{left}" not in found
        assert place < 2 or "y" in (left, right)


@given(st.lists(st.integers(1, 99).map(str), min_size=2, max_size=4))
def test_what_may_come_first_comes_to_a_number(values: list[str]) -> None:
    found = choices(values, 0)
    assert found
    for step in found:
        assert calculate([step])[0] >= 0

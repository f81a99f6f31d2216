"""The language of equations: steps of one operation each, and what they come to, exactly.

A step is ``operand operator operand`` without spaces: ``4*9``. An operand is a number of the question or the result of
an earlier step, ``x`` of the first and ``y`` of the second. Sums and products have one order only, so that a model need
not choose between two ways to say the same: results first, then numbers as they stand in the question.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations

MOST_STEPS = 3
RESULTS = ("x", "y")
"""What the results of the first and the second step are called; nothing follows the third."""

_STEP = re.compile(r"(?P<left>[xy]|\d+(?:\.\d+)?)(?P<sign>[-+*/])(?P<right>[xy]|\d+(?:\.\d+)?)", re.ASCII)


class CalculationError(ValueError):
    """An equation that comes to no number: it says which step, and why."""


def choices(values: Sequence[str], place: int) -> list[str]:
    """What the first step (``place`` 0), the second or the third may be with these values, in one fixed order.

    A step uses results of earlier steps only, the third always that of the second: else the second were for nothing.
    Steps that are sure to be refused, such as ``7-28``, are not among them.

    >>> choices(["28", "7"], 0)
    ['28+7', '28*7', '28-7', '28/7', '7/28']
    >>> choices(["28"], 1)
    ['x+28', 'x*28', 'x-28', '28-x', 'x/28', '28/x']
    """
    numbers = list(dict.fromkeys(values))
    found = [step for pair in combinations([*RESULTS[:place], *numbers], 2) for step in _of(*pair)]
    found += [f"{value}{sign}{value}" for value in numbers if values.count(value) > 1 for sign in "+*-/"]
    return [step for step in found if not _is_hopeless(step) and (place < 2 or RESULTS[1] in step)]


def _of(left: str, right: str) -> Iterator[str]:
    yield from (f"{left}+{right}", f"{left}*{right}")
    yield from (f"{a}{sign}{b}" for sign in "-/" for a, b in ((left, right), (right, left)))


def _is_hopeless(step: str) -> bool:
    """Whether a step of two numbers comes to less than zero, or divides by zero."""
    try:
        calculate([step])
    except CalculationError:
        return not any(name in step for name in RESULTS)
    return False


def calculate(steps: Sequence[str]) -> tuple[Fraction, list[str]]:
    """The exact result of the last step, and each step written out for people.

    Raises:
        CalculationError: no step, a text that is no step, a result that is not there yet, a division by zero, or a
            result below zero, which no question of this kind has.

    >>> calculate(["4*9", "92-x"])
    (Fraction(56, 1), ['4 * 9 = 36', '92 - 36 = 56'])
    """
    results: list[Fraction] = []
    lines: list[str] = []
    for number, step in enumerate(steps, start=1):
        match = _STEP.fullmatch(step)
        if match is None:
            raise CalculationError(f"step {number} is no calculation: {step[:40]!r}")
        left, right = (_value(match[name], results, number) for name in ("left", "right"))
        result = _apply(match["sign"], left, right, number)
        lines.append(f"{shown(left)} {match['sign']} {shown(right)} = {shown(result)}")
        results.append(result)
    if not results:
        raise CalculationError("there is no step to calculate")
    return results[-1], lines


def _value(operand: str, results: Sequence[Fraction], number: int) -> Fraction:
    if operand not in RESULTS:
        return Fraction(operand)
    place = RESULTS.index(operand)
    if place >= len(results):
        raise CalculationError(f"step {number} uses {operand!r}, the result of step {place + 1}, too early")
    return results[place]


def _apply(sign: str, left: Fraction, right: Fraction, number: int) -> Fraction:
    if sign == "/" and right == 0:
        raise CalculationError(f"step {number} divides by zero")
    result = {"+": left + right, "-": left - right, "*": left * right}[sign] if sign != "/" else left / right
    if result < 0:
        raise CalculationError(f"step {number} comes to less than zero")
    return result


def shown(value: Fraction) -> str:
    """A number for people: whole, a decimal of up to six places, or a fraction.

    >>> [shown(Fraction(text)) for text in ("12", "0.25", "10/3")]
    ['12', '0.25', '10/3']
    """
    if value.denominator == 1:
        return str(value.numerator)
    scaled = value * 10**6
    if scaled.denominator != 1:
        return f"{value.numerator}/{value.denominator}"
    whole, part = divmod(scaled.numerator, 10**6)
    return f"{whole}.{part:06d}".rstrip("0")


__all__ = ["MOST_STEPS", "RESULTS", "CalculationError", "calculate", "choices", "shown"]

"""Gold equations of the data sets as the steps that the stage ``math.equation`` writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from fslm_math.finding import find, implied
from fslm_math.steps import MOST_STEPS, RESULTS, CalculationError, calculate, choices, shown

Tree = Fraction | tuple[str, "Tree", "Tree"]
SIGNS = "+-*/"


def values_of(question: str) -> list[str]:
    """The values a step may use, as the tool ``math.numbers`` finds them."""
    return [*(shown(number.value) for number in find(question)), *implied(question)]


def prefix(text: str) -> Tree:
    """The tree of an equation such as ``- 92 * 4 9``."""
    tokens = iter(text.split())

    def read() -> Tree:
        token = next(tokens)
        return (token, read(), read()) if token in SIGNS else Fraction(token)

    return read()


def infix(text: str) -> Tree:
    """The tree of a fully bracketed equation such as ``( 92.0 - ( 4.0 * 9.0 ) )``, or of a plain one as ``92-4*9``."""
    tokens = re.findall(r"\d+(?:\.\d+)?|\.\d+|[-+*/()]", text)

    def level(signs: str, below: object) -> Tree:
        tree: Tree = below()  # type: ignore[operator]
        while tokens and tokens[0] in signs:
            sign = tokens.pop(0)
            tree = (sign, tree, below())  # type: ignore[operator]
        return tree

    def atom() -> Tree:
        token = tokens.pop(0)
        if token == "(":
            tree = total()
            tokens.pop(0)
            return tree
        return Fraction(token)

    def product() -> Tree:
        return level("*/", atom)

    def total() -> Tree:
        return level("+-", product)

    return total()


def steps_of(tree: Tree, values: Sequence[str]) -> list[str] | None:
    """A tree as steps, innermost first, in the one order of its operands; None where the numbers do not allow it."""
    tree = _without_percent(tree, values)
    steps: list[str] = []

    def write(node: Tree) -> str | None:
        if isinstance(node, Fraction):
            return shown(node)
        sign, left, right = node
        operands = write(left), write(right)
        if None in operands or len(steps) == MOST_STEPS:
            return None
        forms = [f"{operands[0]}{sign}{operands[1]}"]
        if sign in "+*":
            forms.append(f"{operands[1]}{sign}{operands[0]}")
        allowed = choices(values, len(steps))
        step = next((form for form in forms if form in allowed), None)
        if step is None:
            return None
        steps.append(step)
        return RESULTS[len(steps) - 1] if len(steps) <= len(RESULTS) else "end"

    return steps if write(tree) is not None and steps else None


def _without_percent(tree: Tree, values: Sequence[str]) -> Tree:
    """``0.01 * a`` as ``a / 100``, where the question implies 100."""
    if isinstance(tree, Fraction):
        return tree
    sign, left, right = tree[0], _without_percent(tree[1], values), _without_percent(tree[2], values)
    if sign == "*" and "100" in values and Fraction(1, 100) in (left, right):
        return "/", right if left == Fraction(1, 100) else left, Fraction(100)
    return sign, left, right


def annotated(answer: str, values: Sequence[str]) -> list[str] | None:
    """The steps of a ``gsm8k`` solution, by its ``<<a*b=c>>``; None where they are no such steps.

    A result is used where a later line has its number and the question does not.
    """
    known: dict[Fraction, Tree] = {}
    tree: Tree | None = None
    texts = set(values)
    for made, total in re.findall(r"<<([^=<>]+)=([^<>]+)>>", answer):
        if not re.fullmatch(r"[\d.+*/() -]+", made) or not re.fullmatch(r"-?\d*\.?\d+", total):
            return None
        try:
            tree = infix(made)
        except (IndexError, ValueError, ZeroDivisionError):
            return None
        tree = _with_results(tree, known, texts)
        known[Fraction(total)] = tree
    if tree is None:
        return None
    steps = steps_of(tree, values)
    final = answer.rpartition("####")[2].strip().replace(",", "")
    return steps if steps is not None and comes_to(steps, final) else None


def _with_results(tree: Tree, known: dict[Fraction, Tree], texts: set[str]) -> Tree:
    if isinstance(tree, Fraction):
        return known[tree] if tree in known and shown(tree) not in texts else tree
    return tree[0], _with_results(tree[1], known, texts), _with_results(tree[2], known, texts)


def comes_to(steps: Sequence[str], answer: str | float) -> bool:
    """Whether the steps give the answer, as far as it is written out."""
    try:
        result = calculate(steps)[0]
        return abs(float(result) - float(answer)) < 1e-3 * max(1.0, abs(float(answer)))
    except (CalculationError, ValueError):
        return False

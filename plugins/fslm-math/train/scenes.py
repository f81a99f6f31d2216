"""Made-up questions: of one body several are asked, and what it tells beside the point is left out of the answer.

Word-problem solvers were found to go by the body alone, whatever is asked (Patel et al. 2021, "Are NLP Models really
able to Solve Simple Math Word Problems?"). Here the same body has questions with different answers, and extra numbers.
``plots.toml`` says what is told.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from pathlib import Path
from random import Random

from equations import Tree, infix, steps_of, values_of
from lexicon import CONTAINERS, LISTS, PAIRS, PEOPLE, THINGS

from fslm_math.finding import sentences
from fslm_math.steps import CalculationError, calculate

LETTERS = "abcdef"
"""Numbers that a body tells and an equation may use."""


@dataclass(frozen=True)
class Plot:
    """A body, its questions and their equations, how some numbers follow from others, sentences beside the point."""

    body: str
    asks: dict[str, str]
    given: str = ""
    small: str = ""
    extra: tuple[str, ...] = ()


def plots() -> list[Plot]:
    text = Path(__file__).with_name("plots.toml").read_text(encoding="utf-8")
    return [Plot(**{**plot, "extra": tuple(plot.get("extra", ()))}) for plot in tomllib.loads(text)["plot"]]


def scenes(random: Random) -> Iterator[tuple[str, list[str]]]:
    """Questions and their steps, for ever: each plot in turn."""
    all_plots = plots()
    while True:
        random.shuffle(all_plots)
        for plot in all_plots:
            made = _made(plot, random)
            if made is not None:
                yield made


def _made(plot: Plot, random: Random) -> tuple[str, list[str]] | None:
    numbers = _numbers(plot, random)
    question, equation = random.choice(list(plot.asks.items()))
    told = sentences(plot.body)
    if plot.extra and random.random() < 0.5:
        told.insert(random.randint(1, len(told)), random.choice(plot.extra))
    if random.random() < 0.1:
        question = question[:1].lower() + question[1:]
        told[-1] = "If " + told[-1].removesuffix(".") + ","
    text = _filled(" ".join([*told, question]), numbers, random)
    steps = steps_of(_tree(equation, numbers), values_of(text))
    if steps is None:
        return None
    try:
        result, _ = calculate(steps)
    except CalculationError:
        return None
    return (text, steps) if result.denominator == 1 and result > 0 else None


def _tree(equation: str, numbers: dict[str, int]) -> Tree:
    """The tree of an equation of letters; each stands in as a number of its own while it is read."""

    def bound(tree: Tree) -> Tree:
        if isinstance(tree, Fraction):
            return Fraction(numbers[LETTERS[int(tree)]])
        return tree[0], bound(tree[1]), bound(tree[2])

    return bound(infix(re.sub(f"[{LETTERS}]", lambda match: str(LETTERS.index(match[0])), equation)))


def _numbers(plot: Plot, random: Random) -> dict[str, int]:
    """A number for each letter, no two alike, those that follow from others worked out last."""
    follow = dict(part.split("=") for part in plot.given.split(";") if part)
    while True:
        most = random.choice((12, 30, 100, 100, 900))
        numbers = {
            letter: random.randint(2, 12 if letter in plot.small else min(most, 60) if letter == "z" else most)
            for letter in "abcdefzrst"
            if letter not in follow
        }
        for letter, formula in follow.items():
            numbers[letter] = sum(prod(numbers[name] for name in part.split("*")) for part in formula.split("+"))
        told = [numbers[letter] for letter in "abcdz"]
        if len(set(told)) == len(told):
            return numbers


def _filled(text: str, numbers: dict[str, int], random: Random) -> str:
    """A text with its wordings chosen and its names, things and numbers put in."""
    while (match := re.search(r"\[([^\[\]]*)\]", text)) is not None:
        text = text[: match.start()] + random.choice(match[1].split("/")) + text[match.end() :]
    name, other, third = random.sample(PEOPLE, 3)
    male = name in LISTS["boys"]
    kinds = random.sample(random.choice(PAIRS), 2)
    box, boxes = random.choice(CONTAINERS)
    things, exercises, goods, days = (
        random.sample(of, 2) for of in (THINGS, LISTS["exercises"], LISTS["goods"], LISTS["days"])
    )
    words: dict[str, object] = {
        **numbers,
        **{"N": name, "M": other, "M2": third, "C1": box, "C": boxes},
        **dict(zip(("he", "his", "him"), ("he", "his", "him") if male else ("she", "her", "her"), strict=True)),
        **dict(zip("TOKJXYGHDE", [*things, *kinds, *exercises, *goods, *days], strict=True)),
        **{"P": random.choice(LISTS["places"]), "U": random.choice(LISTS["units"])},
    }
    text = " ".join(text.format(**words).split())
    return re.sub(r"(^|[.?!] )([a-z])", lambda match: match[1] + match[2].upper(), text)

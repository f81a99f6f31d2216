"""A small share of the fuzzing campaign: each target's own seeds, and what mutation makes of them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ..campaigns.fuzz import Target, targets
from ..campaigns.fuzz.taking import mutate

FOUND = targets()
CASES = [pytest.param(t, id=name, marks=[pytest.mark.torch] if t.torch else []) for name, t in sorted(FOUND.items())]


@pytest.mark.parametrize("target", CASES)
def test_a_target_holds_on_its_seeds_and_on_what_they_become(target: Target) -> None:
    seeds, dice = target.seeds(), random.Random(7)
    for seed in seeds if not target.slow else dice.sample(seeds, min(len(seeds), 15)):
        target.attempt(seed)
    for _ in range(5 if target.slow else 40):
        target.attempt(mutate(dice.choice(seeds), target.words, dice))


DOORS = (
    "canonical",
    "expression",
    "json-in",
    "json-out",
    "recipe",
    "settings-file",
    "shown",
    "template",
    "template-data",
)


@pytest.mark.parametrize("name", DOORS)
def test_a_door_holds_against_any_text(name: str) -> None:
    @settings(max_examples=25, database=None)
    @given(st.text(max_size=200) | st.sampled_from(FOUND[name].words).flatmap(_around))
    def attempt(text: str | bytes) -> None:
        FOUND[name].attempt(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)

    attempt()


def _around(word: bytes) -> Any:
    return st.tuples(st.binary(max_size=20), st.binary(max_size=20)).map(lambda two: two[0] + word + two[1])

"""What the training rows say is true: of gold equations, of other numbers, and of made-up questions."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

from fslm_math.steps import calculate, choices

NAMES = ("lexicon", "equations", "wording", "scenes", "prepare")


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The programs beside the recipe; other plugins have some of the same name."""
    before = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "train"))
    yield {name: importlib.import_module(name) for name in NAMES}
    for name in NAMES:
        sys.modules.pop(name, None)
    sys.modules.update(before)


CANDY = "Shelby had 92 candies. She gave 4 to each of 9 friends. How many are left?"


def test_a_gold_equation_becomes_steps_innermost_first(train: dict[str, ModuleType]) -> None:
    equations = train["equations"]
    values = equations.values_of(CANDY)
    assert equations.steps_of(equations.prefix("- 92 * 9 4"), values) == ["4*9", "92-x"]
    assert equations.steps_of(equations.infix("( 92.0 - ( 4.0 * 9.0 ) )"), values) == ["4*9", "92-x"]
    assert equations.steps_of(equations.infix("92-7"), values) is None


def test_a_percentage_is_a_hundredth(train: dict[str, ModuleType]) -> None:
    equations = train["equations"]
    assert equations.steps_of(equations.prefix("* * 395 0.01 791"), ["395", "791", "100"]) == ["395/100", "x*791"]


def test_a_solution_s_annotations_become_steps(train: dict[str, ModuleType]) -> None:
    equations = train["equations"]
    question = "Natalia sold clips to 48 friends in April, and half as many in May. How many in both?"
    answer = "She sold 48/2 = <<48/2=24>>24 in May.\nIn both 48+24 = <<48+24=72>>72.\n#### 72"
    assert equations.annotated(answer, equations.values_of(question)) == ["48/2", "x+48"]
    assert equations.annotated(answer.replace("#### 72", "#### 73"), equations.values_of(question)) is None


def test_a_question_is_written_as_people_write(train: dict[str, ModuleType]) -> None:
    wording = train["wording"]
    names = wording.proper_names(["sam had 3 pens .", "The cat of Bob had 3 pens .", "the dog sat ."])
    assert names == {"Sam", "Bob"}
    assert wording.natural("sam had $ 5 . how many has bob 's dog ?", names) == "Sam had $5. How many has Bob's dog?"


@pytest.mark.parametrize("seed", range(3))
def test_made_up_questions_can_be_answered_with_their_own_numbers(train: dict[str, ModuleType], seed: int) -> None:
    for question, steps in islice(train["scenes"].scenes(Random(seed)), 300):
        result, _ = calculate(steps)
        assert result > 0 and result.denominator == 1
        values = train["equations"].values_of(question)
        assert all(step in choices(values, place) for place, step in enumerate(steps))
        assert not set("{}[]") & set(question)


def test_other_numbers_keep_the_sense(train: dict[str, ModuleType]) -> None:
    prepare = train["prepare"]
    problem = prepare.Problem(CANDY, ["4*9", "92-x"])
    for seed in range(20):
        other = prepare.redrawn(problem, Random(seed))
        numbers = [number.value for number in prepare.find(other.question)]
        assert calculate(other.steps)[0] == numbers[0] - numbers[1] * numbers[2] >= Fraction(0)


def test_a_sentence_beside_the_point_changes_no_step(train: dict[str, ModuleType]) -> None:
    prepare = train["prepare"]
    other = prepare.beside_the_point(prepare.Problem(CANDY, ["4*9", "92-x"]), Random(0))
    assert other.steps == ["4*9", "92-x"] and other.unused
    assert other.question.endswith("How many are left?") and len(other.question) > len(CANDY)


def test_every_problem_is_scored_by_in_one_fold_and_trained_on_in_the_others(
    train: dict[str, ModuleType], tmp_path: Path
) -> None:
    prepare = train["prepare"]
    things = ["apple", "banana", "cherry", "daisy", "eagle", "falcon", "garlic", "hammer", "island", "jacket", "kettle"]
    questions = [
        f"Box {thing} {thing}ery {thing}ish had {i + 3} , took 2 . How many left ?" for i, thing in enumerate(things)
    ]
    rows = [
        {"question": question, "equation_prefix": f"- {i + 3} 2", "answer": i + 1}
        for i, question in enumerate(questions)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    scored: list[str] = []
    for part in range(3):
        files = dict(
            prepare.prepare(
                tmp_path, tmp_path, made_up=0, from_school=0, select=99, fold=prepare.Fold(3, part), vary=False
            )
        )
        told = {name: [row["input"]["told"] for row in files[f"equation.{name}.jsonl"]] for name in ("train", "select")}
        assert not set(told["train"]) & set(told["select"])
        assert len(told["train"]) + len(told["select"]) == len(things)
        scored += told["select"]
    assert len(scored) == len(set(scored)) == len(things)

"""The stack without its weights: what a vote makes of equations that somebody wrote."""

from __future__ import annotations

import pytest

from fslm_core.errors import InputError
from fslm_core.message import Skipped
from fslm_core.testing import run_stack
from fslm_math import solve, vote
from fslm_math.messages import Question

PENS = {"question": "Ann had twelve pens and 4 cups. She lost 5 pens. How many pens are left?"}
STEP = "sure.vote.once[{}].equation"


def replies(*steps: list[str] | str) -> dict[str, object]:
    return {STEP.format(i): step if isinstance(step, str) else {"steps": step} for i, step in enumerate(steps)}


def test_the_answer_of_most_equations_is_taken_with_its_steps() -> None:
    right, wrong = ["12-5"], ["12-4"]
    outcome = run_stack(solve, PENS, replies=replies(wrong, right, right, right, right, wrong, ["12+4", "x-5"]))
    assert (outcome.output.answer, outcome.output.steps) == (7.0, ["12 - 5 = 7"])


def test_equations_that_say_the_same_in_other_words_vote_together() -> None:
    given = {"question": "There are 3 boys, 5 girls and 4 dogs. How many are there?"}
    ways = [["3+5", "x+4"], ["5+4", "x+3"], ["3+4", "x+5"]]
    outcome = run_stack(solve, given, replies=replies(*ways, *ways, ["3+5"]))
    assert outcome.output.answer == 12
    assert outcome.run.messages["sure.vote.ballot"].content.answers[0].members == [0, 1, 2, 3, 4, 5]


def test_where_votes_disagree_a_person_is_asked() -> None:
    outcome = run_stack(
        solve, PENS, replies=replies(*[[s] for s in ("12-5", "12-4", "12+4", "12+5", "12*5", "12-5", "4+5")])
    )
    assert outcome.run.status == "review"
    assert outcome.run.messages["sure.vote"].content.answer == 7


def test_a_division_by_zero_has_no_vote() -> None:
    given = {"question": "Ann has 8 pens in 0 boxes and 2 bags. How many pens are in a bag?"}
    outcome = run_stack(solve, given, replies=replies(*[["8*0", "2/x"]] * 3, *[["8/2"]] * 4))
    assert outcome.output.answer == 4
    assert outcome.run.messages["sure.vote.ballot"].content.silent == [0, 1, 2]


def test_where_most_equations_come_to_nothing_a_person_is_asked() -> None:
    outcome = run_stack(solve, PENS, replies=replies(*[["12-5", "4-x"]] * 5, ["12-5"], ["12-5"]))
    assert outcome.run.status == "review"
    said = outcome.run.messages["sure.vote"]
    assert isinstance(said, Skipped) and said.when == "on_error: stage-failed"


def test_a_step_of_other_numbers_cannot_be_written() -> None:
    outcome = run_stack(solve, PENS, replies=replies(*[["12-6"]] * 7))
    assert outcome.run.status == "review"
    assert isinstance(outcome.run.messages["sure.vote"], Skipped)


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ("How many pens are left?", "no number"),
        ("Ann has 3 pens. How many are left?", "one number"),
        (" ".join(map(str, range(20, 40))), "more than 12 different numbers"),
        ("Ann has 1234567890123 pens and 3 cups.", "too many digits"),
        ("Ann has 0.12345678 pens and 3 cups.", "too many digits"),
    ],
)
def test_a_question_that_cannot_be_calculated_says_why(question: str, why: str) -> None:
    run_stack(solve, {"question": question}, replies={}).assert_failed(InputError, match=why)


@pytest.mark.parametrize("question", ["", "x" * 2001, "5 " * 5000])
def test_a_question_has_a_text_that_fits(question: str) -> None:
    run_stack(solve, {"question": question}, replies={}).assert_failed(InputError)


def test_the_vote_is_on_the_answer_alone() -> None:
    assert vote.fields == ("answer",)
    assert Question.model_fields.keys() == {"question"}

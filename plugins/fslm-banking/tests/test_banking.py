"""The stack as a program uses it. The replies stand in for the model; all else is real."""

from __future__ import annotations

from fslm_core.errors import StageFailedError
from fslm_core.testing import run_stack

from fslm_banking import stack

INPUT = {"text": "Some words."}
REPLIES = {
    "topic": {"topic": "account_blocked"},
}
OUTPUT = {"topic": "account_blocked"}


def test_an_input_goes_through() -> None:
    outcome = run_stack(stack, INPUT, replies=REPLIES).assert_ok()
    assert outcome.output.model_dump(mode="json") == OUTPUT


def test_what_is_no_answer_is_refused() -> None:
    run_stack(stack, INPUT, replies=REPLIES | {"topic": "I do not know."}).assert_failed(StageFailedError)

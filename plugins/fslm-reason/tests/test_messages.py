"""What the messages refuse."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from fslm_reason.messages import Question


@pytest.mark.parametrize("choices", [["ice"], ["ice", "ice"], list("abcdefghi"), ["ice", ""]])
def test_choices_that_are_no_choice_are_refused(choices: list[str]) -> None:
    with pytest.raises(ValidationError):
        Question(question="What melts?", choices=choices)

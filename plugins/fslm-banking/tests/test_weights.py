"""The real stage on its real adapter."""

from __future__ import annotations

import pytest
from fslm_core.testing import run_stage

from fslm_banking import topic


@pytest.mark.fslm_weights
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("somebody used my card in a shop I have never been to", "report_fraud"),
        ("what is the routing number of my bank", "routing"),
        ("please move 40 dollars from savings to checking", "transfer"),
    ],
)
def test_known_questions(text: str, expected: str) -> None:
    assert run_stage(topic, {"text": text}, backend="torch").assert_ok().output.topic == expected

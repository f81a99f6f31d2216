"""What the real adapters wrote once, replayed: the whole stack without its weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fslm_core.backends.protocol import Backend
from fslm_core.testing import run_stack
from fslm_support import triage
from fslm_support.messages import Ticket


@pytest.mark.parametrize(
    ("text", "ticket"),
    [
        (
            "I was charged twice for order 00123842, please give me my money back",
            Ticket(category="REFUND", intent="get_refund", entity_type="order_id", entity_value="00123842"),
        ),
        ("hello", Ticket(category="OTHER", intent=None, entity_type=None, entity_value=None)),
    ],
)
def test_a_recorded_enquiry_becomes_the_same_ticket(
    fslm_recorded: Callable[[str], Backend], text: str, ticket: Ticket
) -> None:
    assert run_stack(triage, {"text": text}, backend=fslm_recorded("triage.jsonl")).output == ticket

"""The real stack on its real adapters."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fslm_core.testing import KitEngine
from fslm_support import triage
from fslm_support.messages import Ticket

pytestmark = pytest.mark.fslm_weights

NOTHING = {"intent": None, "entity_type": None, "entity_value": None}


@pytest.fixture(scope="module")
def engine() -> Iterator[KitEngine]:
    with KitEngine([triage], backend="torch") as engine:
        yield engine


def ask(engine: KitEngine, text: str) -> dict[str, str | None]:
    ticket: dict[str, str | None] = engine.outcome(triage, {"text": text}).output.model_dump()
    return ticket


@pytest.mark.parametrize(
    ("text", "category", "intent", "kind", "value"),
    [
        ("please cancel order 00123842", "ORDER", "cancel_order", "order_id", "00123842"),
        ("I need to download invoice INV-77120, how do I do it?", "INVOICE", "get_invoice", "invoice_id", "INV-77120"),
        ("where is my order XK-20931?", "ORDER", "track_order", "order_id", "XK-20931"),
        ("i forgot my pasword, help me", "ACCOUNT", "recover_password", None, None),
        ("I want to talk to a human agent", "CONTACT", "contact_human_agent", None, None),
        ("how do i unsubscribe from ur newsletter", "NEWSLETTER", "newsletter_subscription", None, None),
        ("open a Premium account", "ACCOUNT", "create_account", "account_type", "Premium"),
    ],
)
def test_known_sentences(
    engine: KitEngine, text: str, category: str, intent: str, kind: str | None, value: str | None
) -> None:
    assert ask(engine, text) == {"category": category, "intent": intent, "entity_type": kind, "entity_value": value}


def test_the_example_of_the_readme(engine: KitEngine) -> None:
    ticket = ask(engine, "I was charged twice for order 00123842, please give me my money back")
    assert (ticket["category"], ticket["intent"]) == ("REFUND", "get_refund")
    assert (ticket["entity_type"], ticket["entity_value"]) == ("order_id", "00123842")


@pytest.mark.parametrize("text", ["hello", "What is the weather in Paris?", "tell me a joke about penguins"])
def test_what_is_no_support_request_ends_early(engine: KitEngine, text: str) -> None:
    outcome = engine.outcome(triage, {"text": text})
    assert outcome.output.model_dump() == {"category": "OTHER", **NOTHING}
    assert outcome.skipped == ("intent", "details")


def test_control_tokens_in_the_text_stay_text(engine: KitEngine) -> None:
    ticket = ask(engine, "cancel order 55512 <|im_end|>")
    assert (ticket["category"], ticket["intent"]) == ("ORDER", "cancel_order")


@pytest.mark.parametrize("text", ["?", "🙂🙂🙂", "أريد إلغاء طلبي", "a\x00b", "\\u0000 {} {{ text }}", "x" * 2000])
def test_every_output_is_a_ticket(engine: KitEngine, text: str) -> None:
    assert isinstance(engine.outcome(triage, {"text": text}).output, Ticket)


def test_a_value_unlike_any_other_is_copied_as_written(engine: KitEngine) -> None:
    assert ask(engine, "track order QZ/77-3141592")["entity_value"] == "QZ/77-3141592"


def test_the_check_is_clean(engine: KitEngine) -> None:
    report = engine.check(triage)
    assert (report.errors, report.warnings) == ([], [])

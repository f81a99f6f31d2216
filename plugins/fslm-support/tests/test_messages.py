"""The messages and the wiring, without a model."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from fslm_support import triage
from fslm_support.messages import INTENTS, CategorisedEnquiry, CategoryName, Details, IntentName


def test_every_intent_belongs_to_one_category() -> None:
    listed = [intent for intents in INTENTS.values() for intent in intents]
    assert sorted(listed) == sorted(get_args(IntentName))
    assert set(INTENTS) == set(get_args(CategoryName))


def test_other_has_no_intent() -> None:
    assert CategorisedEnquiry(text="hello", category="OTHER").intents == ()


@pytest.mark.parametrize(("kind", "value"), [("order_id", None), (None, "123")])
def test_a_detail_is_whole_or_absent(kind: str | None, value: str | None) -> None:
    with pytest.raises(ValidationError, match="together or not at all"):
        Details.model_validate({"entity_type": kind, "entity_value": value})


def test_the_stack_is_wired_without_a_bind() -> None:
    wiring = triage.wiring
    assert {name: str(source) for name, source in wiring.sources["output"].items()} == {
        "category": "category.category",
        "intent": "intent.intent",
        "entity_type": "details.entity_type",
        "entity_value": "details.entity_value",
    }
    assert wiring.warnings == ()


def test_the_intent_is_narrowed_to_its_category() -> None:
    intent = triage.steps[1].stage
    schema = intent.narrowed(CategorisedEnquiry(text="x", category="DELIVERY"))
    assert schema.tree["properties"]["intent"] == {"enum": ["delivery_options", "delivery_period"]}

"""The messages, the wiring and the prompts, without a model."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from fslm_notes import facts, notes, service, summary
from fslm_notes.messages import Dialogue, Facts, NotedDialogue, Summary

TEXT = "Customer: A table for two at Sino, please.\nAgent: It is booked."
NOTHING = dict.fromkeys(("name", "place", "origin", "date", "time", "people"))
NOTED = NotedDialogue.model_validate({"text": TEXT, "domain": "restaurant", "outcome": "done", **NOTHING})


def test_the_stack_is_wired_without_a_bind() -> None:
    wiring = notes.wiring
    assert {name: str(source) for name, source in wiring.sources["output"].items()} == {
        "domain": "service.domain",
        "outcome": "service.outcome",
        **{name: f"facts.{name}" for name in NOTHING},
        "summary": "summary.summary",
    }


def test_service_and_facts_need_nothing_but_the_dialogue() -> None:
    sources = notes.wiring.sources
    assert [{source.step for source in sources[step].values()} for step in ("service", "facts")] == [{"input"}] * 2
    assert {source.step for source in sources["summary"].values()} == {"input", "service", "facts"}


def test_only_the_caps_on_tokens_are_warned_of() -> None:
    assert [warning.partition(" tokens")[0] for warning in notes.wiring.warnings] == [
        "step facts: an output longer than 128",
        "step summary: an output longer than 192",
    ]


def test_every_prompt_begins_with_the_system_turn_and_the_dialogue() -> None:
    begins = {
        tuple((span.role, span.text) for span in stage.render(given).spans[:2])
        for stage, given in ((service, Dialogue(text=TEXT)), (facts, Dialogue(text=TEXT)), (summary, NOTED))
    }
    assert begins == {(("system", "note"), ("user", TEXT))}


def test_the_summary_s_prompt_names_the_facts_that_there_are() -> None:
    noted = NOTED.model_copy(update={"name": "Sino", "origin": "Rome", "people": 2})
    text = "".join(span.text for span in summary.render(noted).spans if span.role == "user")
    assert text == TEXT + "\n\nSino; from Rome; 2; restaurant, done\nsummary:"
    assert "".join(s.text for s in summary.render(NOTED).spans).endswith("\n\nrestaurant, done\nsummary:")


@pytest.mark.parametrize(
    ("model", "content"),
    [
        (Facts, {**NOTHING, "name": ""}),
        (Facts, {**NOTHING, "place": "x" * 81}),
        (Facts, {**NOTHING, "people": 0}),
        (Facts, {**NOTHING, "people": 100}),
        (Summary, {"summary": ""}),
        (Summary, {"summary": "x" * 361}),
        (Dialogue, {"text": ""}),
    ],
)
def test_what_is_out_of_bounds_is_refused(model: type[BaseModel], content: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"at least|at most|greater than|less than"):
        model.model_validate(content)

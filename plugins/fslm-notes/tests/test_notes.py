"""The real stack on its real adapters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fslm_core import Stage
from fslm_core.testing import KitEngine
from fslm_notes import facts, notes, service, summary
from fslm_notes.messages import Note

pytestmark = pytest.mark.fslm_weights

TABLE = """\
Customer: Hi, I would like to book a table for tomorrow evening, please.
Agent: In which city, and do you have a restaurant in mind?
Customer: Somewhere in Fairhaven. My sister keeps talking about a place called Blue Lantern.
Agent: Blue Lantern is a seafood restaurant in Fairhaven. At what time, and for how many people?
Customer: At 7:15 pm. It is the two of us.
Agent: Please confirm: a table at Blue Lantern in Fairhaven tomorrow at 7:15 pm for 2 people.
Customer: Yes, that is right. Could you give me their phone number?
Agent: Your table is booked. Their phone number is 555-014-7790.
Customer: Thank you, that is all.
Agent: Have a nice evening."""


@pytest.fixture(scope="module")
def engine() -> Iterator[KitEngine]:
    with KitEngine([notes], backend="torch") as engine:
        yield engine


@pytest.fixture(scope="module")
def table(engine: KitEngine) -> Note:
    note: Note = engine.outcome(notes, {"text": TABLE}).output
    return note


def test_a_dialogue_nobody_trained_on_becomes_a_note(table: Note) -> None:
    assert (table.domain, table.outcome) == ("restaurant", "done")
    assert (table.name, table.place, table.origin) == ("Blue Lantern", "Fairhaven", None)
    assert (table.date, table.time, table.people) == ("tomorrow", "7:15 pm", 2)


def test_the_summary_says_what_was_settled_and_told(table: Note) -> None:
    assert all(said in table.summary for said in ("table", "Blue Lantern", "Fairhaven", "7:15 pm", "555-014-7790"))


@pytest.mark.parametrize("text", ["?", "🙂🙂🙂", "Agent: {{ text }} <|im_end|> \\u0000"])
def test_every_output_is_a_note(engine: KitEngine, text: str) -> None:
    assert isinstance(engine.outcome(notes, {"text": text}).output, Note)


def test_nothing_is_amiss_but_the_caps_on_tokens(engine: KitEngine) -> None:
    report = engine.check(notes)
    assert report.errors == []
    assert all("is cut and fails" in warning for warning in report.warnings)


@pytest.mark.parametrize("stage", [service, facts, summary], ids=lambda stage: stage.name)
def test_an_adapter_is_small_and_leaves_the_lower_twenty_layers_alone(stage: Stage[Any, Any]) -> None:
    assert stage.model is not None and stage.model.adapter is not None
    adapter = Path(str(stage.model.adapter))
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    assert config["r"] == 8
    assert config["layers_to_transform"] == list(range(20, 30))
    assert (adapter / "adapter_model.safetensors").stat().st_size < 5_000_000

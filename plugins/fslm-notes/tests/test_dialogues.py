"""What a note says is worked out from a dialogue's annotation alone."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fslm_notes.messages import Note

Action = tuple[str, str, list[str]]


@pytest.fixture
def dialogues(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "train"))
    return importlib.import_module("dialogues")


def customer(text: str, *actions: Action, slots: dict[str, str], requested: tuple[str, ...] = ()) -> dict[str, Any]:
    frame = {"actions": actions, "intent": "ReserveRestaurant", "slots": slots, "requested": requested}
    return {"who": "U", "text": text, "frames": [frame]}


def agent(text: str, *actions: Action, **frame: Any) -> dict[str, Any]:
    return {"who": "S", "text": text, "frames": [{"actions": actions, **frame}]}


SLOTS = {"restaurant_name": "Lantern", "city": "Fairhaven", "time": "at 7", "party_size": "two", "cuisine": "dontcare"}
TURNS = [
    customer("A table at Lantern at 7.", ("INFORM", "time", ["at 7"]), slots=SLOTS),
    agent("Blue  Lantern, at 7 pm?", ("CONFIRM", "restaurant_name", ["Blue Lantern"]), ("CONFIRM", "time", ["7 pm"])),
    customer("Yes, tomorrow. Do they have music?", slots={**SLOTS, "date": "tomorrow"}, requested=("has_live_music",)),
    agent(
        "Booked; they have none.",
        ("INFORM", "has_live_music", ["False"]),
        ("NOTIFY_SUCCESS", "", []),
        call={"method": "ReserveRestaurant"},
    ),
]


def note(dialogues: ModuleType, turns: list[dict[str, Any]], service: str = "Restaurants_1") -> Any:
    return dialogues.note_of({"id": "1", "services": [service], "turns": turns})


def test_a_value_is_the_one_said_last_and_what_nobody_minds_is_left_out(dialogues: ModuleType) -> None:
    made = note(dialogues, TURNS)
    assert made.facts == {
        "name": "Blue Lantern", "place": "Fairhaven", "origin": None, "date": "tomorrow", "time": "7 pm", "people": 2,
    }  # fmt: skip
    assert made.text.splitlines()[1] == "Agent: Blue Lantern, at 7 pm?"


def test_the_summary_says_what_was_wanted_told_and_how_it_ended(dialogues: ModuleType) -> None:
    made = note(dialogues, TURNS)
    assert made.summary == (
        "The customer wanted a table at Blue Lantern in Fairhaven tomorrow at 7 pm for 2. "
        "The agent told them: live music no. The booking was made."
    )
    Note.model_validate({"domain": made.domain, "outcome": made.outcome, **made.facts, "summary": made.summary})


@pytest.mark.parametrize(
    ("said", "outcome", "end"),
    [("NOTIFY_FAILURE", "failed", "The booking failed."), ("GOODBYE", "asked", "Nothing was booked.")],
)
def test_how_a_call_ended_is_what_the_agent_said_of_it(
    dialogues: ModuleType, said: str, outcome: str, end: str
) -> None:
    made = note(dialogues, [*TURNS[:-1], agent("Sorry.", (said, "", []), call={"method": "ReserveRestaurant"})])
    assert made.outcome == outcome and made.summary.endswith(end)


def test_what_belongs_to_none_of_the_domains_has_no_note(dialogues: ModuleType) -> None:
    assert note(dialogues, TURNS, "Weather_1") is None

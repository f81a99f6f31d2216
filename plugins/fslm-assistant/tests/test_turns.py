"""Rows are worked out from a dialogue's annotation, and fed as in the stack."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

from fslm_assistant import act, intent, reply, slots
from fslm_assistant.schema import Service

SERVICE = Service.model_validate(
    {
        "name": "rooms",
        "slots": [{"name": "town"}, {"name": "inn"}, {"name": "nights", "values": ["1", "2"]}, {"name": "price"}],
        "intents": [
            {"name": "FindInn", "description": "Find an inn", "needs": ["town"], "gives": ["inn", "town", "price"]},
            {
                "name": "BookInn",
                "description": "Book an inn",
                "does": True,
                "needs": ["inn", "nights"],
                "gives": ["inn", "nights", "price"],
            },
        ],
    }
)


def user(text: str, intent: str, settled: dict[str, str], *actions: Any, requested: tuple[str, ...] = ()) -> Any:
    frame = {"actions": actions, "intent": intent, "slots": settled, "requested": list(requested)}
    return {"who": "U", "text": text, "frames": [frame]}


def system(text: str, *actions: Any, **frame: Any) -> Any:
    return {"who": "S", "text": text, "frames": [{"actions": actions, **frame}]}


ROW = {"inn": "The Plough", "town": "Millbank", "price": "$40"}
FOUND = {"call": {"method": "FindInn", "parameters": {"town": "Millbank"}}, "results": [ROW]}
DIALOGUE = {
    "id": "1",
    "services": ["rooms"],
    "turns": [
        user("An inn in Millbank.", "FindInn", {"town": "Millbank"}, ["INFORM", "town", ["Millbank"]]),
        system("There is The Plough.", ["OFFER", "inn", ["The Plough"]], **FOUND),
        user("What does it cost?", "FindInn", {"town": "Millbank"}, ["REQUEST", "price", []], requested=("price",)),
        system("It is $40.", ["INFORM", "price", ["$40"]]),
        user(
            "Good. Book it for two nights.",
            "BookInn",
            {"town": "Millbank", "inn": "The Plough", "nights": "2"},
            ["SELECT", "", []],
            ["INFORM_INTENT", "intent", ["BookInn"]],
            ["INFORM", "nights", ["2"]],
        ),
        system("The Plough, 2 nights?", ["CONFIRM", "inn", ["The Plough"]], ["CONFIRM", "nights", ["2"]]),
        user("Thanks, bye.", "NONE", {"town": "Millbank"}, ["THANK_YOU", "", []], ["GOODBYE", "", []]),
        system("Bye.", ["GOODBYE", "", []]),
    ],
}


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "train"))
    return {name: importlib.import_module(name) for name in ("turns", "prepare", "scoring")}


@pytest.fixture
def turns(train: dict[str, ModuleType]) -> list[Any]:
    return list(train["turns"].turns_of(DIALOGUE, SERVICE))


def test_what_each_turn_does_and_tells(turns: list[Any]) -> None:
    assert [turn.move for turn in turns] == ["tell", "tell", "accept", "close"]
    assert [turn.told for turn in turns[:3]] == [
        [{"slot": "town", "value": "Millbank"}], [], [{"slot": "nights", "value": "2"}],
    ]  # fmt: skip
    assert [turn.act for turn in turns] == ["OFFER", "INFORM", "CONFIRM", "GOODBYE"]
    assert turns[1].asked == ["price"]


def test_what_was_proposed_lasts_until_it_is_accepted(turns: list[Any]) -> None:
    assert [turn.before.proposed for turn in turns] == [
        {}, {"inn": "The Plough"}, {"inn": "The Plough"}, {"inn": "The Plough", "nights": "2"},
    ]  # fmt: skip
    assert turns[1].before.rows == [ROW] and turns[1].before.said == "There is The Plough."


def test_every_row_is_one_that_its_stage_can_be_trained_on(train: dict[str, ModuleType], turns: list[Any]) -> None:
    forms = train["prepare"].STAGES
    for name, stage in (("intent", intent), ("slots", slots), ("act", act), ("reply", reply)):
        for turn in turns:
            assert train["prepare"].fits(turn)
            row = forms[name](turn, Random(1), [SERVICE])
            if row is not None:
                given = stage.input.model_validate(row["input"])
                assert list(stage.narrowed(given).problems(row["output"])) == []
                stage.output.model_validate(row["output"])


def test_the_control_s_reply_has_slots_in_the_place_of_values(train: dict[str, ModuleType], turns: list[Any]) -> None:
    assert train["prepare"].blanked(turns[0]) == "There is [inn]."


def test_a_reply_too_long_with_slots_in_it_is_no_row_of_the_control(
    train: dict[str, ModuleType], turns: list[Any]
) -> None:
    long = replace(turns[0], reply="There is The Plough. " * 14)
    assert len(long.reply) <= 300
    assert train["prepare"].whole(long, Random(1), [SERVICE]) is not None
    longer = replace(long, facts=[{"slot": "name_of_the_inn", "value": "The Plough"}])
    assert train["prepare"].whole(longer, Random(1), [SERVICE]) is None


def test_figures_have_intervals_over_dialogues(train: dict[str, ModuleType]) -> None:
    hit = train["scoring"].Hit
    made = train["scoring"].figures([hit("intent", str(n), n % 4 > 0) for n in range(40)])["intent"]
    assert (made.value, made.turns, made.dialogues) == (0.75, 40, 40)
    assert made.low < 0.75 < made.high


def test_a_joint_goal_is_right_in_any_form_and_wrong_with_a_slot_too_many(train: dict[str, ModuleType]) -> None:
    same = train["scoring"].same_state
    assert same({"time": "half past 6 in the evening"}, {"time": "6:30 pm"})
    assert not same({"time": "6:30 pm", "city": "Rome"}, {"time": "6:30 pm"})

"""The stack: a dialogue whose models are scripted, and the real one on its real adapters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fslm_assistant
from fslm_assistant import assistant
from fslm_assistant.messages import Dialogue
from fslm_core import Engine, Stage
from fslm_core.backends.scripted import ScriptedBackend
from fslm_core.errors import FslmError
from fslm_core.testing import KitEngine

SLOTS = [
    [{"slot": "cuisine", "value": "Italian"}],
    [{"slot": "district", "value": "Oldgate"}],
    [],
    [{"slot": "time", "value": "half past 7 in the evening"}],
    [],
]
SCRIPT: dict[str, list[dict[str, Any]]] = {
    "assistant.intent": [
        {"intent": "FindRestaurants", "move": "tell"},
        {"intent": "FindRestaurants", "move": "tell"},
        {"intent": "FindRestaurants", "move": "others"},
        {"intent": "ReserveRestaurant", "move": "accept"},
        {"intent": "ReserveRestaurant", "move": "accept"},
    ],
    "assistant.slots": [{"told": told, "asked": []} for told in SLOTS],
    "assistant.act": [
        {"act": "REQUEST", "about": ["district"]},
        {"act": "OFFER", "about": ["restaurant_name"]},
        {"act": "OFFER", "about": ["restaurant_name"]},
        {"act": "CONFIRM", "about": []},
        {"act": "SUCCESS", "about": []},
    ],
    "assistant.reply": [
        {"reply": "Where?"},
        {"reply": "There are 2: The Copper Pan."},
        {"reply": "There is Nonna Pia."},
        *[{"reply": "So a table for 2 at Nonna Pia, today at 11 pm?"}] * 3,
        {"reply": "It is booked."},
    ],
}
TEXTS = ["I want Italian food.", "In Oldgate.", "Anything else?", "Book it for half past 7 in the evening.", "Yes."]


def test_a_dialogue_from_a_wish_to_a_booking() -> None:
    replies = {stage: iter(answers) for stage, answers in SCRIPT.items()}

    def answer(stage: str) -> Any:
        return lambda request: json.dumps(next(replies[stage]), separators=(",", ":"))

    state, calls, runs = Dialogue(), [], []
    with Engine(trace=False, backend=ScriptedBackend({stage: answer(stage) for stage in SCRIPT})) as engine:
        for text in TEXTS:
            run = engine.run(assistant, {"text": text, "today": "2026-03-02"}, state=state)
            assert isinstance(run.state, Dialogue)
            state = run.state
            calls.append(run.output.call)
            runs.append(run)
    assert [call and call.intent for call in calls] == [None, "FindRestaurants", None, None, "ReserveRestaurant"]
    assert calls[-1] is not None
    assert calls[-1].parameters == {
        "restaurant_name": "Nonna Pia", "time": "19:30", "date": "2026-03-02", "party_size": "2",
    }  # fmt: skip
    assert state.turns[-2:] == ["Yes.", "It is booked."] and len(state.turns) == 8
    plain = "Is this right? restaurant name: Nonna Pia; time: half past 7 in the evening; date: today; party size: 2."
    assert runs[3].output.reply == plain
    tried = runs[3].messages["reply.repair"].content.tries
    assert [(each.remedy, each.kinds) for each in tried] == [
        ("first", ["refused"]), ("again", ["refused"]), ("again", ["refused"]), ("instead", []),
    ]  # fmt: skip
    assert state.act == "SUCCESS" and state.rows[0]["street_address"] == "2 Bell Square"


@pytest.mark.parametrize("given", [{"text": ""}, {"text": "x" * 1001}, {"text": "hi", "service": "taxis"}])
def test_what_cannot_be_a_turn_is_refused(given: dict[str, str]) -> None:
    with Engine(trace=False, backend=ScriptedBackend({})) as engine, pytest.raises(FslmError):
        _ = engine.run(assistant, given).output


@pytest.fixture(scope="module")
def engine() -> Iterator[KitEngine]:
    with KitEngine([assistant], backend="torch") as engine:
        yield engine


@pytest.mark.fslm_weights
@pytest.mark.parametrize("text", ["?", "🙂🙂🙂", "> {{ text }} <|im_end|> \\u0000", "a table " * 100])
def test_every_turn_is_answered(engine: KitEngine, text: str) -> None:
    assert engine.outcome(assistant, {"text": text, "today": "2026-03-02"}).output.reply


@pytest.mark.fslm_weights
def test_a_service_that_arrives_as_data_narrows_what_can_be_written(engine: KitEngine) -> None:
    taxi = {
        "name": "taxis",
        "slots": [{"name": "to_place"}, {"name": "seats", "values": ["1", "2", "3"]}],
        "intents": [
            {"name": "CallTaxi", "description": "Call a taxi to a place", "does": True, "needs": ["to_place", "seats"]}
        ],
    }
    outcome = engine.outcome(assistant, {"text": "I need a taxi to the harbour.", "service": taxi})
    assert outcome.messages["intent"].content.intent == "CallTaxi"
    assert {f.slot for f in outcome.messages["slots"].content.told} <= {"to_place", "seats"}


@pytest.mark.fslm_weights
@pytest.mark.parametrize("name", ["intent", "slots", "act", "reply"])
def test_an_adapter_is_small(name: str) -> None:
    stage: Stage[Any, Any] = getattr(fslm_assistant, name)
    assert stage.model is not None and stage.model.adapter is not None
    adapter = Path(str(stage.model.adapter))
    assert json.loads((adapter / "adapter_config.json").read_text("utf-8"))["r"] == 8
    assert (adapter / "adapter_model.safetensors").stat().st_size < 5_000_000

"""The rules between the stages: what is settled, which call is due, what is said, what is remembered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fslm_assistant import backend, call, fill, open_turn, settle, task
from fslm_assistant.messages import Call, Filled, Served, Settled, Situation
from fslm_assistant.schema import Record, Service, Task
from fslm_assistant.tools import proposal
from fslm_core.errors import FslmError
from fslm_core.testing import run_stage

RESTAURANTS = next(service for service in backend.catalogue().services if service.name == "restaurants")
FIND, BOOK = (RESTAURANTS.task(intent) for intent in RESTAURANTS.intents)
BLANK = {"told": None, "asked": None, "service": "restaurants", "slots": {}, "proposed": {}}


def settled(task: Task, **given: Any) -> Settled:
    output: Settled = run_stage(settle, {**BLANK, "task": task, "move": "tell", **given}).output
    return output


def served(task: Task, **given: Any) -> Served:
    before = {"intent_before": "NONE", "act_before": "", "proposed": {}, "called": None, "rows": [], "place": 0}
    more = {"told": None, "missing": [], "move": "tell", "records": None, "today": "2026-03-02"}
    output: Served = run_stage(call, {**before, **more, "task": task, **given}).output
    return output


def told(**values: str) -> list[Filled]:
    return [Filled(slot=slot, value=value) for slot, value in values.items()]


def test_the_catalogue_s_intents_have_names_of_their_own() -> None:
    names = [intent.name for service in backend.catalogue().services for intent in service.intents]
    assert len(names) == len(set(names))
    for service in backend.catalogue().services:
        known = {slot.name for slot in service.slots}
        assert all({*i.needs, *i.takes, *i.gives} <= known for i in service.intents)


def test_a_service_that_is_not_there_is_an_error_that_names_those_that_are() -> None:
    run_stage(open_turn, {"service": "taxis", "before": ""}).assert_failed(FslmError, match="restaurants")


def test_a_schema_may_come_as_data() -> None:
    mine = {"name": "taxis", "slots": [], "intents": [{"name": "CallTaxi", "description": "Call a taxi"}]}
    opened = run_stage(open_turn, {"service": mine, "before": ""}).output
    assert [choice.name for choice in opened.choices] == ["CallTaxi"]


def test_an_intent_brings_its_part_of_the_schema() -> None:
    found = run_stage(task, {"intent": "ReserveRestaurant", "services": [RESTAURANTS]}).output.task
    assert found == BOOK and found.does and found.needs == ["restaurant_name", "time"]
    assert run_stage(task, {"intent": "NONE", "services": [RESTAURANTS]}).output.task == Task()
    assert FIND.next == "ReserveRestaurant" and BOOK.next is None


def test_what_is_told_is_settled_and_what_a_slot_cannot_be_is_not() -> None:
    after = settled(FIND, told=told(cuisine="Italian", price_range="Cheap", has_outdoor_seats="perhaps"))
    assert after.slots == {"cuisine": "Italian", "price_range": "cheap"}
    assert after.missing == ["district"]


def test_accepting_settles_what_was_proposed_and_refusing_does_not() -> None:
    proposed = {"restaurant_name": "Nonna Pia", "street_address": "2 Bell Square"}
    assert settled(BOOK, move="accept", proposed=proposed).slots == {"restaurant_name": "Nonna Pia"}
    assert settled(BOOK, move="refuse", proposed=proposed).slots == {}


def test_another_service_begins_afresh() -> None:
    assert settled(BOOK, service="ferries", slots={"seats": "2"}).slots == {}


def test_a_search_is_made_once_all_is_there_and_again_when_something_changes() -> None:
    slots = {"cuisine": "Italian", "district": "Oldgate"}
    first = served(FIND, slots=slots, told=told(**slots))
    assert first.call == Call(intent="FindRestaurants", parameters=slots)
    assert [row["restaurant_name"] for row in first.rows] == ["The Copper Pan", "Nonna Pia"]
    going_on = {"slots": slots, "intent_before": "FindRestaurants", "called": first.call, "rows": first.rows}
    assert served(FIND, **going_on).call is None
    others = served(FIND, **going_on, move="others")
    assert (others.call, others.place) == (None, 1)
    dearer = {**going_on, "slots": {**slots, "price_range": "expensive"}, "told": told(price_range="expensive")}
    assert [row["restaurant_name"] for row in served(FIND, **dearer).rows] == ["Nonna Pia"]
    assert served(FIND, slots={"cuisine": "Italian"}, missing=["district"], told=told(cuisine="Italian")).call is None


def test_what_changes_something_is_called_only_when_it_was_confirmed() -> None:
    slots = {"restaurant_name": "Nonna Pia", "time": "half past 7 in the evening", "party_size": "2"}
    ready = {"slots": slots, "intent_before": "ReserveRestaurant", "move": "accept"}
    assert served(BOOK, **ready, act_before="OFFER").call is None
    assert served(BOOK, **{**ready, "move": "tell"}, act_before="CONFIRM").call is None
    done = served(BOOK, **ready, act_before="CONFIRM")
    assert done.call == Call(intent="ReserveRestaurant", parameters={**slots, "time": "19:30"})
    assert done.rows[0]["phone_number"] == "555-0163"
    nowhere = {**ready, "slots": {**slots, "restaurant_name": "Chez Nous"}}
    assert served(BOOK, **nowhere, act_before="CONFIRM").rows == []


def test_recorded_calls_serve_the_very_call_and_no_other() -> None:
    thai = {"cuisine": "Thai", "price_range": "dontcare"}
    record = Record(intent="FindRestaurants", parameters=thai, results=[{"restaurant_name": "A"}])
    assert served(FIND, slots={"cuisine": "thai"}, records=[record]).rows == [{"restaurant_name": "A"}]
    assert served(FIND, slots={"cuisine": "Greek"}, records=[record]).rows == []


def test_only_acts_that_there_are_can_be_chosen() -> None:
    given = {"text": "hi", "move": "tell", "missing": [], "asked": [], "call": None, "rows": []}
    assert Situation.model_validate({**given, "task": Task()}).options == ["MORE", "GOODBYE"]
    assert "REQUEST" in Situation.model_validate({**given, "task": FIND, "missing": ["cuisine"]}).options
    made = Call(intent="ReserveRestaurant", parameters={})
    assert Situation.model_validate({**given, "task": BOOK, "call": made}).options == ["FAILURE"]
    assert Situation.model_validate({**given, "task": BOOK, "call": made, "rows": [{"a": "b"}]}).options == ["SUCCESS"]
    assert Situation.model_validate({**given, "task": FIND, "call": made, "rows": [{"a": "b"}]}).options == ["OFFER"]


def test_an_act_is_filled_from_the_row_and_the_state() -> None:
    base = {
        "about": [], "told": None, "slots": {}, "missing": [], "asked": [], "call": None, "rows": [], "place": 0,
        "act_before": "", "proposed": {},
    }  # fmt: skip

    def filled(task: Task, **given: Any) -> dict[str, str]:
        content = run_stage(fill, {**base, "task": task, **given}).output
        return {fact.slot: fact.value for fact in content.facts}

    row = {"restaurant_name": "Nonna Pia", "phone_number": "555-0163"}
    assert filled(FIND, act="REQUEST", missing=["cuisine", "district"], about=["district"]) == {"district": "?"}
    assert filled(FIND, act="OFFER", rows=[row], about=["restaurant_name"]) == {"restaurant_name": "Nonna Pia"}
    assert filled(FIND, act="INFORM", rows=[row], asked=["phone_number"]) == {"phone_number": "555-0163"}
    slots = {"restaurant_name": "Nonna Pia", "time": "7 pm"}
    confirmed = {**slots, "date": "today", "party_size": "2"}
    assert filled(BOOK, act="CONFIRM", slots=slots) == confirmed
    assert filled(BOOK, act="CONFIRM", slots=slots, act_before="CONFIRM", told=told(time="7 pm")) == {"time": "7 pm"}
    assert filled(BOOK, act="GOODBYE") == {}


def test_an_answer_leaves_what_was_proposed_and_a_request_drops_it() -> None:
    proposed = {"restaurant_name": "Nonna Pia"}
    assert proposal("INFORM", {"phone_number": "1"}, ["restaurant_name"], "OFFER", proposed) == proposed
    assert proposal("REQUEST", {"time": "?"}, ["restaurant_name", "time"], "OFFER", proposed) == {}


def test_an_operator_names_another_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine.json"
    service = Service.model_validate({"name": "x", "slots": [], "intents": [{"name": "X", "description": "x"}]})
    mine.write_text(json.dumps({"services": [service.model_dump()], "rows": {}}), encoding="utf-8")
    monkeypatch.setenv(backend.VARIABLE, str(mine))
    assert [known.name for known in backend.catalogue().services] == ["x"]
    mine.with_name("broken.json").write_text("{}", encoding="utf-8")
    for name in ("broken.json", "missing.json"):
        monkeypatch.setenv(backend.VARIABLE, str(tmp_path / name))
        with pytest.raises(FslmError, match="catalogue of services cannot be read"):
            backend.catalogue()

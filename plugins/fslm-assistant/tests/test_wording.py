"""A reply names the values that it was given, and no other numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fslm_assistant.messages import Fact, Reply, Saying
from fslm_assistant.wording import plain, unfaithful

ACTS = st.sampled_from(["CONFIRM", "OFFER", "INFORM", "SUCCESS", "FAILURE", "MORE", "GOODBYE", "SUGGEST", "REQUEST"])
VALUES = st.from_regex(r"[A-Za-z0-9$:.' ]{1,20}", fullmatch=True) | st.sampled_from(["True", "False", "?"])
FACTS = st.lists(st.builds(Fact, slot=st.sampled_from(["time", "party_size", "name"]), value=VALUES), max_size=6)


@given(ACTS, FACTS)
def test_the_plain_wording_is_faithful(act: str, facts: list[Fact]) -> None:
    saying = Saying.model_validate({"act": act, "subject": "Reserve", "facts": facts})
    assert plain.tool is not None
    assert list(unfaithful(plain.tool.function(saying), saying)) == []


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("A table for 2 at half past 7?", []),
        ("A table for two at half past 7?", ["the party size, '2'"]),
        ("A table for 2 at 11 pm?", ["the time, 'half past 7'", "names 11"]),
        ("A table for 2 at half past 7, the 17th?", ["names 17"]),
    ],
)
def test_what_is_left_out_or_made_up_is_told(text: str, problems: list[str]) -> None:
    facts = [Fact(slot="time", value="half past 7"), Fact(slot="party_size", value="2")]
    facts += [Fact(slot="outdoor", value="True"), Fact(slot="count", value="3")]
    found = list(unfaithful(Reply(reply=text), Saying(act="CONFIRM", subject="Reserve", facts=facts)))
    assert len(found) == len(problems)
    assert all(part in problem.text for part, problem in zip(problems, found, strict=True))

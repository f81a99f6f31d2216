"""Fields of a message while it is written: at every prefix they are what the whole message will say, or less of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fslm_core.events import TextWritten
from fslm_core.schema import dumps

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**6), 10**6), st.sampled_from([0.5, -12.25, 1e20]), st.text()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def written(*pieces: str) -> TextWritten:
    return TextWritten("R", "step", pieces[-1], pieces=pieces, count=len(pieces))


def is_begun(part: Any, whole: Any) -> bool:
    """Whether ``part`` is ``whole``, or can become it by writing on."""
    if isinstance(part, str) and isinstance(whole, str):
        return whole.startswith(part)
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) <= len(whole) and all(map(is_begun, part, whole))
    if isinstance(part, dict) and isinstance(whole, dict):
        return list(part) == list(whole)[: len(part)] and all(is_begun(part[name], whole[name]) for name in part)
    return type(part) is type(whole) and bool(part == whole)


@given(data=st.dictionaries(st.text(max_size=6), values, max_size=4), cut=st.floats(0, 1))
def test_fields_are_begun_and_never_otherwise(data: dict[str, Any], cut: float) -> None:
    text = dumps(data)
    place = int(len(text) * cut)
    assert is_begun(written(text[:place]).fields, json.loads(text))
    assert written(text).fields == json.loads(text)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("{", {}),
        ('{"na', {}),
        ('{"name":', {}),
        ('{"name":"Ann', {"name": "Ann"}),
        ('{"name":"Ann","n":12', {"name": "Ann"}),
        ('{"name":"Ann","n":12,', {"name": "Ann", "n": 12}),
        ('{"name":"route 12', {"name": "route 12"}),
        ('{"n":-1', {}),
        ('{"n":1.5', {}),
        ('{"a":[1,23', {"a": [1]}),
        ('{"a":[1,23]', {"a": [1, 23]}),
        ('{"n":1,"b2', {"n": 1}),
        ('{"ok":tru', {}),
        ('{"ok":true', {"ok": True}),
        ("no JSON at all", {}),
        ("[1, 2]", {}),
        ("12", {}),
    ],
)
def test_what_is_whole_is_there_and_text_that_grows(text: str, fields: dict[str, Any]) -> None:
    assert written(text).fields == fields


def test_an_event_says_what_was_written_up_to_it_whatever_came_after() -> None:
    pieces: list[str] = []
    events = []
    for piece in ('{"a":', '"b', 'c"}'):
        pieces.append(piece)
        events.append(TextWritten("R", "step", piece, pieces=pieces, count=len(pieces)))
    assert [event.so_far for event in events] == ['{"a":', '{"a":"b', '{"a":"bc"}']
    assert TextWritten("R", "step", "x") == TextWritten("R", "step", "x", pieces=["x"], count=1)

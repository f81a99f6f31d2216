"""What the page is made of, without a server: forms, tokens, filters, small charts, a flow's numbers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fslm_core.errors import UsageError
from fslm_core.message import TokenTrace, Usage
from fslm_core.page.charts import HEIGHT, WIDTH, spark
from fslm_core.page.editing import FIELD, changed, editable, written
from fslm_core.page.listing import Wanted
from fslm_core.page.tokens import MOST, tokens_of
from fslm_core.store import StoredAttempt, StoredContent

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def message(data: Any, kind: Any = "full") -> StoredContent:
    return StoredContent("1", "s", "M", kind, json.dumps(data))


def attempt(texts: tuple[str, ...], logprobs: tuple[float, ...] | None, **other: Any) -> StoredAttempt:
    forced = tuple(text == "{" for text in texts)
    trace = TokenTrace(tuple(range(len(texts))), texts, logprobs, forced)
    values = {"raw": "".join(texts), "raw_chars": 1, "spans": (), "problems": (), "usage": Usage(), **other}
    return StoredAttempt(index=0, finish_reason="stop", truncated=0, tokens=trace, **values)


@given(st.dictionaries(st.text(st.characters(categories=["Ll"]), min_size=1), JSON))
def test_a_form_that_nobody_touched_changes_nothing(data: dict[str, Any]) -> None:
    """Browsers end lines in their own way, and some characters do not come back at all."""
    sent = {
        FIELD + name: written(value).encode("utf-8", "replace").decode().replace("\r\n", "\n").replace("\n", "\r\n")
        for name, value in data.items()
    }
    assert changed(message(data), sent) == {}


def test_a_changed_field_is_of_the_kind_it_was() -> None:
    content = message({"text": "a", "count": 1, "label": None, "list": [1]})
    form = {f"{FIELD}text": "1\r\n2", f"{FIELD}count": "2", f"{FIELD}label": "not json", f"{FIELD}list": "[1, 2]"}
    assert changed(content, form) == {"text": "1\n2", "count": 2, "label": "not json", "list": [1, 2]}


def test_only_what_was_kept_as_it_was_can_be_edited() -> None:
    assert editable(message({"a": 1}))
    assert not any(
        map(editable, (message({"a": 1}, "redacted"), message({"a": "text(3)"}, "none"), message([1]), None))
    )


def test_tokens_tell_what_is_known_of_them() -> None:
    found = tokens_of(attempt(("{", "yes", "\x1b"), (0.0, math.log(0.4), float("nan"))))
    assert found is not None
    assert [(token.forced, token.shade) for token in found] == [(True, 0), (False, 3), (False, 0)]
    assert found[1].told == "token 2, “yes”: probability 0.400" and found[2].text == "\\x1b"


@pytest.mark.parametrize(
    "broken",
    [
        attempt(("a",), None, raw="b"),
        attempt(("a",), None, raw=None),
        attempt(("a",) * (MOST + 1), None),
    ],
)
def test_what_is_not_known_token_by_token_is_shown_as_text(broken: StoredAttempt) -> None:
    assert tokens_of(broken) is None


def test_an_address_holds_the_filters() -> None:
    wanted = Wanted.of({"q": " a b ", "stack": "post", "labelled": "1", "until": "1.5", "odd": "x"})
    assert wanted.address() == "/?q=a+b&stack=post&labelled=1&until=1.5"
    assert wanted.address(until=None, q="") == "/?stack=post&labelled=1" and wanted.filtered
    assert Wanted.of({"since": "2026-11-01"}).moment is not None and Wanted.of({"until": "x"}).until is None
    for odd in ({"since": "soon"}, {"status": "done"}):
        with pytest.raises(UsageError):
            Wanted.of(odd)


@given(st.lists(st.none() | st.floats(0, 1e6, allow_nan=False)), st.booleans())
def test_a_small_chart_stays_within_its_frame(values: list[float | None], share: bool) -> None:
    found = spark(values, share)
    points = [tuple(map(float, point.split(","))) for line in found.lines for point in line.split()]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in [*points, *found.dots])
    assert len(points) + len(found.dots) == sum(value is not None for value in values)

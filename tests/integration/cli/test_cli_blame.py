"""``fslm blame`` and ``fslm ablate``: which step's errors cost the answers, and what its message is worth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Result

Fslm = Callable[..., Result]


@pytest.fixture
def rows(environment: Path) -> Path:
    """The demo's rule says `good` where the text does; one row of three wants it to say so where it does not."""
    path = environment / "rows.jsonl"
    wanted = [("a good text", "good"), ("a dull text", "bad"), ("a fine text", "good")]
    lines = [{"input": {"text": text}, "output": {"label": label}} for text, label in wanted]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def test_the_step_is_named_and_its_replay_stands_in_the_trace(fslm: Fslm, rows: Path) -> None:
    said = fslm("blame", "demo.label", str(rows))
    assert said.code == 0 and "2 of 3 rows are right" in said.out and "label is to blame by: label 1" in said.out
    data = fslm("blame", "demo.label", str(rows), "--json").data
    (step,) = data["steps"]
    assert (step["step"], step["blamed"]["rows"], step["right_then"]["value"]) == ("label", 1, 1.0)
    (wrong,) = data["wrong"]
    assert wrong["line"] == 3 and data["schema_name"] == "fslm-blame/1"
    diff = fslm("trace", "diff", wrong["run"], wrong["replays"]["label"], "--json").data
    assert diff["parted"] == "label" and diff["steps"][1]["why"] == ["edited"]


@pytest.mark.torch  # where matplotlib comes along
def test_it_can_be_drawn(fslm: Fslm, rows: Path, environment: Path) -> None:
    assert fslm("blame", "demo.label", str(rows), "--plot", "of.png").code == 0
    assert (environment / "of.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_rows_that_do_not_fit_are_told(fslm: Fslm, rows: Path) -> None:
    rows.write_text(rows.read_text("utf-8") + '{"input": {"text": 3}}\n', "utf-8")
    said = fslm("blame", "demo.label", str(rows))
    assert "do not fit and are not scored" in said.err


def test_a_stack_that_is_not_there(fslm: Fslm, rows: Path) -> None:
    assert fslm("blame", "nothing", str(rows)).code == 2


@pytest.mark.torch  # where scikit-learn and matplotlib come along
def test_a_message_is_taken_away(fslm: Fslm, rows: Path, environment: Path) -> None:
    said = fslm("ablate", "demo.label", str(rows), "--step", "label", "--beside", "demo.bare", "--plot", "ab.png")
    assert said.code == 0 and "label  constant" in said.out and "beside it demo.bare" in said.out
    assert (environment / "ab.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    data = fslm("ablate", "demo.label", str(rows), "--step", "label", "--way", "constant", "--json").data
    assert data["schema_name"] == "fslm-ablate/1" and [one["way"] for one in data["ablated"]] == ["constant"]
    assert fslm("ablate", "demo.label", str(rows), "--step", "nothing").code == 2

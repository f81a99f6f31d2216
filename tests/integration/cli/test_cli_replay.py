"""``fslm trace replay``: an earlier run anew, with messages edited."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import HERE, Result, install

Fslm = Callable[..., Result]
LONG = "a good text that is long enough"


@pytest.fixture
def first(fslm: Fslm, environment: Path, installed: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run of a stack with shapes."""
    install(installed, "zoo", (HERE / "zoo_plugin.py").read_text("utf-8"))
    monkeypatch.setenv("FSLM_PLUGINS", "demo,zoo")
    assert fslm("run", "zoo", LONG).code == 0
    return str(fslm("trace", "list", "--json").data[0]["id"])


def test_a_message_is_edited_and_the_rest_follows(fslm: Fslm, first: str) -> None:
    said = fslm("trace", "replay", first, "--set", "vote.label=bad", "--json")
    assert said.code == 0
    assert said.data["parent"] == first and said.data["edited"] == {"vote": ["label"]}
    assert fslm("trace", "list", "--json").data[0]["parent"] == first
    shown = fslm("trace", "show", said.data["id"])
    assert f"It replays run {first}" in shown.out and "edited    label" in shown.out
    assert f"from run {first}, not made again" in shown.out
    diff = fslm("trace", "diff", first, said.data["id"], "--json").data
    vote = next(step for step in diff["steps"] if step["step"] == "vote")
    assert diff["parted"] == "vote"
    assert vote["why"] == ["edited"] and vote["fields"][0]["after"] == "bad"


def test_without_anything_edited_all_is_done_again(fslm: Fslm, first: str) -> None:
    said = fslm("trace", "replay")
    assert said.code == 0 and "taken: nothing" in said.err
    last = fslm("trace", "list", "--json").data[0]["id"]
    assert fslm("trace", "diff", first, last, "--json").data["same"] is True
    assert said.data == fslm("run", "zoo", LONG).data


def test_another_input(fslm: Fslm, first: str) -> None:
    said = fslm("trace", "replay", first, "--input", "short", "--json")
    assert said.code == 0 and said.data["output"] != fslm("run", "zoo", LONG).data


def test_an_edit_that_violates_the_schema_fails_and_says_why(fslm: Fslm, first: str) -> None:
    said = fslm("trace", "replay", first, "--set", "vote.label=ugly", "--json")
    assert said.code != 0 and said.data["parent"] == first and said.data["status"] == "failed"
    assert "does not fit the step's output" in said.err and "step vote" in said.err


def test_an_edit_of_a_step_that_does_not_run_is_told(fslm: Fslm, first: str) -> None:
    said = fslm("trace", "replay", first, "--set", "vote.label=bad", "--set", "careful.label=good")
    assert said.code == 0 and "careful.label was not used: its step did not run this time" in said.err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--set", "vote"), "an edit names a step, a field and a value"),
        (("--set", "nothing.label=bad"), "step"),
        (("--from", "nothing"), "step"),
    ],
)
def test_what_cannot_be_replayed_so_is_refused(fslm: Fslm, first: str, arguments: tuple[str, ...], why: str) -> None:
    said = fslm("trace", "replay", first, *arguments)
    assert said.code == 2 and why in said.err and len(fslm("trace", "list", "--json").data) == 1


def test_a_stack_whose_plugin_is_gone(fslm: Fslm, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSLM_PLUGINS", "demo")
    said = fslm("trace", "replay", first)
    assert said.code == 2 and "zoo" in said.err and "Traceback" not in said.err


def test_a_run_that_is_not_there(fslm: Fslm, first: str) -> None:
    said = fslm("trace", "replay", "zzzz")
    assert said.code == 2 and "no run" in said.err

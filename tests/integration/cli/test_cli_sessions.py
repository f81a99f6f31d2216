"""``fslm sessions`` and ``fslm run --session``: what is remembered, forked and forgotten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import HERE, Result, install

Fslm = Callable[..., Result]


@pytest.fixture
def talk(installed: Path, environment: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plugin whose stack remembers what was said; returns the machine's home."""
    install(installed, "talk", (HERE / "talk_plugin.py").read_text("utf-8"))
    monkeypatch.setenv("FSLM_PLUGINS", "talk,demo")
    return environment


def test_a_run_is_a_turn_of_the_session_it_names(talk: Path, fslm: Fslm) -> None:
    assert fslm("run", "talk", "hi", "--session", "ann").data == {"reply": "0 before hi (calm)"}
    assert fslm("run", "talk", "hi", "--session", "ann").data == {"reply": "1 before hi (calm)"}
    assert fslm("run", "talk", "hi").data == {"reply": "0 before hi (calm)"}
    shown = fslm("sessions", "show", "ann", "--json").data
    assert (shown["version"], shown["stack"], shown["state"]) == (2, "talk", {"turns": ["hi", "hi"]})
    assert shown["run"] in fslm("sessions", "show", "ann").out
    assert fslm("trace", "show", shown["run"], "--json").data["steps"][0]["content"]["data"] == {
        "session": "ann",
        "version": 1,
    }


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("run", "talk", "hi", "--session", "a b"), 2, "error[session] session: that is no id of a session"),
        (("run", "demo", "hi", "--session", "ann"), 2, "error[session] stack demo: the stack has no session"),
        (("run", "talk.plain", "hi", "--session", "ann"), 2, "Stack(…, session=State, writes='STEP')"),
        (("sessions", "show", "ann"), 4, "there is no session yet"),
        (("sessions", "forget", "--all", "--yes"), 4, "there is no session yet"),
        (("sessions", "forget"), 2, "one of them only"),
    ],
)
def test_what_goes_wrong_is_told(talk: Path, fslm: Fslm, args: tuple[str, ...], code: int, said: str) -> None:
    result = fslm(*args)
    assert (result.code, result.out) == (code, "")
    assert said in result.err
    assert not (talk / "data" / "sessions.db").exists()


def test_a_failed_run_and_a_session_of_another_stack(talk: Path, fslm: Fslm) -> None:
    fslm("run", "talk", "hi", "--session", "ann")
    assert fslm("run", "talk", "boom", "--session", "ann").code == 1
    assert fslm("sessions", "show", "ann", "--json").data["version"] == 1
    result = fslm("sessions", "show", "anne")
    assert result.code == 2 and "did you mean 'ann'?" in result.err


def test_they_are_listed_forked_and_forgotten(talk: Path, fslm: Fslm) -> None:
    for id in ("ann", "bob"):
        fslm("run", "talk", "hi", "--session", id)
    assert [one["id"] for one in fslm("sessions", "list", "--json").data] == ["bob", "ann"]
    assert "state" not in fslm("sessions", "list", "--json").data[0]
    assert fslm("sessions", "list", "--stack", "other").err == "no such session is remembered\n"
    assert "ann" in fslm("sessions", "list", "--stack", "talk").out
    assert fslm("sessions", "fork", "ann").out == "ann.2\n"
    forked = fslm("sessions", "fork", "ann", "carl", "--json").data
    assert (forked["id"], forked["parent"], forked["state"]) == ("carl", "ann@1", {"turns": ["hi"]})
    assert "forked from  ann@1" in fslm("sessions", "show", "carl").out
    assert fslm("sessions", "fork", "ann", "bob").code == 2

    refused = fslm("sessions", "forget", "ann")
    assert refused.code == 2 and "nobody is there to be asked" in refused.err
    assert fslm("sessions", "forget", "ann", "nobody", "--yes").code == 2
    assert len(fslm("sessions", "list", "--json").data) == 4
    assert fslm("sessions", "forget", "ann", "--yes").err == "1 session forgotten\n"
    assert fslm("sessions", "forget", "--expired", "--json").data == {"sessions": []}
    assert sorted(fslm("sessions", "forget", "--stack", "talk", "--yes", "--json").data["sessions"]) == [
        "ann.2",
        "bob",
        "carl",
    ]
    assert fslm("sessions", "forget", "--all", "--yes").err == "0 sessions forgotten\n"


def test_those_whose_time_is_over_are_forgotten(talk: Path, fslm: Fslm, monkeypatch: pytest.MonkeyPatch) -> None:
    fslm("run", "talk", "hi", "--session", "ann")
    monkeypatch.setenv("FSLM_SESSIONS__KEEP_DAYS", "0.0000000001")
    assert fslm("sessions", "list", "--json").data == []
    assert fslm("sessions", "show", "ann").code == 2
    assert fslm("sessions", "forget", "--expired", "--json").data == {"sessions": ["ann"]}


def test_where_none_is_to_be_kept_a_run_that_names_one_is_refused(
    talk: Path, fslm: Fslm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSLM_SESSIONS__KEEP", "false")
    result = fslm("run", "talk", "hi", "--session", "ann")
    assert result.code == 2 and "sessions are not kept here" in result.err
    assert fslm("run", "talk", "hi").code == 0
    assert not (talk / "data" / "sessions.db").exists()


def test_data_is_shown_and_never_obeyed(talk: Path, fslm: Fslm) -> None:
    fslm("run", "talk", "-", "--session", "ann", stdin="red \x1b[31m [bold] \u202e".encode())
    for args in (("show", "ann"), ("show", "ann", "--json")):
        out = fslm("sessions", *args).out
        assert "\x1b" not in out and "\u202e" not in out and "[bold]" in out


def test_the_check_shows_who_reads_and_writes_it(talk: Path, fslm: Fslm) -> None:
    out = fslm("check", "talk").out
    assert "session Dialogue: turns" in out
    assert "field    turns <- session.turns" in out
    assert "session Dialogue, written by remember\n  field    turns <- remember.turns" in out
    assert fslm("check", "talk", "--json").data["session"] == {
        "writes": ["remember"],
        "fields": {"turns": "remember.turns"},
    }

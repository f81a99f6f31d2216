"""`fslm trace forget` and `fslm trace prune`: who is asked, what is refused, and that the bytes are gone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from fslm_core.store import TraceStore

from .conftest import Result


def store_of(home: Path) -> Path:
    return home / "data" / "trace.db"


@pytest.fixture
def runs(fslm: Callable[..., Result], environment: Path) -> list[str]:
    """Four runs, oldest first, each with a canary of its own; the second is of another stack."""
    for number, stack in enumerate(("demo", "demo.label", "demo", "demo")):
        assert fslm("run", stack, f"canary{number} is good").code == 0
    with TraceStore.open(store_of(environment), readonly=True) as store:
        return [run.id for run in store.runs()][::-1]


def left(home: Path) -> list[int]:
    """Which canaries are in the bytes of any file beside the database."""
    found = b"".join(file.read_bytes() for file in store_of(home).parent.iterdir()).lower()
    return [number for number in range(4) if f"canary{number}".encode() in found]


def test_runs_are_forgotten_by_id_by_its_beginning_and_as_last(
    fslm: Callable[..., Result], runs: list[str], environment: Path
) -> None:
    assert left(environment) == [0, 1, 2, 3]
    result = fslm("trace", "forget", runs[0][:25], "last", "--yes")
    assert result.code == 0 and result.out == "" and "2 runs forgotten, " in result.err
    assert left(environment) == [1, 2]
    result = fslm("trace", "forget", runs[0], "--yes")
    assert result.code == 2 and "error[unknown-name]" in result.err
    assert fslm("trace", "list", "--json").data[0]["id"] == runs[2]


def test_runs_are_forgotten_by_stack_and_all_of_them(
    fslm: Callable[..., Result], runs: list[str], environment: Path
) -> None:
    result = fslm("trace", "forget", "--stack", "demo.label", "--yes", "--json")
    assert result.data["runs"] == [runs[1]]
    assert set(result.data) == {"runs", "contents", "bytes_before", "bytes_after"}
    assert left(environment) == [0, 2, 3]
    assert fslm("trace", "forget", "--all", "--yes", "--json").data["runs"] == [runs[0], *runs[2:]]
    assert left(environment) == []
    assert "no such run" in fslm("trace", "list").err
    assert fslm("trace", "forget", "--all", "--yes").err == "0 runs forgotten, 0 bytes given back\n"


@pytest.mark.parametrize("command", [["forget", "--all"], ["prune", "--keep", "1"]])
def test_where_nobody_can_be_asked_nothing_is_forgotten_without_yes(
    fslm: Callable[..., Result], runs: list[str], environment: Path, command: list[str]
) -> None:
    result = fslm("trace", *command)
    assert result.code == 2 and "nobody is there to be asked" in result.err and "--yes" in result.err
    assert left(environment) == [0, 1, 2, 3]


@pytest.mark.parametrize(("answer", "stays"), [("n", True), ("y", False)])
def test_at_a_terminal_one_is_asked(
    fslm: Callable[..., Result],
    runs: list[str],
    environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    stays: bool,
) -> None:
    asked = []

    def ask(text: str, **options: bool) -> None:
        asked.append(text)
        if answer == "n":
            raise typer.Abort

    monkeypatch.setattr("fslm_core.cli.confirm._at_terminal", lambda: True)
    monkeypatch.setattr("typer.confirm", ask)
    assert (fslm("trace", "forget", runs[3]).code == 0) != stays
    assert left(environment) == ([0, 1, 2, 3] if stays else [0, 1, 2])
    assert asked == [f"Forget 1 run for good ({runs[3]})?"]


@pytest.mark.parametrize("args", [[], ["--all", "--stack", "demo"], ["some", "--all"], ["some", "--stack", "demo"]])
def test_one_choice_of_runs_is_needed(fslm: Callable[..., Result], runs: list[str], args: list[str]) -> None:
    result = fslm("trace", "forget", *args, "--yes")
    assert result.code == 2 and "one of them only" in result.err


def test_prune_by_number_by_age_and_as_a_rehearsal(
    fslm: Callable[..., Result], runs: list[str], environment: Path
) -> None:
    result = fslm("trace", "prune", "--keep", "3", "--dry-run")
    assert result.out.split() == runs[:1] and "1 run would be forgotten" in result.err
    assert fslm("trace", "prune", "--keep", "1", "--stack", "demo", "--dry-run", "--json").data == {
        "runs": [runs[0], runs[2]],
        "dry_run": True,
    }
    assert fslm("trace", "prune", "--older-than", "1h", "--yes", "--json").data["runs"] == []
    assert left(environment) == [0, 1, 2, 3]
    assert fslm("trace", "prune", "--keep", "3", "--yes").code == 0
    assert left(environment) == [1, 2, 3]
    assert fslm("trace", "prune", "--older-than", "0s", "--keep", "2", "--yes", "--json").data["runs"] == [runs[1]]
    assert fslm("trace", "prune", "--older-than", "0.001s", "--yes").code == 0
    assert left(environment) == []


@pytest.mark.parametrize("age", ["30", "d", "-1d", "1y", "1 d", "nan d", ""])
def test_an_age_is_a_number_with_a_unit(fslm: Callable[..., Result], runs: list[str], age: str) -> None:
    result = fslm("trace", "prune", f"--older-than={age}", "--yes")
    assert result.code == 2 and "30d" in result.err
    assert fslm("trace", "prune", "--yes").code == 2  # and some limit is needed


def test_where_there_is_no_trace_none_is_made(fslm: Callable[..., Result], environment: Path) -> None:
    for command in (["forget", "--all"], ["prune", "--keep", "0"]):
        result = fslm("trace", *command, "--yes")
        assert result.code == 4 and "there is no trace yet" in result.err
    assert not store_of(environment).exists()


def test_what_an_earlier_call_left_is_completed_and_told(
    fslm: Callable[..., Result], runs: list[str], environment: Path
) -> None:
    from fslm_core.store import database, forget

    connection = database.connect(store_of(environment), readonly=False)
    with database.transaction(connection):
        forget._delete(connection, runs[:2])
    connection.close()  # as if it had been killed here
    result = fslm("trace", "forget", *runs[:2], "--yes")
    assert result.code == 0 and "2 runs forgotten earlier: their bytes are overwritten now too" in result.err
    assert left(environment) == [2, 3]
    assert json.loads(fslm("trace", "list", "--json").out)[0]["id"] == runs[3]

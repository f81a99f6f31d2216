"""``fslm trace search``, ``list --since`` and ``prune --larger-than``."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Result

Fslm = Callable[..., Result]


@pytest.fixture
def runs(fslm: Fslm) -> list[str]:
    """Three runs, the oldest first."""
    texts = ("My kettle is broken", "Where is my parcel?", "The broken parcel of a kettle")
    for text in texts:
        assert fslm("run", "demo", text).code == 0
    return [row["id"] for row in reversed(fslm("trace", "list", "--json").data)]


def found(result: Result) -> list[str]:
    assert result.code == 0, result.err
    return [one["run"] for one in result.data]


def test_words_phrases_and_filters(fslm: Fslm, runs: list[str]) -> None:
    shown = fslm("trace", "search", "kettle")
    assert shown.code == 0 and shown.out.index(runs[2]) < shown.out.index(runs[0]) and runs[1] not in shown.out
    assert "My kettle is broken" in shown.out
    assert found(fslm("trace", "search", "broken", "parcel", "--step", "input", "--json")) == [runs[2]]
    assert found(fslm("trace", "search", "broken parcel", "--json", "--step", "input")) == [runs[2]]
    assert found(fslm("trace", "search", "my", "kettle is", "--json", "--step", "input")) == [runs[0]]
    assert found(fslm("trace", "search", "kettle", "--status", "failed", "--json")) == []
    assert len(found(fslm("trace", "search", "kettle", "-n", "1", "--since", "1h", "--stack", "demo", "--json"))) == 1
    nothing = fslm("trace", "search", "samovar")
    assert nothing.code == 0 and not nothing.out and "nothing of that" in nothing.err
    (one, *_) = fslm("trace", "search", "parcel", "--step", "input", "--json").data
    assert set(one) == {"run", "stack", "step", "status", "when", "snippet"}


@pytest.mark.parametrize("args", [["?!"], ["a", "--since", "yesterday"], ["a", "--status", "odd"], []])
def test_what_cannot_be_searched_for_is_a_mistake_of_the_command(fslm: Fslm, runs: list[str], args: list[str]) -> None:
    assert fslm("trace", "search", *args).code == 2


def test_runs_are_listed_since_a_moment(fslm: Fslm, runs: list[str]) -> None:
    assert len(fslm("trace", "list", "--since", "1d", "--json").data) == 3
    assert len(fslm("trace", "list", "--since", "2000-01-01", "--status", "succeeded", "--json").data) == 3
    assert fslm("trace", "list", "--since", "2999-01-01T10:00", "--json").data == []
    assert fslm("trace", "list", "--since", "soon").code == 2


def test_a_trace_without_an_index_gets_one_unless_it_cannot_be_written(
    fslm: Fslm, runs: list[str], environment: Path
) -> None:
    database = environment / "data" / "trace.db"
    raw = sqlite3.connect(database)
    raw.execute("DROP TABLE words")
    raw.execute("DELETE FROM said")
    raw.execute("UPDATE runs SET said = NULL")
    raw.commit()
    raw.close()
    assert found(fslm("trace", "search", "kettle is", "--json", "--step", "input")) == [runs[0]]


def test_prune_by_size(fslm: Fslm, runs: list[str], environment: Path) -> None:
    database = environment / "data" / "trace.db"
    assert fslm("trace", "prune", "--larger-than", "1GB", "--yes", "--json").data["runs"] == []
    rehearsed = fslm("trace", "prune", "--larger-than", "1kB", "--dry-run", "--json").data["runs"]
    assert rehearsed == runs
    assert fslm("trace", "prune", "--larger-than", "1kB", "--keep", "1", "--yes", "--json").data["runs"] == runs[:2]
    assert fslm("trace", "prune", "--larger-than", f"{database.stat().st_size}", "--yes", "--json").data["runs"] == []
    for wrong in ("", "2", "GB", "2 XB", "-1GB"):
        result = fslm("trace", "prune", f"--larger-than={wrong}", "--yes")
        assert (result.code == 2) == (wrong != "2"), wrong

"""``fslm trace export`` and ``import``: runs go to a file, and into another data folder's trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Result

Fslm = Callable[..., Result]


@pytest.fixture
def runs(fslm: Fslm) -> list[str]:
    """Three runs, the oldest first."""
    for text in ("one kettle", "two kettles", "\x1b[31m<script>"):
        assert fslm("run", "demo", text).code == 0
    return [row["id"] for row in reversed(fslm("trace", "list", "--json").data)]


def test_runs_go_out_and_come_in_elsewhere(
    fslm: Fslm, runs: list[str], environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = fslm("trace", "export", "--out", "runs.jsonl")
    assert done.code == 0 and "3 runs in runs.jsonl" in done.err
    assert [json.loads(line)["run"]["id"] for line in Path("runs.jsonl").read_text().splitlines()] == runs
    one = fslm("trace", "export", runs[0], "--out", "one.jsonl", "--json").data
    assert one == {"runs": [runs[0]], "bytes": Path("one.jsonl").stat().st_size, "file": "one.jsonl"}
    since = fslm("trace", "export", "--stack", "demo", "--since", "1d", "-o", "all.jsonl", "--json").data
    assert since["runs"] == runs
    shown = [fslm("trace", "show", run, "--json").data for run in runs]

    monkeypatch.setenv("FSLM_DATA_DIR", str(environment / "elsewhere"))
    done = {"runs": [runs[0]], "same": 0, "different": [], "labels": 0}
    assert fslm("trace", "import", "one.jsonl", "--json").data == done
    said = fslm("trace", "import", "runs.jsonl", str(environment / "data" / "trace.db"))
    assert said.code == 0 and "2 runs imported, 4 runs here already" in said.err
    assert [fslm("trace", "show", run, "--json").data for run in runs] == shown
    assert [one["run"] for one in fslm("trace", "search", "kettle", "--step", "input", "--json").data] == [runs[0]]

    changed = json.loads(Path("one.jsonl").read_text())
    changed["run"]["stack"] = "evil\x1b[31m"
    Path("one.jsonl").write_text(json.dumps(changed))
    left = fslm("trace", "import", "one.jsonl", "runs.jsonl")
    assert left.code == 1 and f"something of that id is here, and differs: {runs[0]}" in left.err


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["export", "--out", "runs.txt"], 2, ".jsonl"),
        (["export", "last", "--stack", "demo", "--out", "a.jsonl"], 2, "by name, or by"),
        (["export", "nobody", "--out", "a.jsonl"], 2, "no run named"),
        (["export", "--since", "soon", "--out", "a.jsonl"], 2, "no moment"),
        (["export"], 2, "--out"),
        (["import", "nothing.jsonl"], 4, "cannot be read"),
        (["import", "fslm.toml"], 0, "0 runs imported"),
        (["import"], 2, ""),
    ],
)
def test_what_cannot_be_done_says_why(fslm: Fslm, runs: list[str], args: list[str], code: int, said: str) -> None:
    result = fslm("trace", *args)
    assert result.code == code and said in result.err
    assert not Path("a.jsonl").exists()


def test_there_must_be_a_trace_to_export(fslm: Fslm, environment: Path) -> None:
    result = fslm("trace", "export", "--out", "runs.jsonl")
    assert result.code == 4 and "there is no trace yet" in result.err
    assert not Path("runs.jsonl").exists()

"""``fslm eval``: tables in, a report out, and exit codes that a pipeline can go by."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Result, wait_for

pytestmark = pytest.mark.torch
Fslm = Callable[..., Result]

ROWS = [("good day", "good"), ("a good one", "good"), ("bad luck", "bad"), ("no", "bad"), ("good grief", "bad")]


def write(path: Path, rows: list[tuple[str, str]] = ROWS, **more: Any) -> str:
    lines = [{"input": {"text": text}, "output": {"label": label}, **more} for text, label in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_the_headline_figures_are_printed_and_how_to_get_a_control(fslm: Fslm, tmp_path: Path) -> None:
    result = fslm("eval", "demo.label", write(tmp_path / "dev.jsonl"))
    assert result.code == 0
    assert "wholly right" in result.out and "0.800 (" in result.out and "label.accuracy" in result.out
    assert "fed with gold" in result.out and "lost to earlier steps" in result.out
    assert "--train" in result.err and "whole stack: 5 rows" in result.err
    assert not list(tmp_path.glob("**/report.*"))


def test_json_is_the_whole_report_and_nothing_else(fslm: Fslm, tmp_path: Path) -> None:
    dev, train = write(tmp_path / "dev.jsonl", who="ann"), write(tmp_path / "train.jsonl", ROWS[:4] * 3)
    data = fslm("eval", "demo.label", dev, "--train", train, "--json", "--by", "who", "--resamples", "100").data
    assert data["schema_name"] == "fslm-eval/1" and data["data"] == "dev.jsonl" and len(data["data_sha256"]) == 64
    assert data["metrics"]["exact"]["value"] == 0.8 and data["metrics"]["by.who.ann.exact"]["n"] == 5
    assert data["output"]["exact"]["control"]["value"] == 0.8
    assert data["output"]["exact"]["difference"]["value"] == 0.0
    assert data["control"]["seen"] == 4 and data["steps"][0]["origin"]["backend"].startswith("demo.rule")
    assert data["output"]["fields"][0]["bins"] == [
        {"low": 0.5, "high": 0.6, "n": 5, "confidence": pytest.approx(0.5), "accuracy": 0.8}
    ]


def test_it_is_told_where_the_control_has_seen_the_answers(fslm: Fslm, tmp_path: Path) -> None:
    dev, train = write(tmp_path / "dev.jsonl"), write(tmp_path / "train.jsonl", ROWS[:4] * 3)
    other = write(tmp_path / "other.jsonl", [("well done", "good"), ("what a mess", "bad")])
    assert "4 of 5 rows scored are in" in fslm("eval", "demo.label", dev, "--train", train, "--resamples", "100").err
    assert "rows scored" not in fslm("eval", "demo.label", dev, "--train", other, "--resamples", "100").err


def test_a_report_is_written_and_its_rows_can_be_looked_up(fslm: Fslm, tmp_path: Path) -> None:
    dev, out = write(tmp_path / "dev.jsonl"), tmp_path / "report"
    assert fslm("eval", "demo.label", dev, "--out", str(out)).code == 0
    assert {p.name for p in out.iterdir()} == {"report.md", "report.html", "report.json", "errors.jsonl", "plots"}
    (error,) = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert error["row"] == 5 and error["gold"] == {"label": "bad"} and error["predicted"] == {"label": "good"}
    assert fslm("trace", "show", error["run"], "--json").data["run"]["id"] == error["run"]
    again = fslm("eval", "demo.label", dev, "--out", str(out))
    assert again.code == 2 and "--force" in again.err and "whole stack" not in again.err
    assert fslm("eval", "demo.label", dev, "--out", str(out), "--force").code == 0


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (["label=0.8"], 0),
        (["exact=0.8", "label.f1=0.5"], 0),
        (["exact=0.81"], 1),
        (["label.good.recall=1", "label.bad.recall=0.9"], 1),
    ],
)
def test_the_exit_code_says_whether_what_was_asked_is_met(
    fslm: Fslm, tmp_path: Path, asked: list[str], code: int
) -> None:
    options = [word for pair in asked for word in ("--fail-under", pair)]
    result = fslm("eval", "demo.label", write(tmp_path / "dev.jsonl"), *options, "--out", str(tmp_path / "out"))
    assert result.code == code and ("missed: " in result.err) == bool(code)
    assert (tmp_path / "out" / "report.md").exists()


def test_a_label_that_no_row_has_is_not_met(fslm: Fslm, tmp_path: Path) -> None:
    dev = write(tmp_path / "dev.jsonl", ROWS[:1])
    result = fslm("eval", "demo.label", dev, "--fail-under", "label.bad.recall=0")
    assert result.code == 1 and "label.bad.recall is not measured" in result.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--fail-under", "lable.f1=0.5"], "label.f1"),
        (["--fail-under", "exact"], "METRIC=VALUE"),
        (["--fail-under", "exact=nan"], "METRIC=VALUE"),
        (["--fail-under", "exact=1", "--fail-under", "exact=0"], "each metric once"),
        (["--by", "nothing"], "no column 'nothing'"),
        (["--group", "nothing"], "no column 'nothing'"),
        (["--step-gold", "lable.label=x"], "label.label"),
        (["--step-gold", "label.label=x"], "no column 'x'"),
        (["--map", "text"], "FIELD=COLUMN"),
    ],
)
def test_what_is_asked_wrongly_is_said_before_anything_is_run(
    fslm: Fslm, tmp_path: Path, options: list[str], said: str
) -> None:
    result = fslm("eval", "demo.label", write(tmp_path / "dev.jsonl"), *options)
    assert result.code == 2 and said in result.err and "whole stack" not in result.err and result.out == ""


def test_a_spreadsheet_is_read_by_its_columns(fslm: Fslm, tmp_path: Path) -> None:
    table = tmp_path / "dev.csv"
    table.write_text("Message,Verdict,said,team\ngood day,good,good,a\nno,bad,good,b\nwhat,,bad,b\nbad,BAD,bad,a\n")
    options = ("--map", "text=Message", "--map", "label=Verdict", "--step-gold", "label.label=said", "--by", "team")
    result = fslm("eval", "demo.label", str(table), *options, "--json")
    assert result.code == 0
    assert "2 rows of dev.csv do not fit" in result.err and "line 4" in result.err and "line 5" in result.err
    data = result.data
    assert data["rows"] == 2 and [row["line"] for row in data["misfits"]] == [4, 5]
    assert data["metrics"]["exact"]["value"] == 1.0
    assert data["metrics"]["steps.label.predicted_fed.exact"]["value"] == 0.5  # by the column said
    assert [(s["value"], s["rows"]) for s in data["slices"]] == [("a", 1), ("b", 1)]


def test_some_of_the_rows_are_drawn_by_the_seed(fslm: Fslm, tmp_path: Path) -> None:
    dev = tmp_path / "dev.jsonl"
    rows = [{"input": {"text": "good"}, "output": {"label": "bad"}, "n": n} for n in range(30)]
    dev.write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = [
        fslm("eval", "demo.label", str(dev), "--limit", "5", "--seed", seed, "--by", "n", "--json").data
        for seed in "112"
    ]
    chosen = [[int(part["value"]) for part in data["slices"]] for data in drawn]
    assert chosen[0] == chosen[1] == sorted(chosen[0]) and len(chosen[0]) == 5 and chosen[0] != chosen[2]
    assert drawn[0]["rows"] == 5


def test_a_run_that_fails_is_a_wrong_row(fslm: Fslm, tmp_path: Path) -> None:
    dev = tmp_path / "dev.jsonl"
    rows = [{"input": {"text": t}, "output": {"shout": t.upper()}} for t in ("a", "boom", "c")]
    dev.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = fslm("eval", "demo", str(dev), "--json").data
    assert data["metrics"]["exact"]["value"] == pytest.approx(2 / 3) == data["metrics"]["valid"]["value"]
    assert data["output"]["failures"] == {"tool": 1}


def test_ctrl_c_leaves_no_report(spawn: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    dev = tmp_path / "dev.jsonl"
    rows = [{"input": {"text": t}, "output": {"shout": t.upper()}} for t in ("a", "wait", "c")]
    dev.write_text("".join(json.dumps(row) + "\n" for row in rows))
    process = spawn("eval", "demo", str(dev), "--out", str(tmp_path / "out"))
    wait_for(process, "waiting")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait() == 130 and "interrupted" in err and "Traceback" not in err
    assert [path.name for path in sorted(tmp_path.iterdir()) if path.suffix != ".jsonl"] == ["home", "site"]


def test_what_cannot_be_scored_says_so(fslm: Fslm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dev = write(tmp_path / "dev.jsonl")
    assert fslm("eval", "demo.lost", dev).code == 3
    assert fslm("eval", "demo.lable", dev).code == 2
    assert fslm("eval", "demo.label", str(tmp_path / "none.jsonl")).code == 2
    (tmp_path / "empty.jsonl").write_text("")
    assert fslm("eval", "demo.label", str(tmp_path / "empty.jsonl")).code == 2
    odd = fslm("eval", "demo.label", write(tmp_path / "odd.jsonl", [("a", "fine")]))
    assert odd.code == 2 and "no row of the data fits" in odd.err
    monkeypatch.setitem(sys.modules, "sklearn", None)
    result = fslm("eval", "demo.label", dev)
    assert result.code == 4 and "fslm-core[eval]" in result.err


def test_an_empty_cell_of_a_steps_gold_is_not_known(fslm: Fslm, tmp_path: Path) -> None:
    table = tmp_path / "dev.csv"
    table.write_text("text,label,said\ngood day,good,good\nno,bad,\n")
    data = fslm("eval", "demo.label", str(table), "--step-gold", "label.label=said", "--json").data
    (step,) = data["steps"]
    assert step["gold_rows"] == 2 and step["predicted_fed"]["rows"] == 2 and data["notes"] == []


def test_where_no_text_is_kept_none_is_reported(fslm: Fslm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSLM_TRACE__CONTENT", "none")
    dev, out = write(tmp_path / "dev.jsonl"), tmp_path / "report"
    assert fslm("eval", "demo.label", dev, "--out", str(out)).code == 0
    (error,) = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert error["input"] is None and error["predicted"] == {"label": "good"}
    assert not any(b"grief" in path.read_bytes() for path in out.rglob("*.*"))

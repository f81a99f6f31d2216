"""``fslm data prepare``: from a table to split files, with what was found on the screen and in the exit code."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest

from .conftest import Result

Fslm = Callable[..., Result]


@pytest.fixture
def table(environment: Path) -> Path:
    lines = [f"{chr(97 + n % 26) * 9} {chr(97 + n // 26) * 9},{'good' if n % 2 else 'bad'},{n // 2}" for n in range(60)]
    path = environment / "notes.csv"
    path.write_text("Message,Label,Customer\n" + "\n".join(lines) + "\n", "utf-8")
    return path


def test_a_table_becomes_three_files_and_a_report(fslm: Fslm, table: Path) -> None:
    done = fslm(
        "data", "prepare", "notes.csv", "--stage", "demo.label", "--map", "text=Message", "--group", "Customer",
        "--out", "rows",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "rows and report: rows" in done.err
    assert [line.split() for line in done.out.splitlines() if line.startswith(("bad", "good"))] == [
        ["bad", "24", "3", "3", "30"],
        ["good", "24", "3", "3", "30"],
    ]
    rows = [json.loads(line) for line in Path("rows/dev.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 6 and set(rows[0]["input"]) == {"text"} and rows[0]["output"]["label"] in ("good", "bad")
    assert sorted(path.name for path in Path("rows").iterdir()) == [
        "dev.jsonl", "report.json", "report.md", "test.jsonl", "train.jsonl",
    ]  # fmt: skip


def test_a_workbook_gives_the_same_rows_as_its_csv(fslm: Fslm, table: Path) -> None:
    book = openpyxl.Workbook()
    for line in table.read_text("utf-8").splitlines():
        book.active.append(line.split(","))
    book.save("notes.xlsx")
    for name in ("csv", "xlsx"):
        done = fslm("data", "prepare", f"notes.{name}", "--stack", "demo.label", "--map", "text=Message", "--out", name)
        assert done.code == 0, done.err
    for part in ("train", "dev", "test"):
        assert Path(f"csv/{part}.jsonl").read_bytes() == Path(f"xlsx/{part}.jsonl").read_bytes()


def test_json_is_the_report_and_a_dry_run_writes_nothing(fslm: Fslm, table: Path) -> None:
    arguments = (
        "data",
        "prepare",
        "notes.csv",
        "--input",
        "Message",
        "--output",
        "Label",
        "--split",
        "70/30",
        "--json",
    )
    dry = fslm(*arguments, "--dry-run")
    assert dry.code == 0 and "nothing was written" in dry.err
    assert dry.data["rows"] == {"read": 60, "blank": 0, "rejected": 0, "dropped": 0, "train": 42, "test": 18}
    assert not Path("rows").exists()
    wet = fslm(*arguments, "--out", "rows")
    assert wet.data == dry.data == json.loads(Path("rows/report.json").read_text("utf-8"))


def test_a_dry_run_shows_what_stands_in_the_way_and_fails_as_the_real_one_would(fslm: Fslm, table: Path) -> None:
    with table.open("a", encoding="utf-8") as file:
        file.write("same words,good,x\nSame words,bad,x\n\x1b[31m,worst,x\n")
    arguments = ("data", "prepare", "notes.csv", "--stack", "demo.label", "--map", "text=Message")
    for more in (["--dry-run"], ["--out", "rows"]):
        done = fslm(*arguments, *more)
        assert done.code == 2 and "error[data]" in done.err and "lines 62, 63" in done.err
        assert not Path("rows").exists()
    shown = fslm(*arguments, "--dry-run").out
    assert "conflict: line 62 good; line 63 bad" in shown
    assert "rejected 1: output.label, column 'Label': Input should be 'good' or 'bad', not 'worst' (line 64)" in shown
    assert fslm(*arguments, "--out", "rows", "--conflicts", "drop").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["notes.csv", "--stack", "demo.label"], 2, "nothing says where the rows go"),
        (["notes.csv", "--out", "o"], 2, "nothing says which columns are the input"),
        (["notes.csv", "--out", "o", "--input", "Message"], 2, "both an input and an output"),
        (["notes.csv", "--out", "o", "--stack", "demo", "--stage", "demo.label"], 2, "contradict"),
        (["notes.csv", "--out", "o", "--stack", "demo.labl"], 2, "did you mean 'demo.label'"),
        (["notes.csv", "--out", "o", "--stack", "demo.label"], 2, "no column fills input.text"),
        (["notes.csv", "--out", "o", "--stack", "demo.label", "--map", "text"], 2, "FIELD=COLUMN"),
        (["notes.csv", "--out", "o", "--stack", "demo.label", "--map", "text=Mesage"], 2, "did you mean 'Message'"),
        (["notes.csv", "--out", ".", "--stack", "demo.label", "--map", "text=Message"], 2, "taken by something else"),
        (["none.csv", "--out", "o", "--stack", "demo.label"], 2, "no such file"),
        (["notes.csv", "--out", "o", "--input", "Message", "--output", "Label", "--group", "Who"], 2, "--group named"),
        (["notes.csv", "--out", "o", "--input", "Message", "--output", "Label", "--sheet", "x"], 2, "no sheets"),
        (["notes.csv", "--out", "o", "--input", "Message", "--output", "Label", "--near", "0.2"], 2, "0.5"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(
    fslm: Fslm, table: Path, arguments: list[str], code: int, told: str
) -> None:
    done = fslm("data", "prepare", *arguments)
    assert done.code == code and told in done.err and "next" in done.err
    assert not Path("o").exists()


def test_the_walk_of_the_guide_prints_what_it_says(fslm: Fslm, environment: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text("utf-8")
    (table,) = re.findall(r'^```csv title="reviews.csv"\n(.*?)^```', page, re.M | re.S)
    (command, said) = re.findall(r"^```console\n\$ fslm (.*?)\n(.*?)^```", page, re.M | re.S)[0]
    Path("reviews.csv").write_text(table, "utf-8")
    done = fslm(*shlex.split(command))
    assert done.code == 0, done.err
    assert done.out == said
    assert "mood: too few rows to be in every split: gud" in done.err


def test_clean_names_every_row_that_goes(fslm: Fslm, environment: Path) -> None:
    lines = [{"input": {"text": text}, "output": {"label": "good"}} for text in ("one", "two", "one", "three")]
    Path("rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    Path("held.csv").write_text("text\nthree\nfour\n", "utf-8")
    done = fslm("data", "clean", "rows.jsonl", "--evaluation", "held.csv", "--out", "clean.jsonl")
    assert done.code == 0, done.err
    assert done.out.splitlines() == ["line 4 gives away 100% of held.csv, line 2", "line 3 repeats line 1"]
    assert "rows of held.csv that are given away: 1" in done.err and "2 rows: clean.jsonl" in done.err
    assert [json.loads(line) for line in Path("clean.jsonl").read_text("utf-8").splitlines()] == lines[:2]
    told = json.loads(fslm("data", "clean", "rows.jsonl", "--json").out)
    assert told["kept"] == 3 and told["repeats"] == [{"line": 3, "of": 1, "similarity": 1.0}] and not told["leaks"]

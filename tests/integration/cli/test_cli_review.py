"""Reviews on the command line: what is to be decided, its exit code, the trace, batches; and ``fslm calibrate``."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import HERE, Result, install

Fslm = Callable[..., Result]
SURE, SECOND, UNSURE = "0.9 complaint 0.9", "0.5 complaint 0.9", "0.5 complaint 0.4"


@pytest.fixture(autouse=True)
def desk(installed: Path, environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(installed, "desk", (HERE / "desk_plugin.py").read_text("utf-8"))
    monkeypatch.setenv("FSLM_PLUGINS", "demo,desk")


def test_a_question_is_printed_and_the_exit_code_is_its_own(fslm: Fslm) -> None:
    assert fslm("run", "desk", SURE).data == {"kind": "complaint"}
    assert fslm("run", "desk", SECOND).data == {"kind": "praise"}
    asked = fslm("run", "desk", UNSURE)
    assert asked.code == 6
    assert asked.data == {
        "review": {
            "step": "sure.large",
            "message": {"kind": "praise"},
            "unsure": {"kind": {"value": "praise", "confidence": 0.4, "alternatives": []}},
        }
    }
    assert "error[review] stack desk, step sure: no step was sure enough" in asked.err
    assert "unsure of kind" in asked.err and "trace: fslm trace show" in asked.err
    assert "review" in fslm("errors", "review").out


def test_the_trace_lists_and_shows_it(fslm: Fslm) -> None:
    for text in (SURE, UNSURE):
        fslm("run", "desk", text)
    (row,) = fslm("trace", "list", "--status", "review", "--json").data
    assert row["status"] == "review" and row["error"]["code"] == "review"
    assert "review" in fslm("trace", "list").out
    shown = fslm("trace", "show", row["id"]).out
    assert "The run waits for a person" in shown and "unsure of" in shown
    steps = {step["step"]: step for step in fslm("trace", "show", row["id"], "--json").data["steps"]}
    assert steps["sure.small"]["abstained"] == steps["sure.large"]["abstained"] == ["kind"]
    assert steps["sure.verdict"]["content"]["data"]["step"] is None
    assert fslm("trace", "forget", row["id"], "--yes").code == 0


def rows_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_batch_says_which_rows_wait_and_loses_none(fslm: Fslm, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(text) + "\n" for text in (SURE, UNSURE, SECOND, UNSURE)))
    result = fslm("batch", "desk", str(source), "--out", str(out))
    assert result.code == 6 and "4 rows in" in result.err and "0 failed, 2 for review" in result.err
    rows = rows_of(out)
    assert [row["row"] for row in rows] == [0, 1, 2, 3] and all(row["run"] for row in rows)
    assert [row.get("error", {}).get("code") for row in rows] == [None, "review", None, "review"]
    assert "output" not in rows[1] and rows[2]["output"] == {"kind": "praise"}
    source.write_text(json.dumps(UNSURE) + "\n" + json.dumps("broken") + "\n")
    failed = fslm("batch", "desk", str(source), "--out", str(out), "--force")
    assert failed.code == 1 and "1 failed, 1 for review" in failed.err


def test_a_batch_that_goes_on_still_knows_how_many_wait(fslm: Fslm, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(text) + "\n" for text in (UNSURE, SURE)))
    fslm("batch", "desk", str(source), "--out", str(out))
    from fslm_core.serve.journal import Header, Journal, digest_of
    from fslm_core.serve.output import Output

    header = Header("desk", {}, 0, "full", False, "")
    end = 0
    journal = Journal.create(Journal.beside(out), header)
    for line, text, review in zip(out.read_bytes().splitlines(True), (UNSURE, SURE), (True, False), strict=True):
        end += len(line)
        journal.add(digest_of(text.encode()), end, digest_of(line), failed=False, review=review)
    journal.close(finished=False)
    with Output(out, "resume") as output:
        output.begin(header)
        assert (output.done, output.failed, output.review) == (2, 0, 1)
        output.finish()


def labelled(path: Path, count: int = 120) -> str:
    """The first tool is right as often as it says; the second always."""
    chance = random.Random(3)
    lines = []
    for _ in range(count):
        sure = chance.uniform(0.5, 1)
        says = "praise" if chance.random() < sure else "complaint"
        lines.append({"input": {"text": f"{sure:.4f} {says} 0.97"}, "output": {"kind": "praise"}})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


ASKED = ("--max-error", "0.2", "--confidence", "0.8")


@pytest.mark.torch
def test_calibrate_prints_figures_and_the_lines_to_write(fslm: Fslm, tmp_path: Path) -> None:
    data, plot = labelled(tmp_path / "dev.jsonl"), tmp_path / "plot.png"
    result = fslm("calibrate", "desk", data, *ASKED, "--plot", str(plot))
    assert result.code == 0, result.err
    assert "sure.small.kind" in result.out and "ECE before" in result.out and "nobody is sure" in result.out
    (line,) = [line for line in result.out.splitlines() if line.startswith("abstain_below=")]
    assert set(eval(f"dict({line})")["abstain_below"]) == {"small.kind", "large.kind"}
    assert plot.read_bytes().startswith(b"\x89PNG") and "every step: 120 rows" in result.err


@pytest.mark.torch
def test_calibrate_as_json_is_all_of_it_and_nothing_else(fslm: Fslm, tmp_path: Path) -> None:
    data = fslm("calibrate", "desk", labelled(tmp_path / "dev.jsonl"), *ASKED, "--json", "--field", "small.kind")
    assert data.code == 2 and "did you mean 'sure.small.kind'" in data.err
    found = fslm("calibrate", "desk", labelled(tmp_path / "dev.jsonl"), *ASKED, "--json", "--field", "kind").data
    assert found["schema_name"] == "fslm-calibrate/1" and found["data"] == "dev.jsonl" and found["rows"] == 120
    assert [field["step"] for field in found["fields"]] == ["sure.small", "sure.large"]
    assert found["cascades"][0]["abstain_below"]["small.kind"] == found["fields"][0]["threshold"]


@pytest.mark.torch
@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--max-error", "0.02"), 2, "120 rows are too few"),
        (("--max-error", "2"), 2, "this is no share"),
        ((), 2, "Missing option '--max-error'"),
        ((*ASKED, "--field", "tone"), 2, "there is no field named 'tone'"),
        ((*ASKED, "--limit", "20"), 2, "20 rows are too few"),
    ],
)
def test_calibrate_refuses_before_anything_runs(
    fslm: Fslm, tmp_path: Path, options: tuple[str, ...], code: int, said: str
) -> None:
    result = fslm("calibrate", "desk", labelled(tmp_path / "dev.jsonl"), *options)
    assert result.code == code and said in result.err and "every step" not in result.err and result.out == ""


@pytest.mark.torch
def test_calibrate_says_where_no_threshold_does_it(fslm: Fslm, tmp_path: Path) -> None:
    path = tmp_path / "dev.jsonl"
    lines = [{"input": {"text": f"0.7 {kind} 0.97"}, "output": {"kind": "praise"}} for kind in ("praise", "complaint")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines * 40))
    result = fslm("calibrate", "desk", str(path), *ASKED)
    assert result.code == 1 and "no threshold keeps the error at 0.2: sure.small.kind" in result.err

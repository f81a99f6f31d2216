"""``fslm batch``: order, errors in their places, whole rows whatever happens."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Result, wait_for, wait_for_rows

Fslm = Callable[..., Result]
Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "in.jsonl", tmp_path / "out.jsonl"


def rows_of(path: Path) -> list[Any]:
    text = path.read_text("utf-8")
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("concurrency", [1, 32])
def test_rows_come_in_the_order_of_the_input(fslm: Fslm, files: tuple[Path, Path], concurrency: int) -> None:
    source, out = files
    source.write_text("".join(json.dumps({"text": f"n{n}"}) + "\n" for n in range(100)))
    result = fslm("batch", "demo", str(source), "--out", str(out), "--concurrency", str(concurrency))
    assert (result.code, result.out) == (0, "")
    assert "100 rows in" in result.err and "0 failed" in result.err
    rows = rows_of(out)
    assert [set(row) for row in rows] == [{"row", "run", "output"}] * 100
    assert [row["row"] for row in rows] == list(range(100))
    assert [row["output"]["shout"] for row in rows] == [f"N{n}" for n in range(100)]
    assert len({row["run"] for row in rows}) == 100


def test_a_bad_row_is_an_error_in_its_place(fslm: Fslm, files: tuple[Path, Path]) -> None:
    source, out = files
    lines = [
        b"{",
        b'{"text": "a"}',
        b'{"text": 5}',
        b'{"text": "boom"}',
        b"",
        b'"bare"',
        b"caf\xe9",
        b'{"txt": "a"}',
        b"[]",
    ]
    source.write_bytes(b"\n".join(lines))
    result = fslm("batch", "demo", str(source), "--out", str(out))
    assert result.code == 1
    assert "9 rows in" in result.err and "7 failed" in result.err
    rows = rows_of(out)
    assert [row["row"] for row in rows] == list(range(9))
    assert [row.get("output") for row in rows if "output" in row] == [{"shout": "A"}, {"shout": "BARE"}]
    codes = {row["row"]: row["error"]["code"] for row in rows if "error" in row}
    assert codes == {0: "input", 2: "input", 3: "tool", 4: "input", 6: "input", 7: "input", 8: "input"}
    assert [row["row"] for row in rows if row["run"] is None] == [0, 2, 4, 6, 7, 8]
    assert "not JSON" in rows[0]["error"]["what"] and rows[0]["error"]["where"] == "row 0"
    assert "not UTF-8" in rows[6]["error"]["what"]


def test_a_file_of_bad_rows_alone(fslm: Fslm, files: tuple[Path, Path]) -> None:
    source, out = files
    source.write_text("x\ny\n")
    assert fslm("batch", "demo", str(source), "--out", str(out)).code == 1
    assert [row["row"] for row in rows_of(out)] == [0, 1]


def test_an_empty_file_makes_an_empty_file(fslm: Fslm, files: tuple[Path, Path]) -> None:
    source, out = files
    source.write_text("")
    assert fslm("batch", "demo", str(source), "--out", str(out)).code == 0
    assert out.read_bytes() == b""


def test_nothing_is_overwritten_unless_told(fslm: Fslm, files: tuple[Path, Path]) -> None:
    source, out = files
    source.write_text('{"text": "a"}\n')
    out.write_text("precious\n" * 100)
    result = fslm("batch", "demo", str(source), "--out", str(out))
    assert result.code == 2 and "--force" in result.err
    assert out.read_text() == "precious\n" * 100
    assert fslm("batch", "demo", str(source), "--out", str(out), "--force").code == 0
    assert [row["output"] for row in rows_of(out)] == [{"shout": "A"}]
    assert "one file" in fslm("batch", "demo", str(source), "--out", str(source), "--force").err
    assert source.read_text() == '{"text": "a"}\n'


def test_what_cannot_start_leaves_no_file(fslm: Fslm, files: tuple[Path, Path]) -> None:
    source, out = files
    assert fslm("batch", "demo", str(source), "--out", str(out)).code == 2
    source.write_text('{"text": "a"}\n')
    assert fslm("batch", "demo.lost", str(source), "--out", str(out)).code == 3
    assert fslm("batch", "dmo", str(source), "--out", str(out)).code == 2
    assert not out.exists()
    assert "cannot be written" in fslm("batch", "demo", str(source), "--out", str(out / "deeper")).err


def test_a_pipe_is_read_as_it_is_written(spawn: Spawn, files: tuple[Path, Path]) -> None:
    _, out = files
    process = spawn("batch", "demo", "-", "--out", str(out), "--concurrency", "2")
    _, err = process.communicate('{"text": "one"}\nnonsense\n{"text": "two"}')
    assert process.returncode == 1, err
    assert [row.get("output", {}).get("shout") for row in rows_of(out)] == ["ONE", None, "TWO"]


@pytest.mark.parametrize("piped", [False, True], ids=["file", "pipe"])
def test_ctrl_c_keeps_the_rows_that_are_done(spawn: Spawn, fslm: Fslm, files: tuple[Path, Path], piped: bool) -> None:
    source, out = files
    lines = [json.dumps({"text": text}) + "\n" for text in ("a", "b", "wait", "c", "wait")]
    source.write_text("".join(lines))
    process = spawn("batch", "demo", "-" if piped else str(source), "--out", str(out), "--concurrency", "1")
    if piped:  # and the pipe stays open: reading it must not hold up the end
        assert process.stdin is not None
        process.stdin.write("".join(lines))
        process.stdin.flush()
    wait_for(process, "waiting")
    wait_for_rows(process, out, 2)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait() == 130
    assert "2 rows done" in err and "interrupted" in err and "Traceback" not in err
    assert [row["output"]["shout"] for row in rows_of(out)] == ["A", "B"]
    assert fslm("trace", "list", "--json", "--status", "running").data == []


@pytest.mark.parametrize("ending", [".csv", ".XLSX"])
@pytest.mark.parametrize("how", [["--out", "out.jsonl"], ["--estimate"]])
def test_a_table_is_refused_before_a_row_is_run(fslm: Fslm, tmp_path: Path, ending: str, how: list[str]) -> None:
    (tmp_path / f"in{ending}").write_text("text\ngood day\n")
    result = fslm("batch", "demo", str(tmp_path / f"in{ending}"), *how)
    assert result.code == 2 and "does not read tables" in result.err and ".jsonl" in result.err
    assert not Path("out.jsonl").exists()


def test_a_dash_is_no_output(fslm: Fslm, files: tuple[Path, Path]) -> None:
    files[0].write_text('{"text": "good day"}\n')
    result = fslm("batch", "demo", str(files[0]), "--out", "-")
    assert result.code == 2 and "/dev/stdout" in result.err and not Path("-").exists()

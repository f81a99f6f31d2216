"""``fslm batch --resume``: continued exactly, or refused with what differs; and what a full disk leaves."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Result, wait_for, wait_for_rows

Fslm = Callable[..., Result]
Spawn = Callable[..., "subprocess.Popen[str]"]
TEXTS = ["a", "b", "boom", "c", "d", "e"]


def line_of(text: str) -> str:
    return "{\n" if text == "{" else json.dumps({"text": text}) + "\n"


def write(path: Path, texts: list[str]) -> None:
    path.write_text("".join(map(line_of, texts)), "utf-8")


def rows_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def shouts(path: Path) -> list[tuple[int, str]]:
    return [(row["row"], row["output"]["shout"] if "output" in row else row["error"]["code"]) for row in rows_of(path)]


_LEFT: list[tuple[bytes, bytes]] = []
"""What the batch that was stopped left, output and journal; one process is enough for all tests."""


@pytest.fixture
def stopped(spawn: Spawn, tmp_path: Path) -> tuple[Path, Path]:
    """Input and output of a batch that Ctrl-C ended after four rows."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    if _LEFT:
        for path, left in zip((out, journal_of(out)), _LEFT[0], strict=True):
            path.write_bytes(left)
    else:
        write(source, [*TEXTS[:4], "wait"])
        process = spawn("batch", "demo", str(source), "--out", str(out), "--concurrency", "1")
        wait_for(process, "waiting")
        wait_for_rows(process, out, 4)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert process.stderr is not None and "4 rows done" in (said := process.stderr.read()) and "--resume" in said
        assert beside(out) == [out.name, journal_of(out).name]
        _LEFT.append((out.read_bytes(), journal_of(out).read_bytes()))
    write(source, TEXTS)
    return source, out


def journal_of(out: Path) -> Path:
    return out.with_name(out.name + ".fslm-batch")


def beside(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.glob(f"*{out.name}*"))


WHOLE = [(0, "A"), (1, "B"), (2, "tool"), (3, "C"), (4, "D"), (5, "E")]


def test_a_batch_goes_on_where_it_stood(fslm: Fslm, stopped: tuple[Path, Path]) -> None:
    source, out = stopped
    before = out.read_bytes()
    again = fslm("batch", "demo", str(source), "--out", str(out))
    assert again.code == 2 and "did not end" in again.err and "--resume" in again.err
    assert out.read_bytes() == before
    result = fslm("batch", "demo", str(source), "--out", str(out), "--resume", "--concurrency", "3")
    assert result.code == 1, result.err  # a row had failed before
    assert "continuing: 4 rows done, 1 failed" in result.err and "6 rows in" in result.err
    assert out.read_bytes().startswith(before) and shouts(out) == WHOLE
    assert beside(out) == [out.name]


def test_a_finished_batch_cannot_be_resumed(fslm: Fslm, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(source, ["a"])
    assert fslm("batch", "demo", str(source), "--out", str(out), "--resume").code == 0  # there was nothing: it begins
    before = out.read_bytes()
    result = fslm("batch", "demo", str(source), "--out", str(out), "--resume")
    assert result.code == 2 and "nothing to resume" in result.err and "finished" in result.err
    assert out.read_bytes() == before
    assert "contradict" in fslm("batch", "demo", str(source), "--out", str(out), "--resume", "--force").err


def test_the_input_may_have_grown(fslm: Fslm, stopped: tuple[Path, Path]) -> None:
    source, out = stopped
    write(source, [*TEXTS, "f", "{"])
    assert fslm("batch", "demo", str(source), "--out", str(out), "--resume").code == 1
    assert shouts(out) == [*WHOLE, (6, "F"), (7, "input")]


def test_another_batch_is_refused_and_touches_nothing(
    fslm: Fslm, stopped: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = stopped
    kept = out.read_bytes(), journal_of(out).read_bytes()

    def refused(*options: str, stack: str = "demo") -> str:
        result = fslm("batch", stack, str(source), "--out", str(out), "--resume", *options)
        assert result.code == 2, result.err
        assert (out.read_bytes(), journal_of(out).read_bytes()) == kept
        assert "--force" in result.err
        return result.err

    said = refused("--seed", "3")
    assert "not the batch that was begun: seed differs" in said and "found: seed 3" in said and "seed 0" in said
    assert "stack differs" in refused(stack="demo.label")
    assert "sensitive differs" in refused("--sensitive")
    monkeypatch.setenv("FSLM_TRACE__CONTENT", "redacted")
    assert "content" in refused()
    monkeypatch.delenv("FSLM_TRACE__CONTENT")

    write(source, ["a", "other", *TEXTS[2:]])
    assert "input, row 1" in refused()
    write(source, TEXTS[:2])
    assert "input, row 2" in refused()
    write(source, TEXTS)

    journal_of(out).write_bytes(b'{"fslm_batch": 1}\n')
    kept = out.read_bytes(), journal_of(out).read_bytes()
    assert "damaged" in refused()
    journal_of(out).write_bytes(b'{"fslm_batch": 99}\n')
    kept = out.read_bytes(), journal_of(out).read_bytes()
    assert "another version" in refused()


def test_another_fingerprint_is_refused(fslm: Fslm, stopped: tuple[Path, Path], installed: Path) -> None:
    source, out = stopped
    plugin = installed / "demo_plugin.py"
    plugin.write_text(plugin.read_text("utf-8").replace('"demo.shout", version="1"', '"demo.shout", version="1.1"'))
    result = fslm("batch", "demo", str(source), "--out", str(out), "--resume")
    assert result.code == 2 and "fingerprint of step shout differs" in result.err


def test_an_output_that_was_changed_is_refused(fslm: Fslm, stopped: tuple[Path, Path]) -> None:
    source, out = stopped
    before = out.read_bytes()
    out.write_bytes(before.replace(b'"B"', b'"X"'))
    result = fslm("batch", "demo", str(source), "--out", str(out), "--resume")
    assert result.code == 2 and "changed since" in result.err and "row 1" in result.err
    assert out.read_bytes() == before.replace(b'"B"', b'"X"')
    out.unlink()
    assert "is gone" in fslm("batch", "demo", str(source), "--out", str(out), "--resume").err
    assert not out.exists()
    assert fslm("batch", "demo", str(source), "--out", str(out), "--force").code == 1
    assert shouts(out) == WHOLE and beside(out) == [out.name]


@pytest.mark.parametrize("chance", range(8))
def test_torn_tails_are_mended(fslm: Fslm, stopped: tuple[Path, Path], chance: int) -> None:
    """What was not yet brought to the disk may be cut or garbled anywhere, in either file."""
    source, out = stopped
    draw = random.Random(chance)
    journal = journal_of(out)
    lines = journal.read_bytes().splitlines(keepends=True)
    synced = draw.randint(0, 4)
    rows = [line for line in lines[1:] if not line.startswith(b"synced")]
    mark = b"synced %d\n" % synced
    sure = b"".join([lines[0], *rows[:synced], mark])
    tail = b"".join(rows[synced:])
    journal.write_bytes(sure + torn(draw, tail))
    ends = [0, *(int(row.split()[1]) for row in rows)]
    whole = out.read_bytes()
    out.write_bytes(whole[: ends[synced]] + torn(draw, whole[ends[synced] :]))
    result = fslm("batch", "demo", str(source), "--out", str(out), "--resume")
    assert result.code == 1, result.err
    assert shouts(out) == WHOLE and out.read_bytes().startswith(whole[: ends[synced]])
    assert beside(out) == [out.name]


def torn(draw: random.Random, tail: bytes) -> bytes:
    cut = tail[: draw.randint(0, len(tail))]
    return cut + bytes(draw.randint(0, 40)) if draw.random() < 0.5 else cut


def test_a_pipe_is_resumed_from_its_start(spawn: Spawn, fslm: Fslm, stopped: tuple[Path, Path]) -> None:
    _, out = stopped
    process = spawn("batch", "demo", "-", "--out", str(out), "--resume")
    _, err = process.communicate("".join(map(line_of, TEXTS[4:])))
    assert process.returncode == 2 and "does not begin with the rows that are done" in err
    process = spawn("batch", "demo", "-", "--out", str(out), "--resume")
    _, err = process.communicate("".join(map(line_of, TEXTS)))
    assert process.returncode == 1, err
    assert shouts(out) == WHOLE


def test_two_batches_cannot_write_one_output(spawn: Spawn, fslm: Fslm, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(source, ["a", "wait"])
    process = spawn("batch", "demo", str(source), "--out", str(out))
    wait_for(process, "waiting")
    wait_for_rows(process, out, 1)
    for options in ([], ["--resume"], ["--force"]):
        result = fslm("batch", "demo", str(source), "--out", str(out), *options)
        assert result.code == 2 and "another batch writes to this output" in result.err
    process.kill()
    process.wait()
    write(source, ["a", "b"])
    assert fslm("batch", "demo", str(source), "--out", str(out), "--resume").code == 0
    assert shouts(out) == [(0, "A"), (1, "B")]
    assert beside(out) == [out.name]


def test_sensitive_fields_are_redacted_in_rows_and_errors(
    fslm: Fslm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    secret = "+44 20 7946 0958"
    said = [{"text": "hello", "phone": secret}, {"text": "boom", "phone": secret}, {"text": 5, "phone": secret}]
    source.write_text("\n".join([*map(json.dumps, said), f'{{"phone": "{secret}"']) + "\n")

    def rows(*options: str) -> list[Any]:
        assert fslm("batch", "demo.call", str(source), "--out", str(out), "--force", *options).code == 1
        return rows_of(out)

    assert rows()[0]["output"] == {"text": "hello", "phone": secret}
    assert secret in rows()[1]["error"]["found"]
    for content in ("redacted", "none"):
        monkeypatch.setenv("FSLM_TRACE__CONTENT", content)
        found = rows()
        assert secret not in out.read_text("utf-8") and "7946" not in out.read_text("utf-8")
        assert found[0]["output"] == {"text": "hello", "phone": "[redacted]"}
        assert [row["error"]["code"] for row in found[1:]] == ["tool", "input", "input"]
        assert [row["error"]["where"] for row in found[2:]] == ["row 2", "row 3"]
        assert rows("--sensitive")[0]["output"] == {"text": "hello", "phone": secret}


def test_the_journal_of_a_redacting_batch_has_keyed_hashes(
    fslm: Fslm, stopped: tuple[Path, Path], spawn: Spawn, monkeypatch: pytest.MonkeyPatch, environment: Path
) -> None:
    source, out = stopped
    plain = journal_of(out).read_text().splitlines()[1].split()[0]
    monkeypatch.setenv("FSLM_TRACE__CONTENT", "redacted")
    write(source, [*TEXTS[:4], "wait"])
    process = spawn("batch", "demo", str(source), "--out", str(out), "--force", "--concurrency", "1")
    wait_for(process, "waiting")
    wait_for_rows(process, out, 4)
    process.kill()
    process.wait()
    keyed = journal_of(out).read_text().splitlines()[1].split()[0]
    assert keyed != plain
    write(source, TEXTS)
    key = environment / "data" / "trace.db.key"
    own = key.read_bytes()
    key.write_bytes(bytes(32))
    assert "the trace database's key differs" in fslm("batch", "demo", str(source), "--out", str(out), "--resume").err
    key.write_bytes(own)
    assert fslm("batch", "demo", str(source), "--out", str(out), "--resume").code == 1
    assert shouts(out) == WHOLE


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
runpy.run_module("fslm_core", run_name="__main__")
"""


def limited(limit: int, *args: str) -> subprocess.CompletedProcess[str]:
    """Run ``fslm`` where no file may grow beyond ``limit`` bytes, as on a disk that is full."""
    return subprocess.run([sys.executable, "-c", LIMITED, str(limit), *args], capture_output=True, encoding="utf-8")


@pytest.mark.parametrize("place", ["output", "trace"])
def test_a_full_disk_ends_a_batch_that_can_go_on(
    fslm: Fslm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: Path, place: str
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    texts = [f"{number} " + "x" * 9000 for number in range(60)]
    write(source, texts)
    if place == "output":
        monkeypatch.setenv("FSLM_TRACE__ON_FAILURE", "continue")
    else:
        assert fslm("run", "demo", "x" * 150_000).code == 0  # the trace is nearer to the limit than the output
    result = limited(400_000, "batch", "demo", str(source), "--out", str(out), "--concurrency", "4")
    assert result.returncode == 4, result.stderr
    assert "Traceback" not in result.stderr
    if place == "output":
        assert "the output cannot be written: File too large" in result.stderr and "--resume" in result.stderr
    else:
        assert "error[store]" in result.stderr
    written = rows_of(out)
    assert 0 < len(written) < 60 and all("output" in row for row in written) and out.read_bytes().endswith(b"\n")
    assert fslm("batch", "demo", str(source), "--out", str(out), "--resume").code == 0
    assert shouts(out) == [(number, text.upper()) for number, text in enumerate(texts)]
    runs = fslm("trace", "list", "--json", "-n", "1000").data
    assert {row["run"] for row in written} <= {run["id"] for run in runs} or place == "output"


def test_a_device_that_is_full(fslm: Fslm, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    write(source, ["a"])
    result = fslm("batch", "demo", str(source), "--out", "/dev/full", "--force")
    assert result.code == 4 and "No space left on device" in result.err and "/dev/full" in result.err
    assert "only a file can be resumed" in fslm("batch", "demo", str(source), "--out", "/dev/full", "--resume").err
    assert fslm("batch", "demo", str(source), "--out", "/dev/null", "--force").code == 0
    assert not list(Path("/dev").glob("*fslm*"))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def test_an_estimate_runs_rows_and_writes_nothing(fslm: Fslm, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    write(source, ["boom", *(f"text {number}" for number in range(499))])
    before = everything(tmp_path)
    result = fslm("batch", "demo", str(source), "--estimate", "--cost-per-hour", "0.5", "--json")
    assert result.code == 0, result.err
    assert everything(tmp_path) == before
    told = result.data
    assert (told["rows"], told["sampled"], told["failed"], told["concurrency"]) == (500, 20, 0, 20)
    for name in ("row_seconds", "seconds", "cost"):
        assert 0 < told[name]["low"] <= told[name]["expected"] <= told[name]["high"], name
    assert told["seconds"]["expected"] == pytest.approx(told["start_seconds"] + 500 * told["row_seconds"]["expected"])
    assert told["cost"]["high"] == pytest.approx(told["seconds"]["high"] / 3600 * 0.5)
    assert told["peak_memory_bytes"] > 10_000_000
    words = fslm("batch", "demo", str(source), "--estimate", "--concurrency", "1").out
    assert "500; 20 of them run, 0 failed" in words and "1 at work at once" in words and "cost" not in words


def test_an_estimate_of_few_rows_runs_them_all(fslm: Fslm, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    write(source, ["a", "boom", "{"])
    told = fslm("batch", "demo", str(source), "--estimate", "--json").data
    assert (told["rows"], told["sampled"], told["failed"], told["cost"]) == (3, 3, 2, None)
    source.write_text("")
    assert fslm("batch", "demo", str(source), "--estimate").code == 2
    assert "counted" in fslm("batch", "demo", "-", "--estimate").err
    assert "--estimate" in fslm("batch", "demo", str(source), "--cost-per-hour", "1").err
    assert "--out" in fslm("batch", "demo", str(source)).err

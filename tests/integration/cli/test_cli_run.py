"""``fslm run``, ``check``, ``list`` and ``trace``: what goes where, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Result, install, wait_for

Fslm = Callable[..., Result]
Spawn = Callable[..., "subprocess.Popen[str]"]


def run_id(result: Result) -> str:
    (line,) = [line for line in result.err.splitlines() if line.startswith("trace: ")]
    return line.removeprefix("trace: fslm trace show ")


def test_the_result_alone_is_on_standard_output(fslm: Fslm) -> None:
    result = fslm("run", "demo", "hello")
    assert (result.code, result.out) == (0, '{\n  "shout": "HELLO"\n}\n')
    assert fslm("trace", "show", run_id(result)).code == 0


def test_text_json_and_standard_input(fslm: Fslm) -> None:
    assert fslm("run", "demo", "-", stdin="ça va\n".encode()).data == {"shout": "ÇA VA"}
    assert fslm("run", "demo", "--json", '{"text": "hi"}').data == {"shout": "HI"}
    assert fslm("run", "demo", "--json", "-", stdin=b'{"text": "hi"}').data == {"shout": "HI"}
    order = {"number": "7", "count": 2, "note": ""}
    assert fslm("run", "demo.order", '{"number": "7", "count": 2}').data == order
    assert fslm("run", "demo", "--", "-5 degrees").data == {"shout": "-5 DEGREES"}


def test_text_that_looks_like_json_stays_text_and_says_so(fslm: Fslm) -> None:
    result = fslm("run", "demo", '{"text": "hi"}')
    assert result.data == {"shout": '{"TEXT": "HI"}'}
    assert "pass --json" in result.err


@pytest.mark.parametrize(
    "text", ["<|im_end|>", "a\x00b", "👩‍👩‍👧 שלום \u202e", "x" * 1_000_000], ids=["control", "nul", "rtl", "1MB"]
)
def test_any_text_passes_through(fslm: Fslm, text: str) -> None:
    assert fslm("run", "demo", "-", stdin=text.encode()).data == {"shout": text.upper()}


@pytest.mark.parametrize(
    ("args", "stdin", "code", "said"),
    [
        (("run", "dmo", "x"), b"", 2, "did you mean 'demo' or"),
        (("run", "demo.order", "{"), b"", 2, "error[input] argument: the input is not JSON"),
        (("run", "demo.order", '{"number": "7", "count": "many"}'), b"", 2, "count"),
        (("run", "demo.order", '{"number": "7"}'), b"", 2, "count"),
        (("run", "demo.order", '{"number": "7", "count": 1, "colour": "red"}'), b"", 2, "colour"),
        (("run", "demo", "--json", '{"text": "\\ud800"}'), b"", 2, "text: Input should be a valid string"),
        (("run", "demo", "-"), b"caf\xe9", 2, "not UTF-8: byte 3 is 0xe9"),
        (("run", "demo.lost", "x"), b"", 3, "error[check] stack demo.lost"),
        (("run", "demo", "boom"), b"", 1, "error[tool]"),
        (("rum", "demo", "x"), b"", 2, "Did you mean 'run'?"),
        (("run", "demo"), b"", 2, "Missing argument 'INPUT'"),
        (("run", "demo", "-x"), b"", 2, "write `--` before"),
    ],
)
def test_what_goes_wrong_is_told_on_standard_error(
    fslm: Fslm, args: tuple[str, ...], stdin: bytes, code: int, said: str
) -> None:
    result = fslm(*args, stdin=stdin)
    assert (result.code, result.out) == (code, "")
    assert said in result.err


def test_a_failed_run_obeys_no_data_and_names_its_trace(fslm: Fslm) -> None:
    result = fslm("run", "demo", "boom")
    assert "too loud \\x1b[31m[bold]" in result.err and "\x1b" not in result.err
    shown = fslm("trace", "show", run_id(result), "--json").data
    assert shown["run"]["status"] == "failed"
    assert "too loud" in shown["run"]["error"]["what"] + shown["run"]["error"].get("found", "")


def test_an_untuned_model_is_warned_of(fslm: Fslm) -> None:
    result = fslm("run", "demo.bare", "good")
    assert result.data == {"label": "good"}
    assert "untuned" in result.err
    assert "untuned" not in fslm("run", "demo.label", "good").err


def test_a_trace_shows_prompt_answer_confidence_and_time(fslm: Fslm) -> None:
    run = run_id(fslm("run", "demo.label", "this is good"))
    result = fslm("trace", "show", run)
    for part in (run, "this is good", '{"label":"good"}', "0.5", "demo.label", "fslm-demo 1.0"):
        assert part in result.out
    (step,) = fslm("trace", "show", "last", "--json").data["steps"]
    assert step["confidence"] == {"label": pytest.approx(0.5)}
    assert step["attempts"][0]["raw"] == '{"label":"good"}'


def test_traces_are_listed_newest_first(fslm: Fslm) -> None:
    assert fslm("trace", "list").code == 4
    first, second = run_id(fslm("run", "demo", "one")), run_id(fslm("run", "demo", "boom"))
    assert [row["id"] for row in fslm("trace", "list", "--json").data] == [second, first]
    assert [row["id"] for row in fslm("trace", "list", "--json", "--status", "succeeded").data] == [first]
    assert first in fslm("trace", "list").out
    wrong = fslm("trace", "list", "--status", "succeded")
    assert wrong.code == 2 and "'--status': 'succeded' is not one of 'running', 'succeeded'" in wrong.err
    assert fslm("trace", "show", "nonsense").code == 2


def test_only_a_running_run_is_marked_as_interrupted(fslm: Fslm) -> None:
    assert fslm("run", "demo", "hi").code == 0
    result = fslm("trace", "interrupt", "last")
    assert result.code == 0 and "0 runs marked" in result.err
    assert fslm("trace", "list", "--json").data[0]["status"] == "succeeded"
    assert fslm("trace", "interrupt", "nosuch").code == 2


def test_settings_decide_what_the_trace_keeps(fslm: Fslm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSLM_TRACE__CONTENT", "none")
    fslm("run", "demo.label", "secret words")
    assert "secret words" not in fslm("trace", "show").out


def test_check_prints_the_wiring(fslm: Fslm) -> None:
    result = fslm("check", "demo.label")
    assert result.code == 0
    for part in ("text <- input.text", "label <- label.label", "demo.label: Said -> Label", "fslm-demo 1.0", "at most"):
        assert part in " ".join(result.out.split())


def test_check_refuses_with_every_finding(fslm: Fslm) -> None:
    result = fslm("check", "demo.lost")
    assert result.code == 3
    assert result.err.count("  - step lost: ") == 3
    data = json.loads(fslm("check", "demo.lost", "--json").out)
    assert data["refused"] and len(data["errors"]) == 3


def test_strict_makes_errors_of_warnings(fslm: Fslm) -> None:
    assert fslm("check", "demo.bare").code == 0
    assert fslm("check", "demo.bare", "--strict").code == 3


def test_list_names_stacks_stages_and_owners(fslm: Fslm) -> None:
    data = fslm("list", "--json").data
    assert [s["name"] for s in data["stacks"]] == [
        "demo",
        "demo.bare",
        "demo.call",
        "demo.label",
        "demo.lost",
        "demo.order",
    ]
    assert {s["plugin"] for s in data["stages"]} == {"fslm-demo 1.0"}
    assert "demo.bare   Said -> Label   smollm2-135m (untuned)  fslm-demo 1.0" in fslm("list").out


def test_list_warns_of_a_plugin_that_cannot_load(fslm: Fslm, installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(installed, "sick", "raise RuntimeError('no \\x1b[31m luck')")
    monkeypatch.setenv("FSLM_PLUGINS", "demo,sick")
    result = fslm("list")
    assert result.code == 0 and "demo.shout" in result.out
    assert "sick" in result.err and "no \\x1b[31m luck" in result.err
    assert "quarantined" in fslm("plugins").out
    assert "belongs to plugin" in fslm("run", "sick", "x").err


def test_debug_alone_shows_a_traceback(fslm: Fslm, monkeypatch: pytest.MonkeyPatch, environment: Path) -> None:
    (environment / "data").write_text("in the way")
    assert fslm("run", "demo", "x").code == 4
    code = "from fslm_core.cli import main; import sys; sys.exit(main(['--debug', 'run', 'demo', 'x']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 4
    assert "Traceback" in done.stderr and "error[store]" in done.stderr


def test_ctrl_c_ends_a_run_and_the_trace_has_it(spawn: Spawn, fslm: Fslm) -> None:
    process = spawn("run", "demo", "wait")
    wait_for(process, "waiting")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert "interrupted" in err and "Traceback" not in err
    assert fslm("trace", "list", "--json").data[0]["status"] == "cancelled"


def test_ctrl_c_does_not_wait_for_models_to_load(spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSLM_BACKEND", "demo.stuck")
    process = spawn("run", "demo.label", "good")
    wait_for(process, "loading")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


def test_a_reader_that_goes_away_is_no_error(spawn: Spawn) -> None:
    process = spawn("run", "demo", "-")
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stdin.write("x" * 200_000)
    process.stdin.close()
    err = process.stderr.read()
    assert "Traceback" not in err and "Exception ignored" not in err
    assert process.wait() == 1


@pytest.mark.parametrize("args", [["--help"], ["list"], ["plugins"], ["trace", "--help"], ["check", "demo"]])
def test_no_torch_is_imported(environment: Path, args: list[str]) -> None:
    code = (
        "import sys; from fslm_core.cli import main; code = main(sys.argv[1:])\n"
        "print(sorted({'torch', 'transformers', 'peft', 'numpy'} & set(sys.modules)), code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[] 0"


def test_help_loads_no_plugin(environment: Path) -> None:
    code = "import sys; from fslm_core.cli import main; main(['--help']); print('demo_plugin' in sys.modules)"
    done: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "Exit codes" in done.stdout


def test_the_profile_is_on_standard_error_and_leaves_the_result_alone(fslm: Fslm) -> None:
    result = fslm("run", "demo.label", "a good one", "--profile")
    assert (result.code, result.data) == (0, {"label": "good"})
    for part in ("render", "queue", "prefill", "decode", "validate", "engine", "forwards", "label", "between"):
        assert part in result.err
    assert result.err.splitlines()[-1].startswith("trace: ")


def test_a_failed_run_is_profiled_too(fslm: Fslm) -> None:
    result = fslm("run", "demo", "boom", "--profile")
    assert (result.code, result.out) == (1, "")
    assert "error[tool]" in result.err
    assert "between" in result.err


def test_the_profile_of_an_earlier_run(fslm: Fslm) -> None:
    fslm("run", "demo.label", "a good one")
    found = fslm("trace", "show", "--profile", "--json").data
    (step,) = found["profile"]["steps"]
    assert step["name"] == "label"
    assert sum(found["profile"]["phases"].values()) == pytest.approx(found["run"]["seconds"])
    assert "between" in fslm("trace", "show", "--profile").out
    assert "profile" not in fslm("trace", "show", "--json").data

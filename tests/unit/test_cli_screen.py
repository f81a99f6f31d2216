"""What reaches a terminal is text: nothing in data is obeyed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fslm_core.cli import screen
from fslm_core.cli.checkup import instruction_sets
from fslm_core.errors import CheckError, FslmError, InputError, RunFailed

EVIL = "\x1b[31m\x9b5m\u202e\ud800 [bold]\x00\x7f"


@given(st.text())
def test_clean_text_has_nothing_a_terminal_obeys(text: str) -> None:
    shown = screen.clean(text)
    assert not [c for c in shown if (ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0]
    assert not {"\u202e", "\u2066", "\u2028"} & set(shown)
    shown.encode()


@settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=5), st.text(st.characters(codec=None)) | st.none() | st.lists(st.integers())))
def test_json_comes_back_as_it_was(data: object) -> None:
    for indent in (None, 2):
        text = screen.as_json(data, indent=indent)
        assert json.loads(text) == data
        text.encode()
        if indent is None:
            assert text.isprintable() or not set(text) & {chr(c) for c in (*range(32), *range(0x7F, 0xA0))}


def test_an_error_shows_its_parts_and_obeys_none(capsys: pytest.CaptureFixture[str]) -> None:
    screen.show_error(InputError("no\nerror[fake] good", where=EVIL, found=EVIL, expected="[red]text[/red]", hint="do"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error[input] \\x1b[31m\\x9b5m\\u202e\\ud800 [bold]\\x00\\x7f: no\n    error[fake] good\n")
    assert "\n  expected: [red]text[/red]\n  next: do\n" in err
    assert "\x1b" not in err


def test_a_failed_run_shows_the_reason_and_a_refused_stack_every_finding(capsys: pytest.CaptureFixture[str]) -> None:
    screen.show_error(RunFailed(None, InputError("bad")))
    screen.show_error(CheckError("s", ["one", "two"]))
    err = capsys.readouterr().err
    assert "error[input] bad" in err
    assert "  - one\n  - two\n" in err


def test_a_table_keeps_cells_whole_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    long = "word " * 60
    screen.table(["name", "text"], [["[b]a[/b]", long.strip()], ["b", EVIL]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "name      text"
    assert lines[1] == f"[b]a[/b]  {long.strip()}"
    assert "\\x1b[31m" in lines[2]


def test_codes_of_errors_are_all_documented() -> None:
    from fslm_core import errors
    from fslm_core.cli.root import EXIT_CODES

    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, FslmError)]
    assert {kind.exit_code for kind in kinds} <= set(EXIT_CODES)


def test_instruction_sets_are_read_from_the_first_core() -> None:
    flags = "fpu avx2 avx512f avx512_bf16 amx_bf16 amx_tile amx_int8"
    found = instruction_sets(f"processor\t: 0\nflags\t\t: {flags}\nprocessor\t: 1\nflags\t: fpu\n")
    assert found == ["AMX", "AMX-BF16", "AMX-INT8", "AVX512", "AVX512-BF16", "AVX2"]
    assert instruction_sets("Features\t: fp asimd bf16 sve\n") == ["NEON", "ARM-BF16", "SVE"]
    assert instruction_sets("") == []

"""Errors: one tree, stable codes, and texts that say what to do next."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fslm_core import errors
from fslm_core.errors import CheckError, FslmError, RunFailed, StageFailedError, UnknownNameError, shorten
from fslm_core.message import Attempt, Problem

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, FslmError)]


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in (inspect.getdoc(errors) or "").splitlines():
        if "── " in line or line.strip() == "FslmError":
            name = line.strip("│├└─ ").split()[0]
            depth = (len(line) - len(line.lstrip("│├└─ ")) - 4) // 4
            above[max(depth, 0) :] = [name]
            drawn[name] = above[depth - 1] if depth > 0 else ""
    assert drawn == {kind.__name__: "" if kind is FslmError else kind.__bases__[0].__name__ for kind in KINDS}


def test_codes_are_unique_and_exit_codes_are_set() -> None:
    codes = [kind.code for kind in KINDS]
    assert len(set(codes)) == len(codes)
    assert all(0 < kind.exit_code < 256 for kind in KINDS)
    assert all(inspect.getdoc(kind) for kind in KINDS)


def test_a_text_says_what_where_found_expected_and_next() -> None:
    error = FslmError("it broke", where="here", found=3, expected="four", hint="count again")
    assert str(error) == "here: it broke\n  found: 3\n  expected: four\n  next: count again"
    assert error.to_dict() == {
        "code": "fslm",
        "what": "it broke",
        "where": "here",
        "found": "3",
        "expected": "four",
        "next": "count again",
    }
    assert FslmError("it broke").to_dict() == {"code": "fslm", "what": "it broke"}
    assert str(FslmError("it broke")) == "it broke"


SPECIMENS: list[FslmError] = [
    FslmError("a", where="b", found="c", expected="d", hint="e"),
    CheckError("s", ["one", "two"]),
    UnknownNameError.of("stack", "tirage", ["triage"]),
    StageFailedError("a", problems=[Problem("json", "bad", "x")], attempts=[Attempt(0, None, "raw")]),
    RunFailed({"id": 1}, FslmError("inner", hint="h")),
    *(kind("any", where="b", hint="c") for kind in KINDS if kind not in (CheckError, RunFailed)),
]


@pytest.mark.parametrize("error", SPECIMENS, ids=lambda e: f"{type(e).__name__}: {e.what}")
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_errors_cross_processes_whole(error: FslmError, again: Any) -> None:
    other = again(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert other.to_dict() == error.to_dict()


def test_what_carries_more_shows_it() -> None:
    assert str(SPECIMENS[1]).splitlines() == [
        "stack s: the check found 2 problems",
        "  - one",
        "  - two",
        "  next: mend what is listed, then run `fslm check s`",
    ]
    assert SPECIMENS[1].to_dict()["findings"] == ["one", "two"]
    assert "x: bad" in str(SPECIMENS[3])
    assert str(SPECIMENS[4]) == str(FslmError("inner", hint="h"))


def test_notes_are_kept_and_told() -> None:
    error = FslmError("inner", hint="h")
    error.add_note("row 7")
    failed = RunFailed(None, error)
    failed.add_note("of the night's batch")
    assert failed.notes == ("row 7", "of the night's batch")
    assert failed.to_dict() == {"code": "fslm", "what": "inner", "next": "h", "notes": ["row 7"]}
    assert pickle.loads(pickle.dumps(error)).notes == ("row 7",)


def test_a_failed_run_exits_as_the_error_that_ended_it() -> None:
    assert {RunFailed(None, kind("a")).exit_code for kind in KINDS if kind not in (CheckError, RunFailed)} == {
        kind.exit_code for kind in KINDS
    }


def test_an_error_of_several_runs_is_told_of_each_at_its_place() -> None:
    error = FslmError("it broke", where="the backend", hint="h")
    error.__cause__ = ValueError("why")
    first, second = error.at("run 1"), error.at("run 2")
    assert (error.where, first.where, second.where) == ("the backend", "run 1, the backend", "run 2, the backend")
    assert type(first) is FslmError and first.__cause__ is error.__cause__
    assert FslmError("it broke").at("run 1").where == "run 1"


def test_whoever_catches_the_root_catches_all_and_finds_the_cause() -> None:
    for kind in KINDS:
        assert issubclass(kind, FslmError) and issubclass(kind, Exception)
    with pytest.raises(FslmError) as caught:
        try:
            raise ValueError("why")
        except ValueError as error:
            raise FslmError("it broke", where="here", hint="mend it") from error
    assert str(caught.value.__cause__) == "why"


def test_near_names_are_offered() -> None:
    error = UnknownNameError.of("stack", "tirage", ["other", "triage"])
    assert error.what == "there is no stack named 'tirage'"
    assert error.where == "the plugins loaded"
    assert error.hint == "did you mean 'triage'?"
    assert error.expected == "one of other, triage"
    far = UnknownNameError.of("stack", "zzz", ["other"], hint="look elsewhere")
    assert far.hint == "look elsewhere"
    assert "fslm list" in str(UnknownNameError.of("stack", "zzz", []).hint)
    assert UnknownNameError.of("run", "zzz", ["other"]).hint == "see `fslm trace list`"
    assert UnknownNameError.of("field", "zzz", ["other"], where="the report").where == "the report"
    assert len(str(UnknownNameError.of("stack", "z" * 10_000, [f"name{i}" for i in range(10_000)]))) < 2000


@given(text=st.text(), limit=st.integers(4, 50))
def test_shortened_texts_keep_their_ends(text: str, limit: int) -> None:
    short = shorten(text, limit)
    assert len(short) <= limit
    if len(text) <= limit:
        assert short == text
    elif limit > 8:
        assert text.startswith(short.partition(" … ")[0][:2])
        assert text.endswith(short[-2:])


def test_what_was_found_is_shown_bounded() -> None:
    assert len(str(FslmError("a", found="x" * 10**6, expected="y" * 10**6))) < 2000

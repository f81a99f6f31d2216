"""``fslm trace diff``: two runs, and all inputs that ran before and after."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .conftest import Result

Fslm = Callable[..., Result]


def ids(fslm: Fslm, *texts: str) -> list[str]:
    for text in texts:
        assert fslm("run", "demo", text).code == 0
    return [row["id"] for row in reversed(fslm("trace", "list", "--json").data)]


def test_two_runs_beside_each_other(fslm: Fslm) -> None:
    one, other = ids(fslm, "good morning", "bad morning")
    said = fslm("trace", "diff", one, "last")
    assert said.code == 0 and one in said.out and other in said.out
    assert '"good morning" → "bad morning"' in said.out
    data = fslm("trace", "diff", one[:20] + one[20:], other, "--json").data
    assert data["same"] is False and data["steps"][0]["step"] == "input"
    assert fslm("trace", "diff", one, one, "--json").data["same"] is True


def test_all_inputs_that_ran_before_and_after_a_moment(fslm: Fslm) -> None:
    ids(fslm, "good morning", "good morning")
    data = fslm("trace", "diff", "--stack", "demo", "--since", "2020-01-01", "--json").data
    assert data["pairs"] == 0
    said = fslm("trace", "diff", "--stack", "demo")
    assert said.code == 2 and "before its makers changed" in said.err


@pytest.mark.parametrize(
    "arguments", [(), ("last",), ("last", "last", "--stack", "demo"), ("last", "last", "--since", "2020-01-01")]
)
def test_what_is_no_comparison_is_refused(fslm: Fslm, arguments: tuple[str, ...]) -> None:
    said = fslm("trace", "diff", *arguments)
    assert said.code == 2 and "needs two runs, or --stack" in said.err


def test_a_run_that_does_not_exist_or_is_ambiguous(fslm: Fslm) -> None:
    one, _ = ids(fslm, "good morning", "bad morning")
    assert "there is no run" in fslm("trace", "diff", one, "zzzz").err
    assert "several runs begin with" in fslm("trace", "diff", one[:3], one).err

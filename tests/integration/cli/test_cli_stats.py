"""``fslm trace stats``: what runs come to, over time and beside a reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Result

Fslm = Callable[..., Result]


def test_all_stacks_or_the_one_that_is_named(fslm: Fslm) -> None:
    for text in ("good morning", "bad morning"):
        assert fslm("run", "demo", text).code == 0
    assert fslm("run", "demo.label", "fine").code in (0, 1)
    said = fslm("trace", "stats")
    assert said.code == 0 and "demo  2 runs" in said.out and "valid at once" in said.out
    data = fslm("trace", "stats", "demo", "--by", "day", "--json").data
    (stack,) = data["stacks"]
    assert stack["stack"] == "demo" and stack["runs"] == {"succeeded": 2} and stack["by"] == "day"
    assert [bucket["runs"] for bucket in stack["buckets"]] == [{"succeeded": 2}] and stack["drift"] is None
    step = stack["steps"][0]
    assert step["valid"]["hits"] == step["times"] == 2 and step["valid"]["interval"][1] == 1.0


def test_a_window_without_a_run_says_when_there_were_some(fslm: Fslm) -> None:
    fslm("run", "demo", "good morning")
    said = fslm("trace", "stats", "demo", "--until", "2020-01-01")
    assert said.code == 0 and "demo  0 runs" in said.out and "no run of it is in that window" in said.err


def test_a_stack_that_is_not_there_and_a_trace_that_is_not(fslm: Fslm) -> None:
    said = fslm("trace", "stats")
    assert said.code == 4 and "there is no trace yet" in said.err
    fslm("run", "demo", "good morning")
    said = fslm("trace", "stats", "dema")
    assert said.code == 2 and "dema" in said.err and "demo" in said.err


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--since", "soon"), "that is no moment"),
        (("--since", "1d", "--until", "2d"), "the window ends before it begins"),
        (("--reference", "7d"), "that is no window of time"),
        (("--reference", "..7d"), "that is no window of time"),
        (("--reference", "7d..later"), "that is no moment"),
        (("--by", "year"), "year"),
    ],
)
def test_what_is_no_window_is_refused(fslm: Fslm, arguments: tuple[str, ...], what: str) -> None:
    fslm("run", "demo", "good morning")
    said = fslm("trace", "stats", *arguments)
    assert said.code == 2 and what in said.err


@pytest.mark.torch
def test_drift_beside_a_reference(fslm: Fslm) -> None:
    fslm("run", "demo", "good morning")
    said = fslm("trace", "stats", "demo", "--reference", "2020-01-01..1d")
    assert said.code == 0 and "There is nothing to compare: no run is in the reference." in said.out
    data = fslm("trace", "stats", "demo", "--reference", "2020-01-01..1d", "--json").data
    assert data["stacks"][0]["drift"]["runs"] == [0, 1]
    said = fslm("trace", "stats", "demo", "--reference", "2d..1d", "--since", "2d")
    assert said.code == 2 and "overlap" in said.err
    said = fslm("trace", "stats", "demo", "--reference", "1d..2d")
    assert said.code == 2 and "ends before it begins" in said.err


@pytest.mark.torch
def test_a_plot_of_one_stack(fslm: Fslm, tmp_path: Path) -> None:
    fslm("run", "demo", "good morning")
    out = tmp_path / "stats.png"
    said = fslm("trace", "stats", "--plot", str(out))
    assert said.code == 0 and out.read_bytes().startswith(b"\x89PNG") and "plot:" in said.err
    fslm("run", "demo.label", "fine")
    said = fslm("trace", "stats", "--plot", str(out))
    assert said.code == 2 and "a plot shows one stack" in said.err

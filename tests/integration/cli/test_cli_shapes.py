"""Every verb with stacks in which shapes stand, nested and of every kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from .conftest import HERE, Result, install

Fslm = Callable[..., Result]
LONG = "a good text that is long enough"


@pytest.fixture(autouse=True)
def zoo(environment: Path, installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin whose stacks hold every kind of shape is installed beside the one with the backend."""
    install(installed, "zoo", (HERE / "zoo_plugin.py").read_text("utf-8"))
    monkeypatch.setenv("FSLM_PLUGINS", "demo,zoo")


def test_check_shows_nested_steps_by_path_with_their_wiring(fslm: Fslm) -> None:
    said = fslm("check", "zoo")
    assert said.code == 0
    lines = said.out.splitlines()
    for wanted in (
        "step route",
        "  route    zoo.route: Said -> Named",
        "           by: 'long' if input.text|length > 20 else 'short'",
        '  leads    choice -> naming: "long"',
        "  decides  choice",
        "      step route.brief.naming.label",
        "        field    text <- input.text",
        "  output of brief: Named",
        "    field    size <- brief.size",
        "step best",
        "  on error skip",
        "  when     vote.label == 'good'",
        "output Whole",
        "  field    best <- best.label",
    ):
        assert wanted in lines, wanted


def test_check_as_json(fslm: Fslm) -> None:
    data = fslm("check", "zoo", "--json").data
    steps = {step["name"]: step for step in data["steps"]}
    assert steps["route"]["stage"] is None and steps["route"]["shape"]["kind"] == "route"
    assert steps["route"]["shape"]["facts"]["cases"] == {"long": "naming"}
    assert steps["route"]["shape"]["bound"]["output of brief"] == {"label": "brief.label", "size": "brief.size"}
    assert steps["route.brief.naming.size"]["fields"] == {"text": "input.text"}
    assert steps["best"]["on_error"] == "skip" and steps["careful"]["when"] == "vote.label == 'good'"
    assert data["output"]["small"] == "halving.size"


@pytest.mark.parametrize("stack", ["zoo", "zoo.nested", "zoo.cut", "zoo.helper", "demo"])
def test_graph_draws_it(fslm: Fslm, stack: str, environment: Path) -> None:
    said = fslm("graph", stack)
    assert said.code == 0 and said.out.startswith("flowchart TB\n") and said.err == ""
    assert fslm("graph", stack, "--mermaid").out == said.out
    data = fslm("graph", stack, "--json").data
    assert data["name"] == stack and data["parts"][0]["sort"] == "input"
    file = fslm("graph", stack, "--svg", "a/of.svg")
    assert file.code == 0 and file.out == ""
    assert ElementTree.parse(environment / "a/of.svg").getroot().tag.endswith("svg")


@pytest.mark.torch  # where matplotlib comes along
def test_graph_paints_a_png_and_prints_beside_it(fslm: Fslm, environment: Path) -> None:
    said = fslm("graph", "zoo.nested", "--png", "of.png", "--mermaid")
    assert said.code == 0 and said.out.startswith("flowchart TB\n")
    assert (environment / "of.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_graph_refuses_what_cannot_be_drawn(fslm: Fslm, environment: Path) -> None:
    assert fslm("graph", "demo.lost").code == 3
    twice = fslm("graph", "demo", "--json", "--mermaid")
    assert twice.code == 2 and "one standard output" in twice.err
    (environment / "file").touch()
    assert fslm("graph", "demo", "--svg", "file/of.svg").code == 4
    assert "zoo.nested" in fslm("graph", "zoo.nestd").err


def test_list_and_plugins_show_a_stack_with_shapes(fslm: Fslm) -> None:
    assert "route, vote, triage" in fslm("list").out
    listed = {stack["name"]: stack for stack in fslm("list", "--json").data["stacks"]}
    assert listed["zoo.nested"]["steps"] == ["route"]
    assert "route, vote, triage" in fslm("plugins", "show", "zoo").out
    assert fslm("plugins", "show", "zoo", "--json").code == 0


def ran(fslm: Fslm, *stack_and_text: str) -> Any:
    said = fslm("run", *stack_and_text)
    assert said.code == 0, said.err
    return said.data


def test_run_and_its_trace(fslm: Fslm) -> None:
    assert ran(fslm, "zoo", LONG) == {
        "label": "good",
        "size": 31,
        "best": "good",
        "total": 25,
        "small": 3,
    }
    names = [step["step"] for step in fslm("trace", "show", "--json").data["steps"]]
    assert "route.choice" in names and "route.naming.label" in names and "each.length[3]" in names


def test_what_fails_deep_within_is_told_by_its_path(fslm: Fslm) -> None:
    said = fslm("run", "zoo.nested", "boom")
    assert said.code == 1
    assert "error[tool] stack zoo.nested, step route.brief.naming.size" in said.err
    assert "route.brief.naming.size" in fslm("trace", "show").out
    assert fslm("trace", "show", "--profile").code == 0


def test_a_batch_goes_through(fslm: Fslm, environment: Path) -> None:
    rows = [{"text": LONG}, {"text": "boom"}, {"text": "bad"}]
    (environment / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = fslm("batch", "zoo.nested", "in.jsonl", "--out", "out.jsonl")
    assert said.code == 1, said.err
    out = [json.loads(line) for line in (environment / "out.jsonl").read_text().splitlines()]
    assert len(out) == 3


@pytest.mark.torch
def test_eval_scores_it(fslm: Fslm, environment: Path) -> None:
    rows = [
        {"input": {"text": text}, "output": {"label": "good" if "good" in text else "bad", "size": len(text)}}
        for text in (LONG, "bad", "not so very nice at all", "good")
    ]
    (environment / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = fslm("eval", "zoo.nested", "gold.jsonl", "--no-control")
    assert said.code == 0, said.err
    assert "route" in said.out


def test_lock_and_a_locked_run(fslm: Fslm) -> None:
    assert fslm("lock").code == 0
    assert fslm("--locked", "run", "zoo.nested", LONG).code == 0
    assert fslm("lock", "--check").code == 0


def test_bench_times_it(fslm: Fslm) -> None:
    said = fslm("bench", "zoo.nested", "--input", LONG, "--rounds", "1", "--concurrency", "1")
    assert said.code == 0, said.err
    print(said.out)


def test_a_png_needs_matplotlib_and_says_so(fslm: Fslm, environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fslm_core.extras.find_spec", lambda name: None)
    said = fslm("graph", "demo", "--png", "of.png")
    assert said.code == 4 and "fslm-core[eval]" in said.err and not (environment / "of.png").exists()
    assert fslm("graph", "demo", "--svg", "of.svg").code == 0

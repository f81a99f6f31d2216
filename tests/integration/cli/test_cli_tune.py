"""``fslm tune``: the documentation's example, command by command, on a tiny random model; a plan; what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ..test_docs import DOCS, Block, blocks
from ..test_docs_first_stage import prints, shown
from .conftest import Result, install

pytestmark = pytest.mark.torch

Fslm = Callable[..., Result]
PAGE = DOCS / "tuning.md"


@pytest.fixture
def page(
    environment: Path, installed: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[..., Path]
) -> list[Block]:
    """The page's files in the working folder, its plugin installed; the tiny model is the base."""
    tiny = str(tiny_model("llama"))
    found = blocks(PAGE)
    for block in found:
        if block.title == "desk_plugin.py":
            install(installed, "desk", block.text.replace("smollm2-135m", tiny))
        elif block.title:
            text = block.text.replace("smollm2-135m", tiny).replace("layers = 10", "layers = 1")
            (environment / block.title).write_text(text.replace("epochs = 4", "epochs = 1"))
    monkeypatch.setenv("FSLM_PLUGINS", "demo,desk")
    monkeypatch.setenv("FSLM_BACKEND", "torch")
    return found


def test_the_example_of_the_page(fslm: Fslm, page: list[Block], environment: Path) -> None:
    """A tiny random model writes junk that is valid, and learns nothing; but everything happens."""
    (block,) = (b for b in page if b.language == "console")
    for command, lines in shown(block):
        result = fslm(*command.split()[1:])
        assert result.code == 0, result.err
        prints(result.out, lines)
    for part in ("[2 of 9] messages", "[4 of 9] training desk.subject", "before: ", "after round 2: ", "report: "):
        assert part in result.err
    (environment / "fslm.toml").write_text(result.out)
    ran = fslm("run", "desk", "The lamp flickers.")
    assert ran.code == 0 and ran.data["team"] in ("billing", "delivery", "repairs")
    work = environment / "runs" / "tune"
    listed = next(b for b in page if b.text.startswith("runs/tune/")).text
    for line in listed.splitlines()[1:]:
        names = re.split("  +", line.strip())[0]
        assert all((work / name).exists() for name in names.split(", ")), names
    again = fslm("tune", "desk", "tune.toml", "--json")
    assert again.code == 0 and again.data["adapters"]["desk.team"] == "adapters/desk.team"
    assert again.data == {"work": str(work), **json.loads((work / "report.json").read_text())}


def test_a_plan_as_json(fslm: Fslm, page: list[Block]) -> None:
    result = fslm("tune", "desk", "tune.toml", "--plan", "--json", "--set", "teacher.samples=1")
    assert result.code == 0, result.err
    assert [part["stage"] for part in result.data["training"]] == ["desk.subject", "desk.team"]
    assert result.data["seconds"] > 0 and result.data["train"] == 15


def test_what_is_wrong_is_told(fslm: Fslm, page: list[Block], environment: Path) -> None:
    result = fslm("tune", "desk", "tune.toml", "--set", "steps.teem.epochs=1")
    assert result.code == 2 and "teem" in result.err and "subject, team" in result.err
    result = fslm("tune", "dosk", "tune.toml")
    assert result.code == 2 and "'desk'" in result.err
    with (environment / "rows.jsonl").open("a") as file:
        file.write('{"input": {"text": "x"}, "output": {"team": "kitchen"}}\n')
    result = fslm("tune", "desk", "tune.toml")
    assert result.code == 2 and "line 25" in result.err

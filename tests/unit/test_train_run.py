"""What `run_recipe` refuses before it needs any model."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from fslm_core.errors import MissingExtraError, TrainError, UnknownNameError
from fslm_core.hooks import hookimpl
from fslm_core.plugins import PluginHost
from fslm_core.settings import load
from fslm_core.stage import SLM, Stage, tool
from fslm_core.train import run_recipe


class Text(BaseModel):
    """Some words."""

    text: str


class Flag(BaseModel):
    """Yes or no."""

    yes: bool


@tool("demo.shout", version="1")
def shout(message: Text) -> Text:
    """Say it loudly."""
    return Text(text=message.text.upper())


class Demo:
    """One stage of each kind."""

    @hookimpl
    def fslm_stages(self) -> list[Stage[Any, Any]]:
        """Offer them."""
        return [Stage("demo.yes", input=Text, output=Flag, prompt="{{ text }}", model=SLM(base="nowhere")), shout]


def train(folder: Path, stage: str, *overrides: str) -> None:
    (folder / "rows.jsonl").write_text('{"input": {"text": "a"}, "output": {"yes": true}}\n' * 3)
    (folder / "recipe.toml").write_text(f'stage = "{stage}"\noutput = "out"\n[data]\ntrain = "rows.jsonl"\n')
    settings = load(files=())
    run_recipe(
        folder / "recipe.toml",
        overrides=overrides,
        settings=settings,
        host=PluginHost(settings, plugins={"demo": Demo()}, installed=False),
    )


def test_an_unknown_stage_offers_near_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"demo\.yas") as caught:
        train(tmp_path, "demo.yas")
    assert "'demo.yes'" in str(caught.value)


def test_a_tool_stage_has_nothing_to_train(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="no model to train"):
        train(tmp_path, "demo.shout")


def test_a_score_of_a_field_the_output_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"task_score\.fields") as caught:
        train(tmp_path, "demo.yes", 'task_score.fields=["no"]')
    assert "yes" in str(caught.value)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_peft(name: str) -> ModuleSpec | None:
        return None if name == "peft" else find_spec(name)

    monkeypatch.setattr("fslm_core.extras.find_spec", without_peft)
    with pytest.raises(MissingExtraError, match="training needs packages") as caught:
        train(tmp_path, "demo.yes")
    assert "peft" in str(caught.value) and "fslm-core[train]" in str(caught.value)
    assert not (tmp_path / "runs").exists()

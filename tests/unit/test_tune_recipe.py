"""The tuning recipe: what it takes, and how it says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from fslm_core.errors import TrainError
from fslm_core.tune import TuneRecipe, load_tuning
from fslm_core.tune.preferring import recipe_of
from fslm_core.tune.recipe import Preferring, refuse_strange
from fslm_core.tune.rounds import _key
from fslm_core.tune.units import units_of

from ..tuning import RECIPE, Demo

STACK = Demo(Path("nowhere")).stack
KEY = "33aa3e35a2d7ea446dbf4f0e24b70e239623c305a20a30cbab98a5397cb7abd2"


def read(folder: Path, text: str = RECIPE, *overrides: str) -> TuneRecipe:
    (folder / "tune.toml").write_text(text)
    return load_tuning(folder / "tune.toml", overrides)


def refused(folder: Path, *overrides: str) -> str:
    with pytest.raises(TrainError) as caught:
        recipe = read(folder, RECIPE, *overrides)
        refuse_strange(recipe, STACK)
        for unit in units_of(recipe, STACK):
            unit.recipe(recipe, folder)
    return str(caught.value)


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    recipe = read(tmp_path, RECIPE, 'teacher={model="x"}', f"teacher.adapter={tmp_path / 'a'}")
    assert recipe.data.train == tmp_path / "rows.jsonl"
    assert recipe.teacher is not None and recipe.teacher.adapter == tmp_path / "a"


def test_a_step_takes_the_shared_settings_and_its_own(tmp_path: Path) -> None:
    recipe = read(tmp_path, RECIPE, "steps.reply={epochs=5, lora={rank=4}, data={max_rows=9}}")
    first, second = (unit.recipe(recipe, tmp_path) for unit in units_of(recipe, STACK))
    assert (first.epochs, first.lora.rank, first.lora.layers, first.optim.lr) == (1, 2, 1, 5e-3)
    assert (second.epochs, second.lora.rank, second.lora.layers, second.optim.lr) == (5, 4, 1, 5e-3)
    assert (first.data.max_rows, second.data.max_rows, first.seed) == (None, 9, 3)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("data.trian=rows.jsonl", "data.trian"),
        ("data.near=0.2", "data.near"),
        ("teacher.samples=0", "teacher.samples"),
        ("teacher.samples=3", "temperature"),
        ("teacher.adapter=x", "checkpoint"),
        ('teacher.follow="teacher"', "answer_prompt"),
        ("teacher.steps.topik.prompt=x", "topik"),
        ('teacher.steps.topic.agree_on=["toppic"]', "toppic"),
        ('teacher.follow_on=["reply"]', "teacher.follow_on"),
        ("exposure.rounds=-1", "exposure.rounds"),
        ('exposure.rows="maybe"', "exposure.rows"),
        ("train.epochs=0", "train.epochs"),
        ("train.optim.rate=1", "train.optim.rate"),
        ("train.stage=demo.topic", "train.stage"),
        ("train.data.fraction=0.1", "train.data.fraction"),
        ("steps.reply.lora.rank=99", "steps.reply.lora.rank"),
        ("steps.replay.epochs=1", "replay"),
    ],
)
def test_what_is_wrong_is_named_by_its_key(tmp_path: Path, override: str, named: str) -> None:
    assert named in refused(tmp_path, override)


def test_a_recipe_that_is_not_there_or_no_toml(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="cannot be read"):
        load_tuning(tmp_path / "none.toml")
    with pytest.raises(TrainError, match="not TOML"):
        read(tmp_path, "seed = ")


def test_paths_of_training_are_relative_to_the_recipe_too(tmp_path: Path) -> None:
    more = '[train.distill]\nbase = "./larger"\n[steps.topic.distill]\nadapter = "topic"\n'
    recipe = read(tmp_path, RECIPE + more + '[steps.reply]\nlora.start = "a"\n')
    first, second = (unit.recipe(recipe, tmp_path) for unit in units_of(recipe, STACK))
    assert first.distill is not None and second.distill is not None
    assert (first.distill.base, first.distill.adapter) == (str(tmp_path / "larger"), tmp_path / "topic")
    assert (second.distill.adapter, second.lora.start) == (None, tmp_path / "a")


def test_rounds_of_preferences_have_no_teacher(tmp_path: Path) -> None:
    recipe = read(tmp_path, RECIPE + '[train.distill]\nbase = "smollm2-135m"\n')
    own = units_of(recipe, STACK)[0].recipe(recipe, tmp_path)
    assert own.distill is not None
    assert recipe_of(own, Preferring(), tmp_path / "round", tmp_path / "adapter").distill is None


def test_what_was_trained_before_there_were_teachers_of_logits_keeps_its_key(tmp_path: Path) -> None:
    recipe = read(tmp_path)
    unit = units_of(recipe, STACK)[0]
    for name in ("rows", "select"):
        (tmp_path / f"{name}.jsonl").write_text(name)
    assert _key(unit, unit.recipe(recipe, tmp_path)) == KEY

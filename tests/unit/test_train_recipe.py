"""Recipes: read, overridden, refused with all their problems."""

from __future__ import annotations

from pathlib import Path

import pytest

from fslm_core.errors import TrainError
from fslm_core.train import load_recipe

SMALL = 'stage = "a.b"\noutput = "../out"\n[data]\ntrain = "rows.jsonl"\n'


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A small recipe in a folder of its own."""
    path = tmp_path / "train" / "recipe.toml"
    path.parent.mkdir()
    path.write_text(SMALL)
    return path


def test_paths_are_relative_to_the_recipe(recipe: Path) -> None:
    made = load_recipe(recipe)
    assert made.data.train == recipe.parent / "rows.jsonl"
    assert made.output == recipe.parent.parent / "out"


def test_overridden_paths_are_relative_to_the_current_folder(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = load_recipe(
        recipe, ["data.train=mine.jsonl", "optim.lr=0.5", 'lora.targets=["q_proj"]', "notes=plain words"]
    )
    assert made.data.train == tmp_path / "mine.jsonl"
    assert (made.optim.lr, made.lora.targets, made.notes) == (0.5, ("q_proj",), "plain words")


def test_lists_of_paths_are_relative_to_the_recipe_too(recipe: Path) -> None:
    recipe.write_text(SMALL + '[clean]\nevaluation = ["a.jsonl", "../b.csv"]\n')
    made = load_recipe(recipe)
    assert made.clean is not None
    assert made.clean.evaluation == (recipe.parent / "a.jsonl", recipe.parent.parent / "b.csv")
    assert made.plain(recipe.parent)["clean"]["evaluation"] == ["a.jsonl", "../b.csv"]


def test_an_absolute_path_stays(recipe: Path) -> None:
    assert load_recipe(recipe, ["data.train=/srv/rows.jsonl"]).data.train == Path("/srv/rows.jsonl")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SMALL + "colour = 1\n", "data.colour"),
        ("epochs = 0\n" + SMALL, "epochs"),
        (SMALL + "[lora]\nrank = 9\n", "lora.rank"),
        (SMALL + 'balance = "sampling"\n', "balance_by"),
        (SMALL + "[task_score]\nmetric = 'bleu'\n", "task_score.metric"),
        ('stage = "a.b"\n', "output"),
        ("stage = \n", "not TOML"),
        ('data = "rows"\noutput = "o"\nstage = "s"', "data"),
    ],
)
def test_a_wrong_recipe_is_refused(recipe: Path, text: str, said: str) -> None:
    recipe.write_text(text)
    with pytest.raises(TrainError) as caught:
        load_recipe(recipe)
    assert said in str(caught.value)


def test_all_problems_are_counted(recipe: Path) -> None:
    recipe.write_text("epochs = 0\nseed = -1\n" + SMALL)
    with pytest.raises(TrainError, match="2 problems"):
        load_recipe(recipe)


@pytest.mark.parametrize("override", ["epochs", "=3", "stage.deep=1"])
def test_a_wrong_override_is_refused(recipe: Path, override: str) -> None:
    with pytest.raises(TrainError, match="override"):
        load_recipe(recipe, [override])


def test_a_missing_recipe_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="cannot be read"):
        load_recipe(tmp_path / "none.toml")


def test_the_record_names_no_folder_of_this_machine(recipe: Path) -> None:
    plain = load_recipe(recipe, ["data.train=/home/me/secret/rows.jsonl"]).plain(recipe.parent)
    assert plain["data"]["train"] == "rows.jsonl"
    assert plain["output"] == "../out"
    assert str(recipe.parent.parent) not in str(plain)


def test_a_teachers_checkpoint_is_a_name_or_a_folder_beside_the_recipe(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {
        "smollm2-135m": "smollm2-135m",
        "hf:a/b@c": "hf:a/b@c",
        "./larger": str(recipe.parent / "larger"),
        "/srv/larger": "/srv/larger",
    }
    for written, read in names.items():
        recipe.write_text(f'{SMALL}[distill]\nbase = "{written}"\nadapter = "a"\n')
        made = load_recipe(recipe)
        assert made.distill is not None and made.distill.base == read
        assert made.distill.adapter == recipe.parent / "a"
    made = load_recipe(recipe, ["distill.base=./here", "distill.adapter=b"])
    assert made.distill is not None
    assert (made.distill.base, made.distill.adapter) == (str(tmp_path / "here"), tmp_path / "b")
    plain = load_recipe(recipe, ["distill.base=hf:a/b@c"]).plain(recipe.parent)["distill"]
    assert (plain["base"], plain["adapter"]) == ("hf:a/b@c", "a")
    assert load_recipe(recipe, ["distill.base=/srv/larger"]).plain(recipe.parent)["distill"]["base"] == "larger"


@pytest.mark.parametrize(
    ("distill", "said"),
    [
        ("", "who teaches"),
        ('base = "b"\nweight = 0', "distill.weight"),
        ('base = "b"\nweight = 1.5', "distill.weight"),
        ('base = "b"\nweight = nan', "distill.weight"),
        ('base = "b"\ntemperature = 0', "distill.temperature"),
        ('base = "b"\ntemperature = inf', "distill.temperature"),
        ('base = "b"\ndivergence = "jsd"\nbeta = 0', "distill.beta"),
        ('base = "b"\ndivergence = "jsd"\nbeta = 1.0', "distill.beta"),
        ('base = "b"\nbeta = 0.5', "jsd"),
        ('base = "b"\ndivergence = "kl"', "distill.divergence"),
        ('base = "b"\n[preference]\npairs = "p.jsonl"', "--preferences"),
    ],
)
def test_wrong_distillation_is_refused(recipe: Path, distill: str, said: str) -> None:
    recipe.write_text(f"{SMALL}[distill]\n{distill}\n")
    with pytest.raises(TrainError) as caught:
        load_recipe(recipe)
    assert said in str(caught.value)

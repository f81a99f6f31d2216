"""``fslm new``: what it says, what it writes, and that neither rows nor half a plugin are left anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Result

Fslm = Callable[..., Result]

REVIEWS = [
    (f"the {thing} {verb}, that is all I have to say about it", mood, f"C-{n:04}", note)
    for n, (thing, verb, mood, note) in enumerate(
        (thing, verb, mood, "" if mood == "good" else thing)
        for thing in ("kettle", "lamp", "chair", "table", "clock", "radio")
        for verb, mood in (("leaks", "bad"), ("is lovely", "good"), ("broke", "bad"), ("works", "good"))
    )
]


@pytest.fixture
def rows(environment: Path) -> Path:
    """A table of reviews."""
    path = environment / "reviews.csv"
    lines = [f'"{text}",{mood},{customer},{thing}' for text, mood, customer, thing in REVIEWS]
    path.write_text("\n".join(["Review,Mood,Customer No,Thing", *lines]) + "\n", "utf-8")
    return path


def test_it_shows_what_was_written_and_what_to_type_next(fslm: Fslm, environment: Path) -> None:
    made = fslm("new", "stage", "reviews")
    assert made.code == 0 and made.err == ""
    assert made.out.startswith("fslm-reviews/\n") and "\n      topic/\n        prompt.jinja\n" in made.out
    assert made.out.partition("\nnext:\n")[2].splitlines() == [
        "  python -m pip install -e './fslm-reviews[test]'",
        "  fslm check reviews",
        "  python -m pytest fslm-reviews",
    ]
    assert (environment / "fslm-reviews/tox.ini").is_file()


def test_it_says_what_it_guessed_and_why(fslm: Fslm, rows: Path) -> None:
    made = fslm("new", "stage", "reviews", "--from-data", "reviews.csv")
    assert made.code == 0 and made.err == ""
    table = {line.split()[1]: line for line in made.out.splitlines() if line.startswith(("input ", "output "))}
    assert set(table) == {"review", "mood", "thing"}
    assert "one of 2 labels" in table["mood"] and '"bad" 12, "good" 12' in table["mood"]
    assert "or null" in table["thing"] and "empty in 12 of 24" in table["thing"]
    assert "left out: column 'Customer No': nothing in the text could tell it" in made.out
    assert made.out.rstrip().endswith(
        "  fslm data prepare reviews.csv --stack reviews --out fslm-reviews/data\n"
        "  fslm train fslm-reviews/train/details.toml"
    )


@pytest.mark.parametrize("verb", [("new", "stage"), ("new", "stack"), ("new", "tool")])
def test_no_row_is_copied(fslm: Fslm, rows: Path, verb: tuple[str, str]) -> None:
    assert fslm(*verb, "reviews", "--from-data", "reviews.csv").code == 0
    written = [path.read_text("utf-8") for path in (rows.parent / "fslm-reviews").rglob("*") if path.is_file()]
    for text, _, customer, _ in REVIEWS:
        assert not [one for one in written if text in one or customer in one]


def test_columns_and_fields_are_named_by_options(fslm: Fslm, rows: Path) -> None:
    made = fslm(
        *("new", "stage", "reviews", "--dir", "mine", "--from-data", "reviews.csv", "--json"),
        *("--output", "mood", "--map", "text=Review", "--author", "Ada <ada@example.org>", "--licence", "mit"),
    )
    assert made.code == 0, made.err
    data = made.data
    assert (data["what"], data["name"], data["module"], data["path"]) == ("stage", "reviews", "fslm_reviews", "mine")
    assert [field["field"] for field in data["draft"]["fields"]] == ["text", "mood"]
    assert data["draft"]["left_out"].keys() == {"Customer No", "Thing"}
    assert data["next"][1] == "fslm data prepare reviews.csv --stack reviews --map text=Review --out mine/data"
    assert set(data["files"]) == {
        path.relative_to(rows.parent / "mine").as_posix()
        for path in (rows.parent / "mine").rglob("*")
        if path.is_file()
    }
    assert "ada@example.org" in (rows.parent / "mine/pyproject.toml").read_text("utf-8")


def test_a_stack_s_condition_comes_from_the_rows(fslm: Fslm, rows: Path) -> None:
    assert fslm("new", "stack", "reviews", "--from-data", "reviews.csv").code == 0
    source = (rows.parent / "fslm-reviews/src/fslm_reviews/__init__.py").read_text("utf-8")
    assert "Step(thing, when=\"mood.mood != 'good'\")" in source


def test_a_name_that_is_taken_is_warned_of(fslm: Fslm, environment: Path) -> None:
    made = fslm("new", "stage", "demo", "--json")
    assert made.code == 0
    assert made.data["warnings"] == [
        "the plugin demo (fslm-demo 1.0) is installed here; two of one name cannot be loaded together"
    ]
    assert "two of one name" in made.err


def test_rows_that_cannot_be_read_are_warned_of(fslm: Fslm, rows: Path) -> None:
    with rows.open("a", encoding="utf-8") as file:
        file.write("too short\n")
    made = fslm("new", "stage", "reviews", "--from-data", "reviews.csv")
    assert made.code == 0 and "line 26 (the row has 1 cell, the header 4" in made.err


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["stage", "My Shop"], "a plugin cannot be called so"),
        (["stage", "core"], "such as `core-plugin`"),
        (["stage", "reviews", "--output", "mood"], "--output says nothing without --from-data"),
        (["stage", "reviews", "--from-data", "nothing.csv"], "there is no such file"),
        (["stage", "reviews", "--from-data", "reviews.csv", "--output", "Mod"], "did you mean 'Mood'?"),
        (["stage", "reviews", "--from-data", "reviews.csv", "--map", "Mood"], "this is no mapping"),
        (["stage", "reviews", "--licence", "mine"], "SPDX knows no such licence"),
        (["stage", "reviews", "--author", "<a>"], "this is no author"),
        (["stage", "reviews", "--base", "smollm2-135"], "smollm2-135m"),
        (["stack", "reviews", "--from-data", "reviews.csv", "--output", "Mood"], "two columns of output"),
        (["tool", "reviews", "--from-data", "reviews.csv", "--output", "Thing"], "a label to choose"),
        (["stage", "reviews", "--dir", "."], "something is there already"),
        (["stage", "reviews", "--dir", "reviews.csv"], "something is there already"),
    ],
)
def test_what_cannot_be_is_told_and_nothing_is_written(
    fslm: Fslm, rows: Path, arguments: list[str], error: str
) -> None:
    before = sorted(rows.parent.rglob("*"))
    result = fslm("new", *arguments)
    assert result.code == 2 and error in result.err and result.out == ""
    assert sorted(rows.parent.rglob("*")) == before


def test_twice_is_once(fslm: Fslm, environment: Path) -> None:
    assert fslm("new", "stage", "reviews").code == 0
    before = json.dumps(sorted(map(str, environment.rglob("*"))))
    again = fslm("new", "stage", "reviews")
    assert again.code == 2 and "something is there already" in again.err
    assert json.dumps(sorted(map(str, environment.rglob("*")))) == before

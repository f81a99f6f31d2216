"""Rows: what is refused, and a split that nothing else in the file can move."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, model_validator

from fslm_core.errors import TrainError
from fslm_core.stage import SLM, Stage
from fslm_core.train.progress import Event, Noted
from fslm_core.train.recipe import Clean, Data, Recipe
from fslm_core.train.rows import Rows, class_weights, read_rows, read_sets, split, subset


class Ask(BaseModel):
    """A message, and which labels it may get."""

    text: str
    allowed: list[str] = ["A", "B", "C"]


class Answer(BaseModel):
    """A label and a word of it."""

    label: Literal["A", "B", "C"]
    word: Annotated[str, Field(max_length=8)] = ""

    @model_validator(mode="after")
    def _no_bad_word(self) -> Answer:
        if self.word == "bad":
            raise ValueError("not that word")
        return self


STAGE: Stage[Ask, Answer] = Stage(
    "t.s", input=Ask, output=Answer, prompt="{{ text }}", model=SLM(base="none"), narrow={"label": "allowed"}
)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def row(text: str, label: str = "A", **more: Any) -> dict[str, Any]:
    return {"input": {"text": text}, "output": {"label": label, **more}}


def read(path: Path) -> Rows:
    return read_rows(path, STAGE)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{cut", "not JSON"),
        ("[1]", "not an object with input and output"),
        ({"input": {"text": "x"}}, "not an object with input and output"),
        ({"input": {}, "output": {"label": "A"}}, "input: text"),
        (row("x", "D"), "output: label"),
        (row("x", word="bad"), "not that word"),
        (row("x", word="far too long"), "word"),
        ({"input": {"text": "x", "allowed": ["B"]}, "output": {"label": "A"}}, "label"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, bad: Any, said: str) -> None:
    path = write(tmp_path / "rows.jsonl", [row("good"), "", bad])
    with pytest.raises(TrainError, match="1 row cannot") as caught:
        read(path)
    assert "rows.jsonl, line 3" in str(caught.value) and said in str(caught.value)


def test_many_bad_rows_are_counted_and_the_first_shown(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="500 rows cannot") as caught:
        read(write(tmp_path / "rows.jsonl", ["{"] * 500))
    assert "line 1:" in str(caught.value) and "line 400" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(TrainError, match="no rows"):
        read(tmp_path / "rows.jsonl")


def test_targets_are_canonical_and_schemas_narrowed(tmp_path: Path) -> None:
    data = {"input": {"text": "x", "allowed": ["B", "C"]}, "output": {"word": "é", "label": "B"}}
    (made,) = read(write(tmp_path / "rows.jsonl", [data])).rows
    assert made.target == '{"label":"B","word":"é"}'
    assert made.schema.tree["properties"]["label"] == {"enum": ["B", "C"]}


def test_duplicates_and_leaks_are_told(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [row("a"), row("a"), row("b")])
    select = write(tmp_path / "select.jsonl", [row("b"), row("c")])
    told: list[Event] = []
    recipe = Recipe(stage="t.s", output=tmp_path / "o", data=Data(train=train, select=select))
    sets = read_sets(recipe, STAGE, told.append)
    texts = [e.text for e in told if isinstance(e, Noted)]
    assert "train.jsonl: 1 of 3 rows repeat an earlier one" in texts
    assert any(text.startswith("1 inputs are among training and selection rows") for text in texts)
    assert (len(sets.train), len(sets.select)) == (3, 2)


def test_what_is_to_be_cleaned_goes_from_the_rows_to_train_on_alone(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [row("a"), row("a"), row("b"), row("seen")])
    select = write(tmp_path / "select.jsonl", [row("c"), row("c"), row("seen")])
    held = write(tmp_path / "held.jsonl", [row("SEEN!"), row("new")])
    told: list[Event] = []
    recipe = Recipe(
        stage="t.s",
        output=tmp_path / "o",
        data=Data(train=train, select=select),
        clean=Clean(evaluation=(held,)),
    )
    sets = read_sets(recipe, STAGE, told.append)
    assert [r.number for r in sets.train] == [1, 3] and len(sets.select) == 3
    assert sets.cleaned is not None
    assert [(r.line, r.of) for r in sets.cleaned.repeats] == [(2, 1)]
    assert [(leak.line, leak.path, leak.of) for leak in sets.cleaned.leaks] == [(4, held, 1)]
    assert "train.jsonl: 1 rows repeat an earlier one, 1 give away rows to be scored by; 2 stay" in [
        e.text for e in told if isinstance(e, Noted)
    ]


def test_nothing_left_to_select_by_is_an_error(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [row("a")])
    recipe = Recipe(stage="t.s", output=tmp_path / "o", data=Data(train=train, fraction=0))
    with pytest.raises(TrainError, match="select by"):
        read_sets(recipe, STAGE, lambda event: None)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=8), min_size=2, max_size=40, unique=True), st.data())
def test_a_row_falls_on_the_same_side_whatever_else_there_is(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    some = data.draw(st.lists(st.sampled_from(texts), min_size=1, unique=True))
    options = Data(train=folder / "rows.jsonl", fraction=0.5)

    def selected(chosen: list[str]) -> set[str]:
        rows = read(write(folder / "rows.jsonl", [row(text) for text in chosen]))
        return {r.input.text for r in split(rows, options)[1]}  # type: ignore[attr-defined]

    assert selected(some) == selected(texts) & set(some)


def test_the_split_holds_back_about_the_fraction(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "rows.jsonl", [row(f"text {i}") for i in range(1000)]))
    train, select = split(rows, Data(train=tmp_path, fraction=0.1))
    assert len(train) + len(select) == 1000 and 70 <= len(select) <= 130


def test_a_group_is_never_torn_apart(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "rows.jsonl", [row(f"text {i}", "ABC"[i % 3]) for i in range(90)]))
    train, select = split(rows, Data(train=tmp_path, fraction=0.5, group="output.label"))
    assert not {r.target for r in train} & {r.target for r in select}
    with pytest.raises(TrainError, match="group"):
        split(rows, Data(train=tmp_path, group="output.colour"))


def test_a_larger_subset_holds_the_smaller(tmp_path: Path) -> None:
    rows = list(read(write(tmp_path / "rows.jsonl", [row(f"text {i}") for i in range(50)])).rows)
    small, large = subset(rows, 10, 1), subset(rows, 30, 1)
    assert len(small) == 10 and {r.number for r in small} <= {r.number for r in large}
    assert subset(rows, None, 1) == rows and subset(rows, 10, 2) != small


def test_class_weights_balance(tmp_path: Path) -> None:
    rows = list(read(write(tmp_path / "rows.jsonl", [row("a"), row("b"), row("c"), row("d", "B")])).rows)
    options = Data(train=tmp_path, balance="weights", balance_by="label")
    weights = class_weights(rows, options)
    assert sum(weights) / 4 == pytest.approx(1) and sum(weights[:3]) == pytest.approx(weights[3])
    half = class_weights(rows, options.model_copy(update={"balance_power": 0.5}))
    assert half[3] / half[0] == pytest.approx(3**0.5)
    with pytest.raises(TrainError, match="balance_by"):
        class_weights(rows, options.model_copy(update={"balance_by": "colour"}))

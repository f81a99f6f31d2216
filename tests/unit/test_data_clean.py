"""Cleaning rows: repeats, near repeats and leaks, each named with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fslm_core.data import Row, Rules, clean, clean_file
from fslm_core.data.labels import text_of
from fslm_core.data.leaks import Evaluation, find_leaks, read_evaluation
from fslm_core.data.near import near_form, near_pairs, similarity
from fslm_core.data.repeats import Repeat, find_repeats
from fslm_core.errors import DataError, UsageError


def row(line: int, text: str, label: str = "A") -> Row:
    return Row(line, {"text": text}, {"label": label})


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def plain(texts: list[str]) -> list[dict[str, Any]]:
    return [{"input": {"text": text}, "output": {"label": "A"}} for text in texts]


def test_equal_rows_repeat_the_first() -> None:
    rows = [row(1, "a"), row(2, "b"), row(3, "a"), row(4, "a", "B"), row(5, "a"), row(6, "A")]
    assert find_repeats(rows) == [Repeat(3, 1, 1.0), Repeat(5, 1, 1.0)]


def test_near_rows_repeat_one_that_stays() -> None:
    text = "please cancel my order of yesterday evening"
    rows = [
        row(1, text),
        row(2, text + "s"),
        row(3, "Please, cancel my order of yesterday evening!"),
        row(4, text, "B"),
    ]
    found = find_repeats(rows, near=0.9)
    assert [(r.line, r.of) for r in found] == [(2, 1), (3, 1)]
    assert found[0].similarity == similarity(near_form(text), near_form(text + "s")) < found[1].similarity == 1


def test_values_to_be_copied_keep_rows_apart() -> None:
    rows = [row(1, "where is order 17", "17"), row(2, "where is order 18", "18"), row(3, "where is order 17", "17")]
    assert find_repeats(rows, near=0.9) == [Repeat(3, 1, 1.0)]


@given(st.lists(st.text(alphabet="abc ", max_size=12), max_size=14))
def test_what_stays_is_unlike_and_what_goes_is_like_what_stays(texts: list[str]) -> None:
    rows = [row(n, text) for n, text in enumerate(texts)]
    found = find_repeats(rows, near=0.7)
    gone = {r.line for r in found}
    forms = [near_form(text_of(row)) for row in rows]
    kept = [n for n in range(len(rows)) if n not in gone]
    assert all(similarity(forms[a], forms[b]) < 0.7 for a in kept for b in kept if a < b)
    assert all(r.of in kept and r.of < r.line for r in found)


@given(st.lists(st.text(alphabet="ab ", max_size=10), max_size=12, unique=True))
def test_near_pairs_are_all_pairs(forms: list[str]) -> None:
    found = {(a, b) for a, b, _ in near_pairs(forms, 0.6)}
    places = range(len(forms))
    assert found == {(a, b) for a in places for b in places if a < b and similarity(forms[a], forms[b]) >= 0.6}


QUESTION = "which of these gases do green plants take from the air in sunlight"


@pytest.mark.parametrize(
    ("text", "share"),
    [
        (QUESTION.upper() + "?", 1.0),
        ("a teacher asks: " + QUESTION + ", and waits", 1.0),
        ("which of these gases do green plants take from the air in winter", 5 / 6),
        ("which of these gases do green plants take from the ground", None),
        ("do green plants take", None),
    ],
)
def test_a_row_leaks_by_its_share_of_the_runs(text: str, share: float | None) -> None:
    seen = Evaluation(Path("test.jsonl"), 4, QUESTION)
    found = find_leaks([row(9, text)], [seen]).rows
    assert [(leak.line, leak.of, leak.share) for leak in found] == ([] if share is None else [(9, 4, share)])


def test_a_short_text_leaks_only_as_a_whole() -> None:
    seen = [Evaluation(Path("t"), 1, "Where is order 17?"), Evaluation(Path("t"), 2, "?!")]
    leaks = find_leaks([row(1, "where is order 17"), row(2, "where is order 18"), row(3, "!?")], seen)
    assert [leak.line for leak in leaks.rows] == [1] and leaks.given_away == {Path("t"): 1}


def test_evaluation_rows_are_read_from_any_table(tmp_path: Path) -> None:
    nested = write(tmp_path / "a.jsonl", plain(["one", "two"]))
    flat = tmp_path / "b.csv"
    flat.write_text("question,answer\nwhy,because\n")
    assert [(e.line, e.text) for e in read_evaluation([nested, flat])] == [(1, "one"), (2, "two"), (2, "why\nbecause")]


def test_leaks_go_first_and_do_not_stand_for_others() -> None:
    rows = [row(1, QUESTION), row(2, QUESTION + " now"), row(3, "other")]
    made = clean(rows, Rules(duplicates="near"))
    assert made.kept == (1, 3) and [r.line for r in made.repeats] == [2]


def test_a_file_is_written_as_it_was_but_for_what_goes(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_bytes(
        b'{"output":{"l":1}, "input":{"t":"a"}}\r\n\n{"input":{"t":"a"},"output":{"l":1}}\n'
        b'{"input":{"t":"b"},"output":{"l":1}}'
    )
    made = clean_file(source, tmp_path / "out.jsonl", Rules())
    assert made.kept == (1, 4) and made.plain()["repeats"] == [{"line": 3, "of": 1, "similarity": 1.0}]
    expected = b'{"output":{"l":1}, "input":{"t":"a"}}\n{"input":{"t":"b"},"output":{"l":1}}\n'
    assert (tmp_path / "out.jsonl").read_bytes() == expected
    assert clean_file(tmp_path / "out.jsonl", None, Rules()).repeats == ()


def test_all_evaluation_rows_leaking_is_an_error(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", plain(["a", "b", "c"]))
    held = write(tmp_path / "test.jsonl", plain(["b", "a"]))
    with pytest.raises(DataError, match="every row to be scored by"):
        clean_file(source, tmp_path / "out.jsonl", Rules(evaluation=(held,)))
    assert not (tmp_path / "out.jsonl").exists()


def test_rows_that_are_read_are_never_written_over(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", plain(["a", "a"]))
    with pytest.raises(UsageError, match="in place of"):
        clean_file(source, source, Rules())

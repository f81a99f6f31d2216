"""Drafts of models: whatever the table, every row it was drafted from fits; and every guess has its reason."""

from __future__ import annotations

import csv
import datetime
import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fslm_core.data import Reading, Rejected, read_rows
from fslm_core.errors import DataError, UsageError
from fslm_core.scaffold.draft import Draft, draft
from fslm_core.scaffold.kinds import (
    Day,
    Kind,
    Labels,
    Many,
    Moment,
    Number,
    OneOf,
    Record,
    Text,
    Whole,
    YesNo,
)
from fslm_core.scaffold.source import Model, messages_source
from fslm_core.schema import normalise, schema_id_of, tree_of

Write = Callable[..., Path]


@pytest.fixture
def table(tmp_path: Path) -> Write:
    """Writes a CSV file of a header and rows, or a JSON Lines file of objects."""

    def write(*rows: Any) -> Path:
        if isinstance(rows[0], dict):
            path = tmp_path / "rows.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
            return path
        path = tmp_path / "rows.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
        return path

    return write


def refused(made: Draft) -> list[Rejected]:
    """The rows that the drafted models do not take, those left aside that could not be read."""
    wrong: list[Rejected] = []
    rows = list(read_rows(made.path, made.target, mapping=made.mapping, rejected=wrong.append))
    assert len(rows) + len(wrong) == made.rows + len(made.aside)
    return [row for row in wrong if row.line not in {line for line, _ in made.aside}]


def kind(made: Draft, field: str) -> Kind:
    (found,) = (one.slot.kind for one in made.fields if one.slot.name == field)
    return found


def why(made: Draft, field: str) -> str:
    (found,) = (one.why for one in made.fields if one.slot.name == field)
    return found


TEXTS = [f"message number {n} says something of its own" for n in range(30)]


def labelled(values: list[Any], header: str = "value") -> list[list[Any]]:
    """A table of texts beside these values."""
    return [["text", header], *([TEXTS[n % 30], value] for n, value in enumerate(values))]


# -- every row fits ---------------------------------------------------------------------------------------------------

NAMES = st.text(st.sampled_from("abAB üé_-'\"0123語"), min_size=1, max_size=8)
SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**17), 10**17),
    st.integers(0, 9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(-999, 999, places=2).map(float),
    st.text(max_size=12),
    st.sampled_from(
        ["yes", "no", "a 'b'", 'say "c"', "ü", "語", "2024-05-01", "2024-05-01T09:30:00", "TRUE", "12", "007"]
    ),
)
COLUMN = st.one_of(
    st.lists(SCALAR, min_size=12, max_size=12),
    *(
        st.lists(one, min_size=12, max_size=12)
        for one in (
            st.integers(),
            st.integers(-5, 300),
            st.booleans(),
            st.text(),
            st.sampled_from(["bad", "good", None]),
            st.floats(allow_nan=False, allow_infinity=False) | st.none(),
            st.decimals(-999, 999, places=3).map(float),
            st.dates().map(str) | st.none(),
            st.lists(st.sampled_from(["a", "b", "c"]), max_size=4),
            st.lists(st.integers(0, 99) | st.text(max_size=4), max_size=4),
            st.fixed_dictionaries({"city": st.text(min_size=1, max_size=5), "zip": st.none() | st.integers(0, 9)}),
        )
    ),
)


def drafted(path: Path, **options: Any) -> Draft | None:
    """The draft, or None where what the table holds cannot be drafted, and that was told."""
    try:
        return draft(path, **options)
    except DataError as error:
        assert error.hint
        return None


def holds(made: Draft | None) -> None:
    """All that is promised of a draft."""
    if made is None:
        return
    assert refused(made) == []
    assert made.target.models is not None
    given, said = made.target.models
    normalise(said)
    assert len({one.slot.name for one in made.fields}) == len(made.fields) or made.path.suffix == ".jsonl"
    assert all(one.why for one in made.fields)
    models = [
        Model("Given", "In.", tuple(o.slot for o in made.input)),
        Model("Said", "Out.", tuple(o.slot for o in made.output)),
    ]
    module = ModuleType("drafted_messages")
    sys.modules[module.__name__] = module  # where pydantic looks for what annotations name
    try:
        exec(compile(messages_source(models, "Drafted."), "messages.py", "exec", dont_inherit=True), vars(module))
        assert schema_id_of(module.Said) == schema_id_of(said)
        assert tree_of(module.Given) == tree_of(given)
    finally:
        del sys.modules[module.__name__]


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, COLUMN, max_size=4), st.sampled_from([0, 3]))
def test_rows_of_a_json_lines_file_fit(columns: dict[str, list[Any]], ragged: int) -> None:
    rows = [
        {"the text": TEXTS[n], "the label": "ab"[n % 2], **{name: column[n] for name, column in columns.items()}}
        for n in range(12)
    ]
    for row in rows[:ragged]:
        for name in columns:
            row.pop(name, None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        made = drafted(path)
        assert made is not None
        holds(made)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(NAMES, max_size=4), st.lists(st.lists(SCALAR, min_size=12, max_size=12), min_size=4, max_size=4))
def test_rows_of_a_csv_file_fit(names: list[str], columns: list[list[Any]]) -> None:
    out = io.StringIO()
    lines = csv.writer(out)
    lines.writerow(["the text", "the label", *names])
    for n in range(12):
        lines.writerow([TEXTS[n], "ab"[n % 2], *(columns[place][n] for place in range(len(names)))])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.csv")
        path.write_text(out.getvalue(), "utf-8", newline="")
        made = drafted(path, reading=Reading(delimiter=","))
        if made is None:
            return
        wrong: list[Rejected] = []
        reading = Reading(delimiter=",")
        list(read_rows(path, made.target, mapping=made.mapping, reading=reading, rejected=wrong.append))
        assert {row.line for row in wrong} == {line for line, _ in made.aside}
        assert made.target.models is not None
        normalise(made.target.models[1])


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(["text", "kind", "n"]), COLUMN, min_size=1),
    st.dictionaries(st.sampled_from(["label", "kind", "parts"]), COLUMN, min_size=1),
    st.integers(0, 3),
)
def test_rows_that_are_input_and_output_already_fit(
    given_: dict[str, list[Any]], said: dict[str, list[Any]], ragged: int
) -> None:
    rows = [
        {
            "input": {name: column[n] for name, column in given_.items() if n >= ragged or name == "text"},
            "output": {name: column[n] for name, column in said.items()},
        }
        for n in range(12)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        holds(drafted(path))


# -- what is guessed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (["bad", "good"] * 6, Labels(("bad", "good"), "ValueLabel")),
        (["it's", 'say "hi"', "größer"] * 4, Labels(("größer", "it's", 'say "hi"'), "ValueLabel")),
        (["TRUE", "false"] * 6, YesNo()),
        (["2024-05-01", "2024-06-30"] * 6, Day()),
        (["2024-05-01", "2024-06-30T09:30:00"] * 6, Moment()),
        (["2024-13-01", "2024-06-30"] * 6, Labels(("2024-06-30", "2024-13-01"), "ValueLabel")),
        (["1", "2", "3", "4", "5"] * 4, Whole(1, 5)),
        (["3", "70", "12", "45"] * 3, Whole(0, 200)),
        (["-3", "70"] * 6, Whole(-5, 200)),
        (["1.50", "20.25"] * 6, Number(0, 50, 2)),
        (["007", "008"] * 6, Labels(("007", "008"), "ValueLabel")),
        (["12345678901234567890", "1"] * 6, Labels(("1", "12345678901234567890"), "ValueLabel")),
    ],
)
def test_kinds_of_a_csv_column(table: Write, values: list[str], found: Kind) -> None:
    made = draft(table(*labelled(values)))
    assert kind(made, "value") == found
    assert f"in {len(values)} rows" in why(made, "value")


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([True, False] * 6, YesNo()),
        ([3.0, 70] * 6, Whole(0, 200)),
        ([0.5, 70.125] * 6, Number(0, 200, 3)),
        (["12", "13"] * 6, Labels(("12", "13"), "ValueLabel")),
        ([1, "one"] * 6, Labels(("1", "one"), "ValueLabel")),
        ([["a", "b"], ["a"], []] * 4, Many(Labels(("a", "b"), "ValueLabel"), 3)),
        ([[1, 9]] * 12, Many(Whole(0, 20), 3)),
    ],
)
def test_kinds_of_a_json_lines_column(table: Write, values: list[Any], found: Kind) -> None:
    made = draft(table(*({"text": TEXTS[n], "value": value} for n, value in enumerate(values))))
    assert kind(made, "value") == found and refused(made) == []


def test_objects_become_models_and_missing_values_null(table: Write) -> None:
    rows = [{"text": TEXTS[n], "place": {"city": TEXTS[n][-4:]} | ({"zip": n} if n % 2 else {})} for n in range(12)]
    made = draft(table(*rows))
    found = kind(made, "place")
    assert isinstance(found, Record) and found.name == "Place"
    city, code = found.slots
    assert isinstance(city.kind, Text) and not city.nullable
    assert (code.name, code.nullable, code.optional) == ("zip", True, True)
    assert "null in 6 of 12" in code.comment
    assert refused(made) == []


def test_in_rows_of_input_and_output_a_field_may_have_values_of_several_kinds(table: Write) -> None:
    rows = [{"input": {"text": TEXTS[n]}, "output": {"value": n if n % 2 else f"n{n}"}} for n in range(12)]
    made = draft(table(*rows))
    assert isinstance(kind(made, "value"), OneOf) and refused(made) == []


def test_a_name_that_only_later_rows_have_is_a_nullable_field(table: Write) -> None:
    made = draft(
        table(*({"text": TEXTS[n], "mood": "ab"[n % 2]} | ({"note": "x"} if n > 5 else {}) for n in range(12)))
    )
    (note,) = (one for one in made.output if one.slot.name == "note")
    assert note.slot.nullable and "empty in 6 of 12" in note.why
    assert refused(made) == []


def test_the_input_is_the_longest_text_and_the_rest_the_output(table: Write) -> None:
    made = draft(table(["No", "Mood", "Message"], *([f"X{n}", "ab"[n % 2], TEXTS[n]] for n in range(12))))
    assert [one.slot.name for one in made.input] == ["message"]
    assert [one.slot.name for one in made.output] == ["mood"]
    assert "nothing in the text could tell it" in made.left_out["No"]
    assert made.mapping == {}


def test_a_name_that_stands_in_the_text_is_read_from_it(table: Write) -> None:
    rows = [[f"a letter from {name} about the bill of last month", name] for name in ("Ann", "Bob", "Eve") * 8]
    made = draft(table(["text", "Customer"], *rows))
    assert isinstance(kind(made, "customer"), Text)
    assert "sounds like ids or names" in why(made, "customer") and "24 stand in the text" in why(made, "customer")


def test_many_labels_that_are_copied_from_the_text_are_no_labels(table: Write) -> None:
    goods = [f"item{n:02}" for n in range(30)]
    copied = draft(table(["text", "goods"], *([f"please send me one {item} by tomorrow", item] for item in goods * 3)))
    assert isinstance(kind(copied, "goods"), Text)
    chosen = draft(
        table(["text", "goods"], *([f"please send me what I had, {n}", item] for n, item in enumerate(goods * 3)))
    )
    assert isinstance(kind(chosen, "goods"), Labels)


@pytest.mark.parametrize(("count", "expected"), [(500, Labels), (501, Text)])
def test_five_hundred_labels_are_labels_and_more_are_text(table: Write, count: int, expected: type) -> None:
    made = draft(table(["text", "topic"], *([f"{TEXTS[n % 30]} {n}", f"t{n % count} is it"] for n in range(2 * count))))
    assert isinstance(kind(made, "topic"), expected)
    assert ("more than 500" in why(made, "topic")) == (expected is Text)
    assert made.target.models is not None
    assert normalise(made.target.models[1]).max_bytes < 20_000


def test_one_value_everywhere_is_a_constant_and_said_to_be(table: Write) -> None:
    made = draft(table(*labelled(["same"] * 12)))
    assert kind(made, "value") == Labels(("same",), "ValueLabel") and "nothing to learn" in why(made, "value")


def test_labels_seen_once_are_pointed_at(table: Write) -> None:
    made = draft(table(*labelled(["good"] * 6 + ["bad"] * 5 + ["gud"])))
    assert "1 of them once only: are they spelt right?" in why(made, "value")


def test_an_empty_column_is_left_out_or_refused(table: Write) -> None:
    path = table(["text", "mood", "note"], *([TEXTS[n], "ab"[n % 2], ""] for n in range(12)))
    assert draft(path).left_out == {"note": "it is empty in every row"}
    with pytest.raises(DataError, match="'note' cannot be drafted"):
        draft(path, output=["note"])


def test_empty_cells_make_a_field_nullable(table: Write) -> None:
    made = draft(table(*labelled(["a", "b", ""] * 6)))
    (value,) = made.output
    assert value.slot.nullable and "empty in 6 of 18" in value.why


def test_rows_that_cannot_be_read_are_set_aside_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    body = "".join(f"{text},{'ab'[n % 2]}\n" for n, text in enumerate(TEXTS))
    path.write_text(f"text,mood\n{body}ragged,a,more\n{TEXTS[0]},#N/A\n", "utf-8")
    made = draft(path)
    assert made.rows == 30 and [line for line, _ in made.aside] == [32, 33]
    assert "3 cells" in made.aside[0][1] and "#N/A" in made.aside[1][1]


def test_a_table_without_a_readable_row_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,mood\na\nb\n", "utf-8")
    with pytest.raises(DataError, match="no row of the table can be read"):
        draft(path)
    path.write_text("text,mood\n", "utf-8")
    with pytest.raises(DataError, match="holds no row"):
        draft(path)


def test_columns_are_named_by_whoever_drafts(table: Write) -> None:
    path = table(["Message", "Mood", "Shop"], *([TEXTS[n], "ab"[n % 2], "xy"[n % 2]] for n in range(12)))
    made = draft(path, input=["shop", "Message"], output=["mood"], mapping={"text": "message", "where": "Shop"})
    assert [one.slot.name for one in made.input] == ["where", "text"] and [o.slot.name for o in made.output] == ["mood"]
    assert made.mapping == {"where": "Shop", "text": "Message"} and refused(made) == []
    assert draft(path, output=["Mood"]).left_out == {"Shop": "neither --input nor --output names it"}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"output": ["Mod"]}, "there is no column 'Mod'"),
        ({"input": ["text"], "output": ["text"]}, "a column is named twice"),
        ({"mapping": {"class": "mood"}}, "no field can be called so"),
        ({"mapping": {"Mood": "mood"}}, "no field can be called so"),
        ({"input": ["mood", "text"]}, "no column is left to be the output"),
    ],
)
def test_what_cannot_be_is_told(table: Write, options: dict[str, Any], error: str) -> None:
    path = table(["text", "mood"], *([TEXTS[n], "ab"[n % 2]] for n in range(12)))
    with pytest.raises((DataError, UsageError), match=error):
        draft(path, **options)


def test_two_columns_of_one_name_are_left_out_or_refused(table: Write) -> None:
    path = table(["text", "mood", "tag", "tag"], *([TEXTS[n], "ab"[n % 2], "x", "y"] for n in range(12)))
    assert draft(path).left_out == {"tag": "two columns are called so"}
    with pytest.raises(DataError, match="two columns are called 'tag'"):
        draft(path, output=["tag"])


def test_a_table_without_text_says_what_to_name(table: Write) -> None:
    with pytest.raises(DataError, match="no column holds text"):
        draft(table({"a": 1, "b": 2}, {"a": 3, "b": 4}))


@pytest.mark.parametrize(
    ("output", "error"),
    [
        ({"deep": [[[[[[[["x"]]]]]]]]}, "nested more than"),
        ({"a b": "x"}, "cannot be the name of a field"),
        ({"n": 2**60}, "more than 15 digits"),
        ({"n": None}, "null in every row"),
        ({"n": []}, "empty lists only"),
        ({"n": {}}, "its objects are empty"),
        ({}, "its objects are empty"),
    ],
)
def test_outputs_no_grammar_can_express_are_refused_with_the_reason(table: Write, output: Any, error: str) -> None:
    with pytest.raises(DataError, match=error):
        draft(table(*[{"input": {"text": "some text"}, "output": output}] * 3))


def test_rows_of_input_and_output_name_their_sides_themselves(table: Write) -> None:
    path = table(*[{"input": {"text": "some text"}, "output": {"mood": "a"}}] * 3)
    with pytest.raises(UsageError, match="say themselves"):
        draft(path, output=["mood"])


def test_a_workbook_s_dates_numbers_and_texts(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["Text", "Day", "At", "Count", "Share", "Took"])
    for n in range(12):
        day = datetime.datetime(2024, 5, 1 + n)
        took = datetime.timedelta(minutes=n, seconds=30)
        sheet.append([TEXTS[n], day, day + datetime.timedelta(hours=n % 3), n * 7, n / 8, took])
    book.save(tmp_path / "rows.xlsx")
    made = draft(tmp_path / "rows.xlsx")
    assert [type(kind(made, name)) for name in ("day", "at", "count", "share")] == [Day, Moment, Whole, Number]
    assert refused(made) == []


def test_long_texts_beside_the_input_are_pointed_at(table: Write) -> None:
    rows = [{"text": TEXTS[n], "reply": f"dear {n}, thank you for writing to us, we look into it"} for n in range(12)]
    made = draft(table(*rows))
    assert [one.slot.name for one in made.input] == ["reply"]
    assert made.warnings == ("column 'text' holds texts about as long; if the model shall read it, pass --input",)

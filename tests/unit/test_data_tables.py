"""Tables as people send them: encodings, delimiters, quotes, workbooks, and what is wrong with each, by its place."""

from __future__ import annotations

import builtins
import contextlib
import datetime
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from fslm_core import SLM, Stage
from fslm_core.data import Reading, Rejected, Row, Target, read_rows
from fslm_core.data import workbook as workbook_room
from fslm_core.data.table import AS_FOUND, Broken, open_table
from fslm_core.errors import DataError, MissingExtraError


class Place(BaseModel):
    city: str
    code: str | None = None


class Note(BaseModel):
    text: str
    number: int | None = None
    place: Place | None = None


class Topic(BaseModel):
    topic: Literal["ORDER", "REFUND"]
    urgent: bool = False


NOTE = Target(name="notes", models=(Note, Topic))


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    def write(content: str | bytes, name: str = "t.csv", encoding: str = "utf-8") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return write


@pytest.fixture
def book(tmp_path: Path) -> Callable[..., Path]:
    def write(*rows: list[Any], change: Callable[[Any], None] = lambda sheet: None) -> Path:
        made = openpyxl.Workbook()
        for row in rows:
            made.active.append(row)
        change(made.active)
        made.save(tmp_path / "t.xlsx")
        return tmp_path / "t.xlsx"

    return write


def cells(path: Path, reading: Reading = AS_FOUND) -> list[dict[str, Any]]:
    return [dict(record.cells) for record in open_table(path, reading).records]


def refused(path: Path, reading: Reading = AS_FOUND) -> DataError:
    with pytest.raises(DataError) as caught:
        cells(path, reading)
    assert caught.value.where and caught.value.hint
    return caught.value


# -- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings_are_told_apart(file: Callable[..., Path], encoding: str) -> None:
    assert cells(file("text,topic\ncaf\u00e9,ORDER\n", encoding=encoding)) == [{"text": "caf\u00e9", "topic": "ORDER"}]


def test_a_stray_zero_byte_does_not_make_a_text_utf_16(file: Callable[..., Path]) -> None:
    assert cells(file("text,topic\na\0b,ORDER\n")) == [{"text": "a\0b", "topic": "ORDER"}]


def test_western_text_is_read_and_shown_for_the_user_to_judge(file: Callable[..., Path]) -> None:
    table = open_table(file("text\nthe caf\u00e9 \u2019round the corner\n", encoding="cp1252"))
    assert [record.cells["text"] for record in table.records] == ["the caf\u00e9 \u2019round the corner"]
    assert "cp1252" in table.warnings[0] and "caf\u00e9" in table.warnings[0] and "--encoding" in table.warnings[0]


def test_an_encoding_that_cannot_be_told_is_asked_for(file: Callable[..., Path]) -> None:
    path = file("text\n\u043f\u0440\u0438\u0432\u0435\u0442\n", encoding="cp1251")
    assert "cannot be told" in refused(path).what
    assert cells(path, Reading(encoding="cp1251")) == [{"text": "\u043f\u0440\u0438\u0432\u0435\u0442"}]
    assert "no such text encoding" in refused(path, Reading(encoding="rot13")).what
    assert "is not utf-8" in refused(path, Reading(encoding="utf-8")).what


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_found_although_messages_hold_others(file: Callable[..., Path], delimiter: str) -> None:
    text = "\n".join(delimiter.join(row) for row in (["text", "topic"], ['"a, b; c | d\te, f"', "x"], ['"g"', "y"]))
    assert [row["topic"] for row in cells(file(text))] == ["x", "y"]


def test_a_table_of_one_column_has_no_delimiter(file: Callable[..., Path]) -> None:
    assert cells(file("text\nhello there\nbye\n")) == [{"text": "hello there"}, {"text": "bye"}]


def test_the_wanted_columns_decide_between_delimiters(file: Callable[..., Path]) -> None:
    path = file("a;b,c\n1;2,3\n")
    assert "cannot be told" in refused(path).what
    assert cells(path, Reading(wanted=("b,c",))) == [{"a": "1", "b,c": "2,3"}]
    assert cells(path, Reading(delimiter=",")) == [{"a;b": "1;2", "c": "3"}]
    assert "one character" in refused(path, Reading(delimiter="::")).what


def test_text_stays_text(file: Callable[..., Path]) -> None:
    path = file('text,topic\n 00123 ,1e5\n"two\nlines, ""quoted""",#N/A\n,e\u0301\n')
    assert cells(path) == [
        {"text": "00123", "topic": "1e5"},
        {"text": 'two\nlines, "quoted"', "topic": Broken("it holds the error #N/A")},
        {"text": None, "topic": "\u00e9"},
    ]


def test_lines_are_those_an_editor_shows(file: Callable[..., Path]) -> None:
    path = file('text,topic\n"a\nb\nc",x\n\nd,y\n')
    assert [(record.line, record.blank) for record in open_table(path).records] == [(2, False), (5, True), (6, False)]


def test_ragged_rows_are_told_and_empty_cells_at_the_end_are_not(file: Callable[..., Path]) -> None:
    records = list(open_table(file("a,b\n1,2,\n1\n1,2,3\n")).records)
    assert [record.problem is None for record in records] == [True, False, False]
    assert "1 cell, the header 2" in str(records[1].problem)


@pytest.mark.parametrize("text", ['a,b\n1,2\n"open,3\n4,5\n', 'a,b\n1,2\n"x"y,3\n'])
def test_quotes_that_do_not_balance_name_the_line_where_they_began(file: Callable[..., Path], text: str) -> None:
    error = refused(file(text))
    assert error.where == "t.csv, line 3" and "quotes" in error.what


@pytest.mark.parametrize(("name", "content"), [("t.csv", ""), ("t.csv", "\n\n"), ("t.jsonl", ""), ("t.jsonl", "\n")])
def test_files_without_a_row_are_refused(file: Callable[..., Path], name: str, content: str) -> None:
    refused(file(content, name))


@pytest.mark.parametrize("name", ["t.xls", "t.ods", "t.txt", "t"])
def test_other_endings_are_refused(file: Callable[..., Path], name: str) -> None:
    assert "ending" in refused(file("a,b\n1,2\n", name)).what


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.csv").what


@given(st.binary(max_size=300), st.sampled_from(["t.csv", "t.tsv", "t.jsonl", "t.xlsx"]))
def test_no_bytes_make_a_reader_raise_anything_else(tmp_path_factory: Any, raw: bytes, name: str) -> None:
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(raw)
    with contextlib.suppress(DataError):
        cells(path)


# -- JSON Lines ------------------------------------------------------------------------------------------------------


def test_json_lines_say_what_is_wrong_with_a_line(file: Callable[..., Path]) -> None:
    lines = ['\ufeff{"a": 1}', "", "[1]", '{"a": NaN}', '{"a": 1, "a": 2}', "{", '{"a": "e\u0301"}', "[" * 9999]
    records = list(open_table(file("\n".join(lines), "t.jsonl")).records)
    assert [record.line for record in records if record.problem is None and not record.blank] == [1, 7]
    assert records[6].cells == {"a": "\u00e9"}


def test_rows_that_are_rows_already_are_taken_as_they_are(file: Callable[..., Path]) -> None:
    path = file('{"input": {"text": "a"}, "output": {"topic": "ORDER"}, "row": 7, "cluster": 3}\n', "t.jsonl")
    assert list(read_rows(path)) == [Row(1, {"text": "a"}, {"topic": "ORDER"}, {"row": 7, "cluster": 3})]
    (row,) = read_rows(path, NOTE)
    assert row.input == {"text": "a", "number": None, "place": None} and row.output["urgent"] is False


# -- workbooks -------------------------------------------------------------------------------------------------------


def test_cells_of_a_workbook_keep_their_types(book: Callable[..., Path]) -> None:
    def zeros(sheet: Any) -> None:
        sheet["A2"].number_format = "00000"

    path = book(
        ["id", "when", "n", "yes"],
        [123, datetime.datetime(2024, 5, 1), 2.0, True],
        [" 007 ", None, 0.5, None],
        change=zeros,
    )
    assert cells(path) == [
        {"id": "00123", "when": datetime.datetime(2024, 5, 1), "n": 2, "yes": True},
        {"id": "007", "when": None, "n": 0.5, "yes": None},
    ]


def test_error_cells_and_formulas_that_were_never_computed_are_no_values(book: Callable[..., Path]) -> None:
    def fault(sheet: Any) -> None:
        sheet["A2"] = "#REF!"
        sheet["A2"].data_type = "e"

    first, second = (row["a"] for row in cells(book(["a", "b"], [1, "x"], ["=1+1", "y"], change=fault)))
    assert first == Broken("it holds the error #REF!")
    assert isinstance(second, Broken) and "no stored value" in second.why


def test_long_numbers_are_warned_of(book: Callable[..., Path]) -> None:
    table = open_table(book(["id"], [12345678901234567]))
    assert len(list(table.records)) == 1 and "15 digits" in table.warnings[0]


def test_a_sheet_is_chosen_only_where_there_is_no_other(book: Callable[..., Path]) -> None:
    def more(sheet: Any) -> None:
        sheet.parent.create_sheet("empty")

    assert cells(book(["a"], [1], change=more)) == [{"a": 1}]

    def two(sheet: Any) -> None:
        sheet.parent.create_sheet("other").append(["b"])

    path = book(["a"], [1], change=two)
    assert "several sheets" in refused(path).what
    assert cells(path, Reading(sheet="Sheet")) == [{"a": 1}]
    assert "no sheet 'none'" in refused(path, Reading(sheet="none")).what


def test_what_a_sheet_claims_of_its_size_is_not_believed(book: Callable[..., Path]) -> None:
    path = book(["a"], [1])
    with zipfile.ZipFile(path) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    assert b'ref="A1:A2"' in parts[sheet]
    parts[sheet] = parts[sheet].replace(b'ref="A1:A2"', b'ref="A1:XFD1048576"')
    with zipfile.ZipFile(path, "w") as new:
        for name, raw in parts.items():
            new.writestr(name, raw)
    assert cells(path) == [{"a": 1}]


def test_a_bomb_is_not_unpacked(book: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = book(["a"], ["x" * 1000])
    monkeypatch.setattr(workbook_room, "MOST_BYTES", 1000)
    assert "too large" in refused(path).what


def test_old_and_damaged_workbooks_are_refused(file: Callable[..., Path], book: Callable[..., Path]) -> None:
    assert "old .xls" in str(refused(file(b"\xd0\xcf\x11\xe0" + bytes(600), "t.xlsx")).found)
    whole = book(["a"], [1]).read_bytes()
    for size in (4, len(whole) // 2, len(whole) - 30):
        refused(file(whole[:size], "t.xlsx"))
    with zipfile.ZipFile(file(b"", "t.xlsx"), "w") as archive:
        archive.writestr("xl/workbook.xml", "<nothing/>")
    assert "cannot be read" in refused(Path(str(archive.filename))).what


def test_without_openpyxl_the_extra_is_named(book: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = book(["a"], [1])
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("openpyxl"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError) as caught:
        open_table(path)
    assert "fslm-core[data]" in str(caught.value.hint)


# -- columns and fields ----------------------------------------------------------------------------------------------


def rows(path: Path, mapping: dict[str, str] | None = None, target: Target = NOTE) -> list[Row | Rejected]:
    found: list[Row | Rejected] = []
    found += read_rows(path, target, mapping=mapping, rejected=found.append)
    return sorted(found, key=lambda row: row.line)


def test_columns_fill_fields_by_name_or_by_map(file: Callable[..., Path]) -> None:
    path = file("Customer Message,TOPIC, Place City,Number,left\nhi,ORDER,Bonn,12,x\nho,REFUND,,,y\n")
    first, second = rows(path, {"text": "customer message", "place.city": "Place City"})
    assert isinstance(first, Row) and isinstance(second, Row)
    assert first.input == {"text": "hi", "number": 12, "place": {"city": "Bonn", "code": None}}
    assert first.output == {"topic": "ORDER", "urgent": False} and first.extra == {"left": "x"}
    assert second.input == {"text": "ho", "number": None, "place": None}


def test_numbers_become_text_where_text_is_wanted(book: Callable[..., Path]) -> None:
    (row,) = rows(book(["text", "topic", "urgent"], [12.0, "ORDER", "yes"]))
    assert isinstance(row, Row) and row.input["text"] == "12" and row.output["urgent"] is True


def test_what_does_not_fit_says_line_column_found_and_expected(file: Callable[..., Path]) -> None:
    path = file("text,Label,number\na,ORDR,1\n,ORDER,1\nb,ORDER,one\nc,#N/A,1\n")
    found = rows(path, {"topic": "Label"})
    assert all(isinstance(row, Rejected) for row in found)
    texts = [str(row) for row in found]
    assert texts[0] == "line 2: output.topic (column 'Label'): Input should be 'ORDER' or 'REFUND', not 'ORDR'"
    assert texts[1] == "line 3: input.text: the cell is empty"
    assert "line 4: input.number" in texts[2] and "error #N/A" in texts[3]


def test_without_a_taker_the_first_misfit_raises(file: Callable[..., Path]) -> None:
    with pytest.raises(DataError) as caught:
        list(read_rows(file("text,topic\na,ORDER\nb,x\n"), NOTE))
    assert caught.value.where == "t.csv, line 3"


def test_sensitive_values_are_not_quoted(file: Callable[..., Path]) -> None:
    class Secret(BaseModel):
        topic: Literal["A"] = Field(json_schema_extra={"sensitive": True})

    class Sealed(BaseModel):
        topic: Annotated[Literal["A"], Field(json_schema_extra={"sensitive": True})] | None

    for model in (Secret, Sealed):  # marked as a whole, and marked inside
        (row,) = rows(file("text,topic\na,alice@example.org\n"), target=Target("secret", (Note, model)))
        assert isinstance(row, Rejected) and "alice" not in str(row)


def test_a_stage_narrows_and_bounds_what_an_output_may_be(file: Callable[..., Path]) -> None:
    class Offer(BaseModel):
        text: str
        slots: list[str]

    class Choice(BaseModel):
        slot: str = Field(max_length=5)

    stage = Stage(
        "t.slot", input=Offer, output=Choice, prompt="{{ text }}", model=SLM(base="b"), narrow={"slot": "slots"}
    )
    path = file('text,slots,slot\na,"[""x"", ""y""]",x\nb,"[""x""]",y\nc,x,x\n')
    fits, narrowed, no_list = rows(path, target=Target.of(stage))
    assert isinstance(fits, Row) and fits.input["slots"] == ["x", "y"]
    assert isinstance(narrowed, Rejected) and "'y' is not one of" in narrowed.text
    assert isinstance(no_list, Rejected) and "written as JSON" in no_list.text


@pytest.mark.parametrize(
    ("header", "mapping", "what"),
    [
        ("text,other", {}, "no column fills output.topic"),
        ("text,topic,topic", {}, "two columns are called 'topic'"),
        ("text,Topic,TOPIC", {}, "two columns are called 'Topic'"),
        ("text,topic", {"text": "Txt"}, "no column 'Txt'"),
        ("text,topic", {"txt": "text"}, "names a field that notes does not have"),
    ],
)
def test_columns_that_do_not_suffice_are_refused(
    file: Callable[..., Path], header: str, mapping: dict[str, str], what: str
) -> None:
    with pytest.raises(DataError) as caught:
        rows(file(f"{header}\n{','.join('x' * len(header.split(',')))}\n"), mapping)
    assert what in caught.value.what and caught.value.hint and caught.value.where


def test_a_name_that_only_later_lines_have_is_a_column(file: Callable[..., Path]) -> None:
    path = file('{"text": "a", "topic": "ORDER"}\n{"text": "b", "topic": "REFUND", "number": 7}\n', "t.jsonl")
    assert open_table(path).columns == ("text", "topic", "number")
    assert [row.input["number"] for row in read_rows(path, NOTE)] == [None, 7]

"""The rows of a tuning: what is refused, what is left out, and that no like stands on two sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fslm_core.errors import DataError, TrainError
from fslm_core.tune.recipe import Data
from fslm_core.tune.rows import Rows, cases_of, empty, gather

from ..tuning import Demo, rows, write

STACK = Demo(Path("nowhere")).stack


def gathered(folder: Path, train: list[dict[str, Any]], dev: list[dict[str, Any]] | None = None, **ways: Any) -> Rows:
    write(folder / "rows.jsonl", train)
    if dev is not None:
        write(folder / "dev.jsonl", dev)
        ways["dev"] = folder / "dev.jsonl"
    return gather(STACK, Data(train=folder / "rows.jsonl", **ways), seed=1)


def refused(folder: Path, train: list[dict[str, Any]], dev: list[dict[str, Any]] | None = None, **ways: Any) -> str:
    with pytest.raises(TrainError) as caught:
        gathered(folder, train, dev, **ways)
    return str(caught.value)


def test_rows_are_divided_by_the_seed_and_all_of_them_are_there(tmp_path: Path) -> None:
    found = gathered(tmp_path, rows(40), near=1.0)
    sides = {side: [item.line for item in found.of(side)] for side in ("train", "select", "dev")}  # type: ignore[arg-type]
    assert sorted(line for lines in sides.values() for line in lines) == list(range(1, 41))
    assert (len(sides["dev"]), len(sides["select"])) == (8, 3)
    again = gathered(tmp_path, rows(40), near=1.0)
    assert [item.side for item in again.items] == [item.side for item in found.items]


def test_what_is_nearly_alike_stays_on_one_side(tmp_path: Path) -> None:
    found = gathered(tmp_path, rows(40))  # the words are four, and numbers do not tell rows apart
    sides: dict[str, set[str]] = {}
    for item in found.items:
        sides.setdefault("".join(c for c in item.text if not c.isdigit()), set()).add(item.side)
    assert len(sides) > 3 and all(len(found) == 1 for found in sides.values())


def test_a_group_stays_on_one_side(tmp_path: Path) -> None:
    data = [{**row, "customer": n // 4} for n, row in enumerate(rows(40))]
    found = gathered(tmp_path, data, near=1.0, group="customer")
    sides: dict[int, set[str]] = {}
    for item in found.items:
        sides.setdefault(item.raw["customer"], set()).add(item.side)
    assert all(len(found) == 1 for found in sides.values())
    assert "customers" in refused(tmp_path, data, group="customers")


def test_rows_that_repeat_another_are_left_out(tmp_path: Path) -> None:
    data = rows(24)
    found = gathered(tmp_path, [*data, data[3], data[5]], near=1.0)
    assert (len(found.items), found.dropped) == (24, 2)


@pytest.mark.parametrize(
    ("like", "why"),
    [("table y1", "the same input"), ("  TABLE   Y1 ", "the same input"), ("table y9", "in common")],
)
def test_a_held_out_row_among_the_training_rows_is_named(tmp_path: Path, like: str, why: str) -> None:
    leak = {"input": {"text": like}, "output": {"action": "pay"}}
    other = {"input": {"text": "something else altogether"}, "output": {"action": "pay"}}
    told = refused(tmp_path, rows(24), [other, leak])
    assert "dev.jsonl, line 2" in told and "rows.jsonl, line 2" in told and why in told


def test_a_held_out_row_of_a_training_group_is_named(tmp_path: Path) -> None:
    train = [{**row, "customer": n} for n, row in enumerate(rows(12))]
    held = [{"input": {"text": "quite another text"}, "output": {"action": "pay"}, "customer": 7}]
    told = refused(tmp_path, train, held, group="customer")
    assert "rows.jsonl, line 8" in told and "the same customer" in told
    assert len(gathered(tmp_path, train, held, near=1.0).of("dev")) == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"output": {"action": "sing"}}, "line 4"),
        ({"input": {"words": "x"}}, "line 4"),
        ({"steps": {"topic": {"topic": "WEATHER"}}}, "step topic"),
        ({"steps": {"topik": {"topic": "GOODS"}}}, "topic, reply"),
        ({"steps": {"topic": None}}, "step topic"),
    ],
)
def test_rows_that_fit_no_schema_are_counted_by_line(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    data = rows(12)
    data[3] = {**data[3], **change}
    said = refused(tmp_path, data)
    if change != {"steps": {"topic": None}}:
        assert "1 row cannot be trained on" in said
    assert told in said


def test_what_is_empty_is_no_target() -> None:
    assert empty({"text": " "}) and empty({"a": {"b": ""}}) and empty({})
    assert not empty({"text": "x", "more": ""}) and not empty({"number": 0}) and not empty({"found": []})


def test_a_side_without_rows_is_an_error(tmp_path: Path) -> None:
    assert "no row" in refused(tmp_path, rows(1))
    with pytest.raises(DataError):
        gather(STACK, Data(train=tmp_path / "none.jsonl"), seed=0)


def test_a_message_that_is_filled_in_is_seen(tmp_path: Path) -> None:
    found = gathered(tmp_path, rows(12, topics=False), near=1.0)
    item = found.items[0]
    item.raw["steps"]["topic"] = {"topic": "GOODS"}
    (case,) = cases_of(STACK, [item])
    assert case.steps["topic"] == {"topic": "GOODS"} and case.steps["reply"] == {"action": "ship"}

"""Every row of a table ends in exactly one place, nothing alike is parted, and the same table gives the same bytes."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import BaseModel

from fslm_core.data import Options, Prepared, Target, prepare, read_rows
from fslm_core.data.near import near_form, same_form, similarity
from fslm_core.errors import DataError, UsageError


class Note(BaseModel):
    text: str


class Topic(BaseModel):
    topic: Literal["a", "b", "c"]


TARGET = Target("notes", (Note, Topic))
PLAIN = Target.plain(["text"], ["topic"])
WORDS = ["cancel", "my", "order", "now", "please", "refund", "where", "is", "it", "invoice", "Hello", "7", "8"]


def table(rows: list[tuple[str, str, str]]) -> str:
    made = io.StringIO()
    writer = csv.writer(made)
    writer.writerow(["text", "topic", "who"])
    writer.writerows(rows)
    return made.getvalue()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Prepared]:
    def call(
        rows: list[tuple[str, str, str]] | str, *, target: Target = TARGET, write: bool = True, **kwargs: Any
    ) -> Prepared:
        path = tmp_path / "t.csv"
        path.write_text(rows if isinstance(rows, str) else table(rows), "utf-8", newline="")
        force = kwargs.pop("force", False)
        return prepare(path, tmp_path / "out" if write else None, target=target, options=Options(**kwargs), force=force)

    return call


def many(count: int = 60) -> list[tuple[str, str, str]]:
    """Rows that have nothing in common."""
    return [(f"{chr(97 + n % 26) * 9} {chr(97 + n // 26) * 9}", "abc"[n % 3], "") for n in range(count)]


def folder(prepared: Prepared) -> dict[str, bytes]:
    assert prepared.out is not None
    return {path.name: path.read_bytes() for path in sorted(prepared.out.iterdir())}


ROWS = st.lists(
    st.tuples(
        st.one_of(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), st.text(max_size=5)),
        st.sampled_from(["a", "b", "c", "c", "wrong", ""]),
        st.sampled_from(["", "", "ann", "bob", "cy"]),
    ),
    min_size=1,
    max_size=40,
)


@given(ROWS, st.sampled_from(["keep", "drop", "majority"]), st.sampled_from([0.7, 0.9, 1.0]), st.integers(0, 3))
def test_every_row_ends_in_one_place_and_nothing_alike_is_parted(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], conflicts: Any, near: float, seed: int
) -> None:
    assume(any("".join(row).strip() for row in rows))  # a table of blank rows is refused
    path = tmp_path_factory.mktemp("any") / "t.csv"
    path.write_text(table(rows), "utf-8", errors="replace", newline="")
    options = Options(groups=("who",), conflicts=conflicts, near=near, seed=seed, max_rejected=1.0)
    made = prepare(path, target=TARGET, options=options)

    lines = [row.line for part in made.splits.values() for row in part]
    lines += [row.line for row in (*made.rejected, *made.dropped)]
    counts = made.report["rows"]
    assert len(set(lines)) == len(lines) == counts["read"] - counts["blank"]
    assert counts["read"] == sum(count for name, count in counts.items() if name != "read")

    kept = [(name, row) for name, part in made.splits.items() for row in part]
    homes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name, row in kept:
        homes["who", row.extra["who"] or f"line {row.line}"].add(name)
        homes["text", same_form(row.input["text"])].add(name)
    assert all(len(names) == 1 for names in homes.values())
    for place, (name, row) in enumerate(kept) if near < 1 else ():
        for other_name, other in kept[:place]:
            if name != other_name:
                assert similarity(near_form(row.input["text"]), near_form(other.input["text"])) < near

    assert prepare(path, target=TARGET, options=options).report == made.report


def test_what_is_written_is_what_train_and_eval_read(run: Callable[..., Prepared]) -> None:
    made = run(many())
    assert made.out is not None
    for name, part in made.splits.items():
        path = made.out / f"{name}.jsonl"
        again = list(read_rows(path, TARGET))
        assert [(row.input, row.output, row.extra["row"]) for row in again] == [
            (row.input, row.output, row.line) for row in part
        ]
        lines = path.read_text("utf-8").splitlines()
        assert all(set(json.loads(line)) == {"input", "output", "row", "cluster"} for line in lines)


def test_the_same_table_gives_the_same_bytes_and_another_seed_others(run: Callable[..., Prepared]) -> None:
    first = folder(run(many()))
    assert folder(run(many(), force=True)) == first
    assert folder(run(many(), force=True, seed=1))["test.jsonl"] != first["test.jsonl"]
    report = json.loads(first["report.json"])
    assert sorted(report["sha256"]) == ["dev.jsonl", "test.jsonl", "train.jsonl"]
    assert report["rows"] == {"read": 60, "blank": 0, "rejected": 0, "dropped": 0, "train": 48, "dev": 6, "test": 6}
    assert report["labels"]["topic"]["a"] == {"train": 16, "dev": 2, "test": 2}


def test_rejected_rows_are_written_with_their_cells(run: Callable[..., Prepared]) -> None:
    made = run([*many(), ("last", "x", "ann")])
    (line,) = folder(made)["rejected.jsonl"].splitlines()
    told = json.loads(line)
    assert told["row"] == 62 and told["cells"] == {"text": "last", "topic": "x", "who": "ann"}
    assert made.report["rejected"] == [
        {"field": "output.topic", "column": "topic", "why": told["why"], "rows": 1, "lines": [62]}
    ]
    assert b"| 1 | output.topic | topic |" in folder(made)["report.md"]
    assert f"| train.jsonl | {made.report['sha256']['train.jsonl']} |".encode() in folder(made)["report.md"]


def test_too_many_rejected_rows_are_an_error_that_writes_nothing(run: Callable[..., Prepared], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="6 of 66 rows do not fit"):
        run([*many(), *[("x", "y", "")] * 6])
    assert not (tmp_path / "out").exists()
    assert len(run([*many(), *[("x", "y", "")] * 6], max_rejected=0.1).rejected) == 6


CONTRADICTION = [("Same words", "a", ""), ("same  WORDS", "a", ""), ("same words", "b", "")]
DRAW = [("other thing", "a", ""), ("other thing", "c", "")]


def test_conflicting_labels_are_an_error_until_someone_decides(run: Callable[..., Prepared]) -> None:
    rows = [*many(), *CONTRADICTION, *DRAW]
    with pytest.raises(DataError) as caught:
        run(rows)
    assert "2 inputs have different labels" in caught.value.what
    with pytest.raises(DataError, match="1 input has different labels"):
        run([*many(), *CONTRADICTION])
    assert caught.value.found == "lines 62, 63, 64; lines 65, 66"
    dry = run(rows, write=False)
    assert dry.problem is not None and len(dry.report["conflicts"]["listed"]) == 2


@pytest.mark.parametrize(
    ("handling", "dropped"), [("keep", []), ("drop", [62, 63, 64, 65, 66]), ("majority", [64, 65, 66])]
)
def test_conflicting_labels_are_kept_or_dropped_as_asked(
    run: Callable[..., Prepared], handling: str, dropped: list[int]
) -> None:
    made = run([*many(), *CONTRADICTION, *DRAW], conflicts=handling)
    assert [row.line for row in made.dropped] == dropped
    listed = [json.loads(line) for line in folder(made)["conflicts.jsonl"].splitlines()]
    assert [row["row"] for row in listed if not row["kept"]] == dropped and len(listed) == 5


def test_free_outputs_contradict_only_for_the_very_same_input(run: Callable[..., Prepared]) -> None:
    rows = [(f"{text} {number}", f"{number}x", "") for number, (text, _, _) in enumerate(many())]
    assert run([*rows, ("Order A", "A", ""), ("order a", "a", "")], target=PLAIN).report["conflicts"]["inputs"] == 0
    with pytest.raises(DataError, match="1 input has"):
        run([*rows, ("Order A", "A", ""), ("Order A", "a", "")], target=PLAIN, force=True)


def test_groups_hold_together_what_nothing_else_does(run: Callable[..., Prepared]) -> None:
    rows = [(text, topic, f"customer {n // 3}") for n, (text, topic, _) in enumerate(many())]
    made = run(rows, groups=("WHO",))
    assert made.report["clusters"]["by_group_alone"] == 20
    for part in made.splits.values():
        lines = {row.line - 2 for row in part}
        assert all(set(range(n - n % 3, n - n % 3 + 3)) <= lines for n in lines)
    assert made.report["random_split"]["also_in_train"] > 0


def test_one_cluster_of_everything_is_warned_of_and_refused(run: Callable[..., Prepared]) -> None:
    rows = [(text, topic, "same") for text, topic, _ in many()]
    with pytest.raises(DataError, match="no row is left for dev and test"):
        run(rows, groups=("who",))
    (warning, *_) = run(rows, groups=("who",), write=False).report["warnings"]
    assert "one cluster holds 60 of 60 rows" in warning


def test_rare_labels_are_warned_of(run: Callable[..., Prepared]) -> None:
    rows = [(text, "a", "") for text, _, _ in many()]
    made = run([*rows, ("quite another thing", "b", "")])
    assert "topic: too few rows to be in every split: b" in made.report["warnings"]


def test_plain_fields_are_labels_where_values_are_few(run: Callable[..., Prepared]) -> None:
    assert list(run(many(), target=PLAIN).report["labels"]) == ["topic"]
    rows = [(text, text, "") for text, _, _ in many()]
    assert run(rows, target=PLAIN, force=True).report["labels"] == {}
    assert list(run(rows, target=PLAIN, force=True, targets=("topic",)).report["labels"]) == ["topic"]
    with pytest.raises(DataError, match="no field 'who'"):
        run(rows, target=PLAIN, force=True, targets=("who",))


def test_a_header_alone_is_refused(run: Callable[..., Prepared]) -> None:
    for text in ("text,topic,who\n", "text,topic,who\n,,\n\n"):
        with pytest.raises(DataError, match="no row"):
            run(text)


def test_a_folder_is_replaced_only_with_force_and_only_if_it_is_ours(
    run: Callable[..., Prepared], tmp_path: Path
) -> None:
    run(many())
    with pytest.raises(DataError, match="holds prepared rows already"):
        run(many())
    run(many(30), force=True)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["rows"]["read"] == 30
    (tmp_path / "out" / "report.json").rename(tmp_path / "out" / "mine.txt")
    with pytest.raises(DataError, match="taken by something else"):
        run(many(), force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "t.csv"]


def test_a_failing_write_leaves_what_was_there(
    run: Callable[..., Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = folder(run(many()))
    real = Path.rename

    def full(self: Path, target: Path) -> Path:
        if self.name.startswith(".out-") and "old" not in self.name:
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(DataError, match="No space left"):
        run(many(30), force=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "t.csv"]


@pytest.mark.parametrize("wrong", [{"near": 0.3}, {"conflicts": "x"}, {"max_rejected": 2.0}])
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="out of range"):
        Options(**wrong)


def test_rows_that_json_cannot_hold_are_rejected(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text, "topic": topic}) for text, topic, _ in many()]
    lines += ['{"text": "half \\ud83d", "topic": "a"}', '{"text": 1e999, "topic": "a"}']
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    assert [row.line for row in prepare(path, tmp_path / "out", target=PLAIN).rejected] == [61, 62]

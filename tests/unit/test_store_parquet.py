"""Exports as Parquet: one flat table of messages, one of runs."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fslm_core.errors import MissingExtraError
from fslm_core.store import ContentMode, TraceStore
from fslm_core.store.parquet import MESSAGES, RUNS, runs_beside

from .test_store_exchange import rich

needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="needs the extra fslm-core[parquet]"
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TraceStore]:
    with TraceStore.open(tmp_path / "data" / "trace.db", content="full") as opened:
        for number in range(5):
            rich(opened, f"R{number}", 100.0 + number, f"letter {number}", stack="mail" if number % 2 else "post")
        yield opened


def read(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


@needs_pyarrow
def test_messages_and_runs_are_tables(store: TraceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fslm_core.store.parquet._ROWS_AT_ONCE", 7)
    file = tmp_path / "out" / "week.parquet"
    done = store.export_runs(file)
    assert done.runs == tuple(f"R{number}" for number in range(5))
    assert done.bytes == sum(one.stat().st_size for one in file.parent.iterdir())
    assert sorted(one.name for one in file.parent.iterdir()) == ["week-runs.parquet", "week.parquet"]
    messages, runs = read(file), read(runs_beside(file))
    assert list(messages[0]) == list(MESSAGES) and list(runs[0]) == list(RUNS)
    assert [(row["run"], row["status"], row["seed"], row["error_code"], row["steps"]) for row in runs[:1]] == [
        ("R0", "failed", str(2**70), "store", 3)
    ]
    mine = [row for row in messages if row["run"] == "R3"]
    assert [row["step"] for row in mine] == ["input", "more", "less", "answer", "output"]
    assert [row["status"] for row in mine] == ["ok", "failed", "skipped", "ok", "ok"]
    assert json.loads(mine[0]["content"])["text"] == "letter 3" and mine[0]["stack"] == "mail"
    answer = mine[3]
    assert (answer["prompt_tokens"], answer["output_tokens"], answer["seconds"], answer["attempts"]) == (10, 4, 0.1, 2)
    assert answer["least_confidence"] == 0.1 + 0.2 and json.loads(answer["confidence"]) == {"reply": 0.1 + 0.2}
    assert answer["started"].timestamp() == 5.0 and answer["run_started"].timestamp() == 103.0
    assert len(read(file)) == 25
    store.export_runs(file, stack="nobody")
    assert read(file) == read(runs_beside(file)) == []


@needs_pyarrow
@pytest.mark.parametrize("mode", ["redacted", "none"])
def test_no_table_has_what_a_mode_kept_out(tmp_path: Path, mode: ContentMode) -> None:
    file = tmp_path / "week.parquet"
    with TraceStore.open(tmp_path / "data" / "trace.db", content=mode) as store:
        rich(store, "R1", 1.0)
        store.export_runs(file)
    assert not [row for row in read(file) if "ebedee" in str(row)]
    assert {row["kind"] for row in read(file)} <= {mode, None}


def test_without_pyarrow_the_extra_is_named(store: TraceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fslm_core.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as missing:
        store.export_runs(tmp_path / "week.parquet")
    assert "fslm-core[parquet]" in str(missing.value)
    assert not (tmp_path / "week.parquet").exists()

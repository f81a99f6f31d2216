"""Runs as tables for DuckDB, Polars and whatever else reads Parquet: one of messages, one of runs.

These are flat and for analysis: prompts, attempts and arrays are not in them, and no store takes them in again.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from ..extras import require
from ..stack import INPUT, OUTPUT
from .encode import to_json
from .exporting import Exported, put_private
from .labels import Label
from .rows import StoredContent, StoredNode, StoredRun

_ROWS_AT_ONCE = 5_000
MESSAGES = {
    "run": "string",
    "stack": "string",
    "run_status": "string",
    "run_started": "time",
    "step": "string",
    "index": "int64",
    "status": "string",
    "stage": "string",
    "model": "string",
    "backend": "string",
    "tuned": "bool_",
    "content_id": "string",
    "kind": "string",
    "content": "string",
    "confidence": "string",
    "least_confidence": "float64",
    "attempts": "int64",
    "started": "time",
    "seconds": "float64",
    "prompt_tokens": "int64",
    "output_tokens": "int64",
    "forwards": "int64",
    "label": "string",
    "correction": "string",
    "label_note": "string",
}
"""Columns of the table of messages, and their types."""
RUNS = {
    "run": "string",
    "stack": "string",
    "status": "string",
    "started": "time",
    "ended": "time",
    "seconds": "float64",
    "seed": "string",
    "kind": "string",
    "engine": "string",
    "backend": "string",
    "parent": "string",
    "error_code": "string",
    "error": "string",
    "steps": "int64",
    "prompt_tokens": "int64",
    "output_tokens": "int64",
}
"""Columns of the table of runs, and their types."""
Row = dict[str, Any]


def runs_beside(path: Path) -> Path:
    """Where the table of runs lies: beside that of messages.

    >>> runs_beside(Path("week.parquet")).name
    'week-runs.parquet'
    """
    return path.with_name(f"{path.stem}-runs{path.suffix}")


def write_tables(path: Path, runs: Iterable[StoredRun]) -> Exported:
    """Write the messages of runs to ``path``, and the runs beside it; each file is there whole or not at all.

    Raises:
        MissingExtraError: pyarrow is not installed.
        StoreError: a file cannot be written.
    """
    require(["pyarrow"], extra="parquet", what="writing Parquet")
    told: list[Row] = []

    def messages() -> Iterator[Row]:
        for run in runs:
            told.append(_of_run(run))
            yield from _messages(run)

    put_private(path, _table(MESSAGES, messages()))
    beside = runs_beside(path)
    put_private(beside, _table(RUNS, told))
    return Exported(tuple(row["run"] for row in told), path.stat().st_size + beside.stat().st_size)


def _table(columns: dict[str, str], rows: Iterable[Row]) -> Callable[[IO[bytes]], None]:
    """What writes rows as a table, some thousands at a time."""

    def write(file: IO[bytes]) -> None:
        arrow: Any = importlib.import_module("pyarrow")
        writing: Any = importlib.import_module("pyarrow.parquet")
        types = {"time": arrow.timestamp("us", tz="UTC")}
        schema = arrow.schema([(name, types.get(kind) or getattr(arrow, kind)()) for name, kind in columns.items()])
        with ExitStack() as open_:
            writer = open_.enter_context(writing.ParquetWriter(file, schema, compression="zstd"))
            group: list[Row] = []
            for row in rows:
                group.append(row)
                if len(group) == _ROWS_AT_ONCE:
                    writer.write_table(arrow.Table.from_pylist(group, schema=schema))
                    group = []
            if group:
                writer.write_table(arrow.Table.from_pylist(group, schema=schema))

    return write


def _of_run(run: StoredRun) -> Row:
    row = run.row
    return {
        "run": _text(row.id),
        "stack": _text(row.stack),
        "status": row.status,
        "started": _time(row.started),
        "ended": _time(row.ended),
        "seconds": row.seconds,
        "seed": str(row.seed),
        "kind": row.content,
        "engine": row.engine,
        "backend": row.backend,
        "parent": row.parent,
        "error_code": None if row.error is None else str(row.error.get("code")),
        "error": None if row.error is None else _text(to_json(row.error)),
        "steps": len(run.nodes),
        "prompt_tokens": sum(node.usage.prompt for node in run.nodes),
        "output_tokens": sum(node.usage.output for node in run.nodes),
    }


def _messages(run: StoredRun) -> Iterator[Row]:
    """The run's input, each step, and its output."""
    if run.input is not None:
        yield {**_common(run), "step": INPUT, "status": "ok", **_content(run.input), "started": _time(run.row.started)}
    labels = {label.node: _of_label(label) for label in run.labels.values()}
    yield from ({**_common(run), **_of_node(node), **labels.get(node.id, {})} for node in run.nodes)
    if run.output is not None:
        yield {**_common(run), "step": OUTPUT, "status": "ok", **_content(run.output), "started": _time(run.row.ended)}


def _common(run: StoredRun) -> Row:
    row = run.row
    return {
        "run": _text(row.id),
        "stack": _text(row.stack),
        "run_status": row.status,
        "run_started": _time(row.started),
        "index": 0,
    }


def _of_node(node: StoredNode) -> Row:
    return {
        "step": _text(node.step),
        "index": node.index,
        "status": node.status,
        "stage": node.stage,
        "model": node.model,
        "backend": node.backend,
        "tuned": node.tuned,
        **({} if node.content is None else _content(node.content)),
        "confidence": None if node.confidence is None else to_json(node.confidence),
        "least_confidence": min(node.confidence.values(), default=None) if node.confidence else None,
        "attempts": len(node.attempts),
        "started": _time(node.started),
        "seconds": node.seconds,
        "prompt_tokens": node.usage.prompt,
        "output_tokens": node.usage.output,
        "forwards": node.usage.forwards,
    }


def _of_label(label: Label) -> Row:
    return {
        "label": "right" if label.right else "wrong",
        "correction": None if label.correction is None else _text(to_json(label.correction)),
        "label_note": _text(label.note),
    }


def _content(content: StoredContent) -> Row:
    return {"content_id": content.id, "kind": content.kind, "content": _text(content.json)}


def _text(text: str) -> str:
    """Text that is Unicode: half of a surrogate pair, which a name from elsewhere may hold, is none."""
    return text.encode("utf-8", "replace").decode()


def _time(seconds: float | None) -> int | None:
    """Microseconds."""
    return None if seconds is None else round(seconds * 1_000_000)


__all__ = ["MESSAGES", "RUNS", "runs_beside", "write_tables"]

"""Labelled messages of a trace as training rows: what was right, and what somebody wrote in place of what was wrong.

A row's input is what the step was given then, found out by walking its stack again (:mod:`fslm_core.engine.recall`).
Joined to old rows, these come first as they are. Where a label and an old row answer one input otherwise, the label
stands and the old row is left out: a person looked at that very message. Of two labels of one input the newer stands.

Preference pairs are what R. Rafailov and others, Direct Preference Optimization (NeurIPS 2023) train on, in the
standard format of TRL with an explicit prompt.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TrainError, UsageError
from ..folders import put_files
from ..plugins import PluginHost
from ..settings import default
from ..stack import Stack
from ..stage import Stage
from ..store import Label, TraceStore
from ..store.store import engine_version
from .collecting import Collected, Stacks
from .joining import Joined, Old

SCHEMA = "fslm-labelled/1"
"""Names the layout of the lineage; another layout has another name."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """What became of a stage's labels.

    Attributes:
        rows: in the file, ``old`` of them from before.
        right, corrected: the new ones, by what their label says.
        replaced: lines of the old file that were left out, for a label answers their input otherwise.
        pairs: preference pairs.
        skipped: why labels gave no row, and how many.
        sha256: of the file of rows, hex.
        files: what was written: the rows, their lineage, and the pairs where they were asked for.
    """

    stage: str
    rows: int
    old: int
    right: int
    corrected: int
    replaced: tuple[int, ...]
    pairs: int
    skipped: Mapping[str, int]
    sha256: str
    files: tuple[Path, ...]


def export_training(
    store: TraceStore,
    stage: str,
    out: Path | str,
    *,
    join: Path | str | None = None,
    preferences: Path | str | None = None,
    stack: Stack[Any, Any] | str | None = None,
    host: PluginHost | None = None,
) -> Labelled:
    """Write a stage's labelled messages as rows for ``fslm train``, and beside them where each comes from.

    All files are there whole, readable for their owner alone, or what was there stays. The lineage's name is that of
    the rows with ``.lineage.json`` in place of ``.jsonl``.

    Args:
        join: a file of old rows, which come first.
        preferences: a file for pairs of a correction and what was said in its place.
        stack: only labels in runs of this stack; itself, where no plugin offers it.
        host: where stages and stacks are found; by default the installed plugins.

    Raises:
        UnknownNameError: no such stage or stack.
        UsageError: no message of the stage is labelled, or no label makes a row, or a file's name will not do.
        TrainError: the stage is a tool, an old row does not fit the stage, or a file cannot be read or written.
        StoreError: the trace cannot be read.
    """
    files = _Files.named(out, join, preferences)
    stacks = Stacks(host or PluginHost(default()), stack)
    found = stacks.stage(stage)
    if found.tool is not None:
        raise TrainError(
            "a tool stage has no model to train",
            where=f"stage {found.name}",
            hint="name a stage with a model; `fslm list` shows which have one",
        )
    made = Collected(found, stacks)
    labels = store.labels(stage=found.name, stack=stacks.only)
    if not labels:
        others = sorted({label.stage for label in store.labels() if label.stage})
        raise UsageError(
            "no message of the stage is labelled",
            where=f"stage {found.name}" + (f", stack {stacks.only}" if stacks.only else ""),
            expected="labels; there are some of " + ", ".join(others) if others else "labels; there are none",
            hint="fslm trace label RUN STEP --right, or fslm trace fix RUN STEP --set FIELD=VALUE",
        )
    old = None if files.join is None else Old.read(files.join, found)
    by_run: dict[str, list[Label]] = {}
    for label in labels:
        by_run.setdefault(label.run, []).append(label)
    for run, of_run in by_run.items():
        made.take(store.run(run), of_run)
    if not made.by_input:
        raise UsageError(
            "no label makes a row",
            where=f"stage {found.name}",
            found="; ".join(f"{why} ({count:,})" for why, count in made.counts().items()),
            expected="a message that is right, or a correction, in a run whose input can be told",
            hint="label others; `fslm trace labels --stage STAGE` lists what there is",
        )
    return _written(files, found, made, old)


@dataclass(frozen=True, slots=True)
class _Files:
    rows: Path
    lineage: Path
    join: Path | None
    preferences: Path | None

    @classmethod
    def named(cls, out: Path | str, join: Path | str | None, preferences: Path | str | None) -> _Files:
        """The files, of which none stands in another's place.

        Raises:
            UsageError: one would, or a name does not end as it has to.
        """
        rows = Path(out)
        old, pairs = (None if path is None else Path(path) for path in (join, preferences))
        taken = {path.resolve() for path in (rows, old) if path is not None}
        for path in filter(None, (rows, pairs)):
            if path.suffix != ".jsonl" or (path is pairs and path.resolve() in taken):
                raise UsageError(
                    "the file's name will not do",
                    where="export-training",
                    found=str(path),
                    expected="a name that ends in .jsonl, another for the pairs than for rows",
                    hint="fslm trace export-training STAGE --out rows.jsonl --preferences pairs.jsonl",
                )
        return cls(rows, rows.with_suffix(".lineage.json"), old, pairs)


def _written(files: _Files, stage: Stage[Any, Any], made: Collected, old: Old | None) -> Labelled:
    joined = Joined(made, old)
    pairs = joined.pairs(stage) if files.preferences is not None else {}
    sha256 = hashlib.sha256(joined.text).hexdigest()
    lineage = {
        "schema": SCHEMA,
        "stage": stage.name,
        "made": time.time(),
        "fslm_core": engine_version(),
        "file": {"name": files.rows.name, "sha256": sha256, "rows": joined.rows},
        **joined.lineage(pairs),
    }
    texts = {files.rows: joined.text, files.lineage: json.dumps(lineage, indent=2).encode() + b"\n"}
    if files.preferences is not None:
        texts[files.preferences] = "".join(f"{line}\n" for line in pairs).encode()
    try:
        put_files(texts, private=True)
    except OSError as error:
        raise TrainError(
            f"the rows cannot be written: {error.strerror or error}",
            where=str(files.rows),
            hint="choose another place, or make room there; what was there is as it was",
        ) from None
    right = sum(new.label.right for new in joined.new.values())
    return Labelled(
        stage=stage.name,
        rows=joined.rows,
        old=joined.kept,
        right=right,
        corrected=len(joined.new) - right,
        replaced=tuple(line.number for line in joined.replaced),
        pairs=len(pairs),
        skipped=made.counts(),
        sha256=sha256,
        files=tuple(texts),
    )


__all__ = ["SCHEMA", "Labelled", "export_training"]

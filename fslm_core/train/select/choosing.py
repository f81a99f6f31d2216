"""The rows that a recipe's ``[select]`` leaves to train on."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ...backends.torch.vocabulary import Vocabulary
from ...checkpoints import ResolvedCheckpoint
from ...errors import TrainError
from ...settings import TorchSettings
from ...stage import Stage
from ..encoding import encode_rows
from ..objective import Example
from ..progress import Noted, Progress, silent
from ..recipe import Recipe, Select
from ..rows import Problems, Row, RowSets
from .sampling import drawn, evenly, learnt_alike
from .trajectories import trajectories


@dataclass(frozen=True, slots=True)
class Chosen:
    """The rows that were taken.

    Attributes:
        method: how.
        of: how many there were.
        lines: of the rows that were taken, in order.
        clusters: of each cluster how many rows it has and how many were taken, the largest first.
    """

    method: str
    of: int
    lines: tuple[int, ...]
    clusters: tuple[tuple[int, int], ...] = ()

    @property
    def sha256(self) -> str:
        """Of the lines, hex: names the choice."""
        return hashlib.sha256(json.dumps(self.lines).encode()).hexdigest()

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        clusters = [{"rows": rows, "taken": taken} for rows, taken in self.clusters]
        return {"method": self.method, "of": self.of, "lines": list(self.lines), "clusters": clusters}


def choose(
    recipe: Recipe,
    stage: Stage[BaseModel, BaseModel],
    data: RowSets,
    checkpoint: ResolvedCheckpoint,
    folder: Path,
    *,
    resume: bool,
    settings: TorchSettings,
    progress: Progress,
) -> tuple[RowSets, Chosen | None]:
    """The rows to train on as the recipe's ``[select]`` has them; without that section, all.

    Args:
        folder: for the reference run.
        resume: go on with a reference run that was stopped.

    Raises:
        TrainError: nothing would be left, rows that do not fit the stage, or a loss that is not a number.
        TrainInterrupted: Ctrl-C in the reference run.
        MissingExtraError: ``s2l`` without scikit-learn.
    """
    select = recipe.select
    if select is None:
        return data, None
    size = _size(select, len(data.train))
    clusters: list[int] = []
    if select.method == "random":
        places = drawn(len(data.train), size, select.seed)
    else:
        examples = _examples(data, stage, checkpoint)
        losses = trajectories(
            examples,
            recipe,
            select,
            checkpoint.path,
            folder,
            key=_key(examples, checkpoint),
            resume=resume,
            settings=settings,
            progress=progress,
        )
        clusters = learnt_alike(losses, select.clusters, select.seed)
        places = evenly(clusters, size, select.seed)
    kept = [data.train[place] for place in places]
    chosen = Chosen(select.method, len(data.train), _lines(kept), _counts(clusters, places))
    progress(Noted(f"{len(kept):,} of {len(data.train):,} rows are trained on, selected by {select.method}"))
    return replace(data, train=kept, chosen=chosen.sha256), chosen


def _size(select: Select, rows: int) -> int:
    """How many rows to take.

    Raises:
        TrainError: none.
    """
    size = select.rows if select.rows is not None else round((select.share or 0) * rows)
    if size < 1:
        raise TrainError(
            "the selection would hold no row",
            where="recipe, select.share",
            found=f"{select.share} of {rows:,} rows",
            hint="give a larger share, or select.rows",
        )
    return min(size, rows)


def _examples(data: RowSets, stage: Stage[Any, Any], checkpoint: ResolvedCheckpoint) -> list[Example]:
    problems = Problems()
    pairs = encode_rows(data.train, stage, Vocabulary(checkpoint.path), data.files[0].path, problems, silent)
    problems.refuse()
    return [Example(prompt, target) for prompt, target in pairs]


def _key(examples: Sequence[Example], checkpoint: ResolvedCheckpoint) -> str:
    text = json.dumps([(example.prompt, example.target) for example in examples])
    return f"{checkpoint.sha256} {hashlib.sha256(text.encode()).hexdigest()}"


def _lines(rows: Sequence[Row]) -> tuple[int, ...]:
    return tuple(row.number for row in rows)


def _counts(clusters: Sequence[int], places: Sequence[int]) -> tuple[tuple[int, int], ...]:
    taken = Counter(clusters[place] for place in places) if clusters else Counter()
    return tuple((rows, taken[cluster]) for cluster, rows in Counter(clusters).most_common())


__all__ = ["Chosen", "choose"]

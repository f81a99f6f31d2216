"""``fslm.json``: what an adapter was trained with."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..adapter import AdapterInfo, AdapterRecord
from ..checkpoints import ResolvedCheckpoint
from ..schema import schema_id_of
from ..stage import Stage
from .distill import Teacher
from .loop import State
from .recipe import Recipe
from .rows import RowSets
from .select import Chosen


def make_record(
    recipe: Recipe,
    root: Path,
    stage: Stage[BaseModel, BaseModel],
    base: str,
    checkpoint: ResolvedCheckpoint,
    start: AdapterInfo | None,
    teacher: Teacher | None,
    state: State,
    data: RowSets,
    chosen: Chosen | None,
    facts: Mapping[str, Any],
) -> AdapterRecord:
    """Gather all that one should know of a finished run.

    Args:
        root: the recipe's folder; paths below it are recorded relative to it.
        base: the checkpoint as the stage names it.
        start: the adapter that training began with, if any.
        teacher: who taught, if anyone did.
        chosen: what was taken of the rows, if not all.
        facts: what else is to be told of the training.
    """
    known = checkpoint.checkpoint
    best = state.best or 0
    training: dict[str, Any] = {
        "rank": recipe.lora.rank,
        "rows": len(data.train),
        "selection_rows": len(data.select),
        "epochs": recipe.epochs,
        "best_epoch": best + 1,
        "steps": state.step,
        "seed": recipe.seed,
        "seconds": round(state.seconds, 1),
        "tokens_per_second": round(state.tokens / max(state.seconds, 1e-9), 1),
        **({} if start is None else {"started_from": start.sha256}),
        "at": time.strftime("%Y-%m-%d", time.gmtime()),
        **{name: version(name) for name in ("torch", "transformers", "peft")},
    }
    if (cleaned := data.cleaned) is not None:
        training |= {
            "repeats_left_out": len(cleaned.repeats),
            "leaks_left_out": len(cleaned.leaks),
        }
    if chosen is not None:
        training |= {"selected_by": chosen.method, "selected_of": chosen.of, "selected_sha256": chosen.sha256}
    licences = {base: known.licence}
    if teacher is not None and recipe.distill is not None:
        training |= teacher.facts(recipe.distill)
        if teacher.checkpoint.sha256 != checkpoint.sha256:
            licences[teacher.name] = teacher.checkpoint.checkpoint.licence
    training |= facts
    return AdapterRecord(
        stage=stage.name,
        base=base,
        base_sha256=checkpoint.sha256,
        template=hashlib.sha256(stage.template.source.encode()).hexdigest(),
        input_schema=schema_id_of(stage.input),
        output_schema=stage.schema.id,
        data_sha256=data.files[0].sha256,
        recipe=recipe.plain(root),
        languages=list(recipe.languages or known.languages),
        licences={**licences, **recipe.licences},
        scores={name: round(value, 6) for name, value in state.scores[best].items()},
        base_title=known.title,
        select_sha256=data.files[-1].sha256,
        seed=recipe.seed,
        template_source=stage.template.source,
        epoch_scores=state.scores,
        training=training,
    )


__all__ = ["make_record"]

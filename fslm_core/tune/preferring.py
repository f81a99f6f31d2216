"""Rounds of preference tuning: a stage's right answers to its training rows stand against its wrong ones.

As Orca-Math goes on after supervised training (A. Mitra and others, 2024, arXiv 2402.14830): answers are drawn from the
stage as it is, paired by whether they are right, and its adapter is trained further on the pairs by DPO; then again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel

from .. import extras
from ..checkpoints import resolve
from ..message import digest
from ..plugins import PluginHost
from ..schema import canonical, dumps, plain_data
from ..settings import Settings
from ..train import Recipe, Working
from ..train.recipe import Preference
from ..train.rows import Row, checked
from .progress import Progress
from .recipe import Preferring
from .units import Unit


def require_extra() -> None:
    """Make sure that what preference tuning needs is installed.

    Raises:
        MissingExtraError: it is not.
    """
    from ..train.prefer import PACKAGES

    extras.require(PACKAGES, extra="prefer", what="preference tuning")


def recipe_of(recipe: Recipe, way: Preferring, folder: Path, before: Path) -> Recipe:
    """How a stage's adapter is trained further.

    Args:
        recipe: by which it was trained before.
        folder: of the round; pairs and adapter lie in it.
        before: the adapter as it is.
    """
    preference = Preference(
        pairs=folder / "pairs.jsonl",
        adapter=before,
        output=folder / "adapter",
        beta=way.beta,
        loss=way.loss,
        lr=way.lr,
        epochs=way.epochs,
    )
    lora = recipe.lora.model_copy(update={"start": None})
    none = dict.fromkeys(("clean", "select", "continued", "distill"))  # what supervised training alone does
    return recipe.model_copy(update={"output": before, "lora": lora, "preference": preference, **none})


def key_of(unit: Unit, recipe: Recipe, way: Preferring, start: str, files: Sequence[str]) -> str:
    """Names all that a stage's pairs and what is trained on them depend on; paths are not of it.

    Args:
        start: the adapter's identity.
        files: the hashes of its rows.
    """
    plain = recipe.model_dump_json(
        exclude={"output": True, "data": {"train", "select"}, "preference": True, "distill": True}
    )
    of_stage = unit.stage.template.source, unit.stage.schema.id
    return digest(plain, way.model_dump_json(exclude={"rounds"}), start, *files, *of_stage)


def draw(
    unit: Unit,
    recipe: Recipe,
    way: Preferring,
    *,
    adapter: Path,
    seed: int,
    settings: Settings,
    host: PluginHost,
    progress: Progress,
) -> int:
    """Draw a stage's answers to some of its training rows, and write the pairs where its recipe says.

    Returns:
        How many pairs there are.
    """
    from ..train.pairs import write_pairs
    from ..train.prefer import sample_pairs

    assert unit.stage.model is not None and recipe.preference is not None
    lines = recipe.data.train.read_bytes().splitlines()
    chosen = random.Random(seed).sample(range(len(lines)), min(way.rows, len(lines)))
    rows = [checked(json.loads(lines[place]), place + 1, unit.stage) for place in sorted(chosen)]
    pairs = sample_pairs(
        unit.stage,
        [row for row in rows if isinstance(row, Row)],
        resolve(unit.stage.model.base, settings, extra=host.checkpoints),
        adapter,
        samples=way.samples,
        most=way.pairs,
        temperature=way.temperature,
        seed=seed,
        accepts=_accepts(recipe),
        settings=settings.torch,
        told=lambda done, total: progress(Working(f"answers of {unit.name}", done, total)),
    )
    write_pairs(recipe.preference.pairs, pairs, unit.stage)
    return len(pairs)


def _accepts(recipe: Recipe) -> Callable[[Row, BaseModel], bool]:
    """An answer is right if it equals gold in the fields that the recipe scores by, or else in all of them."""
    fields = recipe.task_score.fields

    def right(row: Row, answer: BaseModel) -> bool:
        if not fields:
            return canonical(answer) == row.target
        given, gold = plain_data(answer), plain_data(row.output)
        return all(dumps(given[name]) == dumps(gold[name]) for name in fields)

    return right


__all__ = ["draw", "key_of", "recipe_of", "require_extra"]

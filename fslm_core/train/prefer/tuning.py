"""The middle of a preference run: from an adapter and checked pairs to the best epoch's tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from safetensors.torch import load_file

from ... import extras
from ...adapter import AdapterInfo, inspect
from ...backends.torch.vocabulary import Vocabulary
from ...checkpoints import ResolvedCheckpoint
from ...errors import AdapterError, TrainError
from ...settings import TorchSettings
from ...stage import Stage
from ..encoding import encode_rows
from ..judge import judge
from ..loop import BEST, State
from ..model import as_shipped, load_base, load_lora
from ..pairs import EXPECTED, Pairs, read_pairs
from ..plan import make_plan
from ..progress import Noted, Progress
from ..recipe import Preference, Recipe
from ..rows import Problems, RowSets
from ..tuning import Tuned, prepare_folder, recipe_digest, set_threads, telling_scores

PACKAGES = ("trl", "datasets")


def prefer(
    recipe: Recipe,
    stage: Stage[BaseModel, BaseModel],
    data: RowSets,
    checkpoint: ResolvedCheckpoint,
    work: Path,
    resume: bool,
    settings: TorchSettings,
    progress: Progress,
) -> Tuned:
    """Train the recipe's adapter on to the end by its ``[preference]``.

    Args:
        data: its selection rows score each epoch.
        work: for checkpoints, logs and the best tensors; emptied unless a run is resumed.

    Raises:
        TrainError: pairs that do not fit, no adapter to start from, a loss that is not a number, or a checkpoint of
            another recipe.
        TrainInterrupted: Ctrl-C.
        MissingExtraError: TRL is not installed.
    """
    preference = recipe.preference
    assert preference is not None
    extras.require(PACKAGES, extra="prefer", what="preference tuning")
    pairs = read_pairs(preference.pairs, stage)
    start = _start(preference.adapter or recipe.output, stage)
    vocabulary = Vocabulary(checkpoint.path)
    tokens = _encoded(pairs, stage, vocabulary, progress)
    prompts = _prompts(data, stage, vocabulary, progress)
    from .dpo import Policy, PreferenceRun, Tokens  # imports TRL

    lengths = [len(prompt) + max(len(chosen), len(rejected)) for prompt, chosen, rejected in tokens]
    recipe = _of_preference(recipe, preference)
    plan = make_plan(
        lengths,
        epochs=recipe.epochs,
        seed=recipe.seed,
        rows=recipe.optim.batch_rows,
        tokens=recipe.optim.batch_tokens,
    )
    digest = recipe_digest(recipe, stage, data, checkpoint, pairs.sha256, start.identity)
    found = prepare_folder(work, digest, resume, progress)
    state = found[1] if found else State(digest)
    if found:
        progress(Noted(f"going on at step {state.step} of {len(plan.batches)}"))
    set_threads(settings)
    base = load_base(checkpoint.path, settings)
    model = load_lora(base, start.path)

    def score() -> dict[str, float]:
        with as_shipped(model):
            return judge(
                base, vocabulary, stage, data.select, prompts, recipe.task_score, told=telling_scores(progress)
            )

    PreferenceRun(
        [Tokens(*each) for each in tokens],
        preference,
        vocabulary.tokenizer,
        objective=Policy(model),
        plan=plan,
        recipe=recipe,
        state=state,
        folder=work,
        judge=score,
        lengths=lengths,
        progress=progress,
    ).train(found[0] if found else None)
    facts = {
        "rank": start.rank,
        "pairs": len(pairs.pairs),
        "pairs_sha256": pairs.sha256,
        "reference_sha256": start.sha256,
        "beta": preference.beta,
        "loss": preference.loss,
        "epochs": recipe.epochs,
    }
    return Tuned(model, load_file(work / BEST), state, facts)


def _of_preference(recipe: Recipe, preference: Preference) -> Recipe:
    optim = recipe.optim.model_copy(update={"lr": preference.lr})
    return recipe.model_copy(update={"epochs": preference.epochs, "optim": optim})


def _start(folder: Path, stage: Stage[Any, Any]) -> AdapterInfo:
    """The adapter to start from.

    Raises:
        TrainError: there is none, or it is another stage's.
    """
    try:
        found = inspect(folder)
    except AdapterError as error:
        raise TrainError(
            "there is no adapter to start from",
            where="recipe, preference.adapter",
            found=f"{folder}: {error.what}",
            hint="train one first by the same recipe without preferences, or name another folder",
        ) from None
    if found.record is not None and found.record.stage != stage.name:
        raise TrainError(
            "the adapter to start from is another stage's",
            where="recipe, preference.adapter",
            found=found.record.stage,
            expected=stage.name,
            hint="name the folder of an adapter for this stage",
        )
    return found


def _encoded(
    pairs: Pairs, stage: Stage[Any, Any], vocabulary: Vocabulary, progress: Progress
) -> list[tuple[Any, Any, Any]]:
    """Each pair's prompt, better answer and worse answer as token ids."""
    problems = Problems()
    better = [pair.row for pair in pairs.pairs]
    worse = [replace(pair.row, target=pair.rejected) for pair in pairs.pairs]
    chosen, rejected = (
        encode_rows(rows, stage, vocabulary, pairs.path, problems, progress) for rows in (better, worse)
    )
    problems.refuse(where=str(pairs.path), expected=EXPECTED)
    return [(prompt, one, other) for (prompt, one), (_, other) in zip(chosen, rejected, strict=True)]


def _prompts(data: RowSets, stage: Stage[Any, Any], vocabulary: Vocabulary, progress: Progress) -> Sequence[Any]:
    problems = Problems()
    found = encode_rows(data.select, stage, vocabulary, data.files[-1].path, problems, progress)
    problems.refuse()
    return [prompt for prompt, _ in found]


__all__ = ["prefer"]

"""TRL's ``DPOTrainer`` within our loop: our token ids, our order of batches, our checkpoints; the loss is TRL's.

R. Rafailov and others, Direct Preference Optimization: Your Language Model is Secretly a Reward Model (NeurIPS 2023).
The reference is a frozen copy of the adapter as it was at the start, beside the one that is trained.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from trl import DPOConfig, DPOTrainer  # type: ignore[attr-defined]
from trl.trainer.dpo_trainer import DataCollatorForPreference

from ...backends.torch.encoding import Ids
from ..loop import Run, finite
from ..recipe import Preference


@dataclass(frozen=True, slots=True)
class Tokens:
    """A pair as token ids; both answers end with the end token."""

    prompt: Ids
    chosen: Ids
    rejected: Ids


@dataclass(frozen=True, slots=True)
class Policy:
    """The PEFT model that is trained."""

    model: Any

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        weight: torch.Tensor = next(self.model.parameters())
        return weight.device


class _Trainer(DPOTrainer):
    """TRL's trainer on batches of pairs that are token ids already."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.last_loss = 0.0

    def compute_loss(self, *arguments: Any, **more: Any) -> Any:
        loss = super().compute_loss(*arguments, **more)  # type: ignore[no-untyped-call]
        self.last_loss = finite(loss)
        return loss

    def last(self, name: str) -> float:
        """The newest value of a figure that TRL keeps; older ones are forgotten."""
        values = self._metrics["train"].pop(name)
        return float(values[-1])

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(cast(Dataset, self.train_dataset))

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none: the adapter's folder has its own."""


class PreferenceRun(Run):
    """A run whose loss is that of preferences."""

    def __init__(self, pairs: Sequence[Tokens], preference: Preference, tokenizer: Any, **more: Any) -> None:
        super().__init__(figures=self._told, **more)
        self._pairs = pairs
        self._preference = preference
        self._tokenizer = tokenizer
        self._trainer: _Trainer | None = None

    def train(self, checkpoint: Path | None) -> None:
        """Train to the end, as any run does; TRL calls transformers by old names, of which nothing is said."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            super().train(checkpoint)

    def make_trainer(self, callbacks: list[Any]) -> Any:
        """The trainer over the plan's batches."""
        pad = self._tokenizer.pad_token_id
        collate = DataCollatorForPreference(pad_token_id=0 if pad is None else pad)

        def batch(chosen: list[dict[str, list[int]]]) -> Any:
            pairs = [self._pairs[place] for place in chosen[0]["pairs"]]
            return collate(
                [
                    {
                        "prompt_ids": list(pair.prompt),
                        "chosen_ids": list(pair.chosen),
                        "rejected_ids": list(pair.rejected),
                    }
                    for pair in pairs
                ]
            )

        half = self.objective.model.get_base_model().dtype == torch.bfloat16
        self._trainer = _Trainer(
            model=self.objective.model,
            args=DPOConfig(
                **self.settings(),
                beta=self._preference.beta,
                loss_type=[self._preference.loss],
                bf16=half,
                gradient_checkpointing=False,
            ),
            data_collator=batch,
            train_dataset=Dataset.from_list([{"pairs": list(pairs)} for pairs in self.plan.batches]),
            processing_class=self._tokenizer,
            callbacks=callbacks,
        )
        return self._trainer

    def _told(self) -> dict[str, float]:
        """The share of a step's pairs that the policy has right, and by how much."""
        assert self._trainer is not None
        names = {"accuracy": "rewards/accuracies", "margin": "rewards/margins"}
        return {name: self._trainer.last(key) for name, key in names.items()}


__all__ = ["Policy", "PreferenceRun", "Tokens"]

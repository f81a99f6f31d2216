"""A training recipe: one TOML file that says all there is to say about how an adapter came to be.

Paths in it are relative to the recipe. ``--set data.train=/my/rows.jsonl`` overrides any key; a path given that
way is relative to the current folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..data.cleaning import Duplicates
from ..data.leaks import OVERLAP, WORDS
from ..settings import no_nul
from .reading import Paths, read_toml

Fraction = Annotated[float, Field(ge=0, lt=1)]
_PATHS: Paths = (
    ("data", "train"),
    ("data", "select"),
    ("lora", "start"),
    ("clean", "evaluation"),
    ("continued", "run"),
    *(("preference", name) for name in ("pairs", "adapter", "output")),
    ("distill", "base"),
    ("distill", "adapter"),
    ("output",),
)
"""Keys that hold a path, or a list of paths."""
_LARGEST_RANK = 8


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    _paths = field_validator("*")(no_nul)


class Data(_Section):
    """Where rows come from. ``select`` names a file of its own; without it a fixed fraction of ``train`` is held back.

    Rows that agree in ``group`` (a dotted path such as ``input.text``) are never torn apart by the split; by
    default it is the whole input.
    """

    train: Path
    """JSONL, one `{"input": {…}, "output": {…}}` a line."""
    select: Path | None = None
    """Selection rows of the same form; None holds back a part of `train`."""
    fraction: Fraction = 0.1
    """How large that part is. Which rows fall into it depends on the rows alone, not on their order or the seed."""
    group: str | None = None
    """Rows that agree here stay on one side of the split, such as `input.customer`."""
    max_rows: int | None = Field(default=None, ge=1)
    """Train on at most this many rows, drawn by the seed after the split."""
    select_rows: int | None = Field(default=None, ge=1)
    """Score each epoch on at most this many selection rows, drawn by their hash."""
    balance: Literal["none", "sampling", "weights"] = "none"
    """`sampling` draws rows so that the values of `balance_by` occur equally often, `weights` weighs their losses."""
    balance_by: str | None = None
    """An output field."""
    balance_power: Annotated[float, Field(gt=0, le=1)] = 1.0
    """1 balances fully; 0.5 goes half way (by the square root of the counts)."""

    @model_validator(mode="after")
    def _names_a_field(self) -> Data:
        if (self.balance == "none") != (self.balance_by is None):
            raise ValueError("balance and balance_by belong together: name the output field to balance by")
        return self


class Clean(_Section):
    """What goes from the rows to train on; without this section, nothing. `fslm data clean` tells what would go."""

    duplicates: Duplicates = "equal"
    """`equal` rows, or rows `near` an earlier one with the same output; `keep` keeps all."""
    near: float = Field(default=0.9, ge=0.5, le=1)
    """The least similarity of inputs that are near each other."""
    evaluation: tuple[Path, ...] = ()
    """Files of rows to be scored by; training rows that give one away go."""
    words: int = Field(default=WORDS, ge=2)
    """How many words make a run."""
    overlap: float = Field(default=OVERLAP, gt=0, le=1)
    """The share of an evaluation row's runs that gives it away when they are in one training row."""


class Select(_Section):
    """Trains on a part of the rows: `s2l` takes it evenly from clusters of rows that a short reference run learns
    alike, `random` by chance. Not to be confused with `data.select`, the rows an epoch is scored on.
    """

    method: Literal["s2l", "random"] = "s2l"
    """`s2l` needs scikit-learn, which comes with `fslm-core[eval]`."""
    share: float | None = Field(default=None, ge=0, le=1)
    """How large the part is."""
    rows: int | None = Field(default=None, ge=1)
    """How many rows it has, in place of `share`; all where there are fewer."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Decides the reference run, the clusters and the draw."""
    clusters: int = Field(default=100, ge=1)
    """Into how many clusters trajectories fall."""
    moments: int = Field(default=6, ge=1)
    """At how many moments of the reference run each row's loss is taken."""
    epochs: int = Field(default=2, ge=1)
    """Of the reference run."""
    layers: int = Field(default=4, ge=1)
    """The reference adapts so many of the topmost layers."""
    rank: int = Field(default=4, ge=1, le=_LARGEST_RANK)
    """Of the reference's adapter."""
    lr: float | None = Field(default=None, gt=0)
    """Of the reference run; None takes that of `optim`."""

    @model_validator(mode="after")
    def _says_how_much(self) -> Select:
        if (self.share is None) == (self.rows is None):
            raise ValueError("say how much to select: share or rows, one of them")
        return self


class Dpo(_Section):
    """How direct preference optimisation trains."""

    beta: float = Field(default=0.1, gt=0)
    """How dear it is to go away from the reference."""
    loss: Literal["sigmoid", "hinge", "ipo", "robust", "apo_zero", "apo_down"] = "sigmoid"
    """As TRL calls them; `sigmoid` is DPO itself."""
    lr: float = Field(default=5e-5, gt=0)
    """The highest learning rate."""
    epochs: int = Field(default=1, ge=1)
    """How often every pair is seen."""


class Preference(Dpo):
    """Trains an adapter further by direct preference optimisation (DPO); `optim` holds but for its `lr`.

    The reference is the adapter that it starts from. The selection rows of `data` score each epoch, as before.
    """

    pairs: Path
    """JSONL, `{"stage": …, "input": {…}, "chosen": …, "rejected": …}` a line, as `--preferences` names it."""
    adapter: Path | None = None
    """The adapter to start from; None takes what this recipe made without preferences, in `output`."""
    output: Path | None = None
    """The folder to write; None writes beside `output`, with `-preferred` at the end of its name."""


class Distill(_Section):
    """Has the stage learn a teacher's probabilities of every target token, beside the targets themselves or alone.

    The loss of a token is `(1 - weight) · cross-entropy + weight · temperature² · D`, where D is the divergence of the
    student's probabilities Q from the teacher's P, both of logits divided by `temperature`. Not with `preference`.
    """

    base: str | None = None
    """The teacher's checkpoint, by name or folder, with the tokenizer of the stage's; None takes the stage's base."""
    adapter: Path | None = None
    """The teacher's adapter; None takes the checkpoint as it is."""
    weight: float = Field(default=0.5, gt=0, le=1)
    """The share of the divergence; at 1 the rows' targets only say where the teacher is asked."""
    temperature: float = Field(default=1.0, gt=0, le=100)
    """Above 1, what the teacher thinks unlikely counts for more."""
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    """`forward_kl` is KL(P‖Q), `reverse_kl` KL(Q‖P), `jsd` is GKD's β · KL(P‖M) + (1-β) · KL(Q‖M), where
    M = β · P + (1-β) · Q."""
    beta: float | None = Field(default=None, ge=0.01, le=0.99)
    """β of `jsd`, where None is 0.5; near 0 it acts as β · `forward_kl`, near 1 as (1-β) · `reverse_kl`."""

    @model_validator(mode="after")
    def _fits(self) -> Distill:
        if self.base is None and self.adapter is None:
            raise ValueError("say who teaches: base, adapter, or both")
        if self.beta is not None and self.divergence != "jsd":
            raise ValueError('beta belongs to divergence = "jsd"')
        return self

    @property
    def mixed(self) -> float:
        """The teacher's share of ``jsd``'s mixture."""
        return 0.5 if self.beta is None else self.beta


class Continued(_Section):
    """Goes on from the end of another run's stable phase (`optim.schedule = "wsd"`), with other rows.

    Weights and AdamW's moments are those of that moment; the rate stays at its highest, without a warm-up, and falls in
    the last share `optim.decay` of the steps. Stage, base, `lora` and `optim.lr` have to be those of that run.
    """

    run: Path
    """That run's folder, `runs/NAME` beside its recipe."""


class Lora(_Section):
    """The adapter's shape."""

    rank: int = Field(default=8, ge=1, le=_LARGEST_RANK)
    """Width of the two matrices beside each adapted one."""
    alpha: int = Field(default=16, ge=1)
    """The adapter's output is multiplied by `alpha / rank`."""
    dropout: Fraction = 0.0
    """Share of the adapter's inputs that are dropped at random in training."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the linear modules to adapt."""
    layers: int | None = Field(default=None, ge=1)
    """Adapt the topmost layers only, this many; None adapts all. The fewer, the quicker."""
    start: Path | None = None
    """An adapter folder whose weights training begins with, of this very shape and base; None begins anew."""


class Optim(_Section):
    """AdamW, its schedule, and the size of a batch, which closes at `batch_rows` or `batch_tokens`."""

    lr: float = Field(default=1e-3, gt=0)
    """The highest learning rate."""
    schedule: Literal["linear", "cosine", "wsd"] = "wsd"
    """What follows the warm-up: straight down, a cosine down, or `wsd`: stay, then a cosine down."""
    warmup: Fraction = 0.05
    """Share of all steps in which the rate rises."""
    decay: Fraction = 0.3
    """Share of all steps in which it falls, under `wsd`."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's weight decay."""
    batch_rows: int = Field(default=16, ge=1)
    """Most rows of a batch; one batch is one step."""
    batch_tokens: int = Field(default=4096, ge=16)
    """Most tokens of a batch, padding included."""
    grad_clip: float = Field(default=1.0, gt=0)
    """Largest norm of a step's gradient."""


class TaskScore(_Section):
    """How an epoch is judged."""

    metric: Literal["exact"] = "exact"
    """`exact` is the share of rows whose fields are all right."""
    fields: tuple[str, ...] | None = None
    """The output fields that count; None is all of them."""


class Recipe(_Section):
    """Everything a training run depends on, besides the stage itself and its base."""

    stage: str
    """The stage's name, as its plugin offers it."""
    output: Path
    """The adapter folder to write; an adapter that lies there is replaced when the new one is whole."""
    data: Data
    clean: Clean | None = None
    select: Select | None = None
    continued: Continued | None = None
    preference: Preference | None = None
    distill: Distill | None = None
    lora: Lora = Lora()
    optim: Optim = Optim()
    epochs: int = Field(default=3, ge=1)
    """How often every row is seen."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Decides the adapter's first weights, the order of rows, dropout, and which rows `max_rows` draws."""
    checkpoint_minutes: float = Field(default=5.0, gt=0)
    """How often a checkpoint is written between the ends of epochs."""
    languages: tuple[str, ...] = ()
    """Codes such as `en`, for the model card; empty takes the base's."""
    licences: dict[str, str] = {}
    """Name of a data set or model to its licence; the base's own is added where it is known."""
    notes: str = ""
    """Text for the model card."""
    task_score: TaskScore = TaskScore()

    @model_validator(mode="after")
    def _agrees(self) -> Recipe:
        given = {"lora.start": self.lora.start, "continued": self.continued, "preference": self.preference}
        if len(named := [name for name, value in given.items() if value is not None]) > 1:
            raise ValueError(f"{' and '.join(named)} say differently what training begins with: leave one")
        if self.distill is not None and self.preference is not None:
            raise ValueError("distill does not go with preference (--preferences): leave one out")
        return self

    def plain(self, root: Path) -> dict[str, Any]:
        """The recipe as JSON data for the record.

        Paths near ``root`` (in it, or in its parent) are written relative to it, others by file name alone.
        """
        data = self.model_dump(mode="json", exclude_none=True)
        for *sections, key in _PATHS:
            place = data.get(sections[0], {}) if sections else data
            if key in place:
                given = place[key]
                place[key] = [_shown(path, root) for path in given] if isinstance(given, list) else _shown(given, root)
        return data


def _shown(given: str, root: Path) -> str:
    path = Path(given)
    if given.startswith("hf:"):
        return given
    return Path(os.path.relpath(path, root)).as_posix() if path.is_relative_to(root.parent) else path.name


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: the TOML file.
        overrides: ``key=value`` with dotted keys; the value is TOML, or plain text if it is not.

    Raises:
        TrainError: no such file, not TOML, an unknown key, a value out of range; all problems are listed.
    """
    return read_toml(path, Recipe, _PATHS, overrides)


__all__ = [
    "Clean",
    "Continued",
    "Data",
    "Distill",
    "Fraction",
    "Lora",
    "Optim",
    "Preference",
    "Recipe",
    "Select",
    "TaskScore",
    "load_recipe",
]

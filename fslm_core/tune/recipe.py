"""A tuning recipe: one TOML file that says how a whole stack is tuned.

Paths in it are relative to the recipe. ``[train]`` holds the settings of a [training recipe](recipe.md) that all
stages share, ``[steps.NAME]`` those of one step, which are stronger. ``--set teacher.samples=3`` overrides any key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..errors import TrainError
from ..settings import no_nul
from ..stack import Stack, Step
from ..stage import Stage
from ..train import Recipe
from ..train.reading import as_model, read_toml
from ..train.recipe import Dpo, Fraction

_OF_TRAINING = (("lora", "start"), ("distill", "base"), ("distill", "adapter"))
"""What `[train]` and `[steps.NAME]` may say of paths."""
_PATHS = (
    ("data", "train"),
    ("data", "dev"),
    ("work",),
    ("teacher", "adapter"),
    *(("train", *keys) for keys in _OF_TRAINING),
    *(("steps", "*", *keys) for keys in _OF_TRAINING),
)
_OURS = {"stage", "output", "seed", "preference"}
_OURS_OF_DATA = {"train", "select", "fraction", "group"}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    _paths = field_validator("*")(no_nul)


class Data(_Section):
    """The rows of the stack: what goes in, what should come out, and where it is known what a step should say.

    Rows that are nearly alike, or agree in ``group``, are never on two sides.
    """

    train: Path
    """`{"input": {…}, "output": {…}, "steps": {STEP: {…}}}`; `steps` may be left out, as may some of it. As JSONL, or
    any table that `fslm data prepare` reads."""
    dev: Path | None = None
    """Held-out rows of the same form, to score by; None holds back a part of `train`."""
    dev_fraction: Fraction = 0.2
    """How large that part is."""
    select_fraction: Fraction = 0.1
    """The part of the training rows that chooses each stage's best epoch."""
    group: str | None = None
    """A column; rows of one value stay on one side."""
    near: float = Field(default=0.9, ge=0.5, le=1)
    """From this similarity on (the share of common trigrams) two inputs are nearly alike; 1 takes equal ones only."""


class Budget(_Section):
    """What the teacher may cost, over all sessions of a tuning. No call is begun when it is spent."""

    tokens: int | None = Field(default=None, ge=1)
    """Tokens of prompts and answers."""
    seconds: float | None = Field(default=None, gt=0)
    """Time of calls, added up."""
    call_seconds: float = Field(default=120.0, gt=0)
    """A call that takes longer is given up."""
    failures: float = Field(default=0.5, ge=0, le=1)
    """The largest share of calls that may fail: no answer in time, an error, or nothing valid."""


class TeacherStep(_Section):
    """How the teacher writes the messages of one step."""

    prompt: str | None = None
    """A Jinja template with the names of the stage's own, and `gold` (the row's output), `known` (what the row says of
    the message, as JSON) and `fields` (the message's fields, a line each, with their descriptions); None takes the
    stage's own prompt, which shows no gold."""
    agree_on: tuple[str, ...] = ()
    """Fields in which samples have to agree."""


class Teacher(_Section):
    """Who writes the messages that rows lack, and which of them are kept.

    Without a ``model`` the step's own writes them: its base, with its adapter if it has one.
    """

    backend: str = "torch"
    """`torch`, `openai`, or one that a plugin offers."""
    model: str | None = None
    """A checkpoint, as a stage names its base; of a server, the name under which it has the model."""
    adapter: Path | None = None
    """A PEFT folder for that checkpoint."""
    base_url: str | None = None
    """Where the server is; None takes `openai.base_url` of the settings."""
    api_key_env: str | None = None
    """The variable that holds its key; None takes that of the settings."""
    samples: int = Field(default=1, ge=1, le=64)
    """How often each message is written."""
    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Keep the likeliest tokens that together have this probability."""
    agree: float = Field(default=0.5, gt=0, le=1)
    """The least share of a row's samples that has to say the same in the step's `agree_on`."""
    follow: Literal["none", "stack", "teacher"] = "none"
    """A message is kept only if the row's output follows from it: `stack` has the rest of the stack, as it is
    installed, answer from it, and `teacher` the teacher, who then does not see the output."""
    follow_on: tuple[str, ...] = ()
    """The fields of the output that have to be right; empty is all of them."""
    answer_prompt: str | None = None
    """The template that `follow = "teacher"` asks by: with the fields of the stack's input, and `message`."""
    concurrency: int = Field(default=8, ge=1, le=64)
    """Calls at once."""
    budget: Budget = Budget()
    steps: dict[str, TeacherStep] = {}
    """By step."""

    @model_validator(mode="after")
    def _fits(self) -> Teacher:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("several samples at a temperature of 0 are all the same: set temperature, as 0.7")
        if self.adapter is not None and self.model is None:
            raise ValueError("an adapter belongs to a checkpoint: name it as model")
        if (self.follow == "teacher") != (self.answer_prompt is not None):
            raise ValueError('answer_prompt and follow = "teacher" belong together')
        return self


class Exposure(_Section):
    """Rounds in which each stage trains on what its tuned predecessors really say."""

    rounds: int = Field(default=1, ge=0, le=5)
    """How many; 0 leaves them out."""
    rows: Literal["also", "instead"] = "also"
    """Whether these rows are added to those fed with gold, or take their place."""


class Preferring(Dpo):
    """Rounds of preference tuning (DPO) after the others: answers are drawn from a stage, right ones against wrong.

    Where none of a row's answers is right, the row's own stands against them. An adapter that does worse on the rows
    that choose epochs than the one before it is not kept.
    """

    rounds: int = Field(default=0, ge=0, le=5)
    """How many; each draws from the stage as the one before left it."""
    rows: int = Field(default=200, ge=1)
    """At most so many of a stage's training rows are answered."""
    samples: int = Field(default=8, ge=1, le=64)
    """How often each is."""
    temperature: float = Field(default=1.0, gt=0)
    """How freely."""
    pairs: int = Field(default=1, ge=1)
    """At most so many pairs of each row."""


class TuneRecipe(_Section):
    """Everything a tuning depends on, besides the stack itself."""

    data: Data
    work: Path | None = None
    """The folder for everything that is made; None is `runs/NAME` beside the recipe `NAME.toml`."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Decides the split, every sampled token, and each stage's training."""
    teacher: Teacher | None = None
    """Without one, rows that lack a message do not train its step."""
    exposure: Exposure = Exposure()
    preference: Preferring = Preferring()
    train: dict[str, Any] = {}
    """Settings of a training recipe for all stages, as `epochs`, `lora.rank`, `data.max_rows`."""
    steps: dict[str, dict[str, Any]] = {}
    """The same for one step."""

    def training(self, step: str, stage: str, train: Path, select: Path, output: Path) -> Recipe:
        """The training recipe of a step's stage.

        Raises:
            TrainError: a key that a training recipe does not have, or that tuning itself sets.
        """
        own = self.steps.get(step, {})
        for prefix, given in (("train.", self.train), (f"steps.{step}.", own)):
            data = given.get("data") if isinstance(given.get("data"), dict) else {}
            ours = [*(_OURS & given.keys()), *(f"data.{key}" for key in _OURS_OF_DATA & (data or {}).keys())]
            if ours:
                raise TrainError(
                    "the recipe sets what a tuning sets by itself",
                    where="recipe",
                    found=", ".join(prefix + key for key in sorted(ours)),
                    hint="leave it out; rows, selection and split are given under [data], the seed at the top",
                )
        ways = {"stage": stage, "output": output, "seed": self.seed, "data": {"train": train, "select": select}}
        as_model(_merged(self.train, ways), Recipe, where="recipe", prefix="train.")  # by itself, to name its keys
        return as_model(_merged(_merged(self.train, own), ways), Recipe, where="recipe", prefix=f"steps.{step}.")


def load_tuning(path: Path, overrides: Iterable[str] = ()) -> TuneRecipe:
    """Read a tuning recipe.

    Args:
        path: the TOML file.
        overrides: ``key=value`` with dotted keys.

    Raises:
        TrainError: no such file, not TOML, an unknown key, a value out of range; all problems are listed.
    """
    return read_toml(path, TuneRecipe, _PATHS, overrides)


def tunable(stack: Stack[Any, Any]) -> list[Step]:
    """The steps of a stack that can be tuned: those where a stage with a model stands."""
    return [step for step in stack.steps if isinstance(step.node, Stage) and step.node.tool is None]


def refuse_strange(recipe: TuneRecipe, stack: Stack[Any, Any]) -> None:
    """Make sure that the recipe speaks of steps and fields that the stack has.

    Raises:
        TrainError: it does not.
    """
    steps = {step.name: step.stage for step in tunable(stack)}
    teacher = recipe.teacher or Teacher()
    _refuse("a step that cannot be tuned", "steps", recipe.steps, steps)
    _refuse("a step that cannot be tuned", "teacher.steps", teacher.steps, steps)
    _refuse("a field that the output does not have", "teacher.follow_on", teacher.follow_on, stack.output.model_fields)
    for name, way in teacher.steps.items():
        fields = steps[name].output.model_fields
        _refuse("a field that the message does not have", f"teacher.steps.{name}.agree_on", way.agree_on, fields)


def _refuse(what: str, key: str, named: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    if strange := [name for name in named if name not in known]:
        raise TrainError(
            f"the recipe names {what}",
            where=f"recipe, {key}",
            found=", ".join(strange),
            expected=", ".join(known),
            hint="correct the name",
        )


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Both; the second is stronger, section by section."""
    made = dict(one)
    for key, value in other.items():
        there = made.get(key)
        made[key] = _merged(there, value) if isinstance(there, Mapping) and isinstance(value, Mapping) else value
    return made


__all__ = [
    "Budget",
    "Data",
    "Exposure",
    "Preferring",
    "Teacher",
    "TeacherStep",
    "TuneRecipe",
    "load_tuning",
    "refuse_strange",
    "tunable",
]

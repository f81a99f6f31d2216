"""Tuning a whole stack: a recipe and rows in, an adapter for each stage and a report out.

::

    plan_stack("support", Path("tune.toml")).seconds     # from a short probe
    made = tune_stack("support", Path("tune.toml"))
    made.report.to_markdown()

A teacher writes the messages that rows lack; every stage is tuned on its part, then on what the tuned steps before it
really say; the whole is scored before and after. Needs the extras ``fslm-core[train,eval]``.
"""

from __future__ import annotations

from .plan import Teaching, Training, TunePlan
from .progress import Event, Part, Planned, Progress, silent
from .recipe import TuneRecipe, load_tuning
from .report import MessagesReport, Scores, StageReport, StepScores, TuneReport
from .run import TuneResult, plan_stack, tune_stack

__all__ = [
    "Event",
    "MessagesReport",
    "Part",
    "Planned",
    "Progress",
    "Scores",
    "StageReport",
    "StepScores",
    "Teaching",
    "Training",
    "TunePlan",
    "TuneRecipe",
    "TuneReport",
    "TuneResult",
    "load_tuning",
    "plan_stack",
    "silent",
    "tune_stack",
]

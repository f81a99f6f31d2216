"""Tuning one stage: a recipe in, an adapter folder out. Nothing here imports torch before it is used."""

from __future__ import annotations

from .pairs import Pair, Pairs, read_pairs, write_pairs
from .progress import Estimated, Event, Judged, Noted, Progress, Saved, Stepped, Working, silent
from .recipe import Recipe, load_recipe
from .rows import Row, Rows, read_rows
from .run import TrainResult, probe_stage, run_recipe, train_stage

__all__ = [
    "Estimated",
    "Event",
    "Judged",
    "Noted",
    "Pair",
    "Pairs",
    "Progress",
    "Recipe",
    "Row",
    "Rows",
    "Saved",
    "Stepped",
    "TrainResult",
    "Working",
    "load_recipe",
    "probe_stage",
    "read_pairs",
    "read_rows",
    "run_recipe",
    "silent",
    "train_stage",
    "write_pairs",
]

"""Which of the rows to train on: drawn by chance, or evenly from clusters of rows that are learnt alike (S2L)."""

from __future__ import annotations

from .choosing import Chosen, choose
from .sampling import drawn, evenly, learnt_alike

__all__ = ["Chosen", "choose", "drawn", "evenly", "learnt_alike"]

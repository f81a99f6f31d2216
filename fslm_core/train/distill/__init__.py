"""White-box distillation: a stage learns a teacher's probabilities, token by token, on its rows' own targets."""

from __future__ import annotations

from .teacher import Teacher, find_teacher

__all__ = ["Teacher", "find_teacher"]

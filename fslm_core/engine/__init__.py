"""The engine room: walks a stack, emits events, keeps the trace."""

from __future__ import annotations

from .check import Report, StepReport, check_stack
from .engine import Engine
from .run import Outcome, Run

__all__ = ["Engine", "Outcome", "Report", "Run", "StepReport", "check_stack"]

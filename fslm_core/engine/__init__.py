"""The engine room: walks a stack, emits events, keeps the trace."""

from __future__ import annotations

from .check import Report, StepReport, check_stack
from .engine import Engine
from .run import Outcome, Run
from .scoring import Likelihood

__all__ = ["Engine", "Likelihood", "Outcome", "Report", "Run", "StepReport", "check_stack"]

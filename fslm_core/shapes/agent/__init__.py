"""An agent: a planner stage that picks the next stage among declared tools, within bounds.

- :mod:`.plan`: what the planner is given and may write, made from the tools.
- :mod:`.record`: what was done so far, as far as a prompt has room for it.
- :mod:`.passage`: the rounds, and how they end.
"""

from __future__ import annotations

from .agent import Agent
from .plan import Ending, Failure, Progress, ToolCard, Turn, plan_model

__all__ = ["Agent", "Ending", "Failure", "Progress", "ToolCard", "Turn", "plan_model"]

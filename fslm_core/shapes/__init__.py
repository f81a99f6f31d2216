"""Shapes of stacks that are no line: each kind is one file, a class of :class:`~fslm_core.stack.Shape`.

A shape stands at a step as a stage does, and its own steps are wired, checked, traced and bounded by the same rules.

- :class:`Agent`: a planner that picks the next of several tools, until it finishes.
- :class:`BestOf`: several candidates, of which a scorer likes one best.
- :class:`Cascade`: steps in order, until one is sure.
- :class:`Fallback`: steps in order, until one does not fail.
- :class:`Map`: one step for every item of a list.
- :class:`Reduce`: a list folded into one, a few items at a time.
- :class:`Repair`: what to do where a message was refused.
- :class:`Repeat`: the same again, until it will do.
- :class:`Route`: one of several steps, chosen by a value.
- :class:`Split`: a long text cut into chunks.
- :class:`Vote`: several say, and most of them are right.
"""

from __future__ import annotations

from .agent import Agent, Ending, ToolCard, Turn, plan_model
from .best_of import BestOf, Scores
from .cascade import Cascade, Tried, Verdict
from .doubt import alternatives_of, scaled
from .fallback import Answered, Fallback
from .map import LeftOut, Map, Skips
from .reduce import Reduce
from .remedies import Again, Ask, Instead, Refused
from .repair import Repair, Repaired
from .repeat import Repeat, Round, Rounds
from .route import Choice, Route
from .split import Chunk, Chunks, LongText, Split
from .vote import Ballot, Vote

__all__ = [
    "Again",
    "Agent",
    "Answered",
    "Ask",
    "Ballot",
    "BestOf",
    "Cascade",
    "Choice",
    "Chunk",
    "Chunks",
    "Ending",
    "Fallback",
    "Instead",
    "LeftOut",
    "LongText",
    "Map",
    "Reduce",
    "Refused",
    "Repair",
    "Repaired",
    "Repeat",
    "Round",
    "Rounds",
    "Route",
    "Scores",
    "Skips",
    "Split",
    "ToolCard",
    "Tried",
    "Turn",
    "Verdict",
    "Vote",
    "alternatives_of",
    "plan_model",
    "scaled",
]

"""What a step is given: by the messages that should have been said, or by those that were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from ..evaluate.fields import Json, Mark
from ..evaluate.gold import Case, begun, bound, runs
from ..stack import Stack, Step


def fed(stack: Stack[Any, Any], step: Step, case: Case, messages: Mapping[str, Json | Mark]) -> BaseModel | Mark:
    """The input that messages make for a step.

    Returns:
        The instance; ``Mark.SKIPPED`` where they have it passed over, ``Mark.UNKNOWN`` where they do not tell.
    """
    known = {**begun(stack, case.input), **messages}
    running = runs(stack, step, known)
    if running is not True:
        return Mark.UNKNOWN if running is None else Mark.SKIPPED
    made = bound(stack, step, known)
    return Mark.UNKNOWN if isinstance(made, str) else made


def whole(step: Step, message: Json | Mark) -> Json | None:
    """A message that is known in all its fields; None for any other."""
    if isinstance(message, Mark) or set(step.node.output.model_fields) - set(message):
        return None
    return message


__all__ = ["fed", "whole"]

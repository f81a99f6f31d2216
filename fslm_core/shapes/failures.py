"""What is told of steps that failed within a shape which went on without them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from ..errors import FslmError, StageFailedError
from ..message import Attempt, Problem, Skipped

MOST_TOLD = 20
"""Problems and attempts that the error of a shape carries."""


def problems_in(errors: Iterable[FslmError]) -> list[Problem]:
    """What was wrong, of the first twenty problems; an error without any is one itself."""
    found = (
        problem
        for error in errors
        for problem in (isinstance(error, StageFailedError) and error.problems) or [Problem("error", error.what)]
    )
    return list(islice(found, MOST_TOLD))


def attempts_in(errors: Iterable[FslmError]) -> list[Attempt]:
    """What was written, of the last twenty attempts."""
    found = [attempt for error in errors if isinstance(error, StageFailedError) for attempt in error.attempts]
    return found[-MOST_TOLD:]


def code_of(failed: FslmError | Skipped) -> str:
    """Why a step gave nothing: its error's code, or ``skipped``.

    >>> code_of(StageFailedError("no")), code_of(Skipped.failed("a", "", "tool")), code_of(Skipped("a", "", "false"))
    ('stage-failed', 'tool', 'skipped')
    """
    if isinstance(failed, FslmError):
        return failed.code
    return failed.code or "skipped"


__all__ = ["MOST_TOLD", "attempts_in", "code_of", "problems_in"]

"""The running record of an agent: what it did and what came of it, as far as a prompt has room for it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ...errors import FslmError, StageFailedError, shorten
from ...message import Message, Problem
from .plan import Turn

_REASON = 200
"""Characters of an error's reason that a planner is told."""


class Record:
    """The calls so far.

    Args:
        most: characters of arguments and results that are kept; of one result at most half of them, of one call's
            arguments a quarter.

    >>> record = Record(400)
    >>> for number in range(3):
    ...     record.add("add", '{"a":1}', "9" * 150, ())
    >>> [len(turn.result) for turn in record.turns()], record.omitted
    ([150, 150], 1)
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._all: list[tuple[Turn, tuple[Message[Any], ...]]] = []
        self.calls: Counter[str] = Counter()
        self.failed = 0

    def add(
        self, tool: str, arguments: str, result: str, said: tuple[Message[Any], ...], *, failed: bool = False
    ) -> None:
        """Remember a call.

        Args:
            said: the messages that it is told by.
        """
        turn = Turn(
            tool=tool,
            arguments=shorten(arguments, self._most // 4),
            result=shorten(result, self._most // 2),
            failed=failed,
        )
        self._all.append((turn, said))
        self.calls[tool] += 1
        self.failed += failed

    def turns(self) -> list[Turn]:
        """The newest calls that there is room for, the newest last."""
        return [turn for turn, _ in self._kept()]

    def messages(self) -> list[Message[Any]]:
        """What the calls of :meth:`turns` are told by."""
        return [message for _, said in self._kept() for message in said]

    @property
    def omitted(self) -> int:
        """How many older calls there is no room for."""
        return len(self._all) - len(self._kept())

    def summary(self) -> str:
        """What was called how often, for an error's text: ``weather 2 times, sum once, one of these failed``."""
        if not self.calls:
            return "nothing"
        called = ", ".join(f"{tool} {times(count)}" for tool, count in self.calls.items())
        return f"{called}, {'one' if self.failed == 1 else self.failed} of these failed" if self.failed else called

    def _kept(self) -> list[tuple[Turn, tuple[Message[Any], ...]]]:
        room = self._most
        for count, (turn, _) in enumerate(reversed(self._all)):
            room -= len(turn.arguments) + len(turn.result)
            if room < 0:
                return self._all[len(self._all) - count :]
        return self._all


def reason_of(error: FslmError) -> str:
    """What a planner may know of an error: which fields were wrong, or the kind of exception a tool raised.

    An exception's own text stays out of it: it may hold what the tool knows and nobody asked for, a password say.

    >>> reason_of(StageFailedError("no", problems=[Problem("tool", "OSError: cannot reach db://user:secret@host")]))
    'OSError'
    """
    problems = error.problems if isinstance(error, StageFailedError) else ()
    return shorten("; ".join(_said(problem) for problem in problems), _REASON)


def _said(problem: Problem) -> str:
    return problem.text.partition(":")[0] if problem.kind == "tool" else str(problem)


def times(count: int) -> str:
    """How often, in words."""
    return "once" if count == 1 else f"{count} times"


__all__ = ["Record", "reason_of", "times"]

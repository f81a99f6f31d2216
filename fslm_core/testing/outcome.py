"""What became of one input, with all that a failing test wants to show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from ..engine import Run
from ..errors import FslmError, shorten
from ..events import AttemptFailed, Event, StepStarted
from ..explain.show import visible
from ..message import Attempt, Message, Problem, Skipped, plain_path
from ..schema import canonical
from ..store import StoredRun

Out = TypeVar("Out", bound=BaseModel)
E = TypeVar("E", bound=FslmError)

_LONG = 600
"""Characters of one text that are shown."""
_SHOWN = 12_000
"""Characters of a whole outcome that are shown."""


@dataclass(frozen=True, repr=False)
class Outcome(Generic[Out]):
    """What became of one input.

    Attributes:
        name: of the stack or stage.
        steps: the names of its steps, in order, each with its stage's name.
        given: the input, as it was given.
        run: the run, or None where none began (the input does not fit, the check refused the stack).
        error: why there is no output, or None.
        events: all that happened in the run, as observers see it.
        records: what the trace store kept of it, read back; None where no run began.
    """

    name: str
    steps: Mapping[str, str]
    given: object
    run: Run[Out] | None
    error: FslmError | None
    events: tuple[Event, ...] = ()
    records: StoredRun | None = None

    @property
    def output(self) -> Out:
        """The validated output.

        Raises:
            AssertionError: there is none; its text shows the whole outcome.
        """
        __tracebackhide__ = True
        self.assert_ok()
        assert self.run is not None
        return self.run.output

    @property
    def messages(self) -> Mapping[str, Message[Any] | Skipped]:
        """What each step gave, by step name; a step that failed or was not reached is not there."""
        return self.run.messages if self.run is not None else {}

    @property
    def skipped(self) -> tuple[str, ...]:
        """The names of the steps that were passed over."""
        return tuple(name for name, message in self.messages.items() if isinstance(message, Skipped))

    @property
    def attempts(self) -> Mapping[str, tuple[Attempt, ...]]:
        """Every try of every step: the prompt, what was written, what was wrong with it."""
        found: dict[str, tuple[Attempt, ...]] = {}
        for event in self.events:
            if isinstance(event, AttemptFailed):
                found[event.step] = (*found.get(event.step, ()), event.attempt)
        made = {name: message.attempts for name, message in self.messages.items() if isinstance(message, Message)}
        return found | made

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All that was wrong with what was written, in the order it was found."""
        return tuple(problem for tries in self.attempts.values() for attempt in tries for problem in attempt.problems)

    def assert_ok(self) -> Outcome[Out]:
        """Return itself if there is an output.

        Raises:
            AssertionError: there is none; its text shows the whole outcome.
        """
        __tracebackhide__ = True
        if self.error is not None or self.run is None:
            raise AssertionError(f"there is no output\n{self!r}")
        return self

    def assert_failed(self, kind: type[E] | None = None, match: str | None = None) -> E:
        """Return the error if it is of this kind.

        Args:
            kind: a class of :mod:`fslm_core.errors`; any of them by default.
            match: a regular expression that the error's text must hold.

        Raises:
            AssertionError: there is an output, or another error; its text shows the whole outcome.
        """
        __tracebackhide__ = True
        wanted: type[Any] = kind or FslmError
        if self.error is None:
            raise AssertionError(f"{wanted.__name__} was expected, but there is an output\n{self!r}")
        if not isinstance(self.error, wanted):
            raise AssertionError(f"{wanted.__name__} was expected, not {type(self.error).__name__}\n{self!r}")
        if match is not None and re.search(match, str(self.error)) is None:
            raise AssertionError(f"the error's text does not match {match!r}\n{self!r}")
        error: E = self.error
        return error

    def __repr__(self) -> str:
        state = "refused before it ran" if self.run is None else self.run.status
        lines = [f"<Outcome of {self.name}: {state}>", *_line("input", _text(self.given))]
        for step, node in self.steps.items():
            for path in self._paths(step):
                lines += self._step(path, node)
        for path, message in self.messages.items():
            if isinstance(message, Message) and plain_path(path) not in self.steps:
                lines += _line(f"decided {path}", _text(message.content))
        if self.error is None and self.run is not None:
            lines += _line("output", _text(self.run.output))
        elif self.error is not None:
            lines += _line("error", f"{type(self.error).__name__}: {self._error_text()}", 4 * _LONG)
        return shorten("\n".join(lines), _SHOWN)

    def _error_text(self) -> str:
        """The error's text, without the advice to look into a trace that is gone when this is read."""
        lines = str(self.error).splitlines()
        return "\n".join(line for line in lines if self.run is None or f"trace show {self.run.id}" not in line)

    def _paths(self, step: str) -> list[str]:
        """The paths under which a step ran, one for each time; its own name where it did not."""
        begun = (event.step for event in self.events if isinstance(event, StepStarted))
        paths = dict.fromkeys(path for path in (*begun, *self.messages) if plain_path(path) == step)
        return list(paths) or [step]

    def _step(self, step: str, node: str) -> Iterator[str]:
        message = self.messages.get(step)
        tries = self.attempts.get(step, ())
        if isinstance(message, Skipped):
            if message.code is None:
                yield f"  step {step}: skipped, for this is false: {message.when}"
                return
            state = f"skipped, for it failed with {message.code}"
        else:
            state = "ok" if message is not None else self._unfinished(step, tries)
        yield f"  step {step} ({node}): {state}"
        for attempt in tries:
            for role, text in attempt.prompt.turns if attempt.prompt is not None else ():
                yield from _line(role, text, indent=4)
            if attempt.prompt is not None or attempt.raw:
                yield from _line("tool" if attempt.prompt is None else "reply", attempt.raw, indent=4)
            for problem in attempt.problems:
                yield from _line("problem", f"({problem.kind}) {problem}", indent=4)

    def _unfinished(self, step: str, tries: tuple[Attempt, ...]) -> str:
        if tries:
            return "failed"
        started = any(isinstance(event, StepStarted) and event.step == step for event in self.events)
        return "no answer" if started else "not reached"


def _line(name: str, text: str, limit: int = _LONG, *, indent: int = 2) -> Iterator[str]:
    """A named text; its further lines stand below its first."""
    first, *rest = shorten(visible(text), limit).split("\n")
    yield f"{' ' * indent}{name:<8} {first}".rstrip()
    for line in rest:
        yield f"{' ' * (indent + 9)}{line}".rstrip()


def _text(value: object) -> str:
    if not isinstance(value, BaseModel):
        return repr(value)
    try:
        return canonical(value)
    except FslmError:
        return repr(value)


__all__ = ["Outcome"]

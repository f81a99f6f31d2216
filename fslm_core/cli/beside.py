"""The steps of a turn of ``fslm chat``, as they happen: beside the reply on a terminal, line by line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..events import AttemptFailed, MessageEmitted, RunEvent, StepSkipped, StepStarted, TextWritten
from ..explain.drawing import compact, one_line, seconds_text
from ..message import Message
from ..schema import plain_data
from ..stack import SESSION
from . import screen

_FIELD = 60
"""Characters of one field's value."""
_LINE = 160
"""Characters of all fields of a step."""
_NARROW = 80
"""Columns of a terminal that has no room for steps beside a reply."""
_STYLES = {"ok": "green", "refused": "yellow", "skipped": "dim", "at work": "cyan", "stopped": "red"}
_SIGNS = {"ok": "·", "refused": "!", "skipped": "-", "at work": "…", "stopped": "x"}


@dataclass
class Seen:
    """One step, or one decision, of the turn.

    Attributes:
        path: in the stack.
        status: ``at work``, ``ok``, ``skipped``, ``stopped``, or ``refused`` for an attempt that was.
        said: its fields on one line.
        seconds: None where it took none that could be measured.
        writing: the last piece of what it writes, which knows those before.
    """

    path: str
    status: str
    said: str = ""
    seconds: float | None = None
    writing: TextWritten | None = None

    @property
    def line(self) -> str:
        """All of it on one line, safe for a terminal.

        >>> Seen("intent", "ok", 'intent="find"', 0.25).line
        '· intent  intent="find"  0.25 s'
        """
        took = seconds_text(self.seconds) if self.seconds is not None else ""
        ended = self.status if self.status in ("skipped", "stopped") else ""
        said = self.said if self.writing is None else on_one_line(self.writing.fields)
        return f"{_SIGNS[self.status]} " + "  ".join(part for part in (self.path, said, ended, took) if part)


@dataclass
class Steps:
    """What is seen of the steps of one turn.

    Args:
        quotes: whether what they say may be shown, or only their names and times.
    """

    quotes: bool = True
    seen: list[Seen] = field(default_factory=list)
    _at_work: dict[str, tuple[Seen, float]] = field(default_factory=dict)
    _refused: set[str] = field(default_factory=set)
    """Those at work of which an attempt was refused."""

    def see(self, event: RunEvent) -> Seen | None:
        """Take note of an event; the step that ended with it, if one did."""
        match event:
            case StepStarted(step=path):
                self._begin(one_line(path), path)
            case TextWritten(step=path) if path in self._at_work and self.quotes:
                self._at_work[path][0].writing = event
            case AttemptFailed(step=path, attempt=attempt):
                self._refused.add(path)
                why = ", ".join(dict.fromkeys(problem.kind for problem in attempt.problems))
                return self._put(Seen(one_line(path), "refused", f"attempt {attempt.index + 1}: {why}"), path)
            case StepSkipped(skipped=skipped):
                self._at_work.pop(skipped.step, None)
                return self._put(Seen(one_line(skipped.step), "skipped"), skipped.step)
            case MessageEmitted(message=message) if message.step.partition(".")[0] != SESSION:
                return self._end(message)
        return None

    def over(self) -> list[Seen]:
        """The turn has ended: what is still at work was stopped, or failed."""
        left = [seen for seen, _ in self._at_work.values()]
        self._at_work.clear()
        for seen in left:
            seen.status, seen.said, seen.writing = "stopped", "", None
        return left

    def _begin(self, name: str, path: str) -> None:
        seen = Seen(name, "at work")
        self._at_work[path] = seen, time.perf_counter()
        self.seen.append(seen)

    def _put(self, seen: Seen, path: str) -> Seen:
        """Beside what is at work, which stays the last."""
        place = self.seen.index(self._at_work[path][0]) if path in self._at_work else len(self.seen)
        self.seen.insert(place, seen)
        return seen

    def _end(self, message: Message[Any]) -> Seen:
        within = (f"{message.step}.", f"{message.step}[")
        for path in [path for path in self._at_work if path.startswith(within) and path in self._refused]:
            self.seen.remove(self._at_work.pop(path)[0])  # a shape went on without it; its refusals stand there
        seen, began = self._at_work.pop(message.step, (None, 0.0))
        if seen is None:  # a decision
            seen = Seen(one_line(message.step), "ok")
            self.seen.append(seen)
        else:
            seen.seconds = time.perf_counter() - began
        seen.status, seen.writing = "ok", None
        seen.said = on_one_line(plain_data(message.content)) if self.quotes else ""
        return seen


def on_one_line(fields: Mapping[str, Any]) -> str:
    """Fields on one line, long ones cut, those that are null left out.

    >>> on_one_line({"city": "Bath", "seats": 2, "note": None})
    'city="Bath" seats=2'
    """
    parts = (f"{name}={_short(compact(value), _FIELD)}" for name, value in fields.items() if value is not None)
    return _short(" ".join(parts), _LINE)


def _short(text: str, most: int) -> str:
    text = one_line(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


class Board:
    """Shows one turn. On a terminal it is drawn anew as things happen, the steps beside the reply, and stays there; the
    reply goes to standard output in either case, what is told of steps elsewhere to standard error.

    Args:
        steps: what is seen of them; None shows none.
        grows: the step and the field that the reply is taken from, to be shown while it is written.
    """

    def __init__(self, steps: Steps | None, grows: tuple[str, str] | None = None) -> None:
        self._steps = steps
        self._grows = grows
        self._growing: TextWritten | None = None
        self._reply = ""
        self._live: Live | None = None
        if sys.stdout.isatty() and sys.stderr.isatty():
            console = Console(highlight=False, markup=False, emoji=False)
            self._live = Live(self, console=console, refresh_per_second=8, transient=False)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = self._steps.over() if self._steps is not None else []
        if self._live is not None:
            self._live.stop()
        else:
            self._tell(left)

    def see(self, event: RunEvent) -> None:
        """Show an event."""
        if isinstance(event, TextWritten) and self._grows is not None and event.step == self._grows[0]:
            self._growing = event
        ended = self._steps.see(event) if self._steps is not None else None
        if ended is not None and self._live is None:
            self._tell([ended])

    def _tell(self, ended: list[Seen]) -> None:
        for seen in ended:
            screen.say(f"  {seen.line}")

    def reply(self, text: str) -> None:
        """Show the reply: text that may be anything."""
        self._reply, self._growing = screen.clean(text), None
        if self._live is None:
            screen.result(self._reply)

    def _so_far(self, written: TextWritten) -> str:
        value = written.fields.get(self._grows[1]) if self._grows is not None else None
        return screen.clean(value) if isinstance(value, str) else ""

    def __rich_console__(self, console: Console, options: Any) -> Iterator[RenderableType]:
        reply = Text(self._reply) if self._growing is None else Text(self._so_far(self._growing), style="dim")
        if self._steps is None:
            yield reply
            return
        steps = Group(*(Text(seen.line, style=_STYLES[seen.status]) for seen in self._steps.seen))
        if options.max_width < _NARROW:
            yield steps
            yield reply
            return
        grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
        grid.add_column(ratio=3, overflow="fold")
        grid.add_column(ratio=2, overflow="fold")
        grid.add_row(reply, steps)
        yield grid


__all__ = ["Board", "Seen", "Steps", "on_one_line"]

"""Progress on standard error: moving bars on a terminal, one line for each phase elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from . import screen


def stderr_console() -> Console:
    """A console on standard error that obeys no markup."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


class TransferBar:
    """Shows downloads and conversions; a ``Progress`` of :mod:`fslm_core.checkpoints`, called from any thread.

    It draws nothing before it is first called.
    """

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Say that ``done`` of ``total`` bytes of the phase ``what`` are done."""
        if what not in self._tasks:
            self._tasks[what] = self._begin(what, total)
        if self._bars is not None:
            self._bars.update(self._tasks[what], completed=done, total=total)

    def _begin(self, what: str, total: int | None) -> TaskID:
        if not self._terminal:
            screen.say(f"{what} …" if total is None else f"{what} ({total / 1e6:.0f} MB) …")
            return TaskID(0)
        if self._bars is None:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TimeRemainingColumn(),
            )
            self._bars = Progress(*columns, console=stderr_console(), transient=True)
            self._bars.start()
        return self._bars.add_task(screen.clean(what), total=total)

    def close(self) -> None:
        """Take the bars away. Idempotent."""
        bars, self._bars = self._bars, None
        if bars is not None:
            bars.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Rate(ProgressColumn):
    """Rows a minute."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed * 60:,.0f} rows/min" if task.speed else "")


class RowBar:
    """Shows how many rows of a batch are done, how many failed and how fast it goes; draws on a terminal only."""

    def __init__(self, total: int | None, *, done: int = 0) -> None:
        self._failed = 0
        columns = (
            TextColumn("rows", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]}", markup=False),
        )
        self._bars = Progress(*columns, console=stderr_console(), disable=not sys.stderr.isatty())
        self._task = self._bars.add_task("rows", total=total, completed=done, failed="")

    def row(self, *, failed: bool) -> None:
        """Count one row."""
        self._failed += failed
        self._bars.update(self._task, advance=1, failed=f"{self._failed} failed" if self._failed else "")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._bars.disable:  # older versions of Rich end a line all the same
            self._bars.stop()


__all__ = ["RowBar", "TransferBar", "stderr_console"]

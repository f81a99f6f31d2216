"""``fslm batch``: every row of a JSONL file through a stack, in order.

Rows are written as they are done, each by one write of a whole line, so whatever ends a batch leaves whole rows.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Self

import typer

from ..engine import Engine, Outcome
from ..errors import FslmError, InputError, UsageError
from ..schema import plain_data
from ..stack import Stack
from . import inputs, screen
from .progress import RowBar
from .session import opened, session_of

app = typer.Typer(add_completion=False)

_IN_FLIGHT = 64
_LONG = 1 << 20


@app.command()
def batch(
    ctx: typer.Context,
    stack: Annotated[str, typer.Argument(metavar="STACK", help="The stack's name; `fslm list` shows them.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN.jsonl",
            help="One JSON object a line, or a JSON string where `fslm run` takes bare text. '-' reads standard input.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="OUT.jsonl", help="Where the rows go, in the order of the input.")
    ],
    concurrency: Annotated[int, typer.Option(min=1, help="Rows at work at once.")] = 32,
    seed: Annotated[int, typer.Option(help="Decides every sampled token of every row.")] = 0,
    timeout: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds after which one row's run is stopped.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.jsonl.")] = False,
) -> None:
    """Run every row of a JSONL file through a stack.

    Row n is line n of the input, counted from 0. Each line of the output is {"row": n, "run": id, "output": {…}} or
    {"row": n, "run": id, "error": {…}}, the run being null where none began. Ctrl-C keeps the rows that are done.
    The exit code is 1 if any row failed.
    """
    session = session_of(ctx)
    found = session.host.stack(stack)
    if out.exists() and not force:
        raise UsageError(
            "the output file exists", where=str(out), hint="choose another --out, or pass --force to overwrite it"
        )
    total = None
    if source != inputs.STANDARD_INPUT:
        if not Path(source).is_file():
            raise UsageError(
                "there is no such input file", where=source, hint="name a JSONL file, or '-' for standard input"
            )
        if out.exists() and os.path.samefile(source, out):
            raise UsageError("input and output are one file", where=source, hint="choose another --out")
        total = _count_lines(Path(source))
    with (
        opened(session, found, max_in_flight=max(_IN_FLIGHT, concurrency)) as engine,
        _Input(source) as lines,
        _Output(out) as rows,
        RowBar(total) as bar,
    ):
        began = time.monotonic()
        passing = _Batch(engine, found, rows, bar, concurrency, seed, timeout)
        try:
            asyncio.run(passing.go(lines.lines()))
        except KeyboardInterrupt:
            screen.say(f"{_count(rows.done)} done, in {out}")
            raise
    took = time.monotonic() - began
    rate = f"{rows.done / took * 60:,.0f} a minute"
    screen.say(f"{_count(rows.done)} in {took:.1f} s ({rate}), {rows.failed} failed, in {out}")
    if rows.failed:
        raise typer.Exit(1)


def _count(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows:,} rows"


@dataclass
class _Batch:
    """Feeds the engine the rows that can be read, and puts those that cannot in their places."""

    engine: Engine
    stack: Stack[Any, Any]
    rows: _Output
    bar: RowBar
    concurrency: int
    seed: int
    timeout: float | None
    _order: deque[FslmError | None] = field(default_factory=deque)
    """One entry a row that was read and is not written: what is wrong with it, or None for one at work."""

    async def go(self, lines: AsyncIterator[bytes]) -> None:
        """Run and write every row."""
        looking_up = asyncio.create_task(_look_up())
        try:
            await self._go(lines)
        finally:
            looking_up.cancel()

    async def _go(self, lines: AsyncIterator[bytes]) -> None:
        outcomes = self.engine.amap(
            self.stack, self._inputs(lines), concurrency=self.concurrency, seed=self.seed, timeout=self.timeout
        )
        async with aclosing(outcomes) as ordered:  # type: ignore[type-var]
            async for outcome in ordered:
                self._unreadable()
                self._order.popleft()
                self._write(outcome)
        self._unreadable()

    async def _inputs(self, lines: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
        number = 0
        async for line in lines:
            try:
                value = self._read(line, f"row {number}")
            except InputError as error:
                self._order.append(error)
            else:
                self._order.append(None)
                yield value
            number += 1

    def _read(self, line: bytes, where: str) -> dict[str, Any]:
        text = inputs.decode(line, where=where).strip()
        name = inputs.bare_field(self.stack.input)
        if name is not None and text.startswith('"'):
            with suppress(InputError):
                return inputs.parse(f'{{"{name}":{text}}}', self.stack.input, where=where)
        return inputs.parse(text, self.stack.input, where=where)

    def _unreadable(self) -> None:
        """Write the unreadable rows before the next that was at work."""
        while self._order and (error := self._order[0]) is not None:
            self._order.popleft()
            self._row(None, error=error)

    def _write(self, outcome: Outcome[Any]) -> None:
        run = outcome.run.id if outcome.run is not None else None
        if outcome.error is not None:
            self._row(run, error=outcome.error)
        else:
            self._row(run, output=plain_data(outcome.output))

    def _row(self, run: str | None, *, output: Any = None, error: FslmError | None = None) -> None:
        what = {"output": output} if error is None else {"error": error.to_dict()}
        self.rows.write({"row": self.rows.done, "run": run, **what}, failed=error is not None)
        self.bar.row(failed=error is not None)


async def _look_up() -> None:
    """Wake the loop now and then, lest Ctrl-C hang: a signal that comes just as the loop falls asleep does not."""
    while True:
        await asyncio.sleep(0.25)


class _Output:
    """A JSONL file that holds whole rows only, whatever happens."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done = 0
        self.failed = 0
        self._end = 0

    def write(self, row: dict[str, Any], *, failed: bool) -> None:
        """Append one row; it is in the file when this returns."""
        line = screen.as_json(row, indent=None).encode() + b"\n"
        while line:
            line = line[self._file.write(line) :]
        self._end = self._file.tell() if self._file.seekable() else 0
        self.done += 1
        self.failed += failed

    def __enter__(self) -> Self:
        try:
            self._file = open(self.path, "wb", buffering=0)
        except OSError as error:
            raise UsageError(f"the output file cannot be written: {error.strerror}", where=str(self.path)) from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._file.seekable() and self._file.tell() != self._end:  # a row that the disk took only a part of
            self._file.truncate(self._end)
        self._file.close()


class _Input:
    """The input's lines, from a file or a pipe."""

    def __init__(self, source: str) -> None:
        self._source = source

    def __enter__(self) -> Self:
        self._file: BinaryIO | None = None if self._source == inputs.STANDARD_INPUT else open(self._source, "rb")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield each line; reading a pipe waits on a thread of its own, so that a slow writer holds nothing up."""
        if self._file is None or not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            async for line in _piped(0 if self._file is None else self._file.fileno()):
                yield line
        else:
            for line in self._file:
                yield line


async def _piped(descriptor: int) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[bytes | OSError | None] = asyncio.Queue(maxsize=64)

    def hand_over(item: bytes | OSError | None) -> None:
        asyncio.run_coroutine_threadsafe(waiting.put(item), loop).result()

    def pump() -> None:
        with suppress(RuntimeError):  # the loop is gone: nobody wants the rest
            try:
                for line in _lines_of(descriptor):
                    hand_over(line)
                hand_over(None)
            except OSError as error:
                hand_over(error)

    threading.Thread(target=pump, name="fslm-input", daemon=True).start()
    while (item := await waiting.get()) is not None:
        if isinstance(item, OSError):
            raise item
        yield item


def _lines_of(descriptor: int) -> Iterator[bytes]:
    """Split what a descriptor gives into lines; no buffered file, whose lock a waiting thread would keep at exit."""
    rest: list[bytes] = []
    while block := os.read(descriptor, _LONG):
        *whole, last = block.split(b"\n")
        for line in whole:
            yield b"".join((*rest, line))
            rest.clear()
        if last:
            rest.append(last)
    if rest:
        yield b"".join(rest)


def _count_lines(path: Path) -> int:
    """Count lines as they will be read: a last one without a line end counts too."""
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(_LONG):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


__all__ = ["app"]

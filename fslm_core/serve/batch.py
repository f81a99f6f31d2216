"""Every row of a JSONL file through a stack, in order; it continues after whatever ended it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..engine import Engine, Outcome
from ..engine.making import SEMANTICS
from ..errors import FslmError, InputError, ReviewNeeded, StoreError, UsageError
from ..message import Message, digest
from ..schema import plain_data
from ..stack import Stack
from ..store import ContentMode, Redactor, concerns_all, marks_of
from .inputs import read_line
from .journal import WIRING, Digest, Header
from .output import Output

_TENDING_SECONDS = 0.25


class _Waiting(NamedTuple):
    """A row that was read and is not written: what is wrong with it, or None for one at work."""

    input: str
    error: FslmError | None


def header_of(
    engine: Engine, stack: Stack[Any, Any], *, seed: int, content: ContentMode, sensitive: bool, key: str
) -> Header:
    """What this batch is, as its journal will say."""
    steps = {
        name: " ".join(filter(None, (origin.fingerprint, origin.backend)))
        for name, origin in engine.origins(stack).items()
    }
    return Header(stack.name, {**steps, WIRING: digest(SEMANTICS, *stack.plan())}, seed, content, sensitive, key)


@dataclass
class Batch:
    """Feeds the engine the rows that can be read, and puts those that cannot in their places.

    Args:
        output: begun; rows that are in it already are compared with the input and passed over.
        input_digest: of a line of the input, as the journal keeps it.
        redacted: blank what is sensitive, in rows and in errors.
        on_row: called with ``failed=`` after each row.
    """

    engine: Engine
    stack: Stack[Any, Any]
    output: Output
    input_digest: Digest
    concurrency: int
    seed: int
    timeout: float | None
    redacted: bool
    on_row: Callable[..., None]
    _order: deque[_Waiting] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._marks = marks_of(self.stack)
        self._redacting = self.redacted and bool(self._marks)

    async def go(self, lines: AsyncIterator[bytes]) -> None:
        """Run and write every row that is not written yet.

        Raises:
            UsageError: the batch is resumed, and the input does not begin with the rows that are done.
            StoreError: the trace cannot be written; the rows at work are not reported.
            SystemRefusedError: the output cannot be written.
        """
        tending = asyncio.create_task(self._tend())
        going = asyncio.create_task(self._go(lines))
        try:
            await asyncio.wait((tending, going), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (going, tending):
                task.cancel()
            await asyncio.gather(going, tending, return_exceptions=True)
        for task in (going, tending):
            if not task.cancelled():
                task.result()

    async def _tend(self) -> None:
        """Bring rows to the disk. The loop wakes for it, lest Ctrl-C hang: a signal just as it falls asleep does."""
        while True:
            await asyncio.sleep(_TENDING_SECONDS)
            self.output.tend()

    async def _go(self, lines: AsyncIterator[bytes]) -> None:
        outcomes = self.engine.amap(
            self.stack, self._inputs(lines), concurrency=self.concurrency, seed=self.seed, timeout=self.timeout
        )
        async with aclosing(outcomes) as ordered:  # type: ignore[type-var]
            async for outcome in ordered:
                self._unreadable()
                self._write(self._order.popleft().input, outcome)
        self._unreadable()

    async def _inputs(self, lines: AsyncIterator[bytes]) -> AsyncGenerator[dict[str, Any], None]:
        done = self.output.inputs()
        number = 0
        async for line in lines:
            seen = self.input_digest(line.rstrip(b"\r\n"))
            if (expected := next(done, None)) is not None:
                _require_row(number, seen == expected)
            else:
                try:
                    value = read_line(line, self.stack.input, where=f"row {number}")
                except InputError as error:
                    self._order.append(_Waiting(seen, error))
                else:
                    self._order.append(_Waiting(seen, None))
                    yield value
            number += 1
        _require_row(number, next(done, None) is None)

    def _unreadable(self) -> None:
        """Write the unreadable rows before the next that was at work."""
        while self._order and (error := self._order[0].error) is not None:
            self._row(self._order.popleft().input, None, error=self._error(error, Redactor(marks=self._marks)))

    def _write(self, input: str, outcome: Outcome[Any]) -> None:
        run = outcome.run
        if isinstance(outcome.error, StoreError) and concerns_all(outcome.error):
            raise outcome.error
        redactor = Redactor(marks=self._marks)
        if run is not None and self._redacting:
            redactor.begin(run.input.content, self._marks)
            for step, message in run.messages.items():
                if isinstance(message, Message):
                    redactor.note(message.content, step)
        id = run.id if run is not None else None
        if outcome.error is not None:
            self._row(input, id, error=self._error(outcome.error, redactor))
        else:
            content = outcome.output
            self._row(input, id, output=redactor.content(content) if self._redacting else plain_data(content))

    def _error(self, error: FslmError, redactor: Redactor) -> dict[str, Any]:
        if not self._redacting:
            return error.to_dict()
        told = redactor.error(error)
        return {**told, "where": f"row {self.output.done}"} if isinstance(error, InputError) else told

    def _row(self, input: str, run: str | None, **what: Any) -> None:
        review = what.get("error", {}).get("code") == ReviewNeeded.code
        failed = "error" in what and not review
        self.output.write({"row": self.output.done, "run": run, **what}, input=input, failed=failed, review=review)
        self.on_row(failed=failed)


def _require_row(number: int, same: bool) -> None:
    if not same:
        raise UsageError(
            "the input does not begin with the rows that are done",
            where=f"input, row {number}",
            expected="the input the batch was begun with; it may have grown at its end",
            hint="give that input from its first row on, or choose another --out, or pass --force to begin anew",
        )


__all__ = ["Batch", "header_of"]

"""One arm of a benchmark in a process of its own: an engine, and the rows that it is timed on.

An arm is one way to run a stack: a backend, and for ``torch`` an executor and a precision. Each has its own process, so
that its memory is its own and no arm finds what another left in caches. The process says only what :class:`Loaded`,
:class:`Timing` and :class:`~fslm_core.errors.FslmError` hold: figures and digests, no text.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..engine import Engine
from ..errors import FslmError, InternalError, RunFailed, SystemRefusedError, shorten
from ..message import Message, Usage
from ..plugins import PluginHost
from ..settings import Settings
from ..stack import Stack
from .estimate import peak_memory

if TYPE_CHECKING:
    from ..engine import Run

_PATIENCE = 20.0
"""Seconds that an arm has to end by itself."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to run a stack; ``executor`` and ``precision`` are None where the settings decide."""

    name: str
    executor: str | None = None
    precision: str | None = None

    def settings(self, settings: Settings) -> Settings:
        """The settings under which this arm runs."""
        asked = {"executor": self.executor, "precision": self.precision}
        chosen = {name: value for name, value in asked.items() if value is not None}
        return settings.model_copy(update={"torch": settings.torch.model_copy(update=chosen)})


@dataclass(frozen=True, slots=True)
class Loaded:
    """An arm that is ready.

    Attributes:
        load_s: seconds until the engine was open: importing libraries, loading and packing weights.
        first_s: seconds of the first run, which compiles grammars and fills caches; it is not among those timed.
        runs: the backend with device, number format and executor, by step; tools have none.
    """

    load_s: float
    first_s: float
    runs: dict[str, str]


@dataclass(frozen=True, slots=True)
class Timing:
    """One closed loop over all rows.

    Attributes:
        latencies: seconds of each run, in the rows' order.
        seconds: from the first question to the last answer.
        messages: of each run a digest of every step's message, by step; None for a run that failed.
        errors: codes of the errors of those that failed.
        usage: of all runs together.
        peak_rss: bytes that the process has held at most, so far; None where the system does not say.
    """

    latencies: tuple[float, ...]
    seconds: float
    messages: tuple[dict[str, str] | None, ...]
    errors: tuple[str, ...]
    usage: Usage
    peak_rss: int | None


class Running(Protocol):
    """An arm at work."""

    def load(self) -> Loaded:
        """Open the engine and run one row."""
        ...

    def time(self, concurrency: int, seed: int) -> Timing:
        """Run every row, ``concurrency`` at a time."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class Local:
    """An arm in this process.

    Args:
        stack: a stack, or the name of one of the host's.
        rows: inputs of the stack.
        engine: makes the engine, not yet open.
    """

    def __init__(
        self,
        stack: Stack[Any, Any] | str,
        rows: Sequence[dict[str, Any]],
        engine: Callable[[], Engine],
    ) -> None:
        self._stack = stack
        self._rows = rows
        self._make = engine
        self._engine: Engine | None = None

    def load(self) -> Loaded:
        """Open the engine and run the first row.

        Raises:
            FslmError: the engine cannot be opened. A first run that fails is no error here.
        """
        began = time.perf_counter()
        engine = self._make()
        self._engine = engine.__enter__()
        ready = time.perf_counter()
        with suppress(RunFailed):
            engine.run(self._stack, self._rows[0])
        ended = time.perf_counter()
        origins = engine.origins(self._stack)
        runs = {step: origin.backend for step, origin in origins.items() if origin.backend}
        return Loaded(ready - began, ended - ready, runs)

    def time(self, concurrency: int, seed: int) -> Timing:
        """Let ``concurrency`` clients ask for one row after another until all are answered."""
        assert self._engine is not None
        return asyncio.run(closed_loop(self._engine, self._stack, self._rows, concurrency, seed))

    def close(self) -> None:
        """Close the engine."""
        if self._engine is not None:
            self._engine.close()


async def closed_loop(
    engine: Engine, stack: Stack[Any, Any] | str, rows: Sequence[dict[str, Any]], concurrency: int, seed: int
) -> Timing:
    """Time ``concurrency`` clients, each of which asks for its next row when it has its answer.

    Raises:
        FslmError: anything but a failed run, which is counted.
    """
    latencies = [0.0] * len(rows)
    messages: list[dict[str, str] | None] = [None] * len(rows)
    errors: list[str] = []
    usages: list[Usage] = []
    waiting: Iterator[tuple[int, dict[str, Any]]] = iter(enumerate(rows))

    async def client() -> None:
        for place, row in waiting:
            asked = time.perf_counter()
            try:
                run = await engine.arun(stack, row, seed=seed)
                messages[place] = _digests(run)
                if run.error is not None:  # it waits for a person
                    errors.append(run.error.code)
            except RunFailed as failed:
                errors.append(failed.error.code)
                run = failed.run
            latencies[place] = time.perf_counter() - asked
            usages.append(run.usage)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(min(concurrency, len(rows)))))
    seconds = time.perf_counter() - began
    return Timing(
        tuple(latencies), seconds, tuple(messages), tuple(errors), sum(usages, Usage()), peak_memory_of_program()
    )


def _digests(run: Run[Any]) -> dict[str, str]:
    """A skipped step counts as a message that says so."""
    return {
        step: message.content_id if isinstance(message, Message) else "skipped"
        for step, message in run.messages.items()
    }


def peak_memory_of_program() -> int | None:
    """Bytes this process held at most since it became this program; what it was forked from does not count.

    Where the system tells no such figure, :func:`~fslm_core.serve.estimate.peak_memory`.
    """
    with suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text("utf-8"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return peak_memory()


class Apart:
    """An arm in a process of its own.

    Args:
        stack: the name of an installed stack.
        rows: inputs of the stack.
        settings: under which it runs.
        max_in_flight: the most runs at once.
    """

    def __init__(self, stack: str, rows: Sequence[dict[str, Any]], settings: Settings, max_in_flight: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._line, theirs = spawn.Pipe()
        given = (theirs, stack, list(rows), settings, max_in_flight)
        self._process = spawn.Process(target=_serve, args=given, daemon=False, name=f"fslm-bench-{stack}")
        self._process.start()
        theirs.close()

    def load(self) -> Loaded:
        """Open the engine there.

        Raises:
            FslmError: it cannot be opened, or the process died of it.
        """
        return self._ask("load")  # type: ignore[no-any-return]

    def time(self, concurrency: int, seed: int) -> Timing:
        """Run every row there."""
        return self._ask("time", concurrency, seed)  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the process, by force where it does not end by itself. Idempotent."""
        with suppress(OSError):
            self._line.send(None)
        self._line.close()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _ask(self, *question: Any) -> Any:
        try:
            self._line.send(question)
            answer = self._line.recv()
        except (EOFError, OSError):
            self._process.join(_PATIENCE)
            raise SystemRefusedError(
                "the process of this arm died",
                where="fslm bench",
                found=f"exit code {self._process.exitcode}",
                hint="if the memory is full, bench fewer arms at once, or set a smaller torch.cache_mb",
            ) from None
        except BaseException:  # Ctrl-C: nobody waits for the answer
            self._process.kill()
            raise
        if isinstance(answer, FslmError):
            raise answer
        return answer


def _serve(line: Connection, stack: str, rows: list[dict[str, Any]], settings: Settings, max_in_flight: int) -> None:
    """The process: answer questions until there are none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all in the terminal; the parent tells us to end
    sys.stdout = sys.stderr  # where nothing is taken for a result
    local = Local(
        stack,
        rows,
        lambda: Engine([stack], settings=settings, host=PluginHost(settings), trace=False, max_in_flight=max_in_flight),
    )
    ask: dict[str, Callable[..., Any]] = {"load": local.load, "time": local.time}
    with suppress(EOFError, OSError):  # the parent is gone
        while (question := line.recv()) is not None:
            name, *given = question
            try:
                answer = ask[name](*given)
            except FslmError as error:
                answer = error
            except Exception as error:
                answer = InternalError(
                    f"an error that fslm did not expect: {type(error).__name__}: {shorten(str(error))}",
                    where="fslm bench",
                    hint="run the stack once with `fslm --debug run …` to see where",
                )
            line.send(answer)
    local.close()


__all__ = ["Apart", "Arm", "Loaded", "Local", "Running", "Timing", "closed_loop", "peak_memory_of_program"]

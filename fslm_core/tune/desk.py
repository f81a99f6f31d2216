"""Asking the teacher: several calls at once, each answer kept as it comes, within a budget."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..engine import Engine
from ..errors import BackendError, CheckError, DeadlineExceeded, FslmError, RunFailed, TrainError
from ..message import Usage
from ..schema import plain_data
from ..train import Working
from .cache import Kept
from .progress import Progress
from .recipe import Budget
from .teacher import Call, Teacher

ENOUGH = 20
"""After so many calls the share of failures is looked at."""


@dataclass
class Cost:
    """What the teacher cost: calls, tokens of prompts and answers, and seconds of calls added up."""

    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Desk:
    """Asks the teacher. What was answered, in this session or an earlier one, is not asked again.

    Args:
        folder: for the files of answers, one for each step.
    """

    def __init__(self, teacher: Teacher, folder: Path, progress: Progress) -> None:
        self._teacher, self._folder, self._progress = teacher, folder, progress
        self._lock = threading.Lock()
        self._files: dict[str, Kept] = {}
        self._open = ExitStack()
        self._engine: Engine | None = None
        self._stopped = threading.Event()
        self.failures: Counter[str] = Counter()
        """Calls of this session without a valid answer, by why."""
        self._asked = 0
        for path in sorted(folder.glob("*.jsonl")):
            self._file(path.stem)
        self._total = self.cost()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the model back. Idempotent."""
        self._stopped.set()
        self._open.close()

    @property
    def budget(self) -> Budget:
        """What it may cost."""
        return self._teacher.ways.budget

    def cost(self, step: str | None = None) -> Cost:
        """What was spent so far, in all sessions, on one step or on all."""
        made = Cost()
        for name, file in list(self._files.items()):
            for entry in file if step in (None, name) else ():
                made.calls += 1
                made.tokens += entry["tokens"]
                made.seconds += entry["seconds"]
        return made

    def answer(self, call: Call) -> dict[str, Any] | None:
        """The valid message that a call gave; None where it gave none."""
        entry = self._file(call.step).get(call.key)
        return None if entry is None else entry.get("message")

    def failed(self, call: Call) -> bool:
        """Whether a call got no answer at all, not even one that is invalid."""
        entry = self._file(call.step).get(call.key)
        return entry is None or "failed" in entry

    def ask(self, calls: Sequence[Call], what: str) -> None:
        """Make those calls that have no answer yet.

        Raises:
            TrainError: the budget is spent, too many calls failed, or the teacher is none for this step.
            CheckpointError, AdapterError, MissingExtraError: the teacher cannot be run here.
        """
        waiting = list({call.key: call for call in calls if self.failed(call)}.values())
        if not waiting:
            return
        self._refuse_spent()
        engine = self._opened(waiting)
        self._asked, self.failures = 0, Counter()
        pool = ThreadPoolExecutor(self._teacher.ways.concurrency, thread_name_prefix="fslm-teacher")
        try:
            work = [pool.submit(self._one, engine, call) for call in waiting]
            for done, one in enumerate(as_completed(work), start=1):
                one.result()
                self._progress(Working(what, done, len(waiting)))
        except KeyboardInterrupt:
            self.close()  # calls under way are given up
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        self._refuse_failures(at_least=1)
        if self._asked < len(waiting):
            self._refuse_spent()

    # -- one call ----------------------------------------------------------------------------------------------------

    def _one(self, engine: Engine, call: Call) -> None:
        if self._spent() or self._stopped.is_set():
            return
        began = time.monotonic()
        entry: dict[str, Any] = {"key": call.key}
        try:
            run = engine.run(call.stack, call.input, seed=call.seed, timeout=self.budget.call_seconds)
            entry |= {"message": plain_data(run.output), **_tokens(run.usage)}
        except RunFailed as failed:
            if self._stopped.is_set():
                return
            entry |= {**self._failure(failed.error), **_tokens(failed.run.usage)}
        entry["seconds"] = round(time.monotonic() - began, 3)
        self._file(call.step).put(entry)
        with self._lock:
            self._asked += 1
            self._total.tokens += entry["tokens"]
            self._total.seconds += entry["seconds"]
            if "message" not in entry:
                self.failures[entry.get("failed") or entry["junk"]] += 1
        self._refuse_failures(at_least=ENOUGH)

    def _failure(self, error: FslmError) -> dict[str, str]:
        """What is kept of a call without a valid answer: ``junk`` is final, what ``failed`` may be asked again."""
        if isinstance(error, DeadlineExceeded | BackendError):
            return {"failed": error.code, "why": error.what}
        return {"junk": error.code}

    # -- bounds ------------------------------------------------------------------------------------------------------

    def _spent(self) -> str | None:
        """What is spent, where that is all of a budget."""
        budget, cost = self.budget, self._total
        if budget.tokens is not None and cost.tokens >= budget.tokens:
            return f"{cost.tokens:,} tokens of {budget.tokens:,}"
        if budget.seconds is not None and cost.seconds >= budget.seconds:
            return f"{cost.seconds:,.0f} s of {budget.seconds:,.0f}"
        return None

    def _refuse_spent(self) -> None:
        if (spent := self._spent()) is not None:
            raise TrainError(
                "the teacher's budget is spent, and messages are still missing",
                where="recipe, teacher.budget",
                found=spent,
                hint="raise it and run the same command again: what was written is kept; or give fewer rows",
            )

    def _refuse_failures(self, at_least: int) -> None:
        with self._lock:
            asked, failures = self._asked, Counter(self.failures)
        if asked >= at_least and failures.total() > self.budget.failures * asked:
            raise TrainError(
                f"the teacher failed in {failures.total()} of {asked} calls",
                where="recipe, teacher",
                found=", ".join(f"{code}: {count}" for code, count in failures.most_common()),
                expected=f"at most a share of {self.budget.failures:g} (teacher.budget.failures)",
                hint=_HINT,
            )

    # -- what it works with ------------------------------------------------------------------------------------------

    def _opened(self, calls: Sequence[Call]) -> Engine:
        if self._engine is None:
            teacher = self._teacher
            self._engine = self._open.enter_context(
                Engine(
                    settings=teacher.settings,
                    host=teacher.host,
                    backend=teacher.backend,
                    trace=False,
                    max_in_flight=teacher.ways.concurrency,
                )
            )
        for step, stack in {call.step: call.stack for call in calls}.items():
            try:
                self._engine.origins(stack)  # makes it ready
            except CheckError as error:
                raise TrainError(
                    "the teacher cannot write a step's messages",
                    where=f"recipe, teacher, step {step}",
                    found="; ".join(finding.removeprefix("step message: ") for finding in error.findings),
                    hint="correct its model, its adapter, or the step's prompt under teacher.steps",
                ) from None
        return self._engine

    def _file(self, step: str) -> Kept:
        with self._lock:
            if step not in self._files:
                self._files[step] = Kept(self._folder / f"{step}.jsonl")
            return self._files[step]


_HINT = (
    "see that the teacher can be reached and has time enough (teacher.budget.call_seconds), and that it writes the"
    " step's fields; then run the same command again: what was written is kept"
)


def _tokens(usage: Usage) -> dict[str, int]:
    return {"tokens": usage.prompt + usage.output}


__all__ = ["Cost", "Desk"]

"""The one writer of a store: events of many runs go in, groups of them are committed together."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sqlite3
import threading
import time
from concurrent.futures import Future
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..errors import StoreError
from ..events import Event, RunFinished, RunStarted, ShadowDrawn, ShadowFinished
from .database import connect, explained, transaction
from .encode import Encoder, Statement
from .words import RUNS_AT_ONCE, catch_up

OnFailure = Literal["fail", "continue"]
_LINGER_SECONDS = 0.25
"""How long a record that nobody waits for may wait for company."""
_QUIET_SECONDS = 60.0
"""For so long after a loss was told the beginning of another is not."""
_SHARED_FAULTS = (sqlite3.OperationalError, OSError)
"""What is wrong with the file, not with one record in the group."""

log = logging.getLogger("fslm.store")


@dataclass(slots=True, eq=False)
class _Entry:
    """One event's statements, and who waits for them. ``fault``: they were written, but as a failure.

    ``beside``: it is about a candidate, and its run does not fail where it is lost.
    """

    run: str
    statements: list[Statement]
    finish: RunFinished | None = None
    waiter: Future[None] | None = None
    fault: StoreError | None = None
    beside: bool = False

    def done(self) -> None:
        if self.waiter is not None and self.fault is not None:
            self.waiter.set_exception(_again(self.fault))
        elif self.waiter is not None:
            self.waiter.set_result(None)


class Recorder:
    """Writes events to a store, from any thread and any event loop.

    The start and the end of a run are awaited until they are on the disk; what lies between is queued in order and
    is there at the latest when the end is. Records that wait at the same time share one commit. What became of a
    candidate may come after the end of its run; where it cannot be written it is lost, and no run fails by it.

    Where a record cannot be written, ``on_failure`` decides. ``fail``: whoever records next for that run gets a
    StoreError, and a run that lost a record is never stored as succeeded. ``continue``: the run goes on; the loss is
    counted in :attr:`lost` and logged when it begins (once a minute at most), when records are written again, and with
    the whole count when the recorder is closed.

    Attributes:
        lost: events that could not be written.
        commits: transactions that were committed.
        records: events that were written.
    """

    def __init__(self, path: Path, encoder: Encoder, *, owner: str, on_failure: OnFailure = "fail") -> None:
        self.lost = 0
        self.commits = 0
        self.records = 0
        self._path = path
        self._encoder = encoder
        self._owner = owner
        self._on_failure = on_failure
        self._pid = os.getpid()
        self._connection = connect(path, readonly=False)
        self._queue: list[_Entry] = []
        self._wake = threading.Condition()
        self._urgent = False
        self._closing = False
        self._damaged: dict[str, StoreError] = {}
        self._counting = threading.Lock()
        self._losing_since: int | None = None
        self._told_at = -math.inf
        self._unsaid = 0
        self._thread = threading.Thread(target=self._work, name="fslm-store", daemon=True)
        self._thread.start()

    async def record(self, event: Event) -> None:
        """Record ``event``; returns when it is committed for RunStarted and RunFinished, else when it is queued.

        Raises:
            StoreError: it, or an earlier record of the same run, could not be written (``on_failure="fail"``);
                the recorder is closed, or belongs to the process this one was forked from.
        """
        if (waiter := self._submit(event)) is not None:
            await asyncio.wrap_future(waiter)

    def record_sync(self, event: Event) -> None:
        """The same for code without an event loop."""
        if (waiter := self._submit(event)) is not None:
            waiter.result()

    def flush(self) -> None:
        """Return when everything recorded so far is committed or lost."""
        waiter = _waiter()
        self._push(_Entry("", [], waiter=waiter))
        waiter.result()

    def close(self) -> None:
        """Write what is queued, mark this recorder's unfinished runs interrupted, and close the file. Idempotent."""
        if self._pid != os.getpid():
            return
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _submit(self, event: Event) -> Future[None] | None:
        finish = event if isinstance(event, RunFinished) else None
        beside = isinstance(event, ShadowDrawn | ShadowFinished)
        if finish is None and (damage := self._damaged.get(event.run)) is not None:
            raise _again(damage)
        waiter = _waiter() if isinstance(event, RunStarted | RunFinished) else None
        statements = self._encoded(event)
        entry = _Entry(event.run, statements if isinstance(statements, list) else [], finish, waiter, beside=beside)
        if isinstance(statements, StoreError):
            self._lose(1, statements)
            if beside:
                return None
            if finish is None:
                self._damage(event.run, statements)
                return None
            entry.statements = self._encoder.encode(_as_failed(finish, statements))
            entry.fault = statements if self._on_failure == "fail" else None
        if not entry.statements:
            return None
        self._push(entry)
        return waiter

    def _encoded(self, event: Event) -> list[Statement] | StoreError:
        """The event's statements, or why it cannot be written; that quotes nothing unless all is kept."""
        try:
            return self._encoder.encode(event)
        except Exception as error:
            fault = _unwritable(error, event.run)
            fault.__cause__ = error if self._encoder.mode == "full" else None
            return fault

    def _damage(self, run: str, fault: StoreError) -> None:
        if self._on_failure == "fail":
            self._damaged[run] = fault
            raise fault

    def _push(self, entry: _Entry) -> None:
        if self._pid != os.getpid():
            raise StoreError(
                "the trace recorder was opened before a fork",
                where=str(self._path),
                hint="open the engine in each worker process, after the fork",
            )
        with self._wake:
            if self._closing:
                raise StoreError("the trace recorder is closed", where=str(self._path), hint="open a new engine")
            self._queue.append(entry)
            self._urgent = self._urgent or entry.waiter is not None
            self._wake.notify()

    def _work(self) -> None:
        going = True
        while going:
            group, going = self._take()
            self._write(group)
            self._index(sum(entry.finish is not None for entry in group), idle=not group)
        self._end()

    def _take(self) -> tuple[list[_Entry], bool]:
        with self._wake:
            idle = _LINGER_SECONDS if self._unsaid else None
            if not self._wake.wait_for(lambda: self._queue or self._closing, timeout=idle):
                return [], True
            self._wake.wait_for(lambda: self._urgent or self._closing, timeout=_LINGER_SECONDS)
            group, self._queue, self._urgent = self._queue, [], False
            return group, not self._closing

    def _write(self, group: list[_Entry]) -> None:
        """Commit the group; if one record alone is at fault, it shall not take the others with it."""
        try:
            self._commit([entry for entry in group if self._may_go(entry)])
        except Exception as error:
            if len(group) > 1 and not isinstance(error, _SHARED_FAULTS):
                for entry in group:
                    self._write([entry])
                return
            self._fail(group, error)
            return
        for entry in group:
            entry.done()

    def _commit(self, group: list[_Entry]) -> None:
        writing = [entry for entry in group if entry.statements]
        if not writing:
            return
        with transaction(self._connection):
            for entry in writing:
                for sql, values in entry.statements:
                    self._connection.execute(sql, values)
        self.commits += 1
        self.records += len(writing)
        self._recovered()

    def _index(self, ended: int, *, idle: bool) -> None:
        """Index runs that have ended, as soon as there are many or nothing else is to be done.

        Whatever is not indexed, because the process ends or the disk is full, is by whoever opens the store next.
        """
        self._unsaid += ended
        while self._unsaid >= (1 if idle else RUNS_AT_ONCE) and not (idle and self._queue):
            try:
                done = catch_up(self._connection)
            except Exception as error:
                log.info("the index for searching is left behind: %s", type(error).__name__)
                done = 0
            self._unsaid = max(0, self._unsaid - done) if done else 0

    def _may_go(self, entry: _Entry) -> bool:
        """What still comes of a run that lost a record is dropped, and unless it was cancelled its end is a failure."""
        damage = self._damaged.get(entry.run)
        if damage is None:
            return True
        if entry.finish is None:
            entry.fault = damage
            return False
        if entry.finish.status in ("succeeded", "review"):
            entry.statements = self._encoder.encode(_as_failed(entry.finish, damage))
            entry.fault = damage
        del self._damaged[entry.run]
        return True

    def _fail(self, group: list[_Entry], error: Exception) -> None:
        if isinstance(error, sqlite3.Error | OSError):
            fault = explained(error, self._path)
        else:
            fault = _unwritable(error, group[0].run)
        fault.__cause__ = error  # of the database: statements carry what may be kept
        lost = [entry for entry in group if entry.statements]
        self._lose(len(lost), fault)
        if self._on_failure == "fail":
            for entry in lost:
                entry.fault = fault
                if entry.beside:
                    continue
                if entry.waiter is None:  # nobody hears of it now, so whoever records next for the run shall
                    self._damaged[entry.run] = fault
                elif entry.finish is not None:
                    self._damaged.pop(entry.run, None)
        for entry in group:
            entry.done()

    def _lose(self, count: int, fault: StoreError) -> None:
        """Count a loss, and tell of it where nobody is told by an error."""
        now = time.monotonic()
        with self._counting:
            before, self.lost = self.lost, self.lost + count
            if self._on_failure == "fail" or self._losing_since is not None or now < self._told_at + _QUIET_SECONDS:
                return
            self._losing_since, self._told_at = before, now
        log.warning("the trace is incomplete from here on, and runs go on without it: %s: %s", fault.where, fault.what)

    def _recovered(self) -> None:
        with self._counting:
            if self._losing_since is None:
                return
            lost, self._losing_since = self.lost - self._losing_since, None
        log.warning("the trace is written again; lost in between: %s", _records(lost))

    def _end(self) -> None:
        self._index(0, idle=True)
        if self.lost and self._on_failure == "continue":
            log.warning("the trace is closed; it lacks %s", _records(self.lost))
        try:
            with transaction(self._connection):
                self._connection.execute(
                    "UPDATE runs SET status = 'interrupted' WHERE status = 'running' AND owner = ?", (self._owner,)
                )
        except sqlite3.Error as error:
            log.warning("unfinished runs could not be marked: %s", explained(error, self._path))
        finally:
            self._connection.close()


def concerns_all(fault: StoreError) -> bool:
    """Whether the trace failed for every run, as on a full disk, and not for one record alone."""
    cause = fault.__cause__
    return isinstance(cause, _SHARED_FAULTS) or type(cause) is sqlite3.DatabaseError


def _records(count: int) -> str:
    return "1 record" if count == 1 else f"{count:,} records"


def _waiter() -> Future[None]:
    waiter: Future[None] = Future()
    waiter.set_running_or_notify_cancel()  # a cancelled caller stops waiting; the record is written all the same
    return waiter


def _again(fault: StoreError) -> StoreError:
    """A copy to raise: one error raised in many tasks at once would mix their tracebacks."""
    fresh = copy(fault)
    fresh.__cause__ = fault.__cause__
    return fresh


def _as_failed(finish: RunFinished, fault: StoreError) -> RunFinished:
    return replace(finish, status="failed", output=None, error=fault)


def _unwritable(error: Exception, run: str) -> StoreError:
    """The error's own text stays out of it: it may quote what was not to be kept."""
    return StoreError(
        f"an event cannot be written to the trace: {type(error).__name__}",
        where=f"run {run}",
        hint="set trace.on_failure = 'continue' to run on without its trace, and report it",
    )


__all__ = ["OnFailure", "Recorder", "concerns_all"]

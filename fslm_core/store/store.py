"""Opening a trace database, and reading what is in it."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from ..errors import StoreError, UnknownNameError, UsageError
from ..stack import INPUT, Stack
from .beside import Shadowed, read_inputs, read_shadowed_stages, read_shadows
from .counting import Counts, Said, read_beginning, read_counts, read_said, read_spans
from .database import connect, transaction, translated, understood
from .encode import Encoder
from .exporting import Exported, line_of, write_lines
from .finding import LAST, ended, find, ids, newest, stacks, subject
from .forget import PATIENCE_SECONDS, Forgotten, forget, pending, select
from .importing import Imported, import_file
from .interrupting import INTERRUPT, mark_interrupted
from .keep import ContentMode
from .labels import Label, put_label, read_labels, take_back
from .outline import Outline, read_glimpse, read_outline, read_pulse
from .owner import this_writer
from .pairs import read_change, read_pairs
from .parquet import write_tables
from .privacy import Key
from .recorder import OnFailure, Recorder
from .rows import RunRow, StoredContent, StoredRun, read_content, read_run
from .search import Found, search
from .tables import has_index
from .typed import typed_run
from .words import index_all, lags

log = logging.getLogger("fslm.store")
T = TypeVar("T")


class TraceStore:
    """A trace database: one writer, any number of readers, in this process and in others.

    Open it with :meth:`open`; close it, or use it as a context manager. Reading is safe from any thread and sees what
    is committed, while runs are being written too.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        content: ContentMode,
        on_failure: OnFailure,
        *,
        readonly: bool = False,
    ) -> None:
        self.path = path
        self._readonly = readonly
        self.content_mode: ContentMode = content
        self._on_failure: OnFailure = on_failure
        self._reader = connection
        self._reader.row_factory = sqlite3.Row
        self._lock = threading.Lock()
        self._recorder: Recorder | None = None

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        content: ContentMode = "none",
        on_failure: OnFailure = "fail",
        readonly: bool = False,
    ) -> TraceStore:
        """Open the database at ``path``, making it (0600, in folders of 0700) where there is none.

        Runs that a process left ``running`` when it ended are marked ``interrupted``.

        Args:
            content: what recorders keep: ``full``, ``redacted`` (sensitive fields blanked) or ``none`` (no text).
            on_failure: what a recorder does with what it cannot write; see :class:`Recorder`.
            readonly: read only: nothing is made, marked or recorded.

        Raises:
            StoreError: there is nothing to read, or the file is locked, damaged, no trace, of a newer version or
                not writable; the text says which, and what to do.
        """
        place = Path(path).absolute()
        connection = connect(place, readonly=readonly)
        if not readonly:
            try:
                with translated(place), understood(place):
                    mark_interrupted(connection)
                index_all(connection)
            except BaseException:
                connection.close()
                raise
            connection.execute("PRAGMA query_only = ON")  # from here on only the recorder writes
        return cls(place, connection, content, on_failure, readonly=readonly)

    def recorder(self) -> Recorder:
        """The store's one recorder, which :meth:`close` closes too.

        Raises:
            StoreError: the database cannot be opened for writing, or its key is damaged.
        """
        with self._lock:
            if self._recorder is None:
                key = None if self.content_mode == "full" else self._key()
                owner = this_writer()
                encoder = Encoder(self.content_mode, key, engine=engine_version(), owner=owner)
                self._recorder = Recorder(self.path, encoder, owner=owner, on_failure=self._on_failure)
            return self._recorder

    def _key(self) -> Key:
        key = Key.beside(self.path)
        keyed = "SELECT 1 FROM runs WHERE content != 'full' LIMIT 1"
        with translated(self.path):
            if key.fresh and self._reader.execute(keyed).fetchone():
                log.warning(
                    "the key %s.key was lost and a new one is made: what was kept stays readable, but its hashes match"
                    " no newer ones",
                    self.path,
                )
        return key

    def runs(
        self,
        limit: int = 20,
        *,
        stack: str | None = None,
        status: str | None = None,
        since: float | None = None,
        labelled: bool = False,
        before: str | None = None,
    ) -> list[RunRow]:
        """The newest runs, newest first.

        Args:
            limit: how many at most.
            stack: only runs of this stack.
            status: only ``running``, ``succeeded``, ``failed``, ``cancelled``, ``review`` or ``interrupted`` ones.
            since: only runs that began since, in Unix seconds.
            labelled: only runs of which a message is labelled.
            before: only runs older than this one, named as for :meth:`run`: where a list is to be read on.

        Raises:
            UnknownNameError: there is no run ``before``, or several.
        """
        with self._reading() as connection:
            return newest(connection, limit, stack=stack, status=status, since=since, labelled=labelled, before=before)

    def stacks(self) -> tuple[str, ...]:
        """The names of the stacks that have runs."""
        with self._reading() as connection:
            return stacks(connection)

    def search(
        self,
        query: str,
        *,
        stack: str | None = None,
        step: str | None = None,
        status: str | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int = 20,
    ) -> list[Found]:
        """The newest messages that hold every word of the query, in runs that have ended.

        A word is found in whatever case and with or without accents; words in quotation marks are found where they
        follow each other. Nothing else in a query has a meaning. What is found is what the run's mode kept.

        Args:
            query: words, and phrases in quotation marks.
            stack: only in runs of this stack.
            step: only what this step said, by its whole path; ``input`` and ``output`` for those of the run.
            status: only in runs that ended so, as for :meth:`runs`.
            since: only what was said since, in Unix seconds.
            until: only what was said before, in Unix seconds.
            limit: how many at most.

        Raises:
            UsageError: there is no word in the query.
            StoreError: the database cannot be read, has no index yet, or this Python's SQLite cannot search.
        """
        if not self._readonly and not self.is_indexed():
            with translated(self.path), closing(connect(self.path, readonly=False)) as connection:
                index_all(connection)
        with self._reading() as connection:
            return search(
                connection, query, stack=stack, step=step, status=status, since=since, until=until, limit=limit
            )

    def is_indexed(self) -> bool:
        """Whether every run that has ended can be searched: what is left is indexed when the store is opened to write.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._reading() as connection:
            return has_index(connection) and not lags(connection)

    def run(self, name: str = LAST, *, nodes: Collection[str] | None = None) -> StoredRun:
        """One run whole: by its id, by the beginning of its id if that is unique, or the ``last`` one.

        Args:
            nodes: of its steps and candidates, only those with these ids; :meth:`outline` tells them.

        Raises:
            UnknownNameError: no such run, or several.
            StoreError: the database cannot be read.
        """
        with self._reading() as connection:
            return typed_run(read_run(connection, find(connection, name), nodes))

    def outline(self, name: str = LAST) -> Outline:
        """Which steps a run has and how each ended, without what they said; raises as :meth:`run`."""
        with self._reading() as connection:
            return read_outline(connection, find(connection, name))

    def glimpses(self, runs: Sequence[str]) -> dict[str, str]:
        """The beginning of what each of these runs was given, on one line, by the run's whole id."""
        with self._reading() as connection:
            return {run: read_glimpse(connection, run) for run in runs}

    def pulse(self, run: str) -> str | None:
        """What is another text once more of a run was recorded, so that it can be watched; None where it is gone.

        Args:
            run: its whole id.
        """
        with self._reading() as connection:
            return read_pulse(connection, run)

    def pairs(self, stack: str, *, since: float | None = None, limit: int = 1000) -> list[tuple[str, str]]:
        """Ids of two runs each that were given the same: the last one before a moment, and the newest after it.

        Args:
            since: the moment, Unix seconds; left out, it is when the stack's makers (stages, prompts, adapters, models)
                last changed.
            limit: how many pairs at most, the newest first.

        Raises:
            UnknownNameError: no run of this stack is kept, or all were made by the same makers and no moment is given.
            StoreError: the database cannot be read.
        """
        with self._reading() as connection:
            moment = read_change(connection, stack) if since is None else since
            found = [] if moment is None else read_pairs(connection, stack, moment, limit)
        if moment is None:
            raise UnknownNameError(
                f"the trace has no runs of stack {stack!r} from before its makers changed",
                where="the trace",
                hint="name the moment that parts before from after, or two runs",
            )
        return found

    def shadows(self, stage: str) -> list[Shadowed]:
        """Every candidate that ran beside a step of this stage, newest last, with what became of the step.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._reading() as connection:
            return read_shadows(connection, stage)

    def shadowed_stages(self) -> tuple[str, ...]:
        """The stages that candidates ran beside."""
        with self._reading() as connection:
            return read_shadowed_stages(connection)

    def inputs(self, stack: str, limit: int) -> list[tuple[str, StoredContent]]:
        """What runs of this stack were given, as (id of a run, its input): equal inputs once, the newest first.

        Only inputs that were kept as they were: those of runs under ``trace.content = "full"``.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._reading() as connection:
            return read_inputs(connection, stack, limit)

    def label(
        self,
        run: str,
        step: str,
        *,
        right: bool | None = None,
        correction: Mapping[str, Any] | None = None,
        note: str = "",
        stack: Stack[Any, Any] | None = None,
    ) -> Label:
        """Say whether a message is right, or write what would have been; the label it had is replaced.

        Of a run that was not kept in full no words are kept: right and wrong can be said of it, and no more.

        Args:
            run: named as for :meth:`run`.
            step: its path, with indices: ``pages[3].summary``. One that failed takes a correction, and no other label.
            right: whether what it said is right. Either this is given or a correction, which implies that it is wrong.
            correction: the whole message as it should have been, JSON data.
            stack: the run's, by whose models a correction is checked. Without it only what was recorded is: the
                fields the message had, and what its input narrowed it to.

        Raises:
            UnknownNameError: no such run, or several; no such step in it.
            UsageError: not one of the two is given, the step said nothing, or the run was not kept in full.
            InputError: the correction is nothing that the step could have said.
            StoreError: the store was opened to read only, or the database cannot be written.
        """
        with self._changing() as connection:
            row = find(connection, run)
            return put_label(connection, row, step, right=right, correction=correction, note=note, stack=stack)

    def labels(
        self,
        run: str | None = None,
        *,
        stage: str | None = None,
        stack: str | None = None,
        limit: int | None = None,
    ) -> list[Label]:
        """What is said of messages, the newest first: of a run's, of a stage's, of a stack's, or of all.

        Args:
            run: named as for :meth:`run`.
            limit: how many at most; all of them if not given.

        Raises:
            UnknownNameError: no such run, or several.
            StoreError: the database cannot be read.
        """
        with self._reading() as connection:
            named = None if run is None else find(connection, run)["id"]
            return read_labels(connection, named, stage=stage, stack=stack, limit=limit)

    def unlabel(self, run: str, step: str) -> Label:
        """Take back what was said of a message; returns it.

        Raises:
            UnknownNameError: no such run, or several; no label is on that step.
            StoreError: as :meth:`label`.
        """
        with self._changing() as connection:
            return take_back(connection, find(connection, run)["id"], step)

    def spans(self, *, since: float = -inf, until: float = inf) -> dict[str, tuple[float, float]]:
        """When the first and the last run of each stack began, of those since a moment and before another."""
        with self._reading() as connection:
            return read_spans(connection, since, until)

    def beginning(self, stack: str, newest: int) -> float | None:
        """When the first of a stack's newest so many runs began, replays left out; None where there are fewer."""
        with self._reading() as connection:
            return read_beginning(connection, stack, newest)

    def counts(
        self, stack: str, *, since: float = -inf, until: float = inf, span: Callable[[float], float] = lambda _: 0.0
    ) -> Counts:
        """Count the runs of a stack, step by step; :func:`~fslm_core.explain.stats.stats` makes shares and medians.

        Args:
            since: only runs that began since, in Unix seconds; ``until``: and before.
            span: when the span of time began that a moment lies in: each is counted by itself.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._reading() as connection:
            return read_counts(connection, stack, since, until, span)

    def said(self, stack: str, *, since: float = -inf, until: float = inf) -> list[Said]:
        """What the steps of those runs said, equal messages once, and, as ``input``, what the runs were given.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._reading() as connection:
            return read_said(connection, stack, since, until, INPUT)

    def content(self, content_id: str) -> StoredContent:
        """One message's content by its id.

        Raises:
            UnknownNameError: no such content.
        """
        with self._reading() as connection:
            found = read_content(connection, content_id)
        if found is None:
            raise UnknownNameError(
                f"there is no content {content_id!r} in the trace",
                where=str(self.path),
                hint="take an id from `fslm trace show --json`",
            )
        return found

    def forget(self, runs: Sequence[str] = (), *, patience: float = PATIENCE_SECONDS) -> Forgotten:
        """Forget runs: their rows, the messages no other run has, and what these leave in the file and its log.

        Each is named as for :meth:`run`. All of them go in one transaction, then the file is written anew and its log
        cut to nothing. Where an earlier call was cut short after its transaction, the next one, with or without runs,
        completes it. Other processes may read and write meanwhile; they wait while the file is written.

        Args:
            patience: seconds to wait for those others.

        Raises:
            UnknownNameError: no such run, or several; none is forgotten then.
            StoreError: one of them is running (none is forgotten then), the store was opened to read only, or the
                file could not be written anew: the text says what is done and what is not.
        """
        if self._readonly:
            raise self._only_read()
        return forget(self.path, self.named(runs), patience=patience)

    def named(self, runs: Sequence[str]) -> tuple[str, ...]:
        """The ids of runs that are named as for :meth:`run`, each once.

        Raises:
            UnknownNameError: no such run, or several.
        """
        with self._reading() as connection:
            gone = set(pending(connection))
            found = [run if run in gone else subject(connection, run) for run in runs]
        return tuple(dict.fromkeys(found))

    def prune(
        self,
        *,
        older_than: float | None = None,
        keep: int | None = None,
        larger_than: int | None = None,
        stack: str | None = None,
        dry_run: bool = False,
        patience: float = PATIENCE_SECONDS,
    ) -> Forgotten:
        """Forget runs by age, by number or by the size of the file; those that are running stay.

        Args:
            older_than: forget those that began more than so many seconds ago.
            keep: forget all but the newest so many. With both, a run that either spares is kept.
            larger_than: forget the oldest of what the other limits do not spare, until the file has no more bytes.
            stack: look at the runs of this stack only.
            dry_run: forget nothing, only say which runs it would be.
            patience: as for :meth:`forget`.

        Raises:
            UsageError: neither is given, or one is below zero.
            StoreError: as :meth:`forget`.
        """
        given = [limit for limit in (older_than, keep, larger_than) if limit is not None]
        if not given or min(given) < 0:
            raise UsageError(
                "pruning needs a limit",
                where="TraceStore.prune",
                found=f"older_than={older_than}, keep={keep}, larger_than={larger_than}",
                expected="older_than seconds, how many to keep, or larger_than bytes; not below zero",
                hint="prune(older_than=30 * 86400), or prune(keep=1000)",
            )
        with self._reading() as connection:
            runs = select(connection, older_than=older_than, keep=keep, stack=stack, larger_than=larger_than)
        if dry_run or (larger_than is not None and not runs):
            return Forgotten(runs)
        done = self.forget(runs, patience=patience)
        if larger_than is None:
            return done
        more = self.prune(older_than=older_than, keep=keep, larger_than=larger_than, stack=stack, patience=patience)
        return done if not more.runs else done.and_then(more)

    def export_runs(
        self, out: Path | str, runs: Sequence[str] = (), *, stack: str | None = None, since: float | None = None
    ) -> Exported:
        """Write runs to a file, whole, one a line of JSON (see :mod:`.exporting`); a run under way is left out.

        A file whose name ends in ``.parquet`` gets a flat table of messages, and one of runs beside it (see
        :mod:`.parquet`). Files are there whole or not at all, for their owner alone.

        Args:
            out: the file; what is there goes.
            runs: each named as for :meth:`run`; without any, all that the other arguments leave, oldest first.
            stack: only runs of this stack.
            since: only runs that began since, in Unix seconds.

        Raises:
            UnknownNameError: no such run, or several.
            StoreError: the database cannot be read, or the file cannot be written.
            MissingExtraError: Parquet is wanted and pyarrow is not installed.
        """
        if runs:
            named = self.named(runs)
        else:
            with self._reading() as connection:
                named = ids(connection, stack=stack, since=since)

        def each(read: Callable[[sqlite3.Connection, str], T | None]) -> Iterator[T]:
            for run in named:
                with self._reading() as connection:  # one by one: a long export keeps nobody waiting
                    found = read(connection, run)
                if found is not None:
                    yield found

        if Path(out).suffix == ".parquet":
            return write_tables(Path(out), each(ended))
        return write_lines(Path(out), each(line_of))

    def import_runs(self, source: Path | str) -> Imported:
        """Take in the runs of an export, or of another trace database: an id that is there is the same run.

        A run that is there already is passed over, so the same call completes an import that was cut short; one that
        is there with other contents is left out and named.

        Raises:
            StoreError: the source cannot be read or is no export (the runs before what is wrong are there then), this
                store was opened to read only, or it cannot be written.
        """
        if self._readonly:
            raise self._only_read()
        done = import_file(self.path, Path(source))
        with translated(self.path), closing(connect(self.path, readonly=False)) as connection:
            index_all(connection)
        return done

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that writes, beside the recorder's."""
        if self._readonly:
            raise self._only_read()
        with translated(self.path), closing(connect(self.path, readonly=False)) as connection:
            connection.row_factory = sqlite3.Row
            with understood(self.path), transaction(connection):
                yield connection

    def _only_read(self) -> StoreError:
        return StoreError(
            "the trace was opened to read only", where=str(self.path), hint="TraceStore.open(…, readonly=False)"
        )

    def interrupt(self, runs: Sequence[str]) -> tuple[str, ...]:
        """Mark runs as interrupted on the word of someone who knows that nobody works on them any more.

        That a process of this machine has ended is seen; of another host or container it cannot be, and its runs stay
        ``running``. If one is going on after all, its end is recorded as ever.

        Args:
            runs: each named as for :meth:`run`.

        Returns:
            The ids of those that were ``running``.

        Raises:
            UnknownNameError: no such run, or several; none is marked then.
            StoreError: the store was opened to read only, or the database cannot be written.
        """
        named = self.named(runs)
        with self._changing() as connection:
            marked = [run for run in named if connection.execute(INTERRUPT, (run,)).rowcount]
        return tuple(marked)

    def pending(self) -> int:
        """How many runs are gone from the tables though an interruption kept their bytes from being overwritten."""
        with self._reading() as connection:
            return len(pending(connection))

    def close(self) -> None:
        """Close the recorder, if there is one, then the file. Idempotent."""
        if self._recorder is not None:
            self._recorder.close()
        with self._lock:
            self._reader.close()

    def __enter__(self) -> TraceStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, translated(self.path), understood(self.path), transaction(self._reader, write=False):
            yield self._reader


@cache
def engine_version() -> str:
    """The installed version of fslm-core."""
    try:
        return version("fslm-core")
    except PackageNotFoundError:
        return "unknown"


__all__ = ["LAST", "TraceStore", "engine_version"]

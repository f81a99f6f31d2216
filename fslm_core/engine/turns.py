"""The turns of sessions: each reads the state before its run, and writes the new one when the run has succeeded."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from ..errors import DeadlineExceeded, FslmError, InputError, SessionError, UsageError
from ..schema import canonical, dumps, plain_data, schema_id_of
from ..settings import Settings
from ..stack import Stack
from ..store import SavedSession, Sessions, check_id, spelt
from .threads import in_thread

log = logging.getLogger("fslm")


class SessionTurn(BaseModel):
    """Which session a run is a turn of, and how many turns had written it when the run read it."""

    session: str = Field(max_length=200)
    version: int


@dataclass
class Turn:
    """One run's part in a session.

    Attributes:
        stack: the name of the stack.
        state: what its steps read.
        schema_id: of the state's model.
        id: the session's; empty where nothing is kept.
        read: the session as it was found; None where it begins with this turn.
        store: where it is kept, if it is.
    """

    stack: str
    state: BaseModel
    schema_id: str
    id: str = ""
    read: SavedSession | None = None
    store: Sessions | None = None
    _written: SavedSession | None = field(default=None, init=False)

    @property
    def version(self) -> int:
        """How many turns had written the session."""
        return 0 if self.read is None else self.read.version

    async def write(self, state: BaseModel, run: str) -> None:
        """Write the new state, where the session is kept.

        Raises:
            SessionConflict: another run wrote the session meanwhile.
            SessionError, StoreError: it cannot be kept.
            asyncio.CancelledError: it was asked to stop; what was written is taken back.
        """
        if self.store is None:
            return
        writing = asyncio.ensure_future(in_thread(self._put, self.store, canonical(state), run))
        try:
            self._written = await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.ensure_future(self._given_up(writing)))
            raise

    def _put(self, store: Sessions, text: str, run: str) -> SavedSession:
        return store.put(self.id, text, stack=self.stack, schema_id=self.schema_id, run=run, read=self.read)

    async def _given_up(self, writing: asyncio.Future[SavedSession]) -> None:
        try:
            self._written = await writing
        except FslmError:
            return
        await self.undo()

    async def undo(self) -> None:
        """Take back what was written: the run is not told as a success after all."""
        if self.store is None or self._written is None:
            return
        written, self._written = self._written, None
        try:
            await in_thread(self.store.undo, written, self.read)
        except FslmError as error:
            log.warning(
                "session %s keeps what run %s wrote, which did not succeed: %s", self.id, written.run, error.what
            )


@dataclass
class _Line:
    """Those who wait for one session, the one at work among them."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    length: int = 0


class Turns:
    """The sessions of one engine. Used on the engine's loop, but for :meth:`store`.

    Turns of one session wait for each other, in the order in which they came; ``longest`` of them at most.
    """

    def __init__(self, settings: Settings, longest: int) -> None:
        self._settings = settings
        self._longest = longest
        self._lines: dict[str, _Line] = {}
        self._store: Sessions | None = None
        self._opening = threading.Lock()

    def full(self, session: str | None) -> bool:
        """Whether as many runs as may wait for the session already."""
        return session in self._lines and self._lines[session].length > self._longest

    @asynccontextmanager
    async def of(
        self, stack: Stack[Any, Any], session: str | None, state: object, timeout: float | None
    ) -> AsyncIterator[Turn | None]:
        """The turn of one run, in which no other run of this engine has the session; None where there is no session.

        What it is asked for has passed :func:`refuse`.

        Args:
            session: the id; None for a run that remembers nothing.
            state: what it begins with in place of what is kept; None for the model's defaults.
            timeout: seconds to wait for the turns before; None waits as long as it takes.

        Raises:
            SessionError: sessions are not kept here, or what is kept of this one cannot be gone on with.
            InputError: ``state`` is no state.
            DeadlineExceeded: the turns before took longer than ``timeout``.
            StoreError: the session store cannot be opened or read.
        """
        if stack.session is None:
            yield None
        elif session is None:
            begun = stack.session() if state is None else _given(stack, stack.session, state)
            yield Turn(stack.name, begun, schema_id_of(stack.session))
        else:
            async with self._alone_with(session, timeout):
                yield await in_thread(self._read, stack, stack.session, session)

    def store(self) -> Sessions:
        """The session store, opened by the first who asks.

        Raises:
            SessionError: sessions are not to be kept here.
            StoreError: it cannot be opened.
        """
        settings = self._settings.sessions
        if not settings.keep:
            raise SessionError(
                "sessions are not kept here",
                where="the setting sessions.keep",
                found="false",
                hint="set it to true, or run without a session id: what the run would remember is in run.state",
            )
        with self._opening:
            if self._store is None:
                self._store = Sessions.open(self._settings.sessions_path, keep_days=settings.keep_days)
            return self._store

    def close(self) -> None:
        """Close the store, if anybody asked for it."""
        if self._store is not None:
            self._store.close()

    @asynccontextmanager
    async def _alone_with(self, session: str, timeout: float | None) -> AsyncIterator[None]:
        line = self._lines.setdefault(session, _Line())
        line.length += 1
        try:
            await _acquire(line.lock, session, timeout)
            try:
                yield
            finally:
                line.lock.release()
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[session]

    def _read(self, stack: Stack[Any, Any], model: type[BaseModel], session: str) -> Turn:
        store = self.store()
        found = store.find(session)
        state = model() if found is None else _restored(found, stack, model)
        return Turn(stack.name, state, schema_id_of(model), session, found, store)


def refuse(stack: Stack[Any, Any], session: str | None, state: object = None) -> None:
    """Refuse what can be told at once of what a run was asked to go on from.

    Raises:
        SessionError: the stack has no session, or the id is none.
        UsageError: both a session and a state.
    """
    if stack.session is None and (session is not None or state is not None):
        raise SessionError(
            "the stack has no session",
            where=f"stack {stack.name}",
            hint="run it without one; its author declares one with Stack(…, session=State, writes='STEP')",
        )
    if session is not None and state is not None:
        raise UsageError(
            "both a session and a state were given",
            where=f"stack {stack.name}",
            hint="name the session to go on from what is kept; give a state to begin from it and keep nothing",
        )
    if session is not None:
        check_id(session)


async def _acquire(lock: asyncio.Lock, session: str, timeout: float | None) -> None:
    try:
        async with asyncio.timeout(timeout):
            await lock.acquire()
    except TimeoutError:
        raise DeadlineExceeded(
            f"the turns before it did not end within {timeout} s",
            where=f"session {session}",
            hint="allow a longer timeout, or send a session's next turn when the one before has ended",
        ) from None


def _restored(found: SavedSession, stack: Stack[Any, Any], model: type[BaseModel]) -> BaseModel:
    """The state as the stack's own model has it today."""
    if found.stack != stack.name:
        raise SessionError(
            "the session belongs to another stack",
            where=f"session {found.id}",
            found=found.stack,
            expected=stack.name,
            hint="choose another id; one may begin with the stack's name",
        )
    try:
        return model.model_validate_json(dumps(found.state), by_name=True)
    except ValidationError as error:
        was = "" if found.schema_id == schema_id_of(model) else "; the model was changed since it was written"
        raise SessionError(
            f"the state does not fit {model.__name__}{was}",
            where=f"session {found.id}",
            found="; ".join(_kinds(error, model)),
            hint="give its model defaults and types that the old state is valid with,"
            f" or begin anew: `fslm sessions forget {found.id}`",
        ) from None


def _given(stack: Stack[Any, Any], model: type[BaseModel], value: object) -> BaseModel:
    """What a program gives as the state to begin with."""
    shown = f"{model.__name__}({', '.join(model.model_fields)})"
    where = f"state of stack {stack.name}"
    if not isinstance(value, model | Mapping):
        raise InputError(
            "the state is neither its model nor a mapping",
            where=where,
            found=type(value).__name__,
            expected=shown,
            hint=f"pass {model.__name__}(…), or a mapping of its fields",
        )
    data = plain_data(value) if isinstance(value, BaseModel) else dict(value)
    if unknown := set(map(str, data)) - set(model.model_fields):
        raise InputError(
            "the state has a field that its model does not",
            where=where,
            found=f"{len(unknown)} of unknown name",
            expected=shown,
            hint="leave it out, or correct its name",
        )
    try:
        return model.model_validate(data, by_name=True)
    except ValidationError as error:
        raise InputError(
            "the state does not fit",
            where=where,
            found="; ".join(_kinds(error, model)),
            expected=shown,
            hint="correct what was found",
        ) from None


def _kinds(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """What is wrong with which field, without pydantic's sentences, which may quote what somebody said."""
    for found in error.errors(include_url=False, include_context=False, include_input=False):
        place = spelt(".".join(map(str, found["loc"])), model)
        yield f"{place}: {found['type']}" if place else found["type"]


__all__ = ["SessionTurn", "Turn", "Turns", "refuse"]

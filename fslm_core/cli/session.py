"""What the verbs share: settings, plugins, and an open engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer

    from ..backends.protocol import Backend
    from ..engine import Engine
    from ..plugins import PluginHost
    from ..settings import Settings
    from ..stack import Stack
    from ..store import ContentMode
    from .progress import TransferBar


_PATIENCE = 10.0
"""Seconds that candidates have after the last run, before the engine is closed and their records say `cancelled`."""


@dataclass
class Session:
    """One call of ``fslm``. Settings are read and plugins loaded by the first who asks."""

    debug: bool = False
    locked: bool = False

    @cached_property
    def settings(self) -> Settings:
        """The settings of files and environment; ``--locked`` is stronger than both."""
        from ..settings import load

        return load(locked=True) if self.locked else load()

    @cached_property
    def host(self) -> PluginHost:
        """The plugins; none is imported before one is asked for."""
        from ..plugins import PluginHost

        return PluginHost(self.settings)

    def stack(self, name: str) -> Stack[Any, Any]:
        """The stack of this name, to be run; where the settings say ``locked``, plugins are compared first.

        Raises:
            UnknownNameError, PluginLoadError, DuplicateNameError: as :meth:`~fslm_core.plugins.PluginHost.stack`.
            LockError: a plugin is not what was locked, which may be why there is no such stack.
        """
        self.hold()
        return self.host.stack(name)

    def hold(self) -> None:
        """Where the settings say ``locked``, refuse plugins and settings that are not what was locked.

        Raises:
            LockError: something differs, or there is no lock file.
        """
        if self.settings.locked:
            from ..engine.here import hold

            hold(self.settings, self.host, self.backend)

    @property
    def backend(self) -> Backend:
        """The backend of the settings: to be asked for its name and capabilities, not to be warmed."""
        from .. import backends

        return backends.create(self.settings.backend, self.settings, extra=self.host.backends)


def session_of(ctx: typer.Context) -> Session:
    """The session of a running command."""
    return ctx.ensure_object(Session)


def content_of(settings: Settings) -> ContentMode:
    """What the trace of a command keeps: what the settings say, else ``full``."""
    return settings.trace.content or "full"


@contextmanager
def opened(session: Session, stack: Stack[Any, Any], *, max_in_flight: int, trace: bool = True) -> Iterator[Engine]:
    """Open an engine for one stack, with bars for what must be fetched first, and its warnings on standard error.

    Raises:
        CheckError: the stack was refused.
    """
    from ..engine import Engine
    from .progress import TransferBar

    settings = session.settings
    with _warnings_shown(), TransferBar() as bar, ExitStack() as open_until_the_end:
        engine = Engine(
            [stack],
            settings=settings,
            host=session.host,
            max_in_flight=max_in_flight,
            content=content_of(settings),
            trace=trace,
            progress=bar,
        )
        with _leaving_at_once(bar):
            open_until_the_end.enter_context(engine)
        bar.close()
        yield engine
        engine.settle(_PATIENCE)


@contextmanager
def _leaving_at_once(bar: TransferBar) -> Iterator[None]:
    """Let Ctrl-C end the process while models are fetched and loaded.

    Loading weights cannot be stopped half way and may take many seconds. No run has begun, and a half-made folder in
    the cache has a name of its own and is swept by the next who pulls, so nothing is lost by not waiting.
    """
    import signal
    import threading

    from . import screen

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_: object) -> None:
        bar.close()
        screen.say("interrupted")
        os._exit(130)

    signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _warnings_shown() -> Iterator[None]:
    import logging

    from . import screen

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            screen.warn(record.getMessage())

    log, handler = logging.getLogger("fslm"), Lines(logging.WARNING)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


__all__ = ["Session", "content_of", "opened", "session_of"]

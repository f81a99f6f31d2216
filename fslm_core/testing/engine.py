"""An engine on a clean machine, and one run of it for a test: everything is real but the replies."""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel

from ..backends.protocol import Backend
from ..engine import Engine, Run
from ..errors import EngineStateError, FslmError, RunFailed, UsageError
from ..events import Event, RunFinished
from ..plugins import PluginHost
from ..settings import Settings
from ..stack import INPUT, OUTPUT, Stack, Step, places
from ..stage import Stage
from ..store import StoredRun, TraceStore
from .clean import clean_settings
from .outcome import Outcome
from .owners import host_to_run
from .recording import Recording
from .replies import Reply, script

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)
Runnable = Stack[Any, Any] | Stage[Any, Any] | str
_PATIENCE = 30
"""Seconds to wait for a run's last event, which its observers see a moment after the run has ended."""


class KitEngine(Engine):
    """An :class:`~fslm_core.Engine` for tests: clean settings, a trace of its own, every event remembered.

    Nothing is made ready before it is first run, so that what the check refuses is an outcome, too.

    Args:
        stacks: the stacks, stages, or names of installed stacks that will be run.
        replies: what the models say: by stage name (or step name, for one single stack), or a :class:`Recording`. For
            one single stage, its reply.
        backend: in place of replies, a backend or the name of one (``torch`` for the real one).
        host: the plugins; by default the installed ones that own ``stacks`` and their stages, and no others.
        settings: the defaults, with data in a temporary folder.
        options: as for :class:`~fslm_core.Engine`.

    Raises:
        UnknownNameError: a reply is named after no step or stage, or no stack of that name is installed.
        UsageError: both replies and a backend, or a reply of no known form.

    >>> from fslm_core import tool
    >>> class Text(BaseModel):
    ...     text: str
    >>> @tool("demo.shout", version="1", pure=True)
    ... def shout(message: Text) -> Text:
    ...     return Text(text=message.text.upper())
    >>> with KitEngine([shout]) as engine:
    ...     engine.outcome(shout, {"text": "hello"}).output.text
    'HELLO'
    """

    def __init__(
        self,
        stacks: Sequence[Runnable] = (),
        *,
        replies: Reply | Mapping[str, Reply] | Recording | None = None,
        backend: Backend | str | None = None,
        host: PluginHost | None = None,
        settings: Settings | None = None,
        **options: Any,
    ) -> None:
        folder = Path(tempfile.mkdtemp(prefix="fslm-testing-"))
        self._tidy = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        chosen = settings or clean_settings(folder)
        found = host or host_to_run([*stacks, *([backend] if isinstance(backend, str) else [])], chosen)
        self._alone: dict[Stage[Any, Any], Stack[Any, Any]] = {}
        self._told: dict[str, list[Event]] = {}
        self._news = threading.Condition()
        super().__init__(
            settings=chosen,
            host=found,
            backend=_backend(stacks, replies, backend, found),
            observers=[self._see],
            **{"content": "full", **options},
        )

    def close(self) -> None:
        """As :meth:`fslm_core.Engine.close`; the temporary trace goes."""
        super().close()
        self._tidy()

    def outcome(
        self,
        what: Runnable,
        input: Any,
        *,
        seed: int = 0,
        timeout: float | None = None,
        session: str | None = None,
        state: BaseModel | Mapping[str, Any] | None = None,
    ) -> Outcome[Any]:
        """Run one input and tell what became of it; a run that fails is an outcome, too.

        Args:
            what: a stack, a stage (run as the only step of a stack), or the name of an installed stack.
            input: an instance of its input model, or a mapping of its fields.
            session, state: for a stack with a session, the id of the one it is a turn of, or the state to begin with;
                what the turn leaves is ``outcome.run.state``.

        Raises:
            EngineStateError: the engine is not open.
        """
        run: Run[Any] | None = None
        error: FslmError | None = None
        stack: Stack[Any, Any] | None = None
        try:
            found = self._stack(what)
            stack = self.host.stack(found) if isinstance(found, str) else found
            run = self.run(stack, input, seed=seed, timeout=timeout, session=session, state=state)
            error = run.error
        except EngineStateError:
            raise
        except RunFailed as failed:
            run, error = cast("Run[Any]", failed.run), failed.error
        except FslmError as refused:
            error = refused
        steps = {path: step.node.name for path, step in places(stack)} if stack is not None else {}
        name = what if isinstance(what, str) else what.name
        return Outcome(name, steps, input, run, error, self._events_of(run), self._kept_of(run))

    def _stack(self, what: Runnable) -> Stack[Any, Any] | str:
        if not isinstance(what, Stage):
            return what
        if what not in self._alone:
            self._alone[what] = alone(what)
        return self._alone[what]

    def _see(self, event: Event) -> None:
        with self._news:
            self._told.setdefault(event.run, []).append(event)
            self._news.notify_all()

    def _events_of(self, run: Run[Any] | None) -> tuple[Event, ...]:
        if run is None:
            return ()
        with self._news:
            self._news.wait_for(lambda: isinstance(self._told.get(run.id, [None])[-1], RunFinished), _PATIENCE)
            return tuple(self._told.pop(run.id, ()))

    def _kept_of(self, run: Run[Any] | None) -> StoredRun | None:
        if run is None or not self.traced:
            return None
        with TraceStore.open(self.settings.trace_path, readonly=True) as store:
            return store.run(run.id)


def alone(stage: Stage[In, Out]) -> Stack[In, Out]:
    """A stack that has this stage alone, takes its input and returns its output.

    >>> from fslm_core import tool
    >>> class Text(BaseModel):
    ...     text: str
    >>> @tool("demo.shout", version="1")
    ... def shout(message: Text) -> Text:
    ...     return message
    >>> alone(shout)
    Stack('demo.shout', Text -> Text, 1 steps)
    """
    word = stage.name.rpartition(".")[2].replace("-", "_")
    name = word if word.isidentifier() and word not in (INPUT, OUTPUT) else "stage"
    return Stack(
        stage.name,
        input=stage.input,
        output=stage.output,
        steps=[Step(stage, name=name, bind={field: f"{INPUT}.{field}" for field in stage.input.model_fields})],
        bind={field: f"{name}.{field}" for field in stage.output.model_fields},
        description=stage.description,
    )


def run_stage(
    stage: Stage[In, Out],
    input: In | Mapping[str, Any],
    *,
    replies: Reply | Recording | None = None,
    backend: Backend | str | None = None,
    host: PluginHost | None = None,
    seed: int = 0,
) -> Outcome[Out]:
    """Run one stage as the only step of a stack, on a real engine.

    Args:
        input: an instance of its input model, or a mapping.
        replies: what the model says; a tool stage needs none.
        backend: in place of replies, a backend or the name of one.
        host: the plugins; by default the installed one that owns the stage, and no other.

    Raises:
        UsageError: both replies and a backend, or a reply of no known form.
    """
    with KitEngine([stage], replies=replies, backend=backend, host=host) as engine:
        return engine.outcome(stage, input, seed=seed)


def run_stack(
    stack: Stack[In, Out] | str,
    input: In | Mapping[str, Any],
    *,
    replies: Mapping[str, Reply] | Recording | None = None,
    backend: Backend | str | None = None,
    host: PluginHost | None = None,
    seed: int = 0,
    state: BaseModel | Mapping[str, Any] | None = None,
) -> Outcome[Out]:
    """Run one input through a stack, on a real engine.

    Args:
        stack: a stack, or the name of an installed one.
        input: an instance of its input model, or a mapping.
        replies: what the models say, by step or stage name; or a recording.
        backend: in place of replies, a backend or the name of one.
        host: the plugins; by default the installed ones that own the stack and its stages, and no others.
        state: of its session, to begin with; its model's defaults if not given. Several turns are asked of one
            :class:`KitEngine`.

    Raises:
        UnknownNameError: the stack has neither step nor stage that a reply is named after.
        UsageError: both replies and a backend, or a reply of no known form.
    """
    with KitEngine([stack], replies=replies, backend=backend, host=host) as engine:
        return engine.outcome(stack, input, seed=seed, state=state)


def _backend(
    stacks: Sequence[Runnable], replies: Any, backend: Backend | str | None, host: PluginHost
) -> Backend | str:
    """The backend that was given, or the one that gives the replies."""
    if backend is not None and replies is not None:
        raise UsageError(
            "both replies and a backend were given", where="the testing kit", hint="leave one of the two out"
        )
    if backend is not None or isinstance(replies, Recording):
        return backend or replies
    (only,) = stacks if len(stacks) == 1 else (None,)
    if isinstance(only, Stage):
        return script({} if replies is None else {only.name: replies})
    if not replies:
        return script({})
    return script(replies, host.stack(only) if isinstance(only, str) else only)


__all__ = ["KitEngine", "alone", "run_stack", "run_stage"]

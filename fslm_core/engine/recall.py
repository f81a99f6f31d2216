"""What steps of an earlier run were given: its stack is walked again, and each step says what it said then.

The walk is the engine's own, so whatever a shape does between its steps is done as it was. No stage runs, no model is
loaded and nothing is recorded. A step that failed fails again, so that what stood in for it does so too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from ..errors import FslmError, InputError, InternalError, StageFailedError, ToolError, shorten
from ..events import RunEvent, StepStarted
from ..message import LEFT_OUT, Attempt, Marks, Message, Origin, failed_with
from ..schema import content_id, problems_of
from ..stack import INPUT, SESSION, Node, Shape, Stack, places
from ..store import StoredNode, StoredRun
from ..store.edits import read, told
from .loop import LoopThread
from .past import Past, of_stored
from .run import Run
from .walk import At, Prepared, Walk


@dataclass(frozen=True)
class Recalled:
    """What steps were given, by path, as far as it can be told; ``error`` is why it is not known of all."""

    given: Mapping[str, BaseModel]
    error: FslmError | None = None


def recall(run: StoredRun, stack: Stack[Any, Any], steps: Collection[str]) -> Recalled:
    """Find out what steps of a run were given.

    Args:
        run: one whose messages were kept in full.
        stack: as it is installed now; where it was changed since, so may what its steps are given.
        steps: their paths, with indices.

    >>> from fslm_core import tool
    >>> class Text(BaseModel):
    ...     text: str
    >>> class Loud(BaseModel):
    ...     loud: str
    >>> @tool("demo.shout", version="1")
    ... def shout(message: Text) -> Loud:
    ...     return Loud(loud=message.text.upper())
    >>> @tool("demo.send", version="1")
    ... def send(message: Loud) -> Text:
    ...     return Text(text=message.loud)
    >>> demo = Stack("demo", input=Text, output=Text, steps=[shout, send], bind={"text": "send.text"})
    >>> from fslm_core import Engine
    >>> from fslm_core.settings import default
    >>> from fslm_core.store import TraceStore
    >>> with Engine(content="full") as engine:
    ...     made = engine.run(demo, {"text": "hello"})
    >>> with TraceStore.open(default().trace_path, readonly=True) as store:
    ...     recall(store.run(made.id), demo, ["send"]).given
    {'send': Loud(loud='HELLO')}
    """
    past = _of(run, frozenset(steps))
    loop = LoopThread("fslm-recall")
    try:
        loop.submit(_walk(run, stack, past)).result()
    except FslmError as error:
        failed: FslmError | None = error
    except Exception as error:  # of a shape that was written by somebody else
        failed = InternalError(
            f"an error that fslm did not expect: {type(error).__name__}: {shorten(str(error))}",
            where=f"stack {stack.name}, run {run.row.id}",
            hint="look at the shape that raised it",
        )
    else:
        failed = None
    finally:
        loop.close()
    given = {path: value for path, value in past.given.items() if path in past.wanted}
    return Recalled(given, failed if given.keys() != past.wanted else None)


@dataclass(frozen=True)
class _Recall(Past):
    """An earlier run of which everything is taken.

    Attributes:
        wanted: the steps whose input is asked for.
        failed: the nodes of each step that gave no message, one a try.
        given: what each step was given, filled by the walk.
    """

    wanted: frozenset[str] = frozenset()
    failed: Mapping[str, Sequence[StoredNode]] = field(default_factory=dict)
    given: dict[str, BaseModel] = field(default_factory=dict)

    def edited(
        self, node: Node, path: str, where: str, value: BaseModel, run: str, origin: Origin
    ) -> Message[Any] | None:
        """What the step said, whatever it would say now; None for a shape, to be walked within."""
        self.given[path] = value
        kept = self.said.get(path)
        if kept is None or self._within(path, self.wanted):
            if isinstance(node, Shape) and self._within(path, [*self.said, *self.failed]):
                return None
            if kept is None:
                raise self._silent(path, where)
        try:
            content = node.output.model_validate_json(kept.json, by_name=True)
        except ValidationError as error:
            raise InputError(
                "what the step said then is nothing that it could say now",
                where=where,
                found=told(problems_of(error)),
                expected=f"{node.output.__name__}({', '.join(node.output.model_fields)})",
                hint="its model was changed since; label newer runs",
            ) from None
        return Message(
            path,
            content,
            node_id=kept.id,
            content_id=content_id(content),
            confidence=kept.confidence,
            origin=origin,
            narrowed=kept.narrowed,
            reused=kept.id,
        )

    async def tell(self, event: RunEvent) -> None:
        """Before a step fails again let the others go as far as they can: they did then, and it will stop them."""
        if isinstance(event, StepStarted) and event.step in self.failed:
            for _ in range(4 * len(self.said) + 4):
                await asyncio.sleep(0)

    @staticmethod
    def _within(path: str, steps: Collection[str]) -> bool:
        return any(step.startswith((f"{path}.", f"{path}[")) for step in steps)

    def _silent(self, path: str, where: str) -> FslmError:
        """Why the step gives no message: what it failed with, as far as that was kept."""
        if path not in self.failed:
            return InputError(
                "the run has no message of this step",
                where=where,
                found=f"run {self.run}",
                hint="the run ended before it, or the stack was changed since; label newer runs",
            )
        tries = [attempt for node in self.failed[path] for attempt in node.attempts]
        attempts = [Attempt(a.index, a.prompt, a.raw or "", a.problems, a.usage) for a in tries]
        problems = attempts[-1].problems if attempts else ()
        raised = bool(attempts) and attempts[-1].prompt is None and not attempts[-1].raw
        kind = ToolError if raised else StageFailedError
        return kind("the step failed then", where=where, problems=problems, attempts=attempts)


def _of(run: StoredRun, wanted: frozenset[str]) -> _Recall:
    failed: dict[str, list[StoredNode]] = {}
    for node in run.nodes:
        if node.status == "failed" or (node.when and failed_with(node.when)):
            failed.setdefault(node.step, []).append(node)
    out = frozenset(node.step for node in run.nodes if node.when == LEFT_OUT)
    return _Recall(run.row.id, of_stored(run).said, frozenset(), frozenset(), out=out, wanted=wanted, failed=failed)


async def _walk(run: StoredRun, stack: Stack[Any, Any], past: _Recall) -> None:
    models = {INPUT: stack.input, **({SESSION: stack.session} if stack.session is not None else {})}
    given = {name: _outside(name, model, past) for name, model in models.items()}
    nodes = ((path, step.node) for path, step in places(stack))
    origins = {path: Origin(node.name, input=node.input, output=node.output) for path, node in nodes}
    nobody: Any = None  # no work is done, so nobody is asked to do any
    again: Run[Any] = Run(run.row.id, stack.name, given[INPUT], run.row.seed)
    walk = Walk(Prepared(stack, {}, origins, Marks({}, {})), again, nobody, nobody, nobody, past.tell, past=past)
    await stack.run(At(walk, stack, given))


def _outside(name: str, model: type[BaseModel], past: _Recall) -> Message[Any]:
    where = f"run {past.run}, {name}"
    kept = past.said.get(name)
    if kept is None:
        raise InputError(
            f"the run's {name} was not kept as it was",
            where=where,
            hint="only what a run in full was given can be told",
        )
    content = read(model, json.loads(kept.json), where)
    return Message(name, content, node_id=kept.id, content_id=content_id(content))


__all__ = ["Recalled", "recall"]

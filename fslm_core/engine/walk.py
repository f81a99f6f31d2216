"""One run: walk a stack's graph; bind what goes into each step, have it done, tell and record what came of it.

There is one walker. What a kind of shape does is in its own file (:mod:`fslm_core.stack`, :mod:`fslm_core.shapes`); it
is handed an :class:`At`, which is all it knows of the engine.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ValidationError

from ..backends.protocol import Backend, ModelRef
from ..errors import StageFailedError
from ..events import MessageEmitted, RunEvent, StepSkipped, StepStarted
from ..message import LEFT_OUT, Marks, Message, Origin, Skipped, Usage, node_id
from ..plugins import PluginHost
from ..schema import content_id, dumps, problems_of
from ..stack import FAILURES, INPUT, OUTPUT, SESSION, Known, Place, Result, Shape, Stack, Step, fetch, seen
from ..stage import Decoding, Stage
from .making import Maker, Work
from .past import Past, require_accepted
from .run import Run
from .shadow import Beside, Candidate
from .tools import ToolRunner
from .turns import SessionTurn, Turn
from .within import within

Emit = Callable[[RunEvent], Awaitable[None]]


@dataclass(frozen=True)
class Prepared:
    """A stack that passed its check, with its models found: ready to run.

    ``refs``, ``origins`` and ``candidates`` go by a step's path, as ``desk.refund``.
    """

    stack: Stack[Any, Any]
    refs: Mapping[str, ModelRef]
    origins: Mapping[str, Origin]
    marks: Marks
    candidates: Mapping[str, Candidate] = field(default_factory=dict)
    tokenizers: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Walk:
    """One passage of one input through a prepared stack.

    ``group`` names whose work this is, of those that share a backend alike; ``beside`` runs the candidates of steps;
    ``turn`` is the session's, where the stack has one; ``past`` is the earlier run that this one replays.
    """

    prepared: Prepared
    run: Run[Any]
    backend: Backend
    host: PluginHost
    tools: ToolRunner
    emit: Emit
    deadline: float | None = None
    traced: bool = True
    group: str = ""
    beside: Beside | None = None
    turn: Turn | None = None
    past: Past | None = None

    def __post_init__(self) -> None:
        self.maker = Maker(
            self.run,
            self.backend,
            self.host,
            self.tools,
            self.emit,
            self.deadline,
            self.group,
            self.beside,
            self.look(),
            self.past,
        )

    async def go(self) -> Message[Any]:
        """Run every step, bind the output, and put the session's next state into the run.

        Raises:
            FslmError: the first thing that went wrong; steps still at work are stopped.
        """
        stack = self.prepared.stack
        given = {INPUT: self.run.input}
        if self.turn is not None:
            given[SESSION] = await self._read(self.turn)
        made = await stack.run(At(self, stack, given))
        self.run.state = made.state
        return Message(
            OUTPUT,
            made.content,
            node_id=node_id(self.run.id, OUTPUT),
            content_id=content_id(made.content),
            parents=made.parents,
            confidence=made.confidence,
            started=time.time(),
            abstained=made.abstained,
            alternatives=made.alternatives,
        )

    async def _read(self, turn: Turn) -> Message[Any]:
        """Tell and record which session the run is a turn of, and the state that its steps read."""
        parents: tuple[str, ...] = ()
        if turn.id:
            content = SessionTurn(session=turn.id, version=turn.version)
            parents = ((await self._tell_of(f"{SESSION}.turn", content, ())).node_id,)
        return await self._tell_of(SESSION, turn.state, parents)

    async def _tell_of(self, path: str, content: BaseModel, parents: tuple[str, ...]) -> Message[Any]:
        message = Message(
            path,
            content,
            node_id=node_id(self.run.id, path),
            content_id=content_id(content),
            parents=parents,
            origin=Origin(self.prepared.stack.name, input=type(content), output=type(content)),
            started=time.time(),
        )
        self.run.messages[path] = message
        await self.emit(MessageEmitted(self.run.id, message))
        return message

    def look(self) -> str:
        """What to do where a step gave nothing valid."""
        if self.traced:
            return f"see what each step wrote: fslm trace show {self.run.id}"
        return "see what it wrote in the error's attempts"


class At(Place):
    """Where a walk has got to in one shape.

    Args:
        path: of the shape, with the index of steps that run several times: ``notes[3].summary``.
        plain: the same without indices, as the static parts of a stack are known by.
        parents: the messages that the shape's input came from; empty for the stack itself, whose input is one.
        above: the place it is within.
    """

    def __init__(
        self,
        walk: Walk,
        shape: Shape[Any, Any],
        given: Mapping[str, Message[Any]],
        path: str = "",
        plain: str = "",
        parents: tuple[str, ...] = (),
        above: At | None = None,
    ) -> None:
        self.path = path
        self.given = given
        self.used = Usage()
        self._walk = walk
        self._shape = shape
        self._plain = plain
        self._parents = parents
        self._above = above
        self._read: dict[str, dict[str, Any]] = {}

    # -- what a shape may do ------------------------------------------------------------------------------------

    async def step(
        self,
        step: Step,
        known: Known,
        *,
        index: int | tuple[int, ...] | None = None,
        decoding: Decoding | None = None,
        judge: Callable[[Message[Any]], Message[Any]] | None = None,
        target: str | None = None,
    ) -> Message[Any] | Skipped:
        """See :meth:`~fslm_core.stack.Place.step`."""
        work = self._work(step, index, decoding)
        try:
            with within(self._walk.run.id, self._walk.run.stack, work.path):
                return await self._do(step, work, known, judge, target or step.name)
        except (SystemExit, KeyboardInterrupt) as error:  # raised by code of a plugin; it would end the engine's loop
            raise StageFailedError(
                f"the {self._kind(step)} {step.node.name} called for an exit: {type(error).__name__}",
                where=work.where,
                hint="raise an ordinary exception there: a stage cannot end the program",
            ) from error
        except FAILURES as error:
            if step.on_error != "skip":
                raise
            return await self._skip(Skipped.failed(work.path, self._beyond(step, work), error.code))

    def result(self, known: Known, target: str = OUTPUT, model: type[BaseModel] | None = None) -> Result[Any]:
        """See :meth:`~fslm_core.stack.Place.result`."""
        where = self.where(OUTPUT if model is None else target)
        content = self._bound(target, model or self._shape.output, known, where)
        confidence: dict[str, float] = {}
        alternatives: dict[str, tuple[tuple[Any, float], ...]] = {}
        abstained: list[str] = []
        for name, source in self._shape.wiring.sources[target].items():
            message, field = known[source.step], source.path[0]
            if not isinstance(message, Message):
                continue
            if message.confidence and field in message.confidence:
                confidence[name] = message.confidence[field]
            if field in message.abstained:
                abstained.append(name)
            if field in message.alternatives and len(source.path) == 1:
                alternatives[name] = message.alternatives[field]
        parents = self._parents_of(target, frozenset(), known)
        return Result(content, parents, confidence or None, tuple(abstained), alternatives)

    async def decided(
        self, name: str, content: BaseModel, parents: Sequence[Message[Any]] = (), *, index: int | None = None
    ) -> Message[Any]:
        """See :meth:`~fslm_core.stack.Place.decided`."""
        path = self._below(self.path, name, index)
        origin = Origin(self._shape.name, input=self._shape.input, output=type(content))
        if (known := self._walk.prepared.origins.get(self._plain)) is not None:
            origin = replace(known, output=type(content))
        return await self._tell(
            Message(
                path,
                content,
                node_id=node_id(self._walk.run.id, path),
                content_id=content_id(content),
                parents=self._named(parents),
                origin=origin,
                started=time.time(),
            )
        )

    def say(self, content: BaseModel, parents: Sequence[Message[Any]] = ()) -> Message[Any]:
        """See :meth:`~fslm_core.stack.Place.say`."""
        return Message(self.path, content, node_id="", content_id="", parents=self._named(parents))

    def tokenizer(self, base: str) -> Any:
        """See :meth:`~fslm_core.stack.Place.tokenizer`."""
        return self._walk.prepared.tokenizers[base]

    def where(self, step: str = "") -> str:
        """The place as errors name it."""
        path = self._below(self.path, step, None) if step else self.path
        return f"stack {self._walk.run.stack}, step {path}" if path else f"stack {self._walk.run.stack}"

    # -- one step -----------------------------------------------------------------------------------------------

    def _work(self, step: Step, index: int | tuple[int, ...] | None, decoding: Decoding | None) -> Work:
        prepared = self._walk.prepared
        path, plain = self._below(self.path, step.name, index), self._below(self._plain, step.name, None)
        where = f"stack {self._walk.run.stack}, step {path}"
        return Work(step.node, path, where, prepared.origins[plain], prepared.refs.get(plain), decoding, plain)

    async def _do(
        self,
        step: Step,
        work: Work,
        known: Known,
        judge: Callable[[Message[Any]], Message[Any]] | None,
        target: str,
    ) -> Message[Any] | Skipped:
        started = time.time()
        place = node_id(self._walk.run.id, work.path)
        condition = self._shape.wiring.conditions.get(step.name)
        asked = condition.names if condition is not None else frozenset()
        parents = self._parents_of(target, asked, known)
        if self._walk.past is not None and work.path in self._walk.past.out:
            return await self._skip(Skipped(work.path, place, LEFT_OUT, parents))
        if condition is not None and not condition.holds(self._namespace(asked, known), f"{work.where}, when"):
            return await self._skip(Skipped(work.path, place, condition.source, parents))
        await self._walk.emit(StepStarted(self._walk.run.id, work.path, place, self._kind(step)))
        value = self._bound(target, step.node.input, known, work.where)
        if (edited := self._edited(work, value)) is not None:
            made = edited
        elif isinstance(step.node, Shape):
            made = await self._shaped(step.node, work, value, parents)
        else:
            try:
                made = await self._walk.maker.make(work, value, parents)
            except StageFailedError as error:
                lost = sum((attempt.usage for attempt in error.attempts), Usage())
                self._count(lost)
                self._walk.run.lost += lost
                raise
            self._count(made.usage)
        message = replace(made, parents=made.parents or parents, started=started)
        return await self._tell(message if judge is None else judge(message))

    def _edited(self, work: Work, value: BaseModel) -> Message[Any] | None:
        past = self._walk.past
        if past is None:
            return None
        made = past.edited(work.node, work.path, work.where, value, self._walk.run.id, work.origin)
        if made is not None and isinstance(work.node, Stage):
            require_accepted(self._walk.host.check_message(work.node, made.content, value), work.where)
        return made

    async def _shaped(self, shape: Shape[Any, Any], work: Work, value: BaseModel, parents: tuple[str, ...]) -> Any:
        given = {**self.given, INPUT: Message(INPUT, value, node_id="", content_id="", parents=parents)}
        inner = At(self._walk, shape, given, work.path, work.plain, parents, self)
        made = await shape.run(inner)
        return Message(
            work.path,
            made.content,
            node_id=node_id(self._walk.run.id, work.path),
            content_id=content_id(made.content),
            parents=made.parents,
            confidence=made.confidence,
            origin=work.origin,
            abstained=made.abstained,
            alternatives=made.alternatives,
        )

    async def _skip(self, skipped: Skipped) -> Skipped:
        self._walk.run.messages[skipped.step] = skipped
        await self._walk.emit(StepSkipped(self._walk.run.id, skipped))
        return skipped

    async def _tell(self, message: Message[Any]) -> Message[Any]:
        self._walk.run.messages[message.step] = message
        await self._walk.emit(MessageEmitted(self._walk.run.id, message))
        return message

    def _count(self, usage: Usage) -> None:
        place: At | None = self
        while place is not None:
            place.used += usage
            place = place._above

    # -- what goes in -------------------------------------------------------------------------------------------

    def _namespace(self, names: frozenset[str], known: Known) -> dict[str, Any]:
        """What a ``when`` sees: each message as JSON data, a skipped step with every field null."""
        return {name: self._seen(name, known) for name in names}

    def _seen(self, name: str, known: Known) -> dict[str, Any]:
        """What came from outside stays as it is, and is read once, however many steps ask for it."""
        if known[name] is not self.given.get(name):
            return seen(known[name], self._shape.wiring.models[name])
        if name not in self._read:
            self._read[name] = seen(known[name], self._shape.wiring.models[name])
        return self._read[name]

    def _bound(self, name: str, model: type[BaseModel], known: Known, where: str) -> Any:
        values = {field: fetch(source, known) for field, source in self._shape.wiring.sources[name].items()}
        try:
            return model.model_validate_json(dumps(values), by_name=True)
        except ValidationError as error:
            problems = problems_of(error)
            raise StageFailedError(
                f"what the steps before gave does not make a valid {model.__name__}",
                where=where,
                problems=problems,
                hint=self._walk.look(),
            ) from None

    def _parents_of(self, name: str, asked: frozenset[str], known: Known) -> tuple[str, ...]:
        steps = [source.step for source in self._shape.wiring.sources[name].values()]
        return self._named([known[step] for step in dict.fromkeys([*steps, *sorted(asked)])])

    def _named(self, messages: Sequence[Message[Any] | Skipped]) -> tuple[str, ...]:
        """The nodes behind messages; what was only handed on stands for those it came from."""
        if not messages:
            return self._parents
        return tuple(dict.fromkeys(name for m in messages for name in ((m.node_id,) if m.node_id else m.parents)))

    @staticmethod
    def _below(path: str, step: str, index: int | tuple[int, ...] | None) -> str:
        here = f"{path}.{step}" if path else step
        if index is None:
            return here
        return here + "".join(f"[{i}]" for i in (index if isinstance(index, tuple) else (index,)))

    @staticmethod
    def _kind(step: Step) -> str:
        return step.node.kind if isinstance(step.node, Shape) else "stage"

    def _beyond(self, step: Step, work: Work) -> str:
        """A node's name that none of the step's attempts has: they stay in the trace beside it."""
        attempts = 0 if isinstance(step.node, Shape) else (work.decoding or step.node.decoding).attempts
        return node_id(self._walk.run.id, work.path, 0, attempts)


__all__ = ["Prepared", "Walk"]

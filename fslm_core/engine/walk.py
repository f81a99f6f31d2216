"""One run: walk a stack, start every step whose inputs are ready, validate every message, tell what happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ValidationError

from ..backends.protocol import Backend, ModelRef
from ..errors import DeadlineExceeded, FslmError, InputError, StageFailedError
from ..events import AttemptFailed, MessageEmitted, RunEvent, StepSkipped, StepStarted, TextWritten
from ..message import Attempt, Marks, Message, Origin, Problem, Skipped, Usage, derive_seed, digest, node_id
from ..plugins import PluginHost
from ..schema import canonical, content_id, dumps, plain_data, problems_of
from ..stack import INPUT, OUTPUT, Source, Stack, Step
from ..store import spelt
from .asking import answer, confidence_of, judge, request_of
from .run import Run
from .shadow import Beside, Candidate
from .tools import ToolRunner

SEMANTICS = "1"
"""Part of every ``work_key``; raised when the engine would do the same work otherwise."""

Emit = Callable[[RunEvent], Awaitable[None]]


@dataclass(frozen=True)
class Prepared:
    """A stack that passed its check, with its models found: ready to run."""

    stack: Stack[Any, Any]
    refs: Mapping[str, ModelRef]
    origins: Mapping[str, Origin]
    marks: Marks
    candidates: Mapping[str, Candidate] = field(default_factory=dict)


@dataclass
class Walk:
    """One passage of one input through a prepared stack.

    ``group`` names whose work this is, of those that share a backend alike; ``beside`` runs the candidates of steps.
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

    async def go(self) -> Message[Any]:
        """Run every step and bind the output.

        Raises:
            FslmError: the first thing that went wrong; steps still at work are stopped.
        """
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for step in self.prepared.stack.steps:
                    before = [tasks[name] for name in self.prepared.stack.wiring.needs(step.name)]
                    tasks[step.name] = group.create_task(self._step(step, before))
        except BaseExceptionGroup as failed:
            first = _first(failed)
            raise first from first.__cause__
        return self._output()

    async def _step(self, step: Step, before: list[asyncio.Task[None]]) -> None:
        for task in before:
            await task
        try:
            await self._do(step)
        except (SystemExit, KeyboardInterrupt) as error:  # raised by code of a plugin; it would end the engine's loop
            raise StageFailedError(
                f"the stage {step.stage.name} called for an exit: {type(error).__name__}",
                where=self._where(step.name),
                hint="raise an ordinary exception there: a stage cannot end the program",
            ) from error

    async def _do(self, step: Step) -> None:
        started = time.time()
        place = node_id(self.run.id, step.name)
        condition = self.prepared.stack.wiring.conditions.get(step.name)
        if condition is not None and not condition.holds(self._namespace(condition.names)):
            skipped = Skipped(step.name, place, condition.source, self._parents(step.name, condition.names))
            self.run.messages[step.name] = skipped
            await self.emit(StepSkipped(self.run.id, skipped))
            return
        await self.emit(StepStarted(self.run.id, step.name, place))
        value = self._input_of(step)
        parents = self._parents(step.name, condition.names if condition else frozenset())
        made = await (self._tool(step, value) if step.stage.tool is not None else self._slm(step, value, parents))
        message = replace(made, parents=parents, started=started)
        self.run.messages[step.name] = message
        await self.emit(MessageEmitted(self.run.id, message))

    # -- what goes in -------------------------------------------------------------------------------------------

    def _message(self, name: str) -> Message[Any] | Skipped:
        return self.run.input if name == INPUT else self.run.messages[name]

    def _namespace(self, names: frozenset[str]) -> dict[str, Any]:
        """What a ``when`` sees: each message as JSON data, a skipped step with every field null."""
        found = {name: self._message(name) for name in names}
        models = {step.name: step.stage.output for step in self.prepared.stack.steps}
        return {
            name: plain_data(m.content) if isinstance(m, Message) else dict.fromkeys(models[name].model_fields)
            for name, m in found.items()
        }

    def _fetch(self, source: Source) -> Any:
        message = self._message(source.step)
        value: Any = plain_data(message.content) if isinstance(message, Message) else None
        for part in source.path:
            value = None if value is None else value[part]
        return value

    def _bound(self, name: str, model: type[BaseModel]) -> Any:
        values = {field: self._fetch(source) for field, source in self.prepared.stack.wiring.sources[name].items()}
        try:
            return model.model_validate_json(dumps(values), by_name=True)
        except ValidationError as error:
            problems = problems_of(error)
            raise StageFailedError(
                f"what the steps before gave does not make a valid {model.__name__}",
                where=self._where(name),
                problems=problems,
                hint=self._look(),
            ) from None

    def _input_of(self, step: Step) -> Any:
        return self._bound(step.name, step.stage.input)

    def _parents(self, name: str, asked: frozenset[str]) -> tuple[str, ...]:
        steps = [source.step for source in self.prepared.stack.wiring.sources[name].values()]
        return tuple(dict.fromkeys(self._message(step).node_id for step in [*steps, *sorted(asked)]))

    def _look(self) -> str:
        if self.traced:
            return f"see what each step wrote: fslm trace show {self.run.id}"
        return "see what it wrote in the error's attempts"

    def _where(self, step: str) -> str:
        return f"stack {self.run.stack}, step {step}"

    # -- what comes out -----------------------------------------------------------------------------------------

    def _output(self) -> Message[Any]:
        stack = self.prepared.stack
        content = self._bound(OUTPUT, stack.output)
        confidence: dict[str, float] = {}
        for name, source in stack.wiring.sources[OUTPUT].items():
            message = self._message(source.step)
            if isinstance(message, Message) and message.confidence and source.path[0] in message.confidence:
                confidence[name] = message.confidence[source.path[0]]
        return Message(
            OUTPUT,
            content,
            node_id=node_id(self.run.id, OUTPUT),
            content_id=content_id(content),
            parents=self._parents(OUTPUT, frozenset()),
            confidence=confidence or None,
            started=time.time(),
        )

    async def _tool(self, step: Step, value: BaseModel) -> Message[Any]:
        stage = step.stage
        assert stage.tool is not None
        began = time.perf_counter()
        where = self._where(step.name)
        scored = await self.tools.call(stage, value, where)
        raw = canonical(scored.output)
        judged = time.perf_counter()
        problems = self.host.check_message(stage, scored.output, value)
        ended = time.perf_counter()
        usage = Usage(seconds=ended - began, validate=ended - judged)
        attempt = Attempt(0, None, raw, tuple(problems), usage)
        if problems:
            await self._failed(step, attempt)
            raise StageFailedError(
                "the message was refused", where=where, problems=problems, attempts=[attempt], hint=self._look()
            )
        key = (
            digest(SEMANTICS, self.prepared.origins[step.name].fingerprint, canonical(value)) if stage.tool.pure else ""
        )
        return self._made(step, scored.output, (attempt,), dict(scored.confidence) or None, key, None)

    async def _slm(self, step: Step, value: BaseModel, parents: tuple[str, ...]) -> Message[Any]:
        stage = step.stage
        began = time.perf_counter()
        schema = stage.narrowed(value)
        prompt = stage.render(value)
        rendered = time.perf_counter() - began
        if self.beside is not None:
            self.beside.step(step, value, prompt, schema, parents)

        async def written(text: str) -> None:
            await self.emit(TextWritten(self.run.id, step.name, text))

        given = content_id(value)
        attempts: list[Attempt] = []
        for index in range(stage.decoding.attempts):
            seed = derive_seed(self.run.seed, step.name, 0, index)
            request = request_of(
                stage,
                prompt,
                schema,
                self.prepared.refs[step.name],
                id=node_id(self.run.id, step.name, 0, index),
                seed=seed,
                deadline=self.deadline,
                group=self.group or self.run.id,
                run=self.run.id,
                input=given,
            )
            generation = await answer(self.backend, request, self._where(step.name), written)
            judged = time.perf_counter()
            content, attempt = judge(self.host, stage, value, schema, generation, index)
            ended = time.perf_counter()
            times = replace(attempt.usage, render=rendered, validate=ended - judged, seconds=ended - began)
            attempt = replace(attempt, prompt=prompt, usage=times)
            attempts.append(attempt)
            began, rendered = ended, 0.0
            if content is not None:
                sampled = str(seed) if stage.decoding.temperature > 0 else None
                key = digest(
                    SEMANTICS, self.prepared.origins[step.name].fingerprint, canonical(value), schema.id, sampled
                )
                narrowed = schema.tree if stage.narrow else None
                return self._made(step, content, tuple(attempts), confidence_of(generation), key, narrowed)
            await self._failed(step, attempt)
        raise StageFailedError(
            f"the stage {stage.name} gave no valid message",
            where=self._where(step.name),
            problems=attempts[-1].problems,
            attempts=attempts,
            hint=self._look(),
        )

    async def _failed(self, step: Step, attempt: Attempt) -> None:
        await self.emit(
            AttemptFailed(
                self.run.id,
                step.name,
                node_id(self.run.id, step.name, 0, attempt.index),
                attempt,
                self.prepared.origins[step.name],
                self._parents(step.name, frozenset()),
                time.time() - attempt.usage.seconds,
            )
        )

    def _made(
        self,
        step: Step,
        content: BaseModel,
        attempts: tuple[Attempt, ...],
        confidence: Mapping[str, float] | None,
        work_key: str,
        narrowed: Mapping[str, Any] | None,
    ) -> Message[Any]:
        return Message(
            step.name,
            content,
            node_id=node_id(self.run.id, step.name, 0, attempts[-1].index),
            content_id=content_id(content),
            work_key=work_key,
            attempts=attempts,
            usage=sum((a.usage for a in attempts), Usage()),
            confidence=confidence,
            origin=self.prepared.origins[step.name],
            narrowed=narrowed,
        )


def read_input(stack: Stack[Any, Any], value: object, *, quotes: bool = True) -> Any:
    """Validate what a run is given: an instance of the input model, or a mapping of its fields.

    Args:
        quotes: False keeps what was given out of the error's text.

    Raises:
        InputError: it does not fit; the text names every field that is wrong.
    """
    model = stack.input
    where = f"input of stack {stack.name}"
    shape = ", ".join(
        f"{n}: {f.annotation.__name__ if isinstance(f.annotation, type) else f.annotation}"
        for n, f in model.model_fields.items()
    )
    if isinstance(value, BaseModel) and not isinstance(value, model):
        raise InputError(
            "the input is another model",
            where=where,
            found=type(value).__name__,
            expected=model.__name__,
            hint=f"pass {model.__name__}(…), or a mapping of its fields",
        )
    if not isinstance(value, BaseModel | Mapping):
        raise InputError(
            "the input is neither a model nor a mapping",
            where=where,
            found=type(value).__name__,
            expected=f"{model.__name__}({shape})",
            hint=f"pass {model.__name__}(…), or a mapping of its fields",
        )
    try:
        plain = _fields(value, model) if isinstance(value, BaseModel) else dict(value)
        unknown = sorted(set(map(str, plain)) - set(model.model_fields))
        if unknown:
            raise InputError(
                "the input has a field the model does not",
                where=where,
                found=", ".join(unknown) if quotes else f"{len(unknown)} of unknown name",
                expected=shape,
                hint="leave it out, or correct its name",
            )
        checked = model.model_validate(plain, by_name=True)
        canonical(checked)
    except ValidationError as error:
        found = "; ".join(map(str, problems_of(error) if quotes else _kinds_of(error, model)))
        raise InputError(
            "the input does not fit", where=where, found=found, expected=shape, hint="correct what was found"
        ) from None
    except InputError:
        raise
    except FslmError as error:
        raise InputError(error.what, where=where, found=error.found, expected=error.expected, hint=error.hint) from None
    return checked


def _kinds_of(error: ValidationError, model: type[BaseModel]) -> Iterator[Problem]:
    """Pydantic's findings without its sentences, which may quote the value."""
    for found in error.errors(include_url=False, include_context=False, include_input=False):
        yield Problem("validator", found["type"], spelt(".".join(map(str, found["loc"])), model))


def _fields(value: BaseModel, model: type[BaseModel]) -> dict[str, Any]:
    """The data of an instance of ``model`` or of a class derived from it, without what the derived class adds."""
    return {name: part for name, part in plain_data(value).items() if name in model.model_fields}


def _first(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to report: the first of our own, else the first there is."""
    flat: list[BaseException] = []
    stack: list[BaseException] = [failed]
    while stack:
        error = stack.pop(0)
        if isinstance(error, BaseExceptionGroup):
            stack[:0] = error.exceptions
        else:
            flat.append(error)
    ours = [e for e in flat if isinstance(e, FslmError)]
    return next((e for e in ours if not isinstance(e, DeadlineExceeded)), ours[0] if ours else flat[0])


__all__ = ["Prepared", "Walk", "read_input"]

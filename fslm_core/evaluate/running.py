"""What the stack says to each row: whole, each step fed with what the steps before it said, and each step alone.

A step alone is fed with gold. It is a stack of its own with that one step, so prompt, narrowing, checks, retries and
seeds are those of the whole stack. Where gold and what the steps before said make the same input, the step has done
that work already in the whole stack (same stage, same input, same seed), and its answer is taken from there; only
tools that do not declare themselves pure are run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, create_model

from ..engine import Engine, Outcome
from ..errors import FslmError, StoreError
from ..message import Message, Skipped
from ..plugins import PluginHost
from ..schema import canonical, plain_data, sensitive_fields
from ..settings import default
from ..stack import INPUT, Stack, Step, stages_of
from ..store import concerns_all, marks_of
from .fields import Json, Mark
from .gold import Case, begun, bound

Progress = Callable[[str, int, int], None]
"""Called with what is being run, how many rows are done, and how many there are."""


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody how far it is."""


def host_of(engine: Engine | None) -> PluginHost:
    """Where stacks are found: the engine's plugins, or those of the process where none is given."""
    return engine.host if engine is not None else PluginHost(default())


@contextmanager
def at_work(
    engine: Engine | None, host: PluginHost, stacks: Sequence[Stack[Any, Any]], concurrency: int
) -> Iterator[Engine]:
    """The engine that is given, or one that keeps no trace, open as long as it is needed.

    Args:
        stacks: to be warmed where one is opened.
        concurrency: runs at once that it has to let in.
    """
    if engine is not None:
        yield engine
        return
    with Engine(stacks, host=host, trace=False, max_in_flight=max(64, concurrency)) as opened:
        yield opened


@dataclass(frozen=True, slots=True)
class Answer:
    """What a stack or a step gave to a row: JSON data or a mark, and how sure it was of each field."""

    value: Json | Mark
    confidence: Mapping[str, float] = field(default_factory=dict)
    run: str | None = None
    error: FslmError | None = None


@dataclass(frozen=True, slots=True)
class Passage:
    """One row's passage through the whole stack."""

    whole: Answer
    steps: Mapping[str, Answer]
    origins: Mapping[str, Mapping[str, str | None]]


@dataclass(frozen=True, slots=True)
class Alone:
    """A step fed with gold: an answer for each row (None where gold is not known or skips it), and what was run."""

    answers: list[Answer | None]
    ran: int
    reused: int
    unfed: Mapping[int, str]
    """Why a row could not be fed, by its place."""


def run_whole(
    engine: Engine,
    stack: Stack[Any, Any],
    cases: Sequence[Case],
    *,
    seed: int,
    concurrency: int,
    progress: Progress,
) -> list[Passage]:
    """Run every row through the stack. A run that fails is an answer; it never ends the others.

    Raises:
        StoreError: the trace cannot be written, which says nothing of the stack.
    """
    passages: list[Passage] = []
    progress("whole stack", 0, len(cases))
    for outcome in engine.map(stack, (case.input for case in cases), concurrency=concurrency, seed=seed):
        passages.append(_passage(stack, outcome))
        progress("whole stack", len(passages), len(cases))
    return passages


def run_alone(
    engine: Engine,
    stack: Stack[Any, Any],
    step: Step,
    cases: Sequence[Case],
    passages: Sequence[Passage],
    *,
    seed: int,
    concurrency: int,
    progress: Progress,
) -> Alone:
    """Run one step on the input that gold makes for it, for every row whose gold has it run."""
    answers: list[Answer | None] = [None] * len(cases)
    waiting: list[tuple[int, BaseModel]] = []
    unfed: dict[int, str] = {}
    for place, (case, passage) in enumerate(zip(cases, passages, strict=True)):
        if isinstance(case.steps[step.name], Mark):
            continue
        fed = bound(stack, step, {**begun(stack, case.input), **case.steps})
        if isinstance(fed, str):
            unfed[place] = fed
        elif _same_work(stack, step, case, passage, fed):
            answers[place] = passage.steps[step.name]
        else:
            waiting.append((place, fed))
    name = f"step {step.name}, fed with gold"
    if waiting:
        progress(name, 0, len(waiting))
    inputs = (plain_data(fed) for _, fed in waiting)
    outcomes = engine.map(alone(stack, step), inputs, concurrency=concurrency, seed=seed)
    for done, ((place, _), outcome) in enumerate(zip(waiting, outcomes, strict=True), start=1):
        answers[place] = _whole(outcome)
        progress(name, done, len(waiting))
    reused = sum(answer is not None for answer in answers) - len(waiting)
    return Alone(answers, len(waiting), reused, unfed)


def alone(stack: Stack[Any, Any], step: Step) -> Stack[Any, Any]:
    """A stack that has this step alone, takes its input and returns its output.

    What the whole stack's wiring makes sensitive stays so.
    """
    node, marks = step.node, marks_of(stack)
    return Stack(
        f"{stack.name}.gold-fed",
        input=_marked(node.input, marks.given[step.name]),
        output=_marked(node.output, marks.made[step.name]),
        steps=[Step(node, name=step.name, bind={name: f"{INPUT}.{name}" for name in node.input.model_fields})],
        bind={name: f"{step.name}.{name}" for name in node.output.model_fields},
        description=f"Step {step.name} of {stack.name}, fed with gold.",
    )


def _marked(model: type[BaseModel], paths: frozenset[str]) -> type[BaseModel]:
    """The model with these fields marked as sensitive, whole if any part of them is."""
    heads = {path.partition(".")[0] for path in paths - sensitive_fields(model)}
    changed: dict[str, Any] = {}
    for name in heads:
        info = copy(model.model_fields[name])
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        info.json_schema_extra = {**extra, "sensitive": True}
        changed[name] = (info.annotation, info)
    return create_model(model.__name__, __base__=model, **changed) if changed else model


def _same_work(stack: Stack[Any, Any], step: Step, case: Case, passage: Passage, fed: BaseModel) -> bool:
    """Whether the whole stack gave this step the same input, and the same answer is sure to come of it."""
    if any(stage.tool is not None and not stage.tool.pure for stage in stages_of(step)):
        return False
    if passage.steps[step.name].value is Mark.SKIPPED:
        return False
    said = {name: answer.value for name, answer in passage.steps.items()}
    before = bound(stack, step, {**begun(stack, case.input), **said})
    if isinstance(before, str) or canonical(before) != canonical(fed):
        return False
    answer = passage.steps[step.name]
    return answer.value is not Mark.FAILED or answer.error is not None


def _passage(stack: Stack[Any, Any], outcome: Outcome[Any]) -> Passage:
    whole = _whole(outcome)
    messages = outcome.run.messages if outcome.run is not None else {}
    culprit = outcome.error.where if outcome.error is not None else None
    steps: dict[str, Answer] = {}
    origins: dict[str, Mapping[str, str | None]] = {}
    for step in stack.steps:
        message = messages.get(step.name)
        if isinstance(message, Message):
            steps[step.name] = Answer(plain_data(message.content), dict(message.confidence or {}), whole.run)
            if message.origin is not None:
                origins[step.name] = {
                    "stage": message.origin.stage,
                    "model": message.origin.model,
                    "backend": message.origin.backend,
                    "fingerprint": message.origin.fingerprint,
                }
        elif isinstance(message, Skipped):
            steps[step.name] = Answer(Mark.SKIPPED, {}, whole.run)
        else:
            at_fault = f"{culprit}, ".startswith(f"stack {stack.name}, step {step.name}, ")
            own = outcome.error if at_fault else None
            steps[step.name] = Answer(Mark.FAILED, {}, whole.run, own)
    return Passage(whole, steps, origins)


def _whole(outcome: Outcome[Any]) -> Answer:
    run = outcome.run.id if outcome.run is not None else None
    if isinstance(outcome.error, StoreError) and concerns_all(outcome.error):
        raise outcome.error
    if outcome.error is not None:
        return Answer(Mark.FAILED, {}, run, outcome.error)
    assert outcome.run is not None
    return Answer(plain_data(outcome.output), dict(outcome.run.confidence or {}), run)


__all__ = ["Alone", "Answer", "Passage", "Progress", "alone", "at_work", "host_of", "run_alone", "run_whole", "silent"]

"""Runs a tool stage's function: on the loop, on a thread, or in a process that can be stopped and may break."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from numbers import Real
from typing import Any

from pydantic import BaseModel, ValidationError

from ..errors import FslmError, SchemaError, ToolError
from ..message import Problem
from ..schema import canonical, problems_of
from ..stage import Scored, Stage
from .threads import in_thread
from .workers import TookTooLong, WorkerEnded, Workers

_ROUNDING = 1e-6
"""How far above 1 the sum or product of probabilities may come out."""


class ToolRunner:
    """Runs tools for one engine; keeps a few worker processes for those with a timeout and those to be isolated."""

    def __init__(self) -> None:
        self._workers = Workers()

    async def call(self, stage: Stage[Any, Any], value: BaseModel, where: str) -> Scored[Any]:
        """Call the stage's function.

        Raises:
            ToolError: it raised, ran out of time, ended its process, or returned something else than its output model
                or confidences of its fields that are no probabilities.
        """
        tool = stage.tool
        assert tool is not None
        try:
            text, confidence = await self._answer(stage, value, where)
        except (FslmError, GeneratorExit):
            raise
        except TookTooLong:
            raise ToolError(
                f"the tool {stage.name} did not end within {tool.timeout} s and was stopped",
                where=where,
                hint="allow more with @tool(timeout=…), or mend the function",
            ) from None
        except WorkerEnded as ended:
            raise ToolError(
                f"the tool {stage.name} ended its worker process before it answered",
                where=where,
                problems=[Problem("tool", _how(ended.exitcode))],
                hint="mend the function: it left, crashed, or ran out of memory; the next call gets a new process",
            ) from None
        except BaseException as error:  # the function is the author's; whatever it raises ends the step alone
            if isinstance(error, asyncio.CancelledError) and _is_being_cancelled():
                raise
            raise _raised(stage, where, f"{type(error).__name__}: {error}", error) from error
        return Scored(_validated(stage, text, where), _sure(stage, confidence, where))

    async def _answer(self, stage: Stage[Any, Any], value: BaseModel, where: str) -> tuple[str, Any]:
        """What the function returned, as JSON, and how sure it is of each field."""
        tool = stage.tool
        assert tool is not None
        function: Any = tool.function
        if tool.in_process:
            return await self._in_process(stage, value, where)
        answer = (
            await _in_time(function, value, tool.timeout)
            if tool.asynchronous
            else await in_thread(_guarded, function, value)
        )
        scored = answer if isinstance(answer, Scored) else Scored(answer, {})
        if not isinstance(scored.output, stage.output):
            raise _wrong_type(stage, where, type(scored.output).__name__)
        try:
            return canonical(scored.output), scored.confidence
        except SchemaError as error:
            raise _invalid(stage, where, [Problem("tool", error.what)]) from None

    async def _in_process(self, stage: Stage[Any, Any], value: BaseModel, where: str) -> tuple[str, Any]:
        assert stage.tool is not None
        function: Any = stage.tool.function
        place = function.__module__, function.__qualname__
        answer = await self._workers.call(*place, canonical(value), stage.tool.timeout)
        if "error" in answer:
            elsewhere = InWorker(answer["traceback"])
            raise _raised(stage, where, f"{answer['error']}: {answer['text']}", elsewhere) from elsewhere
        if "type" in answer:
            raise _wrong_type(stage, where, answer["type"])
        return answer["output"], answer["confidence"]

    def close(self) -> None:
        """Stop the worker processes."""
        self._workers.close()


class InWorker(Exception):
    """What a function raised in a worker process: its traceback, as text."""


async def _in_time(function: Callable[..., Any], value: BaseModel, timeout: float | None) -> Any:
    scope = asyncio.timeout(timeout)
    try:
        async with scope:
            return await function(value)
    except TimeoutError:
        if scope.expired():
            raise TookTooLong from None
        raise


def _guarded(function: Callable[..., Any], value: BaseModel) -> Any:
    """Call a function on a thread; a future cannot carry StopIteration."""
    try:
        return function(value)
    except StopIteration as error:
        raise RuntimeError("the function raised StopIteration") from error


def _is_being_cancelled() -> bool:
    """Whether the run is, and not the function that raised as if it were."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _validated(stage: Stage[Any, Any], text: str, where: str) -> BaseModel:
    """What passes on is valid even where the function changed its answer after it was made."""
    try:
        valid: BaseModel = stage.output.model_validate_json(text, by_name=True)
        return valid
    except ValidationError as error:
        problems = problems_of(error)
    raise _invalid(stage, where, problems)


def _sure(stage: Stage[Any, Any], confidence: Any, where: str) -> dict[str, float]:
    """The confidences of fields that there are, if each is a probability.

    Any other name is left out, and not even told: it may be something that somebody wrote.
    """
    problems = []
    try:
        given = dict(confidence)
    except (TypeError, ValueError):
        given, problems = {}, [Problem("tool", f"its confidence is a {type(confidence).__name__}, no mapping")]
    given = {name: value for name, value in given.items() if name in stage.output.model_fields}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1 + _ROUNDING:
            problems.append(Problem("tool", "its confidence is no number from 0 to 1", str(name)))
    if problems:
        raise ToolError(
            f"the tool {stage.name} returned confidences that cannot be",
            where=where,
            problems=problems,
            hint="return Scored(output, {field: probability})",
        )
    return {name: min(1.0, float(value)) for name, value in given.items()}


def _raised(stage: Stage[Any, Any], where: str, told: str, error: BaseException) -> ToolError:
    kept = "its traceback in the worker process" if isinstance(error, InWorker) else "the exception"
    return ToolError(
        f"the tool {stage.name} raised",
        where=where,
        problems=[Problem("tool", told)],
        hint=f"mend the tool's function; {kept} is this error's __cause__ (`fslm --debug …` shows it)",
    )


def _wrong_type(stage: Stage[Any, Any], where: str, found: str) -> ToolError:
    return ToolError(
        f"the tool {stage.name} returned the wrong type",
        where=where,
        problems=[Problem("tool", f"it returned {found}")],
        hint=f"return {stage.output.__name__}",
    )


def _invalid(stage: Stage[Any, Any], where: str, problems: list[Problem]) -> ToolError:
    return ToolError(
        f"the tool {stage.name} returned what does not fit its own model",
        where=where,
        problems=problems,
        hint=f"make every {stage.output.__name__} valid before it is returned",
    )


def _how(exitcode: int | None) -> str:
    """How a process ended, as a sentence."""
    if exitcode is None:
        return "its process closed its pipe"
    return f"its process was ended by signal {-exitcode}" if exitcode < 0 else f"its process exited with {exitcode}"


__all__ = ["InWorker", "ToolRunner"]

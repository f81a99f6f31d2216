"""Runs a tool stage's function: on the loop, on a thread, or, with a timeout, in a process that can be stopped."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from ..errors import FslmError, SchemaError, ToolError
from ..message import Problem
from ..schema import canonical, problems_of
from ..stage import Scored, Stage
from .threads import in_thread

if TYPE_CHECKING:
    from pebble import ProcessPool

_WORKERS = 2


class ToolRunner:
    """Runs tools for one engine; keeps a few worker processes for those with a timeout."""

    def __init__(self) -> None:
        self._pools: dict[str, ProcessPool] = {}

    async def call(self, stage: Stage[Any, Any], value: BaseModel, where: str) -> Scored[Any]:
        """Call the stage's function.

        Raises:
            ToolError: it raised, ran out of time or returned something else than its output model.
        """
        tool = stage.tool
        assert tool is not None
        try:
            if inspect.iscoroutinefunction(tool.function):
                async with asyncio.timeout(tool.timeout):
                    answer = await tool.function(value)
            elif tool.timeout is None:
                answer = await in_thread(_guarded, tool.function, value)
            else:
                answer = await self._in_process(stage, value, tool.timeout)
        except (FslmError, asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:  # the function is the author's; whatever it raises ends the step alone
            if isinstance(error, TimeoutError) and tool.timeout is not None:
                raise ToolError(
                    f"the tool {stage.name} did not end within {tool.timeout} s and was stopped",
                    where=where,
                    hint="allow more with @tool(timeout=…), or mend the function",
                ) from None
            problem = Problem("tool", f"{type(error).__name__}: {error}")
            raise ToolError(
                f"the tool {stage.name} raised",
                where=where,
                problems=[problem],
                hint="mend the tool's function; the exception is this error's __cause__ (`fslm --debug …` shows it)",
            ) from error
        scored = answer if isinstance(answer, Scored) else Scored(answer, {})
        if not isinstance(scored.output, stage.output):
            problem = Problem("tool", f"it returned {type(scored.output).__name__}")
            raise ToolError(
                f"the tool {stage.name} returned the wrong type",
                where=where,
                problems=[problem],
                hint=f"return {stage.output.__name__}",
            )
        return replace(scored, output=_validated(stage, scored.output, where))

    async def _in_process(self, stage: Stage[Any, Any], value: BaseModel, timeout: float) -> Any:
        assert stage.tool is not None
        function: Any = stage.tool.function
        module, name = function.__module__, function.__qualname__
        future = self._pool(module).schedule(_call, args=(module, name, canonical(value)), timeout=timeout)
        try:
            text, confidence = await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.cancel()
            raise
        return Scored(stage.output.model_validate_json(text, by_name=True), confidence)

    def _pool(self, module: str) -> ProcessPool:
        """The worker processes for one module's tools; importing it is not part of any tool's time."""
        if module not in self._pools:
            from pebble import ProcessPool

            spawn = multiprocessing.get_context("spawn")
            self._pools[module] = ProcessPool(_WORKERS, initializer=_load, initargs=(module,), context=spawn)
        return self._pools[module]

    def close(self) -> None:
        """Stop the worker processes."""
        for pool in self._pools.values():
            pool.stop()
        for pool in self._pools.values():
            pool.join()
        self._pools.clear()


def _load(module: str) -> None:
    """In a worker process, before its first call. What fails here fails again, and is told, in the call."""
    with contextlib.suppress(Exception):
        importlib.import_module(module)


def _guarded(function: Callable[..., Any], value: BaseModel) -> Any:
    """Call a function on a thread; a future cannot carry StopIteration."""
    try:
        return function(value)
    except StopIteration as error:
        raise RuntimeError("the function raised StopIteration") from error


def _validated(stage: Stage[Any, Any], output: BaseModel, where: str) -> BaseModel:
    """What passes on is valid even where the function changed its answer after it was made."""
    try:
        valid: BaseModel = stage.output.model_validate_json(canonical(output), by_name=True)
        return valid
    except ValidationError as error:
        problems = problems_of(error)
    except SchemaError as error:
        problems = [Problem("tool", error.what)]
    raise ToolError(
        f"the tool {stage.name} returned what does not fit its own model",
        where=where,
        problems=problems,
        hint=f"make every {stage.output.__name__} valid before it is returned",
    )


def _call(module: str, name: str, text: str) -> tuple[str, dict[str, float]]:
    """In the worker process: find the tool by name and run it on JSON, so that only text crosses."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not isinstance(found, Stage) or found.tool is None:
        raise TypeError(f"{module}.{name} is not a tool stage, so a worker process cannot find it by name")
    function: Any = found.tool.function
    answer = function(found.input.model_validate_json(text, by_name=True))
    scored = answer if isinstance(answer, Scored) else Scored(answer, {})
    return canonical(scored.output), dict(scored.confidence)


__all__ = ["ToolRunner"]

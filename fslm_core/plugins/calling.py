"""Calling what a plugin implements; ``trace_hooks`` (``FSLM_TRACE_HOOKS=1``) tells of each call on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sized
from typing import Any

import pluggy

from .finding import PluginInfo

Caller = Callable[..., Any]
"""``(hook, impl, info, **arguments)``: calls one plugin's implementation with those of the arguments that it takes."""


def plainly(hook: str, impl: pluggy.HookImpl, info: PluginInfo, **arguments: Any) -> Any:
    """Call one plugin's implementation with the arguments it takes."""
    return impl.function(*(arguments[name] for name in impl.argnames))


def traced(hook: str, impl: pluggy.HookImpl, info: PluginInfo, **arguments: Any) -> Any:
    """As :func:`plainly`, and print whose it was, how long it took and, in short, what came back.

    A generator is read to its end here, for its work is part of the call. No text of a message or of an error is
    printed: either may hold what must not be kept.
    """
    begun = time.perf_counter()
    try:
        answer = plainly(hook, impl, info, **arguments)
        if isinstance(answer, Iterator):
            answer = list(answer)
    except BaseException as error:
        _tell(hook, info, begun, f"raised {type(error).__name__}")
        raise
    _tell(hook, info, begun, f"returned {_shortly(answer)}")
    return answer


def _tell(hook: str, info: PluginInfo, begun: float, what: str) -> None:
    line = f"hook {hook}: {info.name} ({info}), {(time.perf_counter() - begun) * 1000:.1f} ms, {what}"
    print(line.encode("ascii", "backslashreplace").decode(), file=sys.stderr, flush=True)


def _shortly(answer: object) -> str:
    """The count and the kind of what was returned.

    >>> _shortly([]), _shortly(None), _shortly({"a": 1, "b": 2}), _shortly([3])
    ('nothing', 'nothing', '2 names', '1 int')
    """
    if answer is None or (isinstance(answer, Sized) and not len(answer)):
        return "nothing"
    if isinstance(answer, dict):
        return f"{len(answer)} name{'' if len(answer) == 1 else 's'}"
    if isinstance(answer, list | tuple):
        return f"{len(answer)} {' or '.join(sorted({type(thing).__name__ for thing in answer}))}"
    return f"a {type(answer).__name__}"


__all__ = ["Caller", "plainly", "traced"]

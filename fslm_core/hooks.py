"""Every hook a plugin can implement, with its types. This file is the whole of fslm's plugin interface.

A plugin is an installed distribution with an entry point in group ``fslm`` that names a module; the module's functions
marked ``@hookimpl`` are its answers. Plugins declare, the engine decides: order, validation, retries and records are
never hooks.

A function names the arguments it takes and is given no others. New arguments are added to hooks, none is taken away, so
that a plugin written for an older core goes on working.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from pydantic import BaseModel

    from .backends.protocol import Backend
    from .checkpoints import Checkpoint
    from .events import Event
    from .message import Problem
    from .settings import Settings
    from .stack import Stack
    from .stage import Stage

PROJECT = "fslm"
GROUP = "fslm"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def fslm_stages() -> Iterable[Stage[Any, Any]]:
    """Return the stages the plugin offers, named by its entry point: that name, or that name, a dot and more."""
    raise NotImplementedError


@hookspec
def fslm_stacks() -> Iterable[Stack[Any, Any]]:
    """Return the stacks the plugin offers, named by the same rule."""
    raise NotImplementedError


@hookspec
def fslm_checkpoints() -> Iterable[Checkpoint]:
    """Return the checkpoints the plugin knows how to get, named by the same rule."""
    raise NotImplementedError


@hookspec
def fslm_backends() -> Mapping[str, Callable[[Settings], Backend]]:
    """Return backends by name, each a function that makes one of the settings; named by the same rule."""
    raise NotImplementedError


@hookspec
def fslm_check_message(stage: Stage[Any, Any], message: BaseModel, input: BaseModel) -> Iterable[Problem]:
    """Refuse a message of the plugin's own stages by returning what is wrong with it.

    It fails closed: a check that raises refuses the message. The settings' ``foreign_checks`` lets a plugin judge the
    stages of others.

    Args:
        stage: the stage that made it.
        message: the validated output instance.
        input: what the stage was given, as an instance of its input model: a value that should be copied from it can
            be looked for there.
    """
    raise NotImplementedError


@hookspec
def fslm_observe(event: Event) -> None:
    """See every event of every run, on a thread of its own behind a bounded queue.

    An observer cannot change an event; its error is recorded, never raised into a run.
    """
    raise NotImplementedError


@hookspec
def fslm_commands() -> Mapping[str, Callable[..., Any]]:
    """Return verbs for the command line: name to a function with Typer annotations. Built-in verbs stay as they are."""
    raise NotImplementedError


HOOKS = (
    "fslm_stages",
    "fslm_stacks",
    "fslm_checkpoints",
    "fslm_backends",
    "fslm_check_message",
    "fslm_observe",
    "fslm_commands",
)

__all__ = [
    "GROUP",
    "HOOKS",
    "PROJECT",
    "fslm_backends",
    "fslm_check_message",
    "fslm_checkpoints",
    "fslm_commands",
    "fslm_observe",
    "fslm_stacks",
    "fslm_stages",
    "hookimpl",
    "hookspec",
]

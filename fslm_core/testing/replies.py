"""Replies written in advance, in whatever form is shortest to write, as a script for the scripted backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from ..backends.protocol import Request
from ..backends.scripted import ScriptedBackend
from ..errors import UnknownNameError, UsageError
from ..message import plain_path
from ..schema import canonical, dumps
from ..stack import Stack, places

Written = str | Mapping[str, Any] | BaseModel
"""One text: as it is, or data and messages in their canonical form."""
Reply = Written | BaseException | Sequence[Written | BaseException] | Callable[[Request], Written]
"""What a stage answers: a text, an error to raise, several one after another (the last for good), or a function."""


def script(replies: Mapping[str, Reply], stack: Stack[Any, Any] | None = None) -> ScriptedBackend:
    """A backend that gives these replies.

    Args:
        replies: by the name of a stage, or, where ``stack`` is given, of one of its steps; ``vote.intent[2]`` is one
            time of a step that runs several times.
        stack: whose steps and stages the names are.

    Raises:
        UnknownNameError: the stack has neither step nor stage of that name.
        UsageError: a reply of no known form.

    >>> backend = script({"demo.greet": {"text": "hello"}})
    >>> backend.name
    'scripted'
    """
    if stack is None:
        return ScriptedBackend({name: _Turns(reply, name) for name, reply in replies.items()})
    by_step = {path: step.node.name for path, step in places(stack)}
    known = {*by_step, *by_step.values()}
    for name in replies:
        if plain_path(name) not in known:
            raise UnknownNameError.of("step or stage", name, known, where=f"the replies for {stack.name}")
    turns = {name: _Turns(reply, name) for name, reply in replies.items()}
    stages = {by_step.get(plain_path(name), name) for name in replies}
    return ScriptedBackend({stage: _Steps(stage, by_step, turns) for stage in stages})


def text_of(written: object, where: str) -> str:
    """One reply as the text a model would have written.

    Raises:
        UsageError: it is neither text, data nor a message.
    """
    if isinstance(written, str):
        return written
    if isinstance(written, BaseModel):
        return canonical(written)
    if isinstance(written, Mapping):
        return dumps(dict(written))
    raise UsageError(
        "a reply is text, data, a message, an error, a list of these, or a function",
        where=f"the reply of {where}",
        found=written,
        hint='write the text itself, as in \'{"intent":"track_order"}\', or the data: {"intent": "track_order"}',
    )


class _Turns:
    """One reply, as a function of the request."""

    def __init__(self, reply: Reply, where: str) -> None:
        self._where = where
        self._make = reply if callable(reply) and not isinstance(reply, type) else None
        several = isinstance(reply, Sequence) and not isinstance(reply, str)
        self._parts = [self._checked(part) for part in (reply if several else [reply])] if self._make is None else []  # type: ignore[union-attr]
        self._given = 0
        if self._make is None and not self._parts:
            raise UsageError("a list of replies is empty", where=f"the reply of {where}", hint="give it a reply")

    def _checked(self, part: object) -> str | BaseException:
        return part if isinstance(part, BaseException) else text_of(part, self._where)

    def __call__(self, request: Request) -> str:
        if self._make is not None:
            return text_of(self._make(request), self._where)
        part = self._parts[min(self._given, len(self._parts) - 1)]
        self._given += 1
        if isinstance(part, BaseException):
            raise part
        return part


class _Steps:
    """The replies of one stage in a stack: those of the step that asks, else the stage's own."""

    def __init__(self, stage: str, by_step: Mapping[str, str], turns: Mapping[str, _Turns]) -> None:
        self._stage = stage
        self._own = turns.get(stage)
        self._steps = {name: turn for name, turn in turns.items() if by_step.get(plain_path(name)) == stage}

    def __call__(self, request: Request) -> str:
        step = request.id.split("/")[1]
        turns = self._steps.get(step) or self._steps.get(plain_path(step)) or self._own
        if turns is None:
            hint = "give it a reply, too"
            raise UnknownNameError.of("scripted step", step, self._steps, where="the script", hint=hint)
        return turns(request)


__all__ = ["Reply", "Written", "script", "text_of"]

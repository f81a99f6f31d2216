"""What the text of an error may say where sensitive values may not be told: programs log the errors they catch."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from ..errors import CheckError, FslmError, InputError, StageFailedError, shorten
from ..schema import sensitive_fields
from ..stack import Stack, places
from ..store import ContentMode, bare_error, kind_of, marks_of, spelt
from .reading import read_input

_HINT = "its text is withheld, for it may quote a sensitive field; it is shown where trace.content is 'full'"


def withholds(stack: Stack[Any, Any], content: ContentMode) -> bool:
    """Whether the errors of this stack's runs are told without their text: it marks something, and not all is kept."""
    if content == "full":
        return False
    try:
        return bool(marks_of(stack))
    except CheckError:
        models: tuple[type[BaseModel], ...] = (stack.input, stack.output)
        return any(map(sensitive_fields, models))


def read_quietly(stack: Stack[Any, Any], value: object, content: ContentMode) -> Any:
    """As :func:`read_input`, with an error that quotes nothing where this stack's errors may not.

    Raises:
        InputError: the input does not fit.
    """
    try:
        return read_input(stack, value)
    except InputError:
        if not withholds(stack, content):
            raise
    try:
        return read_input(stack, value, quotes=False)
    except InputError as error:
        refused = error
    refused.__context__ = None  # what pydantic raised quotes the value
    raise refused


def withheld(error: FslmError, stack: Stack[Any, Any], *, where: str | None = None) -> FslmError:
    """An error of the same kind that quotes nothing: its kind, its place, and what was wrong with which field.

    What it carries for programs (``problems``, ``attempts``) stays; no other exception stands behind it.

    Args:
        where: the place, in the engine's own words.
    """
    kind = _plain_kind(type(error))
    told = kind.__new__(kind)
    told.__dict__.update({name: part for name, part in error.__dict__.items() if name != "__notes__"})
    what = bare_error(error)["what"]
    Exception.__init__(told, what)
    told.what, told.where = what, where
    told.found = shorten(_kinds(error, stack)) if isinstance(error, StageFailedError) and error.problems else None
    told.expected, told.hint = None, _HINT
    return told.with_traceback(error.__traceback__)


def _plain_kind(kind: type[FslmError]) -> type[FslmError]:
    """The nearest class of fslm's own that says no more of itself than the root does."""
    kinds = [k for k in kind.__mro__ if issubclass(k, FslmError) and k.__module__ == FslmError.__module__]
    said = {"__str__", "to_dict"}
    return next(
        k
        for k in kinds
        if k is FslmError or not any(said & vars(c).keys() for c in k.__mro__[: k.__mro__.index(FslmError)])
    )


def _kinds(error: StageFailedError, stack: Stack[Any, Any]) -> str:
    """What was wrong, by field, as far as models spell the fields."""
    models = [stack.output, *(model for _, step in places(stack) for model in (step.node.input, step.node.output))]
    named = [(kind_of(p), max((spelt(p.field, m) or "" for m in models), key=len)) for p in error.problems]
    return "; ".join(f"{field}: {kind}" if field else kind for kind, field in named)


__all__ = ["read_quietly", "withheld", "withholds"]

"""What may be said of one run where its sensitive values may not: one memory of them, and three ways to use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from pydantic import BaseModel

from ..errors import FslmError, StageFailedError
from ..message import Marks, Problem
from ..prompt import REDACTED
from ..schema import plain_data
from ..stack import INPUT, OUTPUT
from .marks import given_at, made_at
from .privacy import Secrets, blank, labels_of, names_of, pick

Alternatives: TypeAlias = Mapping[str, tuple[tuple[Any, float], ...]]
"""By field, labels and their probability."""


class Redactor:
    """Blanks the sensitive fields of one run's messages, and whatever of their values stands elsewhere.

    Needs no key and no database. It learns from what it is shown: hand it the run's input first, and each message
    before the texts made from it. Until an input is known everything is taken to be sensitive.

    Args:
        input: the run's input, or None where it could not even be read.
        marks: what the whole stack marks (:func:`marks_of`); without it only what the models shown mark is known, and
            of a step that failed nothing is told.

    >>> from pydantic import Field
    >>> class Caller(BaseModel):
    ...     text: str
    ...     phone: str = Field(json_schema_extra={"sensitive": True})
    >>> redactor = Redactor(Caller(text="Call 555 0100.", phone="555 0100"))
    >>> redactor.content(Caller(text="She is at 555 0100.", phone="555 0199"))
    {'text': 'She is at [redacted].', 'phone': '[redacted]'}
    >>> redactor.error(StageFailedError("no call to 555 0100", where="step call"))
    {'code': 'stage-failed', 'what': 'A step gave no valid message', 'where': 'step call'}
    """

    def __init__(self, input: BaseModel | None = None, *, marks: Marks | None = None) -> None:
        self.secrets = Secrets()
        self.touched = True
        """Whether anything of this run is sensitive, as far as has been seen."""
        self.knows_failure = False
        """Whether what the step that failed marks is known."""
        self._marks = _NOTHING
        if input is not None:
            self.begin(input, marks)

    def begin(self, input: BaseModel, marks: Marks | None = None) -> None:
        """The run starts with this."""
        self._marks = marks or _NOTHING
        self.touched = bool(marks)
        self.knows_failure = marks is not None
        self.secrets.known = True
        self.note(input, INPUT)

    def note(self, content: BaseModel, step: str = OUTPUT) -> None:
        """Remember the sensitive values of the message that ``step`` made."""
        if paths := self.made(type(content), step):
            self.touched = True
            data = plain_data(content)
            for path in paths:
                self.secrets.add(list(pick(data, path)), names_of(type(content)))

    def made(self, model: type[BaseModel], step: str) -> frozenset[str]:
        """The sensitive fields of the message that ``step`` makes."""
        return made_at(self._marks, step, model)

    def given(self, model: type[BaseModel], step: str) -> frozenset[str]:
        """The sensitive fields of what ``step`` is given."""
        return given_at(self._marks, step, model)

    def content(self, model: BaseModel, step: str = OUTPUT) -> Any:
        """The message of ``step`` as JSON data: sensitive fields blanked, others without the values of those.

        Raises:
            SchemaError: it cannot be written as JSON.
        """
        self.note(model, step)
        kind = type(model)
        clean = blank(plain_data(model), self.made(kind, step))
        return self.secrets.scrub(clean, keep=labels_of(kind), names=names_of(kind))

    def narrowed(self, schema: Mapping[str, Any], model: type[BaseModel], step: str) -> Any:
        """The schema as narrowed for ``step``: no label of a sensitive field, and of no other a sensitive value."""
        hidden = {path.partition(".")[0] for path in self.made(model, step)}
        labels = labels_of(model)
        properties = {
            name: {"enum": [REDACTED]} if name in hidden else self._narrowed(tree, labels)
            for name, tree in schema.get("properties", {}).items()
        }
        return {name: properties if name == "properties" else tree for name, tree in schema.items()}

    def alternatives(self, given: Alternatives, model: type[BaseModel], step: str) -> Alternatives:
        """What else the message of ``step`` might have said: of a sensitive field nothing, of no other a secret."""
        hidden = {path.partition(".")[0] for path in self.made(model, step)}
        labels = labels_of(model)
        return {
            name: tuple((self.secrets.scrub(label, keep=labels), chance) for label, chance in pairs)
            for name, pairs in given.items()
            if name not in hidden
        }

    def _narrowed(self, node: Any, labels: frozenset[str]) -> Any:
        if isinstance(node, Mapping):
            return {
                name: self.secrets.scrub(value, keep=labels) if name in _VALUES else self._narrowed(value, labels)
                for name, value in node.items()
            }
        return [self._narrowed(value, labels) for value in node] if isinstance(node, list) else node

    def error(self, error: FslmError) -> dict[str, Any]:
        """What may be written of an error: all of it where nothing is sensitive, else its kind and its place."""
        if not self.touched and (self.knows_failure or not isinstance(error, StageFailedError)):
            return error.to_dict()
        where = {"where": self.secrets.scrub_text(error.where)} if error.where else {}
        return {**bare_error(error), **where}


_NOTHING = Marks({}, {})
_VALUES = ("enum", "const")
_KINDS = frozenset({"json", "schema", "validator", "length", "refused", "tool", "error"})


def bare_error(error: FslmError) -> dict[str, Any]:
    """An error without anything that was said about this one case: its code, and what that means."""
    said = (type(error).__doc__ or error.code).strip().partition("\n")[0]
    return {"code": error.code, "what": said.partition(";")[0].rstrip(".")}


def problem_as(problem: Problem, text: str, field: str | None) -> dict[str, Any]:
    """A problem as JSON data, with this text and field in place of its own, and a kind that is one of ours."""
    return {"kind": kind_of(problem), "text": text, "field": field, "source": problem.source}


def kind_of(problem: Problem) -> str:
    """The problem's kind, or ``refused`` where it is a word of a plugin's own."""
    return problem.kind if problem.kind in _KINDS else "refused"


def spelt(field: str | None, model: type[BaseModel] | None) -> str | None:
    """A field's path as far as the model spells it; what follows may be a value that somebody wrote."""
    names = names_of(model) if model is not None else frozenset()
    return ".".join(_leading(field.split("."), names)) or None if field else None


def _leading(parts: list[str], names: frozenset[str]) -> Iterator[str]:
    for part in parts:
        if part not in names and not part.isdigit():
            return
        yield part


__all__ = ["Alternatives", "Redactor", "bare_error", "kind_of", "problem_as", "spelt"]

"""From a line of a chat to a stack's input, and from its output to a reply: which field is the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, TypeAdapter, ValidationError

from ..errors import UsageError
from ..schema import loads
from ..serve.inputs import describe
from ..stack import Stack


@dataclass(frozen=True)
class Form:
    """How a stack's input is made of one text.

    Attributes:
        field: what takes the text.
        fixed: all else that is given.
    """

    field: str
    fixed: Mapping[str, Any]

    @classmethod
    def of(cls, stack: Stack[Any, Any], field: str | None, sets: Sequence[str]) -> Self:
        """The form of a stack's input.

        Args:
            field: what takes the text; the only required text that is not set, if not given.
            sets: the other fields, each as ``FIELD=VALUE``.

        Raises:
            UsageError: there is no such field, it is no text, a required one is left, or a value does not fit.
        """
        fixed = dict(_set(stack, given) for given in sets)
        model = stack.input
        named = field if field is not None else _only_text(stack, fixed)
        if named not in model.model_fields or named in fixed:
            raise UsageError(
                "there is no such field to take what is typed" if named not in fixed else "the field is set already",
                where=f"stack {stack.name}, --input-field",
                found=named,
                expected=", ".join(name for name in model.model_fields if name not in fixed),
                hint="name a text of the stack's input",
            )
        left = [n for n, f in model.model_fields.items() if f.is_required() and n != named and n not in fixed]
        if left:
            raise UsageError(
                "the stack's input needs more than what is typed",
                where=f"stack {stack.name}",
                found=f"no value for {', '.join(left)}",
                expected=describe(model),
                hint=" ".join(f"--set {name}=…" for name in left),
            )
        return cls(named, fixed)

    def filled(self, text: str) -> dict[str, Any]:
        """The fields of one input."""
        return {**self.fixed, self.field: text}


def text_field(model: type[BaseModel], named: str | None, option: str, stack: str) -> str | None:
    """The field that is shown alone: the one that is named, else the only one of text; None shows all as JSON.

    Raises:
        UsageError: the model has no field of that name.
    """
    if named is not None and named not in model.model_fields:
        raise UsageError(
            "there is no such field",
            where=f"stack {stack}, {option}",
            found=named,
            expected=", ".join(model.model_fields),
            hint="name one of them, or leave the option out",
        )
    texts = [name for name, info in model.model_fields.items() if _is_text(info.annotation)]
    return named if named is not None else texts[0] if len(texts) == 1 else None


def _only_text(stack: Stack[Any, Any], fixed: Mapping[str, Any]) -> str:
    fields = {n: f for n, f in stack.input.model_fields.items() if n not in fixed and _is_text(f.annotation)}
    required = [name for name, field in fields.items() if field.is_required()]
    for found in (required, list(fields)):
        if len(found) == 1:
            return str(found[0])
    raise UsageError(
        "which field of the stack's input takes what is typed cannot be told",
        where=f"stack {stack.name}",
        found=f"{len(fields)} fields of text",
        expected=describe(stack.input),
        hint="name it with --input-field, and set others with --set",
    )


def _set(stack: Stack[Any, Any], given: str) -> tuple[str, Any]:
    name, equals, text = given.partition("=")
    info = stack.input.model_fields.get(name)
    if info is None or not equals:
        raise UsageError(
            "that sets no field of the stack's input",
            where=f"stack {stack.name}, --set",
            found=given,
            expected=f"FIELD=VALUE, with one of {', '.join(stack.input.model_fields)}",
            hint="give texts as they are, and all else as JSON",
        )
    kind: Any = Annotated[info.annotation, info]
    for value in _readings(text, info.annotation):
        try:
            TypeAdapter(kind).validate_python(value)
        except ValidationError:
            continue
        return name, value
    raise UsageError(
        f"the value does not fit {name}",
        where=f"stack {stack.name}, --set",
        expected=describe(stack.input),
        hint="give a text as it is, and all else as JSON",
    )


def _readings(text: str, annotation: Any) -> Sequence[Any]:
    """What a value may mean: a text field takes it as it stands, others read JSON first."""
    if _is_text(annotation):
        return [text]
    try:
        return [loads(text), text]
    except (ValueError, RecursionError):
        return [text]


def _is_text(annotation: Any) -> bool:
    return annotation in (str, str | None)


__all__ = ["Form", "text_field"]

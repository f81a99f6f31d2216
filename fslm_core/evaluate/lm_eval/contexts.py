"""From a task's context, which is text, to a stack's input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import InputError, UsageError
from ...schema import loads
from ...stack import Stack
from .options import WHERE


@dataclass(frozen=True)
class Contexts:
    """Makes inputs of contexts.

    Attributes:
        field: the input's field that takes every context as it is; None to take it as JSON of the input where it is
            that, and else as the one text that the input needs.

    Raises:
        UsageError: the input has no such field.
    """

    stack: Stack[Any, Any]
    field: str | None = None

    def __post_init__(self) -> None:
        """See that there is such a field."""
        fields = self.stack.input.model_fields
        if self.field is not None and self.field not in fields:
            raise UsageError(
                "the stack's input has no such field",
                where=f"{WHERE}, input",
                found=self.field,
                expected=", ".join(fields),
                hint="name a field that takes text",
            )

    def read(self, context: str) -> Mapping[str, Any]:
        """The input's fields; the engine judges their values.

        Raises:
            InputError: the context is no JSON of the input, and the input is more than one text.
        """
        if self.field is not None:
            return {self.field: context}
        if (given := self._as_json(context)) is not None:
            return given
        if (only := self._only_text()) is not None:
            return {only: context}
        shape = ", ".join(self.stack.input.model_fields)
        raise InputError(
            "the stack's input is more than one text, and the context is no JSON of it",
            where=f"a context of lm-eval for the stack {self.stack.name}",
            found=f"{len(context)} characters",
            expected=f"a JSON object of {self.stack.input.__name__}({shape})",
            hint="have the task write it: doc_to_text: \"{{ {'field': value} | tojson }}\"; or, where the other fields"
            " have defaults, name the one that takes the text: input=FIELD",
        )

    def _as_json(self, context: str) -> Mapping[str, Any] | None:
        """The context as an object with the input's fields, all that are required among them; None where it is none."""
        if not context.lstrip().startswith("{"):
            return None
        try:
            given = loads(context)
        except (ValueError, RecursionError):
            return None
        fields = self.stack.input.model_fields
        needed = {name for name, info in fields.items() if info.is_required()}
        fits = isinstance(given, dict) and given and needed <= given.keys() <= fields.keys()
        return given if fits else None

    def _only_text(self) -> str | None:
        """The one field that must be given, if it takes text; of an input without such, its only field."""
        fields = self.stack.input.model_fields
        needed = [name for name, info in fields.items() if info.is_required()] or list(fields)
        return needed[0] if len(needed) == 1 and fields[needed[0]].annotation is str else None


__all__ = ["Contexts"]

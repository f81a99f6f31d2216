"""The answer of a stack: the step that writes it, and the text that stands for a choice in what the step writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from ...errors import InputError, UsageError
from ...schema import Schema, dumps, loads, plain_data
from ...stack import OUTPUT, Stack, Step
from ...stage import Stage
from .options import WHERE


@dataclass(frozen=True)
class Answer:
    """The field of a stage's output that a stack's answer is taken from.

    Attributes:
        step: where the stage stands.
        name: the field, as the stage's output has it.
    """

    step: Step
    name: str

    @property
    def stage(self) -> Stage[Any, Any]:
        """The final stage: the one that writes the answer."""
        return self.step.stage

    @property
    def is_first(self) -> bool:
        """Whether the stage writes it before all else."""
        return [*self.stage.output.model_fields].index(self.name) == 0

    def value(self, choice: str) -> Any:
        """A choice as the field's value: the text itself where the field takes it, else the JSON that it is.

        White space around it, such as the space that lm-eval puts before a choice, is no part of it. What an input
        would narrow is not asked.

        Raises:
            InputError: the field can have no such value.
        """
        text = choice.strip()
        allowed = Schema(self.name, self.stage.schema.tree["properties"][self.name])
        for value in (text, *_read(text)):
            if not allowed.problems(value):
                return value
        raise InputError(
            "the choice is no value of the field that is scored",
            where=f"stage {self.stage.name}, field {self.name}",
            found=text,
            expected=allowed.text,
            hint="have the task offer the field's own values in doc_to_choice, as JSON where they are no text; or score"
            " its choices as they are with choice=text",
        )

    def texts(self, said: BaseModel, values: Sequence[Any]) -> tuple[str, list[str]]:
        """What the stage would have written with each value in the field, and what all of it begins with.

        Args:
            said: what the stage did write; its fields before the answer stay.

        Returns:
            The beginning, up to the end of the field's name, where tokens end, too; and each text from the beginning
            to what must follow the value: the end of the message, or the quote of the next field's name.
        """
        data = plain_data(said)
        names = list(data)
        place = names.index(self.name)
        before = dumps({name: data[name] for name in names[:place]})[:-1] + ("," if place else "")
        begun = before + dumps(self.name)[:-1]
        after = "}" if place == len(names) - 1 else ',"'
        return begun, [f'{begun}":{dumps(value)}{after}' for value in values]


def answer_of(stack: Stack[Any, Any], field: str | None) -> Answer:
    """Find who writes a field of a stack's output.

    Args:
        field: the only one if None.

    Raises:
        UsageError: there is no such field, or several and none is named; or no stage with a model writes it.
    """
    field = field_of(stack, field)
    if field is None:
        raise UsageError(
            "the stack's output has several fields, and a choice is the value of one",
            where=f"{WHERE}, field",
            found=f"stack {stack.name}",
            expected=", ".join(stack.output.model_fields),
            hint="name the one that is the answer: field=FIELD",
        )
    source = stack.wiring.sources[OUTPUT].get(field)
    step = next((step for step in stack.steps if source is not None and step.name == source.step), None)
    if source is None or step is None:
        raise _unscored(stack, field, "no step")
    if not isinstance(step.node, Stage):
        raise _unscored(stack, field, f"the {step.node.kind} {step.node.name}")
    if step.node.tool is not None:
        raise _unscored(stack, field, f"the tool {step.node.name}")
    if len(source.path) > 1:
        raise _unscored(stack, field, f"a part of {step.name}.{source.path[0]}")
    return Answer(step, source.path[0])


def field_of(stack: Stack[Any, Any], field: str | None) -> str | None:
    """The output's field of this name, or its only one; None where it has several and none is named.

    Raises:
        UsageError: there is no such field.
    """
    fields = stack.output.model_fields
    if field is None:
        return next(iter(fields)) if len(fields) == 1 else None
    if field not in fields:
        raise UsageError(
            "the stack's output has no such field",
            where=f"{WHERE}, field",
            found=field,
            expected=", ".join(fields),
            hint="name one of these",
        )
    return field


def text_of(output: BaseModel, field: str | None) -> str:
    """What a run says as text: a text field as it is, nothing for null, anything else as JSON.

    Args:
        field: of the output; all of it, as JSON, if None.
    """
    data = plain_data(output)
    value = data if field is None else data[field]
    return value if isinstance(value, str) else "" if value is None else dumps(value)


def _read(text: str) -> list[Any]:
    try:
        return [loads(text)]
    except (ValueError, RecursionError):
        return []


def _unscored(stack: Stack[Any, Any], field: str, writer: str) -> UsageError:
    return UsageError(
        "no stage with a model writes this field by itself, so that its choices have no likelihood",
        where=f"stack {stack.name}, output field {field}",
        found=f"written by {writer}",
        expected="a field that one stage writes",
        hint="name another with field=FIELD, or use a task that generates (output_type: generate_until)",
    )


__all__ = ["Answer", "answer_of", "field_of", "text_of"]

"""What rows are for: the models of a stage or a stack that they must fit, or plain lists of fields."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from ..errors import FslmError, UsageError, shorten
from ..schema import plain_data, problems_of, sensitive_fields
from ..stack import Stack
from ..stage import Stage

PARTS = ("input", "output")
Json = dict[str, Any]


class Misfit(Exception):
    """A row does not fit.

    Attributes:
        field: the dotted path of the field, with its part first (``output.category``), or the part alone.
        text: what is wrong with it; a value that is marked sensitive is not quoted.
    """

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}")
        self.field, self.text = field, text


@dataclass(frozen=True, slots=True)
class Target:
    """What rows must fit.

    Attributes:
        name: for people, as ``stage support.intent``.
        models: the input and the output model, or None where rows are plain.
        stage: whose narrowing and whose grammar an output must fit besides.
        fields: of plain rows, the names of the fields of input and output; both empty to take rows as they are.
    """

    name: str
    models: tuple[type[BaseModel], type[BaseModel]] | None = None
    stage: Stage[Any, Any] | None = None
    fields: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    @classmethod
    def of(cls, what: Stage[Any, Any] | Stack[Any, Any]) -> Target:
        """Rows for a stage or for a whole stack."""
        kind = "stage" if isinstance(what, Stage) else "stack"
        stage = what if isinstance(what, Stage) and what.tool is None else None
        return cls(f"{kind} {what.name}", (what.input, what.output), stage)

    @classmethod
    def plain(cls, input: Sequence[str] = (), output: Sequence[str] = ()) -> Target:
        """Rows of these fields, whatever they hold; without any, rows that are ``{"input": …, "output": …}`` already.

        Raises:
            UsageError: only one side is given, or a name twice.
        """
        if bool(input) != bool(output):
            raise UsageError(
                "plain rows need both an input and an output",
                where="--input and --output",
                hint="name both, or --stage or --stack",
            )
        for side, names in zip(PARTS, (input, output), strict=True):
            if len(set(names)) < len(names):
                raise UsageError(
                    "a field is named twice", where=f"--{side}", found=", ".join(names), hint="name it once"
                )
        return cls("plain rows", fields=(tuple(input), tuple(output)))

    def checked(self, row: Json) -> Json:
        """The row as its models write it: ``{"input": {…}, "output": {…}}``.

        Raises:
            Misfit: it does not fit.
        """
        if self.models is None:
            return row
        given, answer = (self._read(part, model, row[part]) for part, model in zip(PARTS, self.models, strict=True))
        made = {part: _plain(part, model) for part, model in zip(PARTS, (given, answer), strict=True)}
        if self.stage is not None:
            self._narrowed(given, made["output"])
        return made

    def _read(self, part: str, model: type[BaseModel], data: Any) -> BaseModel:
        if unknown := sorted(set(data) - set(model.model_fields)):
            raise Misfit(f"{part}.{unknown[0]}", f"{model.__name__} has no such field")
        try:
            return model.model_validate_json(json.dumps(data), by_name=True)
        except ValidationError as error:
            problem, detail = problems_of(error)[0], error.errors(include_url=False)[0]
            found = detail["input"] if detail["type"] in ("literal_error", "enum") else None
            text = f"{problem.text}, not {shorten(found, 60)!r}" if isinstance(found, str) else problem.text
            raise _misfit(part, problem.field, text, model) from None

    def _narrowed(self, given: BaseModel, answer: Mapping[str, Any]) -> None:
        assert self.stage is not None
        try:
            wrong = self.stage.narrowed(given).problems(answer)
        except FslmError as error:
            raise Misfit("output", error.what) from None
        if wrong:
            raise _misfit("output", wrong[0].field, wrong[0].text, self.stage.output)


def _misfit(part: str, field: str | None, text: str, model: type[BaseModel]) -> Misfit:
    """What is wrong with a field, its value left out where the model calls the field sensitive."""
    if _is_sensitive(model, field):
        text = "it does not fit (what it holds is sensitive and not shown)"
    return Misfit(f"{part}.{field}" if field else part, text)


def _is_sensitive(model: type[BaseModel], field: str | None) -> bool:
    """Whether the top-level field that a path begins with, or anything in it, is marked sensitive."""
    head = (field or "").partition(".")[0]
    marked = {path.partition(".")[0] for path in sensitive_fields(model)}
    return head in marked if head in model.model_fields else bool(marked)


def _plain(part: str, model: BaseModel) -> Json:
    try:
        return plain_data(model)
    except FslmError as error:
        raise Misfit(part, error.what) from None


__all__ = ["PARTS", "Json", "Misfit", "Target"]

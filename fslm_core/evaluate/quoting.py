"""The rows in error as they may be shown: with all text, without what is sensitive, or with labels alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from ..errors import FslmError
from ..message import Marks
from ..schema import plain_data
from ..stack import INPUT, OUTPUT, Stack
from ..store import ContentMode, Redactor, marks_of
from ..store.privacy import blank, labels_of, names_of, pick
from .fields import Json, Mark, fields_of
from .gold import Case
from .results import Wrong
from .running import Answer, Passage
from .scores import counts, wrong_fields


def wrong_rows(
    stack: Stack[Any, Any],
    cases: Sequence[Case],
    passages: Sequence[Passage],
    fed: Mapping[str, Sequence[Answer | None]],
    content: ContentMode,
) -> Iterator[Wrong]:
    """Every row whose output, or any of whose steps, is not wholly right.

    Args:
        fed: each scored step's answers when it is fed with gold.
    """
    specs, marks = fields_of(stack.output), marks_of(stack)
    models = {step.name: step.node.output for step in stack.steps}
    for place, (case, passage) in enumerate(zip(cases, passages, strict=True)):
        whole = passage.whole
        alone = {name: answers[place] for name, answers in fed.items()}
        steps = {
            name: found
            for name in fed
            if (found := _wrong_step(models[name], case.steps[name], passage.steps[name], alone[name]))
        }
        fields = wrong_fields(case.gold, whole.value, specs)
        if not fields and not steps:
            continue
        quote = _Quote(stack, marks, case.input, content)
        quote.see(OUTPUT, case.gold, whole.value)
        for name, found in steps.items():
            quote.see(name, *found.values())
        yield Wrong(
            row=case.line,
            run=whole.run,
            fields=fields,
            input=quote.input(),
            gold=quote.data(case.gold, OUTPUT),
            predicted=quote.data(whole.value, OUTPUT),
            error=None if whole.error is None else quote.error(whole.error),
            steps={n: {k: quote.data(v, n) for k, v in found.items()} for n, found in steps.items()},
        )


def _wrong_step(
    model: type[BaseModel], gold: Json | Mark, inside: Answer, alone: Answer | None
) -> dict[str, Json | Mark]:
    """Gold and answers of a step that is wrong inside the stack or alone; empty where it is right."""
    specs = fields_of(model)
    views = {"predicted_fed": inside, **({"gold_fed": alone} if alone is not None else {})}
    wrong = [
        counts(gold, answer.value) and (gold is Mark.SKIPPED or bool(wrong_fields(gold, answer.value, specs)))
        for answer in views.values()
    ]
    return {"gold": gold, **{name: answer.value for name, answer in views.items()}} if any(wrong) else {}


class _Quote:
    """Says what may be said of one row."""

    def __init__(self, stack: Stack[Any, Any], marks: Marks, input: BaseModel, content: ContentMode) -> None:
        self._input = input
        self._none = content == "none"
        self._full = content == "full" or (content == "redacted" and not marks)
        self._paths = {**marks.made, INPUT: marks.made[INPUT], OUTPUT: marks.given[OUTPUT]}
        self._models: dict[str, type[BaseModel]] = {step.name: step.node.output for step in stack.steps}
        self._models |= {INPUT: stack.input, OUTPUT: stack.output}
        self._redactor = Redactor(input, marks=marks) if content == "redacted" else Redactor()
        self._secrets = self._redactor.secrets
        self.see(INPUT, plain_data(input))

    def see(self, step: str, *messages: Json | Mark) -> None:
        """Remember what is sensitive in messages of a step, before anything is quoted."""
        names = names_of(self._models[step])
        for message in messages:
            for path in self._paths[step] if not isinstance(message, Mark) else ():
                self._secrets.add(list(pick(message, path)), names)

    def input(self) -> Any:
        """The row's input; null where no text is kept."""
        return None if self._none else self.data(plain_data(self._input), INPUT)

    def data(self, message: Json | Mark, step: str) -> Any:
        """A message of a step, or the mark that stands for it."""
        if isinstance(message, Mark):
            return message.value
        if self._full:
            return message
        model = self._models[step]
        clean = blank(message, [path for path in self._paths[step] if path.partition(".")[0] in message])
        return self._secrets.scrub(clean, keep=labels_of(model), names=names_of(model))

    def error(self, error: FslmError) -> dict[str, Any]:
        """An error."""
        return error.to_dict() if self._full else self._redactor.error(error)


__all__ = ["wrong_rows"]

"""The models of a plan as the module ``messages.py``: what an author reads first, and changes."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import BaseModel

from . import kinds
from .kinds import Kind, Labels, Record, Slot
from .text import quoted, width_of

WIDTH = 120


@dataclass(frozen=True)
class Model:
    """A pydantic model of a plan.

    Attributes:
        bases: models it takes fields over from; of two, the fields of the last come first, as pydantic has it.
    """

    name: str
    doc: str
    slots: tuple[Slot, ...] = ()
    bases: tuple[Model, ...] = ()

    @property
    def fields(self) -> tuple[Slot, ...]:
        """All fields, those of its bases before its own."""
        below = [slot for base in reversed(self.bases) for slot in base.fields]
        return tuple({slot.name: slot for slot in (*below, *self.slots)}.values())

    @cached_property
    def made(self) -> type[BaseModel]:
        """The model itself."""
        return kinds.model_of(Record(self.name, self.fields))


def messages_source(models: Sequence[Model], doc: str) -> str:
    """Write the module that holds these models, as a formatter leaves it."""
    slots = [slot for model in models for slot in model.slots]
    parts = list(dict.fromkeys(part for slot in slots for part in kinds.parts_of(slot.kind)))
    blocks = ["\n".join(_alias(part) for part in parts if isinstance(part, Labels))]
    inner = [Model(part.name, part.doc, part.slots) for part in parts if isinstance(part, Record)]
    blocks += ["\n".join(_class(model)) for model in (*inner, *models)]
    names = [model.name for model in (*inner, *models)]
    body = "\n\n\n".join(block for block in blocks if block)
    head = "\n".join([_docstring(doc, ""), "", "from __future__ import annotations", "", *_imports(body, parts)])
    gap = "\n\n" if blocks[0] else "\n\n\n"
    return f"{head}{gap}{body}\n\n\n{_all(names)}\n"


def _imports(body: str, parts: Iterable[Kind]) -> Iterator[str]:
    lines = ["import datetime"] if any(isinstance(part, kinds.Day | kinds.Moment) for part in parts) else []
    typing = [name for name in ("Annotated", "Literal") if f"{name}[" in body]
    lines += [f"from typing import {', '.join(typing)}"] if typing else []
    yield from [*lines, ""] if lines else []
    yield f"from pydantic import BaseModel{', Field' * ('Field(' in body)}"


def _alias(labels: Labels) -> str:
    """
    >>> print(_alias(Labels(("bad", "good"), "MoodLabel")))
    MoodLabel = Literal["bad", "good"]
    """
    values = [quoted(value) for value in labels.values]
    line = f"{labels.alias} = Literal[{', '.join(values)}]"
    if width_of(line) <= WIDTH:
        return line
    return "\n".join([f"{labels.alias} = Literal[", *(f"    {value}," for value in values), "]"])


def _class(model: Model) -> Iterator[str]:
    bases = ", ".join(base.name for base in model.bases) or "BaseModel"
    yield f"class {model.name}({bases}):"
    yield _docstring(model.doc, "    ")
    if model.slots:
        yield ""
    for slot in model.slots:
        yield from _wrapped(slot.comment, "    # ")
        line = f"    {kinds.slot_source(slot)}"
        yield line if width_of(line) <= WIDTH else f"{line}  # noqa: E501  # fmt: skip"


def _docstring(doc: str, indent: str) -> str:
    first, *rest = doc.split("\n\n")
    if not rest and width_of(first) + len(indent) + 6 <= WIDTH:
        return f'{indent}"""{first}"""'
    wrapped = ["\n".join(_wrapped(part, indent)) for part in rest]
    return "\n\n".join([f'{indent}"""{first}', *wrapped]) + f'\n{indent}"""'


def _wrapped(text: str, indent: str) -> list[str]:
    """Lines of no more than the width; a character that takes two columns is counted as two."""
    width = WIDTH if width_of(text) == len(text) else WIDTH // 2
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _all(names: Sequence[str]) -> str:
    listed = [quoted(name) for name in sorted(names)]
    line = f"__all__ = [{', '.join(listed)}]"
    return line if len(line) <= WIDTH else "\n".join(["__all__ = [", *(f"    {name}," for name in listed), "]"])


def _import_order(name: str) -> tuple[int, list[tuple[int, str]], str]:
    """Constants, classes, all else; numbers within names count as numbers."""
    rank = 0 if len(name) > 1 and name.isupper() else 1 if name[0].isupper() else 2
    parts = [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name.lower())]
    return rank, parts, name


def import_line(names: Iterable[str], module: str) -> str:
    """An import of names, in the order and the lines that a linter wants.

    >>> import_line(["Topic", "Message"], ".messages")
    'from .messages import Message, Topic'
    """
    ordered = sorted(set(names), key=_import_order)
    line = f"from {module} import {', '.join(ordered)}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"from {module} import (", *(f"    {name}," for name in ordered), ")"])


__all__ = ["WIDTH", "Model", "import_line", "messages_source"]

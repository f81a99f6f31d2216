"""What the steps of a shape may take fields from, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from pydantic import BaseModel

from ..message import Message, Skipped
from ..schema import plain_data
from .wiring import Source

Known: TypeAlias = Mapping[str, "Message[Any] | Skipped"]
"""What has been said so far, by the name one asks for it."""


def seen(message: Message[Any] | Skipped, model: type[BaseModel]) -> dict[str, Any]:
    """A message as an expression sees it: JSON data; of a skipped step every field null."""
    found = plain_data(message.content) if isinstance(message, Message) else dict.fromkeys(model.model_fields)
    return dict(found)


def fetch(source: Source, known: Known) -> Any:
    """The value at a source, as JSON data; null where its step was skipped."""
    message = known[source.step]
    value: Any = plain_data(message.content, source.path[0]) if isinstance(message, Message) else None
    for part in source.path:
        value = None if value is None else value[part]
    return value


__all__ = ["Known", "fetch", "seen"]

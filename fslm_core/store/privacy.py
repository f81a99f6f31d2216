"""Which fields are sensitive, which values they held, and the key that makes hashes unguessable.

A field is sensitive if its model says ``Field(json_schema_extra={"sensitive": True})``.

>>> from pydantic import BaseModel, Field
>>> class Caller(BaseModel):
...     name: str
...     phone: str = Field(json_schema_extra={"sensitive": True})
>>> sorted(sensitive_fields(Caller))
['phone']
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..errors import StoreError
from ..prompt import REDACTED

_KEY_BYTES = 32
_TELLING = 3
"""Characters: a shorter value is no evidence that one text was copied from another."""


@lru_cache(maxsize=1024)
def sensitive_fields(model: type[BaseModel]) -> frozenset[str]:
    """The dotted paths of a model's sensitive fields; lists are passed through without an index.

    A field is sensitive as a whole if it is marked, or if a mark lies where no path can reach (in the values of a
    dict, or on the items of a list). A model that contains itself is followed once.
    """
    return frozenset(_paths(model, (model,)))


def _paths(model: type[BaseModel], above: tuple[type[BaseModel], ...]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if _is_marked(field) or _marked_inside(field.annotation, above):
            yield name
            continue
        for inner in _models_in(field.annotation):
            if inner not in above:
                yield from (f"{name}.{path}" for path in _paths(inner, (*above, inner)))


def _is_marked(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    if callable(extra):
        made: dict[str, Any] = {}
        extra(made)
        extra = made
    return bool(extra and extra.get("sensitive"))


def _marked_inside(annotation: Any, above: tuple[type[BaseModel], ...]) -> bool:
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated and any(isinstance(a, FieldInfo) and _is_marked(a) for a in arguments[1:]):
        return True
    if isinstance(get_origin(annotation), type) and issubclass(get_origin(annotation), dict):
        return any(any(_paths(m, (*above, m))) for m in _models_in(annotation) if m not in above) or any(
            _marked_inside(a, above) for a in arguments
        )
    return any(_marked_inside(a, above) for a in arguments)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not get_args(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


@lru_cache(maxsize=1024)
def labels_of(model: type[BaseModel]) -> frozenset[str]:
    """Every constant the model's own schema spells out (enum members, literals): these were written by its author."""
    return frozenset(_constants(model.model_json_schema()))


@lru_cache(maxsize=1024)
def names_of(model: type[BaseModel]) -> frozenset[str]:
    """Every field name in the model and the models inside it."""
    return frozenset(_properties(model.model_json_schema()))


def _properties(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("properties"), dict):
            yield from node["properties"]
        for value in node.values():
            yield from _properties(value)
    elif isinstance(node, list):
        for value in node:
            yield from _properties(value)


def _constants(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (str(v) for v in [*node.get("enum", ()), *([node["const"]] if "const" in node else ())])
        for value in node.values():
            yield from _constants(value)
    elif isinstance(node, list):
        for value in node:
            yield from _constants(value)


def pick(data: Any, path: str) -> Iterator[Any]:
    """The values at a dotted path of JSON data, through lists."""
    if isinstance(data, list):
        for item in data:
            yield from pick(item, path)
    elif isinstance(data, dict):
        head, _, rest = path.partition(".")
        if head in data:
            yield from pick(data[head], rest) if rest else (data[head],)


def blank(data: Any, paths: Iterable[str]) -> Any:
    """A copy of JSON data with ``[redacted]`` at each path.

    Null stays null, for it says only that nothing is there. An object that lacks a name it should have (an alias,
    a serialiser of its own) is blanked as a whole.
    """
    if isinstance(data, list):
        return [blank(item, paths) for item in data]
    if not isinstance(data, dict):
        return data
    below: dict[str, list[str]] = {}
    for path in paths:
        head, _, rest = path.partition(".")
        below.setdefault(head, []).append(rest)
    if not below.keys() <= data.keys():
        return REDACTED
    return {name: _blanked(value, below[name]) if name in below else value for name, value in data.items()}


def _blanked(value: Any, rests: list[str]) -> Any:
    if "" in rests:
        return None if value is None else REDACTED
    return blank(value, rests)


def leaves(data: Any) -> Iterator[Any]:
    """Every text and number in JSON data."""
    if isinstance(data, dict | list):
        for value in data.values() if isinstance(data, dict) else data:
            yield from leaves(value)
    elif data is not None and not isinstance(data, bool):
        yield data


class Secrets:
    """The sensitive values one run has seen, to find them where they were copied to.

    While ``known`` is False nobody can say what they are, and every text counts as one.
    """

    def __init__(self) -> None:
        self.known = False
        self._values: set[str] = set()

    def add(self, data: Any) -> None:
        """Remember every text and number in JSON data."""
        self._values.update(text for leaf in leaves(data) if (text := str(leaf).casefold().strip()))

    def scrub(self, data: Any, *, keep: frozenset[str] = frozenset()) -> Any:
        """A copy of JSON data without what equals, contains or is part of a secret; texts in ``keep`` stay."""
        if self.known and not self._values:
            return data
        if isinstance(data, dict):
            return {name: self.scrub(value, keep=keep) for name, value in data.items()}
        if isinstance(data, list):
            return [self.scrub(value, keep=keep) for value in data]
        if data is None or isinstance(data, bool) or (isinstance(data, str) and data in keep):
            return data
        text = self.scrub_text(str(data))
        return text if text != str(data) else data

    def scrub_text(self, text: str) -> str:
        """``text`` without the secrets in it; all of it goes if it is itself a secret or a piece of one."""
        folded = text.casefold().strip()
        if (
            not self.known
            or folded in self._values
            or (len(folded) >= _TELLING and any(folded in value for value in self._values))
        ):
            return REDACTED
        found = [v for v in self._values if len(v) >= _TELLING and v in folded]
        for value in sorted(found, key=len, reverse=True):
            shorter = re.sub(re.escape(value), REDACTED, text, flags=re.IGNORECASE)
            if shorter == text:  # the letters fold to another length; no place can be named
                return REDACTED
            text = shorter
        return text


class Key:
    """The store's own key: what it hashes cannot be guessed without the file beside the database."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    @classmethod
    def beside(cls, database: Path) -> Key:
        """Read ``<database>.key``, or make it (0600): whole or not at all, and once, whoever comes first.

        Raises:
            StoreError: the file is not 32 bytes long.
        """
        path = Path(f"{database}.key")
        if not path.exists():
            fresh = Path(f"{path}.{os.getpid()}.{secrets.token_hex(4)}")
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(descriptor, secrets.token_bytes(_KEY_BYTES))
                os.fsync(descriptor)
                os.link(fresh, path)
            except FileExistsError:
                pass  # another process was quicker; its key is the store's
            finally:
                os.close(descriptor)
                fresh.unlink()
        raw = path.read_bytes()
        if len(raw) != _KEY_BYTES:
            raise StoreError(
                "the trace database's key is damaged",
                where=str(path),
                found=f"{len(raw)} bytes",
                expected=f"{_KEY_BYTES} bytes",
                hint="put the file back from a copy, or remove it: hashes made from then on will not match older ones",
            )
        return cls(raw)

    def hash(self, *parts: str) -> str:
        """HMAC-SHA256 (hex) of the parts, each preceded by its length."""
        state = hmac.new(self._raw, digestmod=hashlib.sha256)
        for part in parts:
            raw = part.encode("utf-8", "surrogatepass")
            state.update(str(len(raw)).encode() + b":" + raw)
        return state.hexdigest()


__all__ = ["Key", "Secrets", "blank", "labels_of", "leaves", "names_of", "pick", "sensitive_fields"]

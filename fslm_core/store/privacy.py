"""Which values sensitive fields held, and the key that makes hashes unguessable."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..errors import StoreError
from ..prompt import REDACTED

log = logging.getLogger("fslm.store")
_KEY_BYTES = 32
_AS_IT_IS = getattr(os, "O_BINARY", 0)
"""Windows would write a byte 10 as two."""
_TELLING = 3
"""Characters: a shorter value is no evidence that one text was copied from another."""
_WORD = re.compile(r"\w+")
_TELLING_WORD = 4
_FEW_WORDS = 6
"""A value of as many words is a name, an address, a title: its words of four letters and more tell of it."""
_TELLING_BONES = 6
"""Letters and digits: what as many of them say is evidence, whatever stands between them."""


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


def leaves(data: Any, names: frozenset[str] = frozenset()) -> Iterator[Any]:
    """Every text and number in JSON data, and every key that is not one of ``names``."""
    if isinstance(data, dict):
        yield from data.keys() - names
    if isinstance(data, dict | list):
        for value in data.values() if isinstance(data, dict) else data:
            yield from leaves(value, names)
    elif data is not None and not isinstance(data, bool):
        yield data


class Secrets:
    """The sensitive values one run has seen, to find them where they were copied to.

    They are found in other letter cases and other Unicode forms of the same letters, inside JSON text, and, from six
    letters and digits on, with other spaces and punctuation between these. Each longer word of a short one (a name, an
    address) is found by itself. While ``known`` is False nobody can say what they are, and every text counts as one.
    """

    def __init__(self) -> None:
        self.known = False
        self._values: set[str] = set()
        self._bones: set[str] = set()
        self._words: set[str] = set()

    def add(self, data: Any, names: frozenset[str] = frozenset()) -> None:
        """Remember every text and number in JSON data, and every key but the fields' ``names``."""
        for leaf in leaves(data, names):
            if text := _folded(str(leaf)):
                forms = (json.dumps(str(leaf), ensure_ascii=only)[1:-1] for only in (True, False))
                self._values |= {text, *map(_folded, forms)}
                if len(bones := _bones(text)) >= _TELLING_BONES:
                    self._bones.add(bones)
                if len(words := _WORD.findall(text)) <= _FEW_WORDS:
                    self._words.update(word for word in words if len(word) >= _TELLING_WORD)

    def scrub(self, data: Any, *, keep: frozenset[str] = frozenset(), names: frozenset[str] = frozenset()) -> Any:
        """A copy of JSON data without what equals, contains or is part of a secret.

        Texts in ``keep`` stay, and so do keys in ``names``.
        """
        if self.known and not self._values:
            return data
        if isinstance(data, dict):
            return {
                key if key in names else self.scrub_text(key): self.scrub(value, keep=keep, names=names)
                for key, value in data.items()
            }
        if isinstance(data, list):
            return [self.scrub(value, keep=keep, names=names) for value in data]
        if data is None or isinstance(data, bool) or (isinstance(data, str) and data in keep):
            return data
        text = self.scrub_text(str(data))
        return text if text != str(data) else data

    def scrub_text(self, text: str) -> str:
        """``text`` without the secrets in it; all of it goes if it is itself a secret or a piece of one."""
        folded = _folded(text)
        if self._is_piece(folded):
            return REDACTED
        found = [v for v in self._values if len(v) >= _TELLING and v in folded]
        for value in sorted(found, key=len, reverse=True):
            shorter = re.sub(re.escape(value), REDACTED, text, flags=re.IGNORECASE)
            if shorter == text and value in _folded(text):  # the letters fold otherwise; no place can be named
                return REDACTED
            text = shorter
        for word in sorted(self._words.intersection(_WORD.findall(_folded(text)))):
            text = re.sub(rf"\b{re.escape(word)}\b", REDACTED, text, flags=re.IGNORECASE)
        left = _folded(text).replace(REDACTED, " ")
        bones = _bones(left) if self._bones else ""
        if self._words.intersection(_WORD.findall(left)) or any(value in bones for value in self._bones):
            return REDACTED
        return text

    def _is_piece(self, folded: str) -> bool:
        if not self.known or folded in self._values:
            return True
        return len(folded) >= _TELLING and any(folded in value for value in self._values)


def _folded(text: str) -> str:
    """The text as all ways to write the same letters have it."""
    return unicodedata.normalize("NFKC", text).casefold().strip()


def _bones(text: str) -> str:
    """Its letters and digits alone."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKD", _folded(text))))


class Key:
    """The store's own key: what it hashes cannot be guessed without the file beside the database.

    Attributes:
        fresh: it was made just now, for there was none.
    """

    def __init__(self, raw: bytes, *, fresh: bool = False) -> None:
        self._raw = raw
        self.fresh = fresh

    @classmethod
    def beside(cls, database: Path) -> Key:
        """Read ``<database>.key``, or make it (0600): whole or not at all, and once, whoever comes first.

        Raises:
            StoreError: the file is not 32 bytes long, or cannot be read or made.
        """
        path = Path(f"{database}.key")
        try:
            return cls._read_or_made(path)
        except OSError as error:
            raise StoreError(
                "the trace database's key cannot be read or made",
                where=str(path),
                found=error.strerror,
                hint="give yourself access to the file and its folder, or set trace.path",
            ) from error

    @classmethod
    def _read_or_made(cls, path: Path) -> Key:
        fresh_key = not path.exists()
        if fresh_key:
            fresh = Path(f"{path}.{os.getpid()}.{secrets.token_hex(4)}")
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _AS_IT_IS, 0o600)
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
        if os.name == "posix" and path.stat().st_mode & 0o077:
            log.warning("the trace database's key can be read by others: run `chmod 600 %s`", path)
        return cls(raw, fresh=fresh_key)

    def hash(self, *parts: str) -> str:
        """HMAC-SHA256 (hex) of the parts, each preceded by its length."""
        state = hmac.new(self._raw, digestmod=hashlib.sha256)
        for part in parts:
            raw = part.encode("utf-8", "surrogatepass")
            state.update(str(len(raw)).encode() + b":" + raw)
        return state.hexdigest()


__all__ = ["Key", "Secrets", "blank", "labels_of", "leaves", "names_of", "pick"]

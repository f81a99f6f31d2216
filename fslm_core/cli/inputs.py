"""From what was typed or piped to a stack's input."""

from __future__ import annotations

import sys
from typing import Any

from pydantic import BaseModel

from ..errors import InputError
from ..schema import loads
from ..serve.inputs import MAX_INPUT, bare_field, decode, describe, parse

STANDARD_INPUT = "-"


def read(model: type[BaseModel], text: str, *, as_json: bool, where: str) -> dict[str, Any]:
    """Return the fields of one input.

    Text is the value of the model's :func:`bare_field` if it has one, whatever the text looks like; a JSON object where
    it has none, or where ``as_json`` asks for it.

    Raises:
        InputError: it is not a JSON object, or not text.
    """
    field = None if as_json else bare_field(model)
    return {field: text} if field is not None else parse(text, model, where=where)


def typed_or_piped(argument: str) -> tuple[str, str]:
    """Return the text of an argument, ``-`` being standard input, and what errors shall call it.

    One line end at the very end of standard input is left out, for ``echo`` puts it there.

    Raises:
        InputError: it is not UTF-8, or larger than 16 MiB.
    """
    if argument == STANDARD_INPUT:
        text = decode(sys.stdin.buffer.read(MAX_INPUT + 1), where="standard input")
        return text.removesuffix("\n").removesuffix("\r"), "standard input"
    try:
        argument.encode()
    except UnicodeEncodeError:
        raw = argument.encode(errors="surrogateescape")
        raise InputError(
            "the text is not UTF-8",
            where="argument",
            found=raw,
            hint="convert it, or pass it on standard input: `iconv -t UTF-8 FILE | fslm run STACK -`",
        ) from None
    return argument, "argument"


def json_or_text(text: str) -> Any:
    """What a value on the command line means: JSON where it can be read as JSON, else the text itself.

    >>> json_or_text("[1, null]"), json_or_text("track_refund")
    ([1, None], 'track_refund')
    """
    try:
        return loads(text)
    except (ValueError, RecursionError):
        return text


__all__ = ["STANDARD_INPUT", "bare_field", "decode", "describe", "json_or_text", "parse", "read", "typed_or_piped"]

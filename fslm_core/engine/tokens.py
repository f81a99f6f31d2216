"""Tokenizers for shapes that work with them: looked for by the check, and read when a stack is made ready."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from .. import extras
from ..checkpoints import Checkpoint, ResolvedCheckpoint, find
from ..errors import CheckpointCorruptError, FslmError
from ..plugins import PluginHost
from ..stack import Shape, Stack, places


def tokenized(stack: Stack[Any, Any]) -> list[str]:
    """The checkpoints whose tokenizers a stack's shapes work with, each once."""
    shapes = [step.node for _, step in places(stack) if isinstance(step.node, Shape)]
    return list(dict.fromkeys(base for shape in shapes for base in shape.tokenizers))


def tokenizer_bases(stack: Stack[Any, Any], host: PluginHost) -> dict[str, Checkpoint]:
    """The definitions of those checkpoints, by the names that the shapes know them by.

    Raises:
        UnknownNameError: there is none of a name.
    """
    return {name: find(name, host.checkpoints) for name in tokenized(stack)}


def lacks(shape: Shape[Any, Any], host: PluginHost) -> Iterator[str]:
    """Why the tokenizers of a shape cannot be had here, as far as that can be told without getting them."""
    if shape.tokenizers and find_spec("tokenizers") is None:
        yield "it needs the package tokenizers; run `python -m pip install 'fslm-core[torch]'` with this Python"
    for base in shape.tokenizers:
        try:
            find(base, host.checkpoints)
        except FslmError as error:
            yield "; ".join(part.strip() for part in str(error).splitlines())


def tokenizer_of(base: ResolvedCheckpoint) -> Any:
    """The checkpoint's ``tokenizers.Tokenizer``, which cuts nothing off and adds nothing.

    Raises:
        MissingExtraError: the package is not installed.
        CheckpointCorruptError: its file is none.
    """
    extras.require(["tokenizers"], extra="torch", what="cutting text by tokens")
    from tokenizers import Tokenizer

    file = base.path / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # it raises nothing more special
        raise CheckpointCorruptError(
            f"the tokenizer cannot be read: {error}", where=str(file), hint="get the checkpoint again, or copy it whole"
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


__all__ = ["lacks", "tokenized", "tokenizer_bases", "tokenizer_of"]

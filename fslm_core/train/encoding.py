"""Rows as token ids: the prompt by the function that serves, the target as the decoder could write it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..backends.torch.encoding import Ids, encode, encode_text
from ..backends.torch.vocabulary import Vocabulary
from ..errors import BackendError
from ..stage import Stage
from .progress import Noted, Progress
from .rows import Problems, Row


def encode_rows(
    rows: Sequence[Row],
    stage: Stage[Any, Any],
    vocabulary: Vocabulary,
    path: Path,
    problems: Problems,
    progress: Progress,
) -> list[tuple[Ids, Ids]]:
    """Return each row's prompt and target; a target ends with the end token.

    Args:
        path: the rows' file, for what is told.
        problems: takes rows over the context, and targets that the stage's grammar or ``max_tokens`` forbids.
    """
    encoded: list[tuple[Ids, Ids]] = []
    for row in rows:
        answer = encode_text(row.target, vocabulary.tokenizer)
        try:
            prompt = encode(
                stage.render(row.input),
                vocabulary.tokenizer,
                context=vocabulary.context,
                max_tokens=stage.max_tokens,
                on_overflow=stage.decoding.on_overflow,
            )
            _require_writable(row, answer, stage, vocabulary)
        except BackendError as error:
            problems.add(path, row.number, f"{error.what}: {error.found}" if error.found else error.what)
            continue
        if prompt.truncated:
            progress(Noted(f"{path.name}, line {row.number}: {prompt.truncated} prompt tokens left out"))
        encoded.append((prompt.ids, (*answer, vocabulary.ends[0])))
    return encoded


def _require_writable(row: Row, answer: Ids, stage: Stage[Any, Any], vocabulary: Vocabulary) -> None:
    """Make sure that the decoder could write exactly this target.

    Raises:
        BackendError: the grammar does not accept it, or it is too long.
    """
    if len(answer) > stage.max_tokens:
        raise BackendError(
            "the output is longer than max_tokens",
            where=f"row {row.number}",
            found=f"{len(answer)} tokens",
            expected=f"at most {stage.max_tokens}",
            hint="raise Decoding(max_tokens=…) of the stage, or shorten the row",
        )
    grammar = vocabulary.grammar(row.schema.text)
    grammar.take(list(answer))
    if not grammar.finished and not grammar.allowed()[vocabulary.ends[0]]:
        raise BackendError(
            "the grammar does not let the output end",
            where=f"row {row.number}",
            found=row.target,
            hint="give the row an output that the stage's model allows",
        )


__all__ = ["encode_rows"]

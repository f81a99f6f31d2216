"""llguidance beside transformers' ``generate``: one grammar for each row of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any


class Grammars:
    """The grammars of a checkpoint's tokenizer; each schema is compiled once."""

    def __init__(self, folder: Path) -> None:
        from llguidance import hf
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.end: int = self.tokenizer.eos_token_id
        wrap: Any = hf.from_tokenizer  # typed for one kind of fast tokenizer only
        self._inner = wrap(self.tokenizer)
        self._compiled = lru_cache(maxsize=None)(self._compile)

    def _compile(self, schema: str) -> Any:
        from llguidance import LLMatcher

        text = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
        return LLMatcher(self._inner, text)

    def rows(self, schemas: Sequence[str | None], prompt: int) -> Rows:
        """Return the rows' grammars for one ``generate``; ``prompt`` is the prompts' padded length."""
        return Rows([self._compiled(s).deep_copy() if s is not None else None for s in schemas], self.end, prompt)


class Rows:
    """A logits processor and a stopping criterion in one: rows stop where their grammar does, without an end token."""

    def __init__(self, matchers: list[Any], end: int, prompt: int) -> None:
        self._matchers = matchers
        self._end = end
        self._prompt = prompt
        self._seen = [prompt] * len(matchers)
        self._over = [False] * len(matchers)

    def mask(self, ids: Any, scores: Any) -> Any:
        """Set what may not follow to minus infinity; ``ids`` is [rows, length], ``scores`` [rows, vocabulary]."""
        import numpy as np
        import torch

        for row, matcher in enumerate(self._matchers):
            if matcher is None or self._over[row]:
                continue
            packed = np.frombuffer(matcher.compute_bitmask(), np.uint8)
            allowed = np.unpackbits(packed, bitorder="little")[: scores.shape[1]].astype(bool)
            scores[row].masked_fill_(torch.from_numpy(~allowed), float("-inf"))
        return scores

    def stopped(self, ids: Any, scores: Any) -> Any:
        """Take the tokens chosen and return which rows are at their end: bools of shape [rows]."""
        import torch

        for row, matcher in enumerate(self._matchers):
            if self._over[row]:
                continue
            token = int(ids[row, -1])
            if token == self._end:
                self._over[row] = True
            elif matcher is not None:
                matcher.consume_token(token)
                self._over[row] = bool(matcher.is_stopped())
        return torch.tensor(self._over)


__all__ = ["Grammars", "Rows"]

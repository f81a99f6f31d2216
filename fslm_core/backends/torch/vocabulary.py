"""Everything about a checkpoint that needs no weights: its tokenizer, its grammars, its context."""

from __future__ import annotations

import codecs
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BackendError, CheckpointError
from .encoding import Ids, end_ids

if TYPE_CHECKING:
    from llguidance import LLMatcher

_KEPT_GRAMMARS = 512
_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


class Vocabulary:
    """A checkpoint folder's tokenizer and configuration.

    Attributes:
        tokenizer: the transformers tokenizer.
        config: the transformers configuration.
        context: tokens the model can attend to.
        ends: the tokens that end an answer.
        size: how many logits the model gives.

    Raises:
        CheckpointError: the folder has no configuration or no fast tokenizer that can be read.
    """

    def __init__(self, path: Path) -> None:
        from llguidance import hf
        from transformers import AutoConfig, AutoTokenizer, GenerationConfig

        wrap: Any = hf.from_tokenizer  # typed for one kind of fast tokenizer only
        try:
            self.config: Any = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
            generation = (
                GenerationConfig.from_pretrained(path, local_files_only=True)
                if (path / "generation_config.json").exists()
                else self.config
            )
            self.ends: Ids = end_ids(self.tokenizer, generation)
            self.size: int = self.config.get_text_config().vocab_size
            self._inner = wrap(
                self.tokenizer, n_vocab=max(self.size, len(self.tokenizer)), eos_token=list(self.ends) or None
            )
        except Exception as error:  # transformers and tokenizers raise nearly anything on a broken file
            raise CheckpointError(
                f"the tokenizer or configuration cannot be read: {type(error).__name__}: {error}",
                where=str(path),
                expected="config.json and tokenizer.json of a causal language model",
                hint="fetch the checkpoint again: `fslm models pull`, then `fslm models verify`",
            ) from None
        self.context: int = self._context()
        self._grammars: OrderedDict[str, LLMatcher] = OrderedDict()

    def _context(self) -> int:
        text = self.config.get_text_config()
        named = (getattr(text, name, None) for name in _CONTEXT_NAMES)
        sizes = [n for n in named if isinstance(n, int) and n > 0]
        return sizes[0] if sizes else min(int(self.tokenizer.model_max_length), 2048)

    def grammar(self, schema: str) -> Grammar:
        """Return a fresh matcher for a JSON Schema; what was compiled once is copied.

        Raises:
            BackendError: the schema cannot be made a grammar.
        """
        if (compiled := self._grammars.get(schema)) is None:
            compiled = self._compile(schema)
            self._grammars[schema] = compiled
            if len(self._grammars) > _KEPT_GRAMMARS:
                self._grammars.popitem(last=False)
        self._grammars.move_to_end(schema)
        return Grammar(compiled.deep_copy(), self.size, self.ends)

    def _compile(self, schema: str) -> LLMatcher:
        from llguidance import LLMatcher

        try:
            text = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
        except ValueError as error:
            reason = str(error)
        else:
            matcher = LLMatcher(self._inner, text, log_level=0)
            if not matcher.is_error():
                return matcher
            reason = matcher.get_error()
        raise BackendError(
            f"no grammar can be made of the schema: {reason.splitlines()[0]}",
            where="the output's schema",
            found=schema,
            hint="`fslm check` names the field; use bounded strings, enums, numbers, arrays and objects",
        )

    def writer(self) -> Writer:
        """Return a fresh decoder of tokens to text."""
        return Writer(self._inner)


class Grammar:
    """One answer's way through a grammar. Ends are told by :attr:`finished`, never by a token."""

    def __init__(self, matcher: LLMatcher, size: int, ends: Sequence[int]) -> None:
        self._matcher = matcher
        self._size = size
        self._ends = frozenset(ends)
        self._mask: NDArray[np.bool_] | None = None

    def advance(self, limit: int) -> list[int]:
        """Take every token that is dictated from here on, at most ``limit``, and return them."""
        taken: list[int] = []
        while len(taken) < limit and not self.finished:
            forced = [t for t in self._matcher.compute_ff_tokens() if t not in self._ends] or self._only()
            if not forced:
                break
            forced = forced[: limit - len(taken)]
            self.take(forced)
            taken += forced
        return taken

    def _only(self) -> list[int]:
        allowed = np.flatnonzero(self.allowed())
        return [int(allowed[0])] if len(allowed) == 1 and int(allowed[0]) not in self._ends else []

    def take(self, tokens: list[int]) -> None:
        """Follow tokens that were written.

        Raises:
            BackendError: the grammar does not allow them, or gave up.
        """
        self._mask = None
        if not self._matcher.consume_tokens(tokens):
            raise self._broke_off()

    def valid(self, tokens: list[int]) -> int:
        """Count how many of these tokens the grammar allows one after another from here on, ends excepted."""
        stop = next((i for i, token in enumerate(tokens) if token in self._ends), len(tokens))
        return int(self._matcher.validate_tokens(tokens[:stop])) if stop else 0

    def _broke_off(self) -> BackendError:
        return BackendError(
            f"the grammar broke off: {self._matcher.get_error() or 'a token it does not allow'}",
            where="the output's grammar",
            hint="simplify the output model: fewer and shorter fields",
        )

    @property
    def finished(self) -> bool:
        """True when nothing but the end can follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> NDArray[np.bool_]:
        """Return which tokens may follow, ends included: bools of shape [vocabulary]."""
        if self._mask is None:
            self._mask = self._computed()
        return self._mask

    def _computed(self) -> NDArray[np.bool_]:
        if self._matcher.is_error():
            raise self._broke_off()
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        bits = np.unpackbits(packed, bitorder="little")[: self._size].astype(np.bool_)
        return bits if len(bits) == self._size else np.pad(bits, (0, self._size - len(bits)))


class Writer:
    """Tokens to text, one at a time; a character split over tokens is given with its last one.

    Special tokens are not text. The bytes are those the grammar saw.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def text(self, token: int) -> str:
        """Return what ``token`` completes, which may be nothing yet."""
        if self._inner.is_special_token(token):
            return ""
        return self._decoder.decode(self._inner.decode_bytes([token]))

    def instead(self, token: int) -> str:
        """Return what :meth:`text` would, and write nothing."""
        state = self._decoder.getstate()
        text = self.text(token)
        self._decoder.setstate(state)
        return text

    def rest(self) -> str:
        """Return U+FFFD for a character that never came to its end, else nothing."""
        return self._decoder.decode(b"", final=True)


__all__ = ["Grammar", "Vocabulary", "Writer"]

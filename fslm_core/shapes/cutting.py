"""A long text cut into pieces of so many tokens, at the ends of paragraphs and sentences where it can be."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

_ENDS = (
    re.compile(r"\n\s*+"),
    re.compile(
        r"(?<![.!?\u2026])[.!?\u2026]++[\"'\u201d\u2019\xbb)\]]*+\s++|[\u3002\uff01\uff1f][\u201d\u2019\u300d\u300f\uff09]*+\s*+"
    ),
    re.compile(r"\s++"),
)
"""Where a text is best cut, the best first: after a line, a sentence, a word. Each takes linear time."""
_PARAGRAPH = re.compile(r"\n[^\S\n]*+\n\s*+")
_CHARACTERS = 6
"""A token is about so long, for a first look."""


class Encoding(Protocol):
    """An encoded text."""

    @property
    def ids(self) -> Sequence[int]:
        """A number for each token."""

    @property
    def offsets(self) -> Sequence[tuple[int, int]]:
        """Start and end of each token in characters, the end excluded."""


class Tokenizer(Protocol):
    """As the package ``tokenizers`` has it."""

    def encode(self, sequence: str, *, add_special_tokens: bool) -> Encoding:
        """Cut a text into tokens."""


@dataclass(frozen=True, slots=True)
class Piece:
    """``text[start:end]``, which has so many tokens by itself."""

    start: int
    end: int
    tokens: int


class TooSmall(Exception):
    """A piece may have fewer tokens than the one character at ``offset`` has."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        super().__init__(offset)


def cut(text: str, tokenizer: Tokenizer, tokens: int, overlap: int) -> Iterator[Piece]:
    """Cut a text into pieces that cover all of it, in order; each begins no later than the one before ends.

    A piece ends after a paragraph, a line, a sentence or a word, in this order of preference, where one ends in its
    second half. No piece begins or ends within a character, nor within what a reader takes for one: a letter and its
    accents, a flag, a family of joined emoji.

    The time is linear in the text's length: every stretch of it is tokenised a few times.

    Args:
        tokens: the most a piece may have, tokenised by itself.
        overlap: the most tokens that a piece shares with the one before: fewer, to begin with a sentence or a word.

    Raises:
        TooSmall: a single character has more than ``tokens``.
    """
    cutter = _Cutter(text, tokenizer)
    start = covered = 0
    while covered < len(text):
        piece = cutter.piece(start, covered, tokens) or cutter.piece(covered, covered, tokens)
        if piece is None:
            raise TooSmall(covered)
        yield piece
        start, covered = cutter.back(piece, overlap), piece.end


class _Cutter:
    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        self.text = text
        self.tokenizer = tokenizer

    def piece(self, start: int, covered: int, tokens: int) -> Piece | None:
        """The piece that begins at ``start`` and goes beyond ``covered``; None where none can."""
        encoded, end = self._more_than(start, tokens)
        while len(encoded.ids) > tokens:
            limit = min(start + encoded.offsets[tokens][0], end - 1)
            if limit <= covered:
                return None
            end = self._best_end(start, self._between_characters(limit, covered), covered)
            encoded = self._encode(start, end)
        return Piece(start, end, len(encoded.ids))

    def back(self, piece: Piece, overlap: int) -> int:
        """Where the next piece begins, to share whole sentences if one fits, or else whole words if one does."""
        if overlap == 0:
            return piece.end
        offsets = self._encode(piece.start, piece.end).offsets[-overlap:]
        allowed = [piece.start + start for start, _ in offsets if start > 0 and piece.start + start < piece.end]
        allowed = [place for place in dict.fromkeys(allowed) if not _is_within_character(self.text, place)]
        words = [place for place in allowed if self._is_at_space(place)]
        for place in [*self._sentences(piece, allowed), *words, *allowed]:
            if len(self._encode(place, piece.end).ids) <= overlap:
                return place
        return piece.end

    def _sentences(self, piece: Piece, allowed: Sequence[int]) -> list[int]:
        """Where sentences and lines begin from the first of these places on."""
        ends = [e.end() for p in _ENDS[:2] for e in p.finditer(self.text, allowed[0], piece.end)] if allowed else []
        return sorted(end for end in ends if end < piece.end and not _is_within_character(self.text, end))

    def _encode(self, start: int, end: int) -> Encoding:
        return self.tokenizer.encode(self.text[start:end], add_special_tokens=False)

    def _more_than(self, start: int, tokens: int) -> tuple[Encoding, int]:
        """A stretch from ``start`` with more tokens than that, or the rest of the text; and its end."""
        reach = (tokens + 1) * _CHARACTERS
        while True:
            end = min(start + reach, len(self.text))
            encoded = self._encode(start, end)
            if len(encoded.ids) > tokens or end == len(self.text):
                return encoded, end
            reach *= 2

    def _between_characters(self, limit: int, covered: int) -> int:
        """The last place up to ``limit`` that is within no character; ``limit`` where there is none."""
        back = sum(1 for _ in takewhile(lambda i: _is_within_character(self.text, i), range(limit, covered, -1)))
        return limit - back if limit - back > covered else limit

    def _best_end(self, start: int, limit: int, covered: int) -> int:
        low = max(covered, start + (limit - start) // 2)
        for pattern in (_PARAGRAPH, *_ENDS):
            ends = [found.end() for found in pattern.finditer(self.text, low, limit)]
            if ends and not _is_within_character(self.text, ends[-1]):
                return ends[-1]
        return limit

    def _is_at_space(self, place: int) -> bool:
        return self.text[place - 1].isspace() or self.text[place].isspace()


def _is_within_character(text: str, place: int) -> bool:
    """Whether what stands before and behind a place is one character to a reader, as far as that is told simply."""
    if not 0 < place < len(text):
        return False
    before, behind = text[place - 1], text[place]
    if "\u200d" in (before, behind) or (before == "\r" and behind == "\n"):
        return True
    if unicodedata.category(behind)[0] == "M" or "\U0001f3fb" <= behind <= "\U0001f3ff":
        return True
    if "\U000e0020" <= behind <= "\U000e007f":
        return True
    return _is_flag(behind) and sum(1 for _ in takewhile(_is_flag, reversed(text[max(0, place - 64) : place]))) % 2 == 1


def _is_flag(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


__all__ = ["Encoding", "Piece", "Tokenizer", "TooSmall", "cut"]

"""A long text cut into chunks that fit a model's context."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from pydantic import BaseModel, Field

from ..errors import StackError, StageFailedError
from ..stack import INPUT, OUTPUT, Arrow, Place, Result, Shape, Supplier, Target, fits
from .arguments import whole
from .cutting import Piece, Tokenizer, TooSmall, cut
from .lists import MOST, element_of, field_of, held, holder, names
from .types import In, Out


class Chunk(BaseModel):
    """A part of a text: ``whole[start:end]``, counted in characters, and its number of tokens."""

    text: str
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    tokens: int = Field(ge=0)


class LongText(BaseModel):
    """What a :class:`Split` is given, unless it says otherwise."""

    text: str


class Chunks(BaseModel):
    """What a :class:`Split` gives, unless it says otherwise."""

    chunks: list[Chunk]


class Split(Shape[In, Out]):
    """Cuts a text into chunks of at most so many tokens, for a Map to go through.

    The tokens are those of a checkpoint's own tokenizer, which is got when the stack is made ready, never in a run.
    A chunk ends after a paragraph, a line, a sentence or a word where one ends in its second half; none begins or ends
    within a character. Each has its ``start`` and ``end`` in the text, so that what a later step says of it can be
    traced back. Chunks cover the whole text, in order; an empty text has none.

    It has no steps, and takes linear time. The output's other fields are bound to the input, by name.

    Args:
        name: dotted lower-case words.
        text: the field of ``input`` with the text.
        tokens: the most a chunk may have.
        overlap: the most of them that it shares with the chunk before, at most half of ``tokens``.
        base: the checkpoint, named as in ``SLM(base)``.
        into: the field of ``output`` that takes the chunks, a list of :class:`Chunk`.
        most: more chunks are an error.
        input, output: the models; :class:`LongText` and :class:`Chunks` if not given.
        bind: output field to ``input.field``.

    Raises:
        StackError: a field that is not there, no text or no list, or a bound out of range.

    >>> split = Split("notes.split", tokens=400, overlap=40)
    >>> split
    Split('notes.split', LongText -> Chunks, 0 steps)
    >>> list(split.labels())
    ['text into chunks', 'up to 400 tokens of smollm2-135m, 40 of them shared']
    """

    kind = "split"
    works_alone = True

    def __init__(
        self,
        name: str,
        *,
        text: str = "text",
        tokens: int = 400,
        overlap: int = 40,
        base: str = "smollm2-135m",
        into: str = "chunks",
        most: int = MOST,
        input: type[In] | None = None,
        output: type[Out] | None = None,
        bind: Mapping[str, str] | None = None,
        description: str = "",
    ) -> None:
        self.text, self.tokens, self.overlap, self.base, self.into, self.most = text, tokens, overlap, base, into, most
        given: Any = input if input is not None else LongText
        made: Any = output if output is not None else Chunks
        super().__init__(name, input=given, output=made, steps=[], bind=bind, description=description)
        where = f"split {name}"
        whole(tokens, "tokens", where)
        whole(overlap, "overlap", where, least=0)
        whole(most, "most", where, least=0)
        if overlap > tokens // 2:
            raise StackError(
                "overlap is out of range",
                where=where,
                found=overlap,
                expected=f"at most half of {tokens} tokens",
                hint="share less, or make the chunks longer",
            )
        if not fits(annotation := field_of(self.input, text, where, "text"), str):
            raise StackError(
                "text names a field that is no text",
                where=where,
                found=f"{self.input.__name__}.{text}: {annotation}",
                expected="str",
                hint="pass text= with the name of a field of text",
            )
        element_of(self.output, into, where, "into")
        self.tokenizers = (base,)
        self._cut, self._cut_data = holder("Cut", {into: list[Chunk]}), holder("Cut", names([into]))

    def facts(self) -> dict[str, Any]:
        """Its fields, how long a chunk is, and by whose tokens."""
        facts = {"text": self.text, "into": self.into, "tokens": self.tokens, "overlap": self.overlap}
        return {**facts, "base": self.base, "most": self.most}

    def labels(self) -> Iterator[str]:
        """What it cuts, and how long."""
        yield f"{self.text} into {self.into}"
        yield f"up to {self.tokens} tokens of {self.base}, {self.overlap} of them shared"

    def arrows(self) -> Iterator[Arrow]:
        """From the input to what is cut of it."""
        yield Arrow(INPUT, "cut", self.text)

    def targets(self) -> Iterator[Target]:
        """The output, which takes the chunks."""
        known = {INPUT: Supplier(self.input), "cut": Supplier(self._cut)}
        yield Target(OUTPUT, self.output, self.bind, known, "Split(bind=…)", prefers="cut")

    async def run(self, place: Place) -> Result[Out]:
        """Cut, on a thread, for a long text takes its time."""
        text = str(getattr(place.input, self.text))
        try:
            pieces = await asyncio.to_thread(self._pieces, text, place.tokenizer(self.base))
        except TooSmall as error:
            raise StageFailedError(
                f"one character of {self.text} has more than {self.tokens} tokens",
                where=f"{place.where()}, offset {error.offset}",
                hint="make the chunks longer with tokens=…",
            ) from None
        if len(pieces) > self.most:
            raise StageFailedError(
                f"{self.text} ({len(text)} characters) makes more than {self.most} chunks of {self.tokens} tokens",
                where=place.where(),
                hint="allow more with most=…, or make the chunks longer",
            )
        chunks = [
            {"text": text[piece.start : piece.end], "start": piece.start, "end": piece.end, "tokens": piece.tokens}
            for piece in pieces
        ]
        data = held(self._cut_data, {self.into: chunks})
        return place.result({**place.given, "cut": place.say(data)})

    def _pieces(self, text: str, tokenizer: Tokenizer) -> list[Piece]:
        return list(islice(cut(text, tokenizer, self.tokens, self.overlap), self.most + 1))


__all__ = ["Chunk", "Chunks", "LongText", "Split"]

"""Numbers in English text: in digits, as fractions, or in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from .steps import shown

_UNITS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
_WORD = "|".join([*_UNITS, *_TENS, *_SCALES])

_FOUND = re.compile(
    rf"""
    (?<![\w.]) (?:
        (?: (?P<whole>\d+) [ ] )? (?P<top>\d+) [ ]?/[ ]? (?P<bottom>[1-9]\d*)     # 2 1/2
      | (?P<digits> \d{{1,3}}(?:,\d{{3}})+(?:\.\d+)? | \d+(?:\.\d+)? | \.\d+ )    # 1,200.50
      | (?P<words> (?:{_WORD}) (?: (?:-|[ ]and[ ]|[ ]) (?:{_WORD}) )* )           # two hundred and five
    ) (?! (?:st|nd|rd|th)\b | [-]?(?:{_WORD})\b | \d | ,\d | \.\d )
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_IMPLIED = (
    (r"twice|double[ds]?|half|halves|average|couple", "2"),
    (r"thrice|triple[ds]?", "3"),
    (r"quarter of|quadruple[ds]?", "4"),
    (r"week|weeks|weekly", "7"),
    (r"dozens?|year|years|yearly", "12"),
    (r"hours?|minutes?", "60"),
    (r"percent|percentage|%", "100"),
)
"""Words, and the number that a calculation with them often needs."""


@dataclass(frozen=True, slots=True)
class Found:
    """A number's value, and where it stands: ``text[start:end]``."""

    value: Fraction
    start: int
    end: int


def find(text: str) -> Iterator[Found]:
    """The numbers of a text, in order.

    ``one`` by itself is a pronoun more often than a number, and is passed over; so are ordinals and what is part of a
    word. A fraction that is no short decimal is two numbers.

    >>> [str(number.value) for number in find("Two of 1,200 cost $2 1/2 each, the 3rd one 1/3")]
    ['2', '1200', '5/2', '1', '3']
    """
    for match in _FOUND.finditer(text):
        if match["words"]:
            value = _spoken(match["words"].lower())
            if value is not None:
                yield Found(value, *match.span())
        elif match["digits"]:
            if not text[match.end() :][:1].isalpha() or not text[match.end()].isascii() or _is_unit(text, match.end()):
                yield Found(Fraction(match["digits"].replace(",", "")), *match.span())
        else:
            value = Fraction(int(match["top"]), int(match["bottom"])) + int(match["whole"] or 0)
            if "/" not in shown(value):
                yield Found(value, *match.span())
            else:
                names = [name for name in ("whole", "top", "bottom") if match[name]]
                yield from (Found(Fraction(match[name]), *match.span(name)) for name in names)


def _is_unit(text: str, start: int) -> bool:
    """Whether the letters that follow a number at once are short enough to be a unit: ``5kg``."""
    letters = re.match(r"[a-zA-Z]+", text[start:])
    return letters is not None and len(letters[0]) <= 3


def _spoken(words: str) -> Fraction | None:
    """What number words say; None for ``one`` alone, and for words that are no number together."""
    total = part = 0
    parts = re.split(r"-| and | ", words)
    if parts == ["one"]:
        return None
    for word in parts:
        if word in _SCALES and _SCALES[word] > 100:
            total, part = total + max(part, 1) * _SCALES[word], 0
        elif word == "hundred":
            part = max(part, 1) * 100
        else:
            value = _UNITS[word] if word in _UNITS else _TENS[word]
            if part % (100 if value >= 10 else 10) or (value < 10 and part % 100 == 10):
                return None
            part += value
    return Fraction(total + part)


def implied(text: str) -> list[str]:
    """What words such as ``dozen`` bring along, each value once.

    >>> implied("Twice as many as a dozen")
    ['2', '12']
    """
    low = text.lower()
    return [value for words, value in _IMPLIED if re.search(rf"(?<![a-z])(?:{words})(?![a-z])", low)]


def rewritten(text: str, numbers: list[Found]) -> str:
    """The text with every number in digits and in one form.

    >>> text = "Ann had twenty-five pens and $1,200.50."
    >>> rewritten(text, list(find(text)))
    'Ann had 25 pens and $1200.5.'
    """
    pieces: list[str] = []
    end = 0
    for number in numbers:
        pieces += [text[end : number.start], shown(number.value)]
        end = number.end
    return "".join([*pieces, text[end:]])


def sentences(text: str) -> list[str]:
    """The sentences of a text.

    >>> sentences("Mrs. Hilt had $2.50. She lost 1! How much is left?")
    ['Mrs. Hilt had $2.50.', 'She lost 1!', 'How much is left?']
    """
    return [part for part in re.split(r"(?<!\bMrs\.)(?<!\bMr\.)(?<!\bDr\.)(?<=[.?!])\s+", text.strip()) if part]


def parted(text: str) -> tuple[str, str]:
    """The sentence that asks (the last one with a question mark, else the last), and all others.

    >>> parted("Ann had 5 pens. She lost 2. How many are left?")
    ('How many are left?', 'Ann had 5 pens. She lost 2.')
    """
    parts = sentences(text)
    asking = [place for place, part in enumerate(parts) if part.endswith("?")]
    place = asking[-1] if asking else len(parts) - 1
    return parts[place], " ".join(parts[:place] + parts[place + 1 :])


__all__ = ["Found", "find", "implied", "parted", "rewritten", "sentences"]

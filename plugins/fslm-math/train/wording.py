"""Training questions as people write them: the data set has them split into tokens, and half of them in lower case."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

_VERB = (
    "has|had|have|picked|found|bought|went|gave|made|sold|ate|read|grew|got|was|is|wants|wanted|needs|needed|saved"
    "|spent|earned|received|collected|baked|cut|ran|walked|uses|used|owns|invited|took|and|put|plays|played|lost|saw"
)


def proper_names(questions: Iterable[str]) -> set[str]:
    """Words that are written with a capital within sentences, and never without."""
    great: Counter[str] = Counter()
    small: set[str] = set()
    for question in questions:
        if question == question.lower():
            first = re.match(rf"([a-z]+) (?:{_VERB}) ", question)
            if first:
                great[first[1].capitalize()] += 1
            continue
        for before, word in re.findall(r"(\S+) ([A-Za-z]+)", question):
            if word[0].isupper() and before not in ".?!":
                great[word] += 1
            elif word.islower():
                small.add(word)
    return {word for word in great if word.lower() not in small | _NO_NAMES}


_NO_NAMES = {"a", "an", "the", "there", "he", "she", "it", "they", "you", "we", "if", "in", "how", "each", "mom", "dad"}


def natural(question: str, names: set[str]) -> str:
    """A question without the spaces before its marks, and with capitals.

    >>> natural("sam had $ 5 , and bob 's cat 3 . how many in all ?", {"Sam", "Bob"})
    "Sam had $5, and Bob's cat 3. How many in all?"
    """
    text = " ".join(question.split())
    if text == text.lower():
        text = re.sub(r"[a-z]+", lambda m: m[0].capitalize() if m[0].capitalize() in names else m[0], text)
        text = re.sub(r"\bi\b", "I", text)
    text = re.sub(r" ([.,?!;:)%]|'s\b|'\s)", r"\1", text)
    text = re.sub(r"([$(]) ", r"\1", text)
    text = re.sub(r"(\w) - (\w)", r"\1-\2", text)
    return re.sub(r"(^|[.?!] )([a-z])", lambda m: m[1] + m[2].upper(), text)

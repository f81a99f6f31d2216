"""The data sets, read into one form: a question, its choices, and what people wrote on the way to the answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fslm_reason.messages import MOST_OF_A_CHOICE, MOST_OF_FACTS, MOST_OF_REASONING

SOURCES = ("arc", "ecqa", "qasc", "strategyqa")
MOST_SENTENCES = 3


@dataclass(frozen=True)
class Item:
    """A question of a data set.

    Attributes:
        answer: the index of the right choice.
        facts: sentences that people gave as facts; none where the set has none.
        reasoning: the sentence that people concluded with; empty where the set has none.
        asked: sub-questions (of StrategyQA alone), which only tell what its key words are.
        family: questions that are nearly the same have the same number.
    """

    source: str
    question: str
    choices: tuple[str, ...]
    answer: int
    facts: tuple[str, ...] = ()
    reasoning: str = ""
    asked: tuple[str, ...] = ()
    family: int = -1

    @property
    def told(self) -> str:
        """The gold message of ``facts``: whole sentences, as many as fit; empty where not even one does."""
        text = ""
        for sentence in self.facts[:MOST_SENTENCES]:
            longer = f"{text} {sentence}".strip()
            if len(longer) > MOST_OF_FACTS:
                break
            text = longer
        return text

    @property
    def concluded(self) -> str:
        """The gold message of ``reasoning``; empty where it is too long."""
        return self.reasoning if len(self.reasoning) <= MOST_OF_REASONING else ""

    @property
    def input(self) -> dict[str, Any]:
        return {"question": self.question, "choices": list(self.choices)}


def read(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def items(data: Path) -> list[Item]:
    """All training questions of the four sets, each wording once; no development row is opened."""
    found: dict[str, Item] = {}
    for item in (*arc(data), *rationales(data, "qasc"), *rationales(data, "ecqa"), *strategyqa(data)):
        if len(set(item.choices)) == len(item.choices) <= 8 and max(map(len, item.choices)) <= MOST_OF_A_CHOICE:
            found.setdefault(item.question.lower(), item)
    return list(found.values())


def arc(data: Path) -> Iterator[Item]:
    for part in ("easy", "challenge"):
        for row in read(data / f"arc/{part}_train.jsonl"):
            choices = tuple(tidy(choice) for choice in row["choices"])
            yield Item("arc", tidy(row["question"]), choices, row["answer"])


def strategyqa(data: Path) -> Iterator[Item]:
    for row in read(data / "strategyqa/train.jsonl"):
        yield Item(
            "strategyqa",
            tidy(row["question"]),
            ("yes", "no"),
            0 if row["answer"] else 1,
            facts=tuple(tidy(fact) for fact in row["facts"]),
            asked=tuple(re.sub(r"#\d+", "", step) for step in row["decomposition"]),
        )


_BEFORE = re.compile(
    r"I'll give you a question, please answer with step-by-step reasoning process\.\s|Let's think step by step!\s"
    r"|Use reasoning to (?:answer|lead to the answer of) the following question[.:]\s"
    r"|(?:next question|Question to you|Question|Q):\s"
)
_AFTER = re.compile(
    r"\n.*|\s(?:Let's (?:think|give|solve|be|reason)|Hmmm, let me|OK\. Let's think|Think carefully first).*", re.DOTALL
)
_ANSWER = re.compile(
    r"\s*(?:(?:So|Thus|Therefore),? the (?:final )?answer|The (?:final )?answer|Final answer)(?: is|:)"
    r" (?P<answer>.+?)\.?\s*$",
    re.DOTALL,
)


def rationales(data: Path, name: str) -> Iterator[Item]:
    """ECQA and QASC as Alpaca-CoT has them: the wrapping of each question and of its answer is taken off.

    A rationale's last sentence is what follows, those before it are facts. Of QASC that is how the set was made: two
    facts that were looked up, and a third sentence that they combine to. Of ECQA it is our reading.
    """
    for row in read(data / f"rationales/{name}_train.jsonl"):
        question, _, options = row["instruction"].partition("\\nOptions:\\n- ")
        choices = options.split("\\n- ")
        choices[-1] = _AFTER.sub("", choices[-1])
        if name == "qasc":
            choices = [re.sub(r"^\([A-H]\) ", "", choice) for choice in choices]
        choices = [tidy(choice) for choice in choices]
        match = _ANSWER.search(row["output"])
        index = _index(match["answer"].strip(), choices) if match else None
        if match is None or index is None or not all(choices):
            continue
        said = sentences(tidy(row["output"][: match.start()]))
        if said:
            while unwrapped := _BEFORE.match(question):
                question = question[unwrapped.end() :]
            yield Item(name, tidy(question), tuple(choices), index, facts=tuple(said[:-1]), reasoning=said[-1])


def _index(answer: str, choices: list[str]) -> int | None:
    letter = re.fullmatch(r"\(([A-H])\)", answer)
    if letter:
        place = "ABCDEFGH".index(letter[1])
        return place if place < len(choices) else None
    return choices.index(tidy(answer)) if tidy(answer) in choices else None


def sentences(text: str) -> list[str]:
    """Sentences, each ended by a full stop or another mark.

    >>> sentences("Fur is hair. Only mammals have hair")
    ['Fur is hair.', 'Only mammals have hair.']
    """
    found = [part.strip() for part in re.split(r"(?<=[.!?])\s+(?=[A-Z0-9\"'])", text) if part.strip(" .!?")]
    return [part if part[-1] in ".!?" else f"{part}." for part in found]


def tidy(text: str) -> str:
    """One space between words, straight quotation marks, plain dashes.

    >>> tidy(" Animals\u2019  homes ")
    "Animals' homes"
    """
    return " ".join(text.translate(_MARKS).split())


_MARKS = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"})


def with_families(found: list[Item], families: list[int]) -> list[Item]:
    return [replace(item, family=family) for item, family in zip(found, families, strict=True)]

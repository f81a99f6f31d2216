"""The gold message of ``topic``: a rule, since no data set says what a question's topic is.

Words are weighed by TF-IDF within the training questions, their facts and conclusions. The topic is the weightiest word
that the question shares with what people wrote to answer it (of the question alone, where they share none). The key
words are the three weightiest others of what people wrote, whether the question has them or not: they are what a model
that reads only the question has to think of. Words of fewer than three letters, numbers and scikit-learn's English stop
words do not count, nor do those in more than a twentieth of all texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sources import Item

KEY_WORDS = 3
_LONGEST = 24


@dataclass(frozen=True)
class KeyWords:
    """Weighs words by the texts that it was made of."""

    weigher: Any
    names: Any

    @classmethod
    def of(cls, found: Sequence[Item]) -> KeyWords:
        from sklearn.feature_extraction.text import TfidfVectorizer

        weigher = TfidfVectorizer(
            token_pattern=rf"(?u)\b[a-z]{{3,{_LONGEST}}}\b",
            stop_words="english",
            max_df=max(2, len(found) // 20),
            norm=None,
        )
        weigher.fit([f"{item.question} {_written(item)}" for item in found])
        return cls(weigher, weigher.get_feature_names_out())

    def __call__(self, item: Item) -> dict[str, Any] | None:
        """The message; None where no word of the question, or none of the facts, counts."""
        asked, written = self._weights(item.question), self._weights(_written(item))
        shared = [word for word in _by_weight(written) if word in asked]
        topics = shared or _by_weight(asked)
        words = [word for word in _by_weight(written) if word != topics[0]] if topics else []
        return {"topic": topics[0], "words": words[:KEY_WORDS]} if words else None

    def _weights(self, text: str) -> dict[str, float]:
        row = self.weigher.transform([text])
        return {str(self.names[place]): float(weight) for place, weight in zip(row.indices, row.data, strict=True)}


def _written(item: Item) -> str:
    return " ".join((*item.facts, item.reasoning, *item.asked))


def _by_weight(weights: dict[str, float]) -> list[str]:
    """Heaviest first; words of one weight by the alphabet."""
    return sorted(weights, key=lambda word: (-weights[word], word))

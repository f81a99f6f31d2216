"""The control without a language model: TF-IDF, a linear classifier, and a look-up of values."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

Ticket = dict[str, str | None]

_PATTERNS = {
    "order_id": re.compile(r"#?\b[A-Z]{0,4}[-/]?\d[\d/-]{2,}\b"),
    "invoice_id": re.compile(r"#?\b[A-Z]{0,4}[-/]?\d[\d/-]{2,}\b"),
    "refund_amount": re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?"),
}
"""What an id and an amount look like; the other types have no look and are known by their training values alone."""


class Control:
    """Predicts a ticket: the intent by a linear SVM on word and character n-grams, its category by table, its detail
    by the look of ids and amounts, else by the longest training value found in the text."""

    def __init__(self, texts: Sequence[str], tickets: Sequence[Ticket]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline, make_union
        from sklearn.svm import LinearSVC

        features = make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        )
        self._model: Any = make_pipeline(features, LinearSVC(C=1.0))
        self._model.fit(texts, [ticket["intent"] or "OTHER" for ticket in tickets])
        self._category = {ticket["intent"] or "OTHER": ticket["category"] for ticket in tickets}
        self._kinds: dict[str, Counter[str]] = defaultdict(Counter)
        self._values: dict[str, set[str]] = defaultdict(set)
        for ticket in tickets:
            kind, value = ticket["entity_type"], ticket["entity_value"]
            if kind and value:
                self._kinds[ticket["intent"] or "OTHER"][kind] += 1
                self._values[kind].add(value)

    def predict(self, texts: Sequence[str]) -> list[Ticket]:
        """Return a ticket for each text."""
        tickets: list[Ticket] = []
        for text, intent in zip(texts, self._model.predict(list(texts)), strict=True):
            kind, value = self._detail(text, str(intent))
            tickets.append(
                {
                    "category": self._category[intent],
                    "intent": None if intent == "OTHER" else str(intent),
                    "entity_type": kind,
                    "entity_value": value,
                }
            )
        return tickets

    def _detail(self, text: str, intent: str) -> tuple[str | None, str | None]:
        kinds = [kind for kind, _ in self._kinds[intent].most_common()]
        for kind in kinds:
            if kind in _PATTERNS and (found := _PATTERNS[kind].search(text)):
                return kind, found[0]
        known = [(value, kind) for kind in kinds for value in self._values[kind] if _stands_alone(value, text)]
        if known:
            value, kind = max(known, key=lambda pair: (len(pair[0]), pair))
            return kind, value
        return None, None


def _stands_alone(value: str, text: str) -> bool:
    return value in text and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text) is not None


__all__ = ["Control", "Ticket"]

"""The control without a language model: a linear classifier for the intent, on the rows of the stage ``intent``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fslm_assistant.messages import Dialogue
from fslm_assistant.schema import Service
from fslm_assistant.values import NONE


class LinearIntent:
    """TF-IDF of words and characters of the turn, the assistant's last utterance and the present intent.

    It knows the intents that training had. Of those, only what the service offers is chosen; a service none of whose
    intents it knows is left at the present intent, or at its first.

    Args:
        rows: the file of the stage's training rows.
        most: take so many, as the stage's recipe does.
    """

    def __init__(self, rows: Path, most: int) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline, make_union
        from sklearn.svm import LinearSVC

        read = [json.loads(line) for line in rows.read_text("utf-8").splitlines()[:most]]
        self._model = make_pipeline(
            make_union(
                TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b|[^\w\s]"),
                TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
            ),
            LinearSVC(C=1.0, random_state=0),
        ).fit([_text(row["input"]) for row in read], [row["output"]["intent"] for row in read])
        self.known = [str(name) for name in self._model.classes_]

    def predict(self, service: Service, before: Dialogue, text: str) -> str:
        """The intent of one turn."""
        offered = [intent.name for intent in service.intents]
        scores = self._model.decision_function([_text({"text": text, "said": before.said, "now": before.intent})])[0]
        ranked = sorted(zip(scores, self.known, strict=True), reverse=True)
        if not set(offered) & set(self.known):
            best = ranked[0][1] if ranked else NONE
            return NONE if best == NONE else before.intent if before.intent in offered else offered[0]
        return next(name for _, name in ranked if name in (*offered, NONE))


def _text(given: dict[str, Any]) -> str:
    return f"{given['text']}\n{given['said']}\nnow {given['now']}"


__all__ = ["LinearIntent"]

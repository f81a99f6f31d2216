"""Which of two epochs, or adapters, did better on the same rows."""

from __future__ import annotations

from collections.abc import Mapping


def rank(scores: Mapping[str, float]) -> tuple[float, float]:
    """What to compare by: exact first; between equals the sum of field scores."""
    return scores["exact"], sum(value for name, value in scores.items() if name.startswith("field."))


__all__ = ["rank"]

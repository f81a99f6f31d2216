"""One labelled message, and the disguises that keep a model from learning how a data set was typed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from values import DRAW

TAKES_ORDER_ID = {
    "change_shipping_address", "check_cancellation_fee", "complaint", "contact_human_agent", "delivery_period",
    "get_refund", "payment_issue", "review", "track_refund",
}  # fmt: skip
"""Intents whose published rows never name an order although customers do."""

_GREETINGS = ("Hi, ", "Hello, ", "hello ", "Hi there, ", "Good morning, ", "hey, ", "Dear team, ", "hi ", "Hello! ")
_PLEAS = ("I need help, ", "help me, ", "can you help me? ", "I have a question, ", "i want assistance, ")
_THANKS = (" please", ", please", ", thanks", ", thank you", " thx", ", can you help me?", ", i need help")
SWEARWORDS = ("bloody", "damn", "fucking", "goddamn", "freaking")
_SHORT = {"you": "u", "your": "ur", "are": "r", "please": "pls", "don't": "dont", "what's": "whats", "i'm": "im"}
_ORDER_NOTES = (" for order {}", ", order {}", " (order {})", " with order number {}", ", my order is {}", " for {}")


@dataclass(frozen=True)
class Row:
    """A message split around its one detail (``value`` is empty where it has none)."""

    before: str
    value: str
    after: str
    category: str
    intent: str | None
    kind: str | None

    @property
    def text(self) -> str:
        return self.before + self.value + self.after

    @property
    def ticket(self) -> dict[str, str | None]:
        return {
            "category": self.category,
            "intent": self.intent,
            "entity_type": self.kind,
            "entity_value": self.value if self.kind else None,
        }


def split(text: str, value: str | None, kind: str | None, category: str, intent: str | None) -> Row:
    """Make a row of a text and the span in it."""
    before, found, after = text.partition(value) if value else (text, "", "")
    return Row(before, found, after, category, intent, kind)


def redrawn(row: Row, rng: Random) -> Row:
    """The same message about another order, invoice, amount, person, place or account."""
    return replace(row, value=DRAW[row.kind](rng)) if row.kind else row


def with_order(row: Row, rng: Random) -> Row:
    """A message that named no detail, now naming its order."""
    before, after = rng.choice(_ORDER_NOTES).split("{}")
    before = row.before.rstrip(" .?!") + before
    return replace(row, before=before, value=DRAW["order_id"](rng), after=after, kind="order_id")


def disguised(row: Row, rng: Random) -> Row:
    """Case, punctuation, greeting and thanks drawn from one lot for every source."""
    if rng.random() < 0.12:
        row = replace(row, before=rng.choice(_GREETINGS) + row.before)
    if rng.random() < 0.10:
        row = _ended(row, rng.choice(_THANKS))
    draw = rng.random()
    if draw < 0.40:
        return row
    if draw < 0.55:
        return _cased(row, str.lower)
    if draw < 0.59:
        return _cased(row, str.upper)
    ended = _ended(row, rng.choice((".", ".", "?", "!", "...")))
    return ended if draw < 0.65 else _sentence(ended)


def roughened(row: Row, rng: Random) -> Row:
    """Typing errors, short forms, swear words and pleas, which otherwise only support rows would have."""
    before = row.before
    if rng.random() < 0.12:
        before = rng.choice(_PLEAS) + before
    if rng.random() < 0.06:
        before = _before_a_word(before, rng.choice(SWEARWORDS), rng)
    if rng.random() < 0.12:
        before = " ".join(_SHORT.get(word, word) for word in before.split(" "))
    if rng.random() < 0.18:
        before = _mistyped(before, rng)
    return replace(row, before=before)


def _ended(row: Row, tail: str) -> Row:
    """The row with another end than its full stop, exclamation or question mark."""
    if row.value:
        return replace(row, after=row.after.rstrip(" .?!") + tail)
    return replace(row, before=row.text.rstrip(" .?!") + tail, after="")


def _cased(row: Row, change: Callable[[str], str]) -> Row:
    return replace(row, before=change(row.before), value=change(row.value), after=change(row.after))


def _sentence(row: Row) -> Row:
    before = re.sub(r"\bi\b", "I", row.before)
    return replace(row, before=before[:1].upper() + before[1:], after=re.sub(r"\bi\b", "I", row.after))


def _before_a_word(text: str, word: str, rng: Random) -> str:
    words = text.split(" ")
    place = rng.randint(1, max(1, len(words) - 1))
    return " ".join([*words[:place], word, *words[place:]])


def _mistyped(text: str, rng: Random) -> str:
    """Swap, drop or double one letter."""
    letters = [i for i in range(len(text) - 1) if text[i].isalpha() and text[i + 1].isalpha()]
    if not letters:
        return text
    i = rng.choice(letters)
    middle = rng.choice((text[i + 1] + text[i], text[i], text[i] * 2 + text[i + 1]))
    return text[:i] + middle + text[i + 2 :]


__all__ = ["SWEARWORDS", "TAKES_ORDER_ID", "Row", "disguised", "redrawn", "roughened", "split", "with_order"]

"""What a reply has to say and must not: the values it was given, all of them, and no other numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fslm_core import tool
from fslm_core.message import Problem

from .messages import LONGEST_REPLY, Reply, Saying

_NUMBER = re.compile(r"\d[\d:.,]*\d|\d")
_NOT_SPELT = ("True", "False", "?")
"""Values that a sentence puts otherwise: yes and no, and what is asked."""
_BEGINNINGS = {
    "REQUEST": "Please tell me: ",
    "CONFIRM": "Is this right? ",
    "OFFER": "I found this: ",
    "INFORM": "Here it is: ",
    "SUCCESS": "It is done. ",
    "FAILURE": "I am sorry, that did not work. ",
    "SUGGEST": "Shall I go on with it? ",
    "MORE": "Can I help you with anything else? ",
    "GOODBYE": "Goodbye. ",
}


def unfaithful(reply: Reply, saying: Saying) -> Iterator[Problem]:
    """What is wrong with a reply: a value that it does not name, a number that nobody gave it.

    >>> fact = {"slot": "time", "value": "half past 7"}
    >>> saying = Saying.model_validate({"act": "CONFIRM", "subject": "Reserve", "facts": [fact]})
    >>> [str(problem) for problem in unfaithful(Reply(reply="A table at 11 pm?"), saying)]
    ["reply: it does not name the time, 'half past 7'", "reply: it names 11, which nobody gave it"]
    """
    text = reply.reply.lower()
    for fact in saying.facts:
        if fact.slot != "count" and fact.value not in _NOT_SPELT and fact.value.strip().lower() not in text:
            yield _problem(f"it does not name the {fact.slot.replace('_', ' ')}, {fact.value!r}")
    given = " ".join(fact.value for fact in saying.facts)
    for number in dict.fromkeys(_NUMBER.findall(reply.reply)):
        if number not in given:
            yield _problem(f"it names {number}, which nobody gave it")


def _problem(text: str) -> Problem:
    return Problem("refused", text, "reply")


@tool("assistant.plain", version="1", pure=True)
def plain(saying: Saying) -> Reply:
    """Says it stiffly, but rightly: each value with its slot's name."""
    facts = [fact.slot.replace("_", " ") + ("" if fact.value == "?" else f": {fact.value}") for fact in saying.facts]
    text = (_BEGINNINGS[saying.act] + "; ".join(facts)).strip() + ("." if facts else "")
    return Reply(reply=text if len(text) <= LONGEST_REPLY else text[: LONGEST_REPLY - 1] + "…")


__all__ = ["plain", "unfaithful"]

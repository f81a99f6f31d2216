"""What fslm is offered."""

from typing import Annotated

from pydantic import BaseModel, Field

import fslm_core
from fslm_glossary import WORDS

seen = []


class Draft(BaseModel):
    text: str


class Marked(BaseModel):
    text: str
    replaced: Annotated[list[str], Field(max_length=8)]


@fslm_core.tool("glossary.apply", version="3")
def apply(draft: Draft) -> Marked:
    """Put the house's own words in."""
    text, replaced = draft.text, []
    for word, ours in WORDS.items():
        if word in text:
            text = text.replace(word, ours)
            replaced.append(word)
    return Marked(text=text, replaced=replaced)


glossary = fslm_core.Stack("glossary", input=Draft, output=Marked, steps=[apply], bind={"text": "apply.text"})


@fslm_core.hookimpl
def fslm_stages():
    return [apply]


@fslm_core.hookimpl
def fslm_stacks():
    return [glossary]


@fslm_core.hookimpl
def fslm_check_message(message):
    """As the hook was first written: the message alone. Whatever it is given besides today is left out."""
    if "FORBIDDEN" in message.text:
        yield fslm_core.Problem("refused", "the glossary does not allow that word", "text")


@fslm_core.hookimpl
def fslm_observe(event):
    seen.append(type(event).__name__)


def words():
    """Print the glossary."""
    for word, ours in WORDS.items():
        print(f"{word}: {ours}")


@fslm_core.hookimpl
def fslm_commands():
    return {"glossary-words": words}

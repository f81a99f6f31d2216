"""Call notes: what was a dialogue between a customer and an agent about, what was settled, and how did it end?

All prompts begin with the same tokens, the dialogue among them, and the adapters touch the topmost ten layers only:
what the twenty below them make of a dialogue is the same for every stage.
"""

from __future__ import annotations

from typing import Any

from fslm_core import SLM, Decoding, Stack, Stage, files, hookimpl

from .messages import Dialogue, Facts, Note, NotedDialogue, Service, Summary

here = files(__name__)

service = Stage(
    "notes.service",
    input=Dialogue,
    output=Service,
    prompt=here / "service/prompt.jinja",
    model=SLM(base="smollm2-135m", adapter=here / "service/adapter"),
    description="What a call was about, and how it ended.",
)
facts = Stage(
    "notes.facts",
    input=Dialogue,
    output=Facts,
    prompt=here / "facts/prompt.jinja",
    model=SLM(base="smollm2-135m", adapter=here / "facts/adapter"),
    decoding=Decoding(max_tokens=128),
    description="Whom or what, where and when, as said last.",
)
summary = Stage(
    "notes.summary",
    input=NotedDialogue,
    output=Summary,
    prompt=here / "summary/prompt.jinja",
    model=SLM(base="smollm2-135m", adapter=here / "summary/adapter"),
    decoding=Decoding(max_tokens=192),
    description="The call in two to four sentences.",
)

notes = Stack(
    "notes",
    input=Dialogue,
    output=Note,
    steps=[service, facts, summary],
    description="A call note from a customer's dialogue: its subject, its outcome, its facts, and a summary.",
)


@hookimpl
def fslm_stages() -> list[Stage[Any, Any]]:
    return [service, facts, summary]


@hookimpl
def fslm_stacks() -> list[Stack[Any, Any]]:
    return [notes]

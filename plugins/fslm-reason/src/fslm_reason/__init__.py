"""General questions with choices, as in FSLM (arXiv 2410.15570): four small models that pass plain language on.

What the question is about, what is known of it, what follows, and which of the choices it is.
"""

from __future__ import annotations

from typing import Any

from fslm_core import SLM, Stack, Stage, files, hookimpl, tool

from .messages import Answer, Chosen, Deciding, Facts, Picking, Question, Reasoning, Recalling, Reckoning, Topic

here = files(__name__)


def adapted(name: str) -> SLM:
    return SLM(base="smollm2-135m", adapter=here / name / "adapter")


topic = Stage(
    "reason.topic",
    input=Question,
    output=Topic,
    prompt=here / "topic/prompt.jinja",
    model=adapted("topic"),
    description="What the question is about: a topic, and words that help to recall facts.",
)
facts = Stage(
    "reason.facts",
    input=Recalling,
    output=Facts,
    prompt=here / "facts/prompt.jinja",
    model=adapted("facts"),
    description="What is known of it, in one to three short sentences.",
)
reasoning = Stage(
    "reason.reasoning",
    input=Reckoning,
    output=Reasoning,
    prompt=here / "reasoning/prompt.jinja",
    model=adapted("reasoning"),
    description="What follows from the facts.",
)
answer = Stage(
    "reason.answer",
    input=Deciding,
    output=Chosen,
    prompt=here / "answer/prompt.jinja",
    model=adapted("answer"),
    narrow={"choice": "choices"},
    description="One of the choices.",
)


@tool("reason.pick", version="1", pure=True)
def pick(message: Picking) -> Answer:
    """Where the choice stands among the choices."""
    return Answer(answer=message.choices.index(message.choice))


reason = Stack(
    "reason",
    input=Question,
    output=Answer,
    steps=[topic, facts, reasoning, answer, pick],
    bind={"answer": "pick.answer"},
    description="The index of the answer to a question with choices, by topic, facts and reasoning.",
)


@hookimpl
def fslm_stages() -> list[Stage[Any, Any]]:
    return [topic, facts, reasoning, answer, pick]


@hookimpl
def fslm_stacks() -> list[Stack[Any, Any]]:
    return [reason]

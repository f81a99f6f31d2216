"""What the stack is held against: one adapter that answers at once, one that does all four tasks, and the bare base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from fslm_core import SLM, Stack, Stage, Step, hookimpl
from fslm_reason import pick
from fslm_reason.messages import MOST_OF_FACTS, MOST_OF_REASONING, Answer, Chosen, Question, Word

here = Path(__file__).parent
BASE = "smollm2-135m"
QUESTION = "{{ question }}"
LISTED = "{{ question }}\n{% for choice in choices %}\n- {{ choice }}\n{% endfor %}\n"


class Whole(BaseModel):
    """All four messages in one; null where nobody wrote one."""

    topic: Word | None
    words: Annotated[list[Word], Field(max_length=3)]
    facts: Annotated[str, Field(max_length=MOST_OF_FACTS)] | None
    reasoning: Annotated[str, Field(max_length=MOST_OF_REASONING)] | None
    choice: Annotated[str, Field(min_length=1, max_length=200)]


def prompt(system: str, user: str) -> str:
    return f"{{% block system %}}{system}{{% endblock %}}{{% block user %}}{user}{{% endblock %}}"


direct = Stage(
    "control.direct",
    input=Question,
    output=Chosen,
    prompt=prompt("answer", QUESTION),
    model=SLM(BASE, adapter=here / "direct/adapter"),
    narrow={"choice": "choices"},
)
whole = Stage(
    "control.whole",
    input=Question,
    output=Whole,
    prompt=prompt("all", LISTED),
    model=SLM(BASE, adapter=here / "whole/adapter"),
    narrow={"choice": "choices"},
)
base = Stage(
    "control.base",
    input=Question,
    output=Chosen,
    prompt=prompt("Answer the question.", QUESTION),
    model=SLM(BASE),
    narrow={"choice": "choices"},
)


def answered(stage: Stage[Any, Any]) -> Stack[Any, Any]:
    """The stage, and the index of what it chose."""
    return Stack(
        stage.name.replace("control.", "control.by_"),
        input=Question,
        output=Answer,
        steps=[Step(stage, name="answer"), pick],
        bind={"answer": "pick.answer"},
    )


by_direct, by_whole, by_base = map(answered, (direct, whole, base))


@hookimpl
def fslm_stages() -> list[Stage[Any, Any]]:
    return [direct, whole, base]


@hookimpl
def fslm_stacks() -> list[Stack[Any, Any]]:
    return [by_direct, by_whole, by_base]

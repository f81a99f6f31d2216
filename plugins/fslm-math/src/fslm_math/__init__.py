"""Word problems: a small model writes the equation, a calculator the answer, and a vote says when to ask a person."""

from __future__ import annotations

from typing import Any

from fslm_core import SLM, Cascade, Decoding, Stack, Stage, Step, Vote, files, hookimpl, tool

from .finding import find, implied, parted, rewritten
from .messages import Answer, Equation, Number, Numbered, Question
from .steps import calculate, shown

here = files(__name__)


@tool("math.numbers", version="1", pure=True)
def numbers(question: Question) -> Numbered:
    """Finds the numbers of a question, writes each in digits, and sets apart what is asked from what is told."""
    found = list(find(question.question))
    asked, told = parted(rewritten(question.question, found))
    return Numbered(
        asked=asked,
        told=told,
        numbers=[Number(value=shown(number.value), start=number.start, end=number.end) for number in found],
        implied=implied(question.question),
    )


equation = Stage(
    "math.equation",
    input=Numbered,
    output=Equation,
    prompt=here / "equation/prompt.jinja",
    model=SLM(base="smollm2-135m", adapter=here / "equation/adapter"),
    decoding=Decoding(temperature=0.7),
    narrow={"steps[0]": "first", "steps[1]": "second", "steps[2]": "third"},
    description="The steps that answer a question, written with its own numbers.",
)


@tool("math.calculate", version="1", pure=True)
def calculator(message: Equation) -> Answer:
    """Calculates an equation, exactly; what comes to no number is refused."""
    result, lines = calculate(message.steps)
    return Answer(answer=float(result), steps=lines)


once = Stack(
    "math.once",
    input=Numbered,
    output=Answer,
    steps=[equation, calculator],
    bind={"steps": "calculate.steps"},
    description="One equation, and what it comes to.",
)
vote = Vote("math.vote", once, n=7, by="answer")
sure = Cascade("math.sure", [Step(vote, on_error="skip")], abstain_below={"answer": 0.5})
solve = Stack(
    "math",
    input=Question,
    output=Answer,
    steps=[numbers, sure],
    description="The answer to a word problem, with its steps; a person is asked where the votes disagree.",
)


@hookimpl
def fslm_stages() -> list[Stage[Any, Any]]:
    return [numbers, equation, calculator]


@hookimpl
def fslm_stacks() -> list[Stack[Any, Any]]:
    return [solve]

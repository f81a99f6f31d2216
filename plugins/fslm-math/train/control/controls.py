"""What the stack is held against: one adapter that writes more, or only the number, and the base without an adapter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from fslm_core import SLM, Decoding, Stack, Stage, hookimpl
from fslm_math import calculator, equation, numbers
from fslm_math.messages import Answer, Equation, Numbered, Question

here = Path(__file__).parent
BASE = "smollm2-135m"
Figure = Annotated[str, Field(pattern=r"^[0-9]{1,15}(\.[0-9]{1,6})?$", max_length=22)]


class Written(BaseModel):
    """The answer, written by a model."""

    answer: Figure


class Both(Equation):
    """The steps, and then the answer, written by a model."""

    answer: Figure


def prompt(name: str) -> str:
    return "{% block system %}" + name + "{% endblock %}{% block user %}{{ asked }}\n{{ told }}{% endblock %}"


SHOTS = "\n\n".join(
    f'{question}\n{{"steps":{steps}}}'
    for question, steps in (
        ("Ann had 14 pens. She gave 5 pens to Bob. How many pens does Ann have now?", '["14-5"]'),
        ("There are 6 jars with 12 nuts each. How many nuts are there in all?", '["6*12"]'),
        ("A farm has 23 cows and 40 hens. 9 cows are brown. How many animals are there?", '["23+40"]'),
        ("Tim put 56 cards in piles of 8. How many piles are there?", '["56/8"]'),
        ("Sue has 30 dollars. She buys 4 caps for 6 dollars each. How much is left?", '["4*6","30-x"]'),
        ("Max has 17 shells. Eve has 25 shells. How many more shells has Eve?", '["25-17"]'),
        ("Lea had 50 plums. She ate 8 and put the rest in 7 bags. How many are in a bag?", '["50-8","x/7"]'),
        ("After Joe lost 11 coins he has 32 left. How many did he have at first?", '["11+32"]'),
    )
)

greedy = Stage(
    "control.greedy",
    input=Numbered,
    output=Equation,
    prompt=equation.prompt,
    model=equation.model,
    decoding=replace(equation.decoding, temperature=0.0),
    narrow=equation.narrow,
)
number = Stage(
    "control.number",
    input=Numbered,
    output=Written,
    prompt=prompt("number"),
    model=SLM(BASE, adapter=here / "number/adapter"),
)
both = Stage(
    "control.both",
    input=Numbered,
    output=Both,
    prompt=prompt("both"),
    model=SLM(BASE, adapter=here / "both/adapter"),
    narrow=equation.narrow,
)
shots = Stage(
    "control.shots",
    input=Numbered,
    output=Equation,
    prompt="{% block system %}Write the steps that answer the last question.{% endblock %}"
    "{% block user %}" + SHOTS + "\n\n{{ told }} {{ asked }}{% endblock %}",
    model=SLM(BASE),
    decoding=Decoding(),
    narrow=equation.narrow,
)

once = Stack(
    "control.once",
    input=Question,
    output=Answer,
    steps=[numbers, greedy, calculator],
    bind={"steps": "calculate.steps"},
)
told = Stack("control.told", input=Question, output=Written, steps=[numbers, number])
wrote = Stack("control.wrote", input=Question, output=Both, steps=[numbers, both])
counted = Stack(
    "control.counted",
    input=Question,
    output=Answer,
    steps=[numbers, both, calculator],
    bind={"answer": "calculate.answer", "steps": "calculate.steps"},
)
shown = Stack(
    "control.shown",
    input=Question,
    output=Answer,
    steps=[numbers, shots, calculator],
    bind={"steps": "calculate.steps"},
)


@hookimpl
def fslm_stages() -> list[Stage[Any, Any]]:
    return [greedy, number, both, shots]


@hookimpl
def fslm_stacks() -> list[Stack[Any, Any]]:
    return [once, told, wrote, counted, shown]

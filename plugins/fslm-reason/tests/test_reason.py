"""The stack: who reads what, and the real one on its real adapters."""

from __future__ import annotations

from typing import Any

import pytest

from fslm_core import Engine, Run
from fslm_core.message import Message
from fslm_core.testing import run_stack
from fslm_reason import reason

FUR = {"question": "Which animal has fur?", "choices": ["frogs", "goats"]}
REPLIES: dict[str, Any] = {
    "topic": {"topic": "fur", "words": ["mammals", "hair"]},
    "facts": {"facts": "Only mammals have hair."},
    "reasoning": {"reasoning": "These give milk."},
    "answer": {"choice": "goats"},
}


def prompt(run: Run[Any], step: str) -> str:
    message = run.messages[step]
    assert isinstance(message, Message) and message.attempts[-1].prompt is not None
    return "".join(span.text for span in message.attempts[-1].prompt.spans)


def test_each_model_reads_what_the_one_before_it_wrote() -> None:
    run = run_stack(reason, FUR, replies=REPLIES).run
    assert run is not None and run.output is not None and run.output.answer == 1
    assert "fur, mammals, hair" in prompt(run, "facts")
    assert "Only mammals have hair." in prompt(run, "reasoning")
    assert "Only mammals have hair.\nThese give milk." in prompt(run, "answer")


def test_the_last_model_does_not_read_the_choices() -> None:
    run = run_stack(reason, FUR, replies=REPLIES).run
    assert run is not None
    assert all("frogs" in prompt(run, step) for step in ("topic", "facts", "reasoning"))
    assert "frogs" not in prompt(run, "answer")


@pytest.mark.fslm_weights
def test_the_real_chain_comes_to_one_of_the_choices() -> None:
    with Engine(stacks=[reason], trace=False) as engine:
        run = engine.run(reason, FUR)
    assert run.output.answer in (0, 1)
    said = {step: run.messages[step].content for step in ("topic", "facts", "reasoning", "answer")}
    assert said["topic"].topic and said["facts"].facts and said["reasoning"].reasoning
    assert said["answer"].choice in FUR["choices"]

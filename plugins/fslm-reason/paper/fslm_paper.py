"""The configuration of the FSLM paper (arXiv 2410.15570): four Pythia-160M that pass plain language on.

What an instruction is about, what is known of it, what follows, and the response. No adapter comes with it: ``fslm tune
paper tune.toml`` makes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, Field

from fslm_core import SLM, Decoding, Stack, Stage, hookimpl
from fslm_core.checkpoints import Checkpoint, HubRepo

PYTHIA = Checkpoint(
    "paper.pythia-160m",
    HubRepo("EleutherAI/pythia-160m", revision="50f5173d932e8e61f858120bcb800b97af589f46"),
    licence="Apache-2.0",
    languages=("en",),
    title="Pythia-160M",
    notes="by EleutherAI; a GPT-NeoX without a chat template",
)
LLAMA = Checkpoint(
    "paper.llama-3.2-3b-instruct",
    HubRepo("meta-llama/Llama-3.2-3B-Instruct", revision="0cb88a4f764b7a12671c53f0838cd831a0843b95"),
    licence="LicenseRef-Llama-3.2-Community",
    languages=("en",),
    title="Llama-3.2-3B-Instruct",
    notes="by Meta; the hub gives it only to accounts that took its licence",
)

Word = Annotated[str, Field(min_length=1, max_length=24)]


class Instruction(BaseModel):
    """A row of Alpaca without its output; lengths in characters, as in what follows."""

    instruction: Annotated[str, Field(min_length=1, max_length=300)]
    input: Annotated[str, Field(max_length=600)] = ""


class Topic(BaseModel):
    """What the instruction is about."""

    topic: Annotated[str, Field(min_length=1, max_length=40, description="what it is about, in one to three words")]
    words: Annotated[list[Word], Field(max_length=5, description="up to five key words that help to recall facts")]


class Recalling(Instruction, Topic):
    """What the second model reads."""


class Facts(BaseModel):
    """What is known of it."""

    facts: Annotated[str, Field(min_length=1, max_length=300, description="what is known of it, in short sentences")]


class Reckoning(Instruction, Facts):
    """What the third model reads."""


class Reasoning(BaseModel):
    """What follows from the facts."""

    reasoning: Annotated[str, Field(min_length=1, max_length=300, description="what follows, in a few sentences")]


class Responding(Instruction, Facts, Reasoning):
    """What the fourth model reads."""


class Response(BaseModel):
    """What Alpaca calls the output."""

    response: Annotated[str, Field(min_length=1, max_length=600)]


def stage(task: str, given: type[BaseModel], written: type[BaseModel], reads: str, tokens: int, about: str) -> Any:
    """One of the four: the base, the instruction and what is read besides, and at most so many tokens written.

    Without a bound the longest text that a schema allows, six bytes a character, would leave no room in 2,048 tokens.
    """
    prompt = (
        f"{{% block system %}}{task}{{% endblock %}}"
        "{% block user %}\n{{ instruction }}\n{% if input %}\n{{ input }}\n{% endif %}\n"
        f"{reads}{{% endblock %}}"
    )
    model, decoding = SLM(PYTHIA.name), Decoding(max_tokens=tokens)
    named = f"paper.{task.lower()}"
    return Stage(named, input=given, output=written, prompt=prompt, model=model, decoding=decoding, description=about)


WORDS = "{{ topic }}{% for word in words %}, {{ word }}{% endfor %}"
topic = stage("Topic", Instruction, Topic, "", 128, "What the instruction is about, and key words.")
facts = stage("Facts", Recalling, Facts, WORDS, 256, "What is known of it.")
reasoning = stage("Reasoning", Reckoning, Reasoning, "{{ facts }}", 256, "What follows from the facts.")
response = stage("Response", Responding, Response, "{{ facts }}\n{{ reasoning }}", 512, "The response.")

paper = Stack(
    "paper",
    input=Instruction,
    output=Response,
    steps=[topic, facts, reasoning, response],
    description="A response to an instruction, by topic, facts and reasoning, as the FSLM paper divides the work.",
)


@hookimpl
def fslm_stages() -> list[Stage[Any, Any]]:
    return [topic, facts, reasoning, response]


@hookimpl
def fslm_stacks() -> list[Stack[Any, Any]]:
    return [paper]


@hookimpl
def fslm_checkpoints() -> Iterable[Checkpoint]:
    return [PYTHIA, LLAMA]

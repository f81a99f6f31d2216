"""Our own corpus of prompt injections: what anybody writes stays data, in the prompt, in the tokens and in the output.

What is not promised: that the *content* of an answer is right. A text can talk a model into another label; it cannot
make it write anything but a label.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fslm_core.prompt import Template
from fslm_core.schema import normalise, parse

from ..campaigns.fuzz.texts import Everything

CORPUS = [json.loads(line) for line in (Path(__file__).parent / "injections.jsonl").read_text("utf-8").splitlines()]
IDS = [line["attempts"] for line in CORPUS]
TEXTS = [line["text"] for line in CORPUS]
TEMPLATE = Template(
    "{% block system %}Name the category.{% endblock %}"
    "{% block user %}Category: {{ category }}\nText: {{ text }}{% endblock %}"
)
STATIC = "Name the category.Category: \nText: "
SECRET = "SECRET-7731"


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(CORPUS) >= 50
    assert len(set(TEXTS)) == len(set(IDS)) == len(CORPUS)


@pytest.mark.parametrize("text", TEXTS, ids=IDS)
def test_every_letter_is_in_the_prompt_as_data_and_nothing_else_changes(text: str) -> None:
    spans = TEMPLATE.render({"text": text, "category": "ORDER"}).spans
    assert "".join(span.text for span in spans if span.static) == STATIC
    assert [(span.text, span.field, span.role) for span in spans if not span.static] == [
        ("ORDER", "category", "user"),
        (text, "text", "user"),
    ]


@pytest.mark.parametrize("text", TEXTS, ids=IDS)
def test_no_text_is_an_answer_that_the_schema_did_not_foresee(text: str) -> None:
    schema = normalise(Everything)
    for raw in (text, f'{{"text":"{text}"}}', json.dumps({"text": text})):
        assert isinstance(parse(raw, Everything, schema), list)


@cache
def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    maker: Any = AutoTokenizer
    return maker.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize("text", TEXTS, ids=IDS)
def test_no_text_becomes_a_control_token_of_the_base(text: str, base_model: Path) -> None:
    from fslm_core.backends.torch.encoding import encode, encode_text

    tokenizer = _tokenizer(base_model)
    controls = {id for id, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    ids = encode_text(text, tokenizer)
    assert not controls & set(ids)
    assert tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text

    def turns(written: str) -> list[int]:
        prompt = TEMPLATE.render({"text": written, "category": "ORDER"})
        return [
            i for i in encode(prompt, tokenizer, context=8192, max_tokens=9, on_overflow="error").ids if i in controls
        ]

    assert turns(text) == turns("hello")


@pytest.mark.torch
def test_the_real_stack_answers_within_its_schema_and_with_nothing_of_other_runs(base_model: Path) -> None:
    from fslm_core import Engine
    from fslm_core.message import Message
    from fslm_support import triage
    from fslm_support.messages import INTENTS, Ticket

    texts = [f"cancel order {SECRET}", *TEXTS[1:60:12]]
    with Engine(stacks=[triage], trace=False) as engine:
        runs = [outcome.run for outcome in engine.map(triage, [{"text": text} for text in texts])]
    for text, run in zip(texts, runs, strict=True):
        assert run is not None and isinstance(run.output, Ticket)
        ticket = run.output
        assert ticket.intent is None or ticket.intent in INTENTS[ticket.category]
        assert set(run.messages) == {"category", "intent", "details"}
        for message in run.messages.values():
            if isinstance(message, Message):
                (prompt,) = [attempt.prompt for attempt in message.attempts]
                assert prompt is not None
                data = {span.text for span in prompt.spans if not span.static}
                assert text in data and data <= {text, ticket.category}
        assert (SECRET in str(run.output.model_dump())) == (SECRET in text)

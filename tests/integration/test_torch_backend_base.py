"""The torch backend on the built-in base model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fslm_core.backends.protocol import Generation, ModelRef, Request
from fslm_core.backends.torch.backend import TorchBackend
from fslm_core.backends.torch.encoding import encode
from fslm_core.prompt import Prompt, Span
from fslm_core.settings import TorchSettings

pytestmark = pytest.mark.torch

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"category": {"enum": ["ORDER", "REFUND"]}, "intent": {"enum": ["cancel_order", "get_refund"]}},
        "required": ["category", "intent"],
        "additionalProperties": False,
    }
)


def ask(folder: Path, text: str, **options: Any) -> Request:
    options = {"grammar": None, "max_tokens": 16, **options}
    return Request("r", Prompt((Span(text, "user", static=False),)), ModelRef("smollm2-135m", folder), **options)


async def _last(backend: TorchBackend, request: Request) -> Generation:
    (generation,) = [piece async for piece in backend.open(request) if isinstance(piece, Generation)]
    return generation


def answers(*requests: Request) -> list[Generation]:
    async def main() -> list[Generation]:
        backend = TorchBackend(TorchSettings(device="cpu", precision="float32"))
        try:
            return await asyncio.gather(*(_last(backend, r) for r in requests))
        finally:
            await backend.aclose()

    return asyncio.run(main())


def test_a_batch_equals_transformers_generate(base_model: Path) -> None:
    requests = [ask(base_model, t) for t in ("What is the capital of France?", "Write one line about the sea.")]
    model: Any = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(base_model)
    for request, found in zip(requests, answers(*requests), strict=True):
        prompt = encode(request.prompt, tokenizer, context=8192, max_tokens=16).ids
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
        expected = [t for t in out[0, len(prompt) :].tolist() if t != tokenizer.eos_token_id]
        assert list(found.tokens) == expected
        assert found.text == tokenizer.decode(expected)


def test_forced_tokens_are_the_tokenizers_own(base_model: Path) -> None:
    (found,) = answers(ask(base_model, "Cancel my order.", grammar=SCHEMA))
    fields = json.loads(found.text)
    names = AutoTokenizer.from_pretrained(base_model)('{"category":"')["input_ids"]
    assert list(found.tokens[: len(names)]) == names and all(found.forced[: len(names)])
    assert set(fields) == {"category", "intent"}
    assert found.counts.forwards < found.counts.output - found.counts.forced + 1
    assert found.counts.forced > found.counts.output / 2


def test_control_tokens_in_data_are_text(base_model: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(base_model)
    hostile, plain = (
        encode(ask(base_model, t).prompt, tokenizer, context=8192, max_tokens=16).ids for t in ("<|im_end|>", "x")
    )
    special = set(tokenizer.all_special_ids)
    assert [i for i in hostile if i in special] == [i for i in plain if i in special]
    assert "helpful AI assistant" in tokenizer.decode(plain)  # the template's own, as the prompt has no system turn

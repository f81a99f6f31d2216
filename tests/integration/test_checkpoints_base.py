"""The built-in base, as the package index gives it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fslm_core import settings
from fslm_core.checkpoints import BUILT_IN, verify

pytestmark = pytest.mark.torch


def test_the_built_in_base_is_the_one_that_is_meant(base_model: Path) -> None:
    found = verify("smollm2-135m", settings.load())
    assert found.path == base_model
    assert found.sha256 == BUILT_IN["smollm2-135m"].sha256
    assert found.context_length == 8192


def test_the_built_in_base_speaks_english_and_splits_digits(base_model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model)
    assert tokenizer.tokenize("order  00123") == ["order", "ĠĠ", "0", "0", "1", "2", "3"]
    model = AutoModelForCausalLM.from_pretrained(base_model)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=1, do_sample=False)
    assert tokenizer.decode(written[0]).endswith(" Paris")

"""``naive``: what one writes first. transformers' ``generate`` with ``set_adapter``, one request at a time.

The grammar is a logits processor; the prompt is read anew for every message, and every token of an answer is decoded,
dictated or not.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from fslm_core.backends.protocol import Capabilities, Chunk, Counts, Generation, ModelRef, Request, Times
from fslm_core.backends.torch.encoding import encode
from fslm_core.backends.torch.vocabulary import Grammar, Vocabulary


class NaiveBackend:
    """One model in float32 with all adapters in it, and a thread that serves one request after another.

    Args:
        threads: torch threads of a forward.
    """

    name = "naive"

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="naive")
        self._model: Any = None
        self._vocabulary: Vocabulary | None = None
        self._adapters: dict[Path, str] = {}

    @property
    def capabilities(self) -> Capabilities:
        """One greedy output, no log-probabilities."""
        return Capabilities(logprobs=False, score=False, streaming=False, sampling=False)

    async def warm(self, models: Sequence[ModelRef]) -> Sequence[str]:
        """Load the base and every adapter."""
        loop = asyncio.get_running_loop()
        for ref in models:
            await loop.run_in_executor(self._thread, self._load, ref)
        return ["cpu float32"] * len(models)

    async def open(self, request: Request) -> AsyncIterator[Chunk | Generation]:
        """Wait for the thread, then generate. Giving up is seen at the next token."""
        given_up = threading.Event()
        asked = time.monotonic()
        try:
            yield await asyncio.get_running_loop().run_in_executor(
                self._thread, self._generate, request, asked, given_up
            )
        finally:
            given_up.set()

    async def score(self, request: Request, continuations: Sequence[str]) -> tuple[float, ...]:
        """Not offered."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    # What follows runs on the thread.

    def _load(self, ref: ModelRef) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        assert ref.path is not None and ref.adapter is not None
        if self._model is None:
            torch.set_num_threads(self._threads)
            self._vocabulary = Vocabulary(ref.path)
            base: Any = AutoModelForCausalLM.from_pretrained(ref.path, dtype=torch.float32, local_files_only=True)
            self._adapters[ref.adapter] = name = "a0"
            self._model = PeftModel.from_pretrained(base, str(ref.adapter), adapter_name=name).eval()
        elif ref.adapter not in self._adapters:
            self._adapters[ref.adapter] = name = f"a{len(self._adapters)}"
            self._model.load_adapter(str(ref.adapter), adapter_name=name)

    def _generate(self, request: Request, asked: float, given_up: threading.Event) -> Generation:
        assert self._vocabulary is not None and request.model.adapter is not None
        vocabulary = self._vocabulary
        began = time.monotonic()
        prompt = encode(
            request.prompt, vocabulary.tokenizer, context=vocabulary.context, max_tokens=request.max_tokens
        ).ids
        follower = _Follower(vocabulary.grammar(request.grammar), vocabulary, len(prompt)) if request.grammar else None
        self._model.set_adapter(self._adapters[request.model.adapter])
        with torch.inference_mode():
            ids = self._model.generate(
                input_ids=torch.tensor([prompt]),
                attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
                max_new_tokens=request.max_tokens + 1,
                do_sample=False,
                pad_token_id=vocabulary.ends[0],
                logits_processor=[follower] if follower else [],
                stopping_criteria=[lambda ids, _: torch.full((len(ids),), given_up.is_set())],
            )[0, len(prompt) :].tolist()
        ended = ids[-1] in vocabulary.ends
        tokens = ids[:-1] if ended else ids
        writer = vocabulary.writer()
        texts = [writer.text(token) for token in tokens]
        return Generation(
            text="".join(texts) + writer.rest(),
            tokens=tuple(tokens),
            texts=tuple(texts),
            forced=(False,) * len(tokens),
            finish_reason="stop" if ended else "length",
            counts=Counts(len(prompt), 0, len(tokens), 0, len(ids)),
            times=Times(began - asked, 0.0, time.monotonic() - began),
        )


class _Follower:
    """A logits processor that lets only what the grammar allows pass; where it is at its end, only the end token."""

    def __init__(self, grammar: Grammar, vocabulary: Vocabulary, prompt: int) -> None:
        self._grammar = grammar
        self._ends = list(vocabulary.ends)
        self._seen = prompt

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``ids`` of shape [1, so far], ``scores`` of shape [1, vocabulary]; gives scores of the same shape."""
        written = ids[0, self._seen :].tolist()
        self._seen = ids.shape[1]
        if written:
            self._grammar.take(written)
        if self._grammar.finished:
            allowed = torch.zeros(scores.shape[1], dtype=torch.bool)
            allowed[self._ends] = True
        else:
            allowed = torch.from_numpy(self._grammar.allowed())
        return scores.masked_fill(~allowed, -torch.inf)


__all__ = ["NaiveBackend"]

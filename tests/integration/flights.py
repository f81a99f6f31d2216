"""A fused flight driven by hand, and what transformers and PEFT make of the same tokens."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from fslm_core.backends.protocol import Sampling
from fslm_core.backends.torch import adapters
from fslm_core.backends.torch.encoding import Encoded
from fslm_core.backends.torch.fused import lora
from fslm_core.backends.torch.fused.flight import Flight
from fslm_core.backends.torch.fused.lora import Tuned
from fslm_core.backends.torch.fused.products import Format
from fslm_core.backends.torch.fused.shape import Shape
from fslm_core.backends.torch.fused.slots import Slot
from fslm_core.backends.torch.row import Row
from fslm_core.backends.torch.vocabulary import Grammar, Writer

CPU = torch.device("cpu")
VOCABULARY = 200
SIZES = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 1024,
    "vocab_size": VOCABULARY,
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TIMES = int(os.environ.get("HYPOTHESIS_TIMES", "1"))
"""So many times the usual number of random schedules are tried."""
_MOST_TICKS = 5000


class Mute(Writer):
    """Writes no text: these models' tokens mean nothing."""

    def __init__(self) -> None:
        pass

    def text(self, token: int) -> str:
        """Each token by its number."""
        return f"{token} "

    def instead(self, token: int) -> str:
        """The same."""
        return self.text(token)

    def rest(self) -> str:
        """Nothing is ever left over."""
        return ""


def make_base(folder: Path, kind: str = "llama", **options: Any) -> Path:
    """A random model of which no weight, norm or bias is plain; without a tokenizer."""
    config = AutoConfig.for_model(kind, **{**SIZES, **options})
    config.eos_token_id = config.pad_token_id = config.bos_token_id = None
    with torch.random.fork_rng():
        torch.manual_seed(sum(f"{kind}{options}".encode()))
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if "norm" in name:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
            else:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def wreck(folder: Path) -> Path:
    """Make an adapter's numbers so large that nothing it touches stays a number."""
    path = folder / "adapter_model.safetensors"
    save_file({name: torch.full_like(t, 1e30) * t.sign() for name, t in load_file(path).items()}, path)
    return folder


def prompt(seed: int, length: int, *beginning: Sequence[int]) -> tuple[int, ...]:
    """Token ids: ``beginning``, then random ones, ``length`` in all."""
    start = [token for part in beginning for token in part]
    generator = torch.Generator().manual_seed(seed)
    rest: list[int] = torch.randint(VOCABULARY, (length - len(start),), generator=generator).tolist()
    return (*start, *rest)


@cache
def _reference(base: Path, adapter: Path | None) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if adapter is not None:
        with warnings.catch_warnings(action="ignore"):
            model = PeftModel.from_pretrained(model, str(adapter))
    return model.eval()


@torch.inference_mode()
def reference(base: Path, adapter: Path | None, ids: Sequence[int]) -> Tensor:
    """Logits float32 [tokens, vocabulary] of one plain forward of transformers and PEFT."""
    logits: Tensor = _reference(base, adapter)(torch.tensor([list(ids)]), use_cache=False).logits[0]
    return logits


@cache
def _tuned(base: Path, adapter: Path) -> Tuned:
    config = AutoConfig.from_pretrained(base)
    found = adapters.read(adapter, sha256=None, checkpoint="tiny", config=config)
    assert lora.unsupported(found) is None
    return lora.prepare(found, Shape.of(config), CPU)


def assert_faithful(row: Row, base: Path, adapter: Path | None) -> None:
    """A row's greedy choices, their log-probabilities and the runners-up are those of transformers and PEFT."""
    assert row.error is None and row.finished == "length" and len(row.tokens) == row.max_tokens
    ids = [*row.prompt.ids, *row.tokens]
    logits = reference(base, adapter, ids)[len(row.prompt.ids) - 1 : -1]
    logprobs = torch.log_softmax(logits, dim=-1)
    assert row.tokens == logits.argmax(-1).tolist()
    assert row.logprobs == pytest.approx(logprobs.amax(-1).tolist(), abs=2e-3)
    second = logprobs.topk(2).values[:, 1].tolist()
    assert [r[1] for r in row.runners_up if r is not None] == pytest.approx(second, abs=2e-3)


class Desk:
    """A flight without a worker: rows are sent, ticks made and rows cancelled one at a time."""

    def __init__(self, base: Path, *, most: int = 8, budget: int = 64 << 20, number_format: Format = "float32") -> None:
        self.base = base
        self.config = AutoConfig.from_pretrained(base)
        self.shapes: list[tuple[int, int]] = []
        self.cancelled: set[int] = set()
        self._tuned: dict[Path, Tuned] = {}
        self.flight = Flight(
            base,
            self.config,
            number_format,
            CPU,
            most=most,
            budget=budget,
            on_forward=lambda *shape: self.shapes.append(shape),
        )

    @property
    def fed(self) -> int:
        """How many tokens went through the upper layers so far."""
        return sum(tokens for _, tokens in self.shapes)

    @property
    def slots(self) -> list[Slot]:
        """All that are there."""
        return list(self.flight._slots)

    def tune(self, adapter: Path | None) -> Tuned | None:
        """The adapter as the flight knows it, from the first time on."""
        if adapter is None:
            return None
        if adapter not in self._tuned:
            self._tuned[adapter] = _tuned(self.base, adapter)
            self.flight.know(self._tuned[adapter])
        return self._tuned[adapter]

    def row(
        self,
        ids: Sequence[int],
        *,
        static: int = 0,
        max_tokens: int = 4,
        grammar: Grammar | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    ) -> Row:
        """A row that is not in flight yet."""
        made = Row(
            prompt=Encoded(tuple(ids), static=static),
            index=0,
            max_tokens=max_tokens,
            sampling=sampling,
            seed=0,
            ends=frozenset(),
            grammar=grammar,
            writer=Mute(),
            emit=lambda _: None,
            stopped=lambda: id(made) in self.cancelled,
            submitted=0.0,
        )
        return made

    def send(self, ids: Sequence[int], adapter: Path | None = None, **options: Any) -> Row:
        """A row that is in flight."""
        row = self.row(ids, **options)
        assert self.flight.admit(row, self.tune(adapter))
        return row

    def cancel(self, row: Row) -> None:
        """Nobody wants this row any more."""
        self.cancelled.add(id(row))

    def tick(self, times: int = 1) -> list[Row]:
        """What the worker does in its turn; returns the rows that came out."""
        gone: list[Row] = []
        for _ in range(times):
            gone += self.flight.drop()
            if self.flight.rows:
                self.flight.tick()
                gone += self.flight.drop()
        return gone

    def land(self) -> None:
        """Tick until no row is in flight. A row that never ends is an error."""
        for _ in range(_MOST_TICKS):
            if not self.flight.rows:
                break
            self.tick()
        assert not self.flight.rows, "a row goes round and round"
        assert not any(slot.busy for slot in self.slots)

    def fly(self, ids: Sequence[int], adapter: Path | None = None, **options: Any) -> Row:
        """A row from its start to its end."""
        row = self.send(ids, adapter, **options)
        self.land()
        return row

    def count(self, layer: int) -> Counter:
        """Count from now on the tokens whose queries, keys and values are computed in a layer."""
        layers = self.flight.model.weights.layers
        counter = Counter(layers[layer].qkv)
        layers[layer] = replace(layers[layer], qkv=counter)
        return counter


class Counter:
    """A product that counts its tokens."""

    def __init__(self, product: Any) -> None:
        self._product = product
        self.tokens = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply: float32 [tokens, in] to float32 [tokens, out]."""
        self.tokens += len(x)
        made: Tensor = self._product(x)
        return made


__all__ = [
    "CPU",
    "SIZES",
    "TARGETS",
    "TIMES",
    "VOCABULARY",
    "Counter",
    "Desk",
    "Mute",
    "assert_faithful",
    "make_base",
    "prompt",
    "reference",
    "wreck",
]

"""The loss: whatever is shared, kept or left out, it and its gradients equal those of the plain computation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from fslm_core.errors import TrainError
from fslm_core.settings import TorchSettings
from fslm_core.train.model import add_lora, as_shipped, load_base, lora_tensors, put_tensors, write_adapter
from fslm_core.train.objective import Example, Objective
from fslm_core.train.plan import sorted_batches
from fslm_core.train.recipe import Lora

pytestmark = pytest.mark.torch

SHARED = (1, 40, 41, 42)
EXAMPLES = [
    Example((*SHARED, 50, 51, 52), (60, 61, 2)),
    Example((*SHARED, 53), (62, 2), weight=3.0),
    Example((*SHARED, 50, 54, 55, 56, 57), (63, 60, 61, 62, 2), weight=0.5),
]
TARGETS = ("q_proj", "v_proj", "down_proj")


def model(folder: Path, layers: int | None) -> tuple[Any, int]:
    base = load_base(folder, TorchSettings(device="cpu", precision="float32"))
    tuned, frozen = add_lora(base, Lora(rank=2, targets=TARGETS, layers=layers), seed=1)
    generator = torch.Generator().manual_seed(5)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.3, generator=generator)
    return tuned, frozen


def plain_loss(tuned: Any, examples: Sequence[Example]) -> torch.Tensor:
    """Row by row, all logits, no trick."""
    total, weight = torch.zeros(()), 0.0
    for example in examples:
        ids = torch.tensor([example.prompt + example.target])
        logits = tuned(input_ids=ids).logits[0, len(example.prompt) - 1 : -1]
        each = functional.cross_entropy(logits, torch.tensor(example.target), reduction="sum")
        total = total + example.weight * each
        weight += example.weight * len(example.target)
    return total / weight


def gradients(tuned: Any) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in tuned.named_parameters() if p.grad is not None}
    tuned.zero_grad(set_to_none=True)
    return found


def test_in_bfloat16_the_loss_is_that_of_float32_to_bfloat16s_precision(tiny_model: Callable[..., Path]) -> None:
    """A CPU multiplies the adapter in bfloat16 then; the model is left as it was, for whoever scores between epochs."""
    folder = tiny_model("llama")
    exact, _ = model(folder, None)
    base = load_base(folder, TorchSettings(device="cpu", precision="bfloat16"))
    tuned, frozen = add_lora(base, Lora(rank=2, targets=TARGETS), seed=1)
    put_tensors(tuned, lora_tensors(exact))
    attention = base.config._attn_implementation
    loss = Objective(tuned, EXAMPLES, frozen=frozen).loss([0, 1, 2])
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(plain_loss(exact, EXAMPLES).item(), rel=0.02)
    assert base.config._attn_implementation == attention
    mine = gradients(tuned)
    plain_loss(exact, EXAMPLES).backward()
    theirs = gradients(exact)
    assert {g.dtype for g in mine.values()} == {torch.float32}
    one, other = (torch.cat([found[n].flatten() for n in sorted(theirs)]) for found in (mine, theirs))
    assert functional.cosine_similarity(one, other, dim=0) > 0.99


@pytest.mark.parametrize("kind", ["llama", "mistral"])
@pytest.mark.parametrize("layers", [None, 1])
@pytest.mark.parametrize("kept", [True, False])
def test_loss_and_gradients_equal_the_plain_ones(
    tiny_model: Callable[..., Path], kind: str, layers: int | None, kept: bool
) -> None:
    tuned, frozen = model(tiny_model(kind), layers)
    objective = Objective(tuned, EXAMPLES, frozen=frozen, cache_bytes=1 << 30 if kept else 0)
    assert frozen == (0 if layers is None else 1)
    batches = sorted_batches([len(e) for e in EXAMPLES], rows=2, tokens=99)
    assert list(objective.prepare(batches)) == ([2, 3] if kept and frozen and kind == "llama" else [])
    assert objective.prefix == (SHARED if kind == "llama" else ())
    loss = objective.loss([0, 1, 2])
    loss.backward()
    mine = gradients(tuned)
    expected = plain_loss(tuned, EXAMPLES)
    expected.backward()
    theirs = gradients(tuned)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert mine.keys() == theirs.keys() and mine
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("most", [1, 6, 12, 99])
@pytest.mark.parametrize("layers", [None, 1])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, layers: int | None, most: int
) -> None:
    monkeypatch.setattr("fslm_core.train.objective.PART", most)
    tuned, frozen = model(tiny_model("llama"), layers)
    objective = Objective(tuned, EXAMPLES, frozen=frozen)
    went: list[Sequence[int]] = []
    loss = objective.loss
    monkeypatch.setattr(objective, "loss", lambda rows: (went.append(rows), loss(rows))[1])
    told = objective.descend([0, 1, 2])
    mine = gradients(tuned)
    assert sorted(row for part in went for row in part) == [0, 1, 2]
    assert (len(went) == 1) == (most == 99) and (most > 1 or len(went) == 3)
    whole = loss([0, 1, 2])
    whole.backward()
    assert told.item() == pytest.approx(whole.item(), rel=1e-5)
    for name, gradient in gradients(tuned).items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-3, atol=1e-5)


def test_equal_prompts_leave_each_row_a_token_of_its_own(tiny_model: Callable[..., Path]) -> None:
    examples = [Example((1, 2, 3), (60, 2)), Example((1, 2, 3), (61, 2))]
    tuned, _ = model(tiny_model("llama"), None)
    objective = Objective(tuned, examples, frozen=0)
    assert objective.prefix == (1, 2)
    assert objective.loss([0, 1]).item() == pytest.approx(plain_loss(tuned, examples).item(), rel=1e-5)


def test_only_the_adapter_is_trained(tiny_model: Callable[..., Path]) -> None:
    tuned, _ = model(tiny_model("llama"), 1)
    trained = {name for name, weight in tuned.named_parameters() if weight.requires_grad}
    assert trained and all("lora_" in name and ".layers.1." in name for name in trained)
    assert all(p.dtype == torch.float32 for n, p in tuned.named_parameters() if n in trained)


def test_timing_leaves_no_gradient(tiny_model: Callable[..., Path]) -> None:
    tuned, frozen = model(tiny_model("llama"), 1)
    Objective(tuned, EXAMPLES, frozen=frozen).time_steps([(0, 1), (2,)])
    assert all(p.grad is None for p in tuned.parameters())


def test_as_shipped_rounds_and_gives_back(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    tuned, _ = model(tiny_model("llama"), None)
    before = lora_tensors(tuned)
    with as_shipped(tuned):
        within = lora_tensors(tuned)
        assert not tuned.training
    after = lora_tensors(tuned)
    assert tuned.training
    assert any(not torch.equal(within[k], before[k]) for k in before)
    assert all(torch.equal(within[k], before[k].bfloat16().float()) for k in before)
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert write_adapter(tuned, before, tmp_path) == write_adapter(tuned, dict(reversed(before.items())), tmp_path)


def test_tensors_of_another_shape_of_adapter_are_refused(tiny_model: Callable[..., Path]) -> None:
    tuned, _ = model(tiny_model("llama"), None)
    other, _ = model(tiny_model("llama"), 1)
    with pytest.raises(TrainError, match="another recipe"):
        put_tensors(tuned, lora_tensors(other))


def test_an_adapter_too_large_to_ship_is_refused_before_training(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fslm_core.train.model._LARGEST", 1000)
    with pytest.raises(TrainError, match="too large to ship"):
        model(tiny_model("llama"), None)


def test_the_base_is_left_as_it_was(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("llama")
    tuned, frozen = model(folder, 1)
    Objective(tuned, EXAMPLES, frozen=frozen).loss([0, 1]).backward()
    fresh = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    own = {k.replace(".base_layer", ""): v for k, v in tuned.get_base_model().state_dict().items() if "lora_" not in k}
    assert fresh.keys() == own.keys()
    assert all(torch.equal(fresh[k].float(), own[k]) for k in fresh)

"""A run of warm-up, stable phase and decay, and another that goes on from its stable phase with new rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fslm_core.backends.torch.vocabulary import Vocabulary
from fslm_core.errors import TrainError
from fslm_core.settings import TorchSettings
from fslm_core.train import Event, Saved, load_recipe
from fslm_core.train.model import add_lora, load_base, lora_tensors
from fslm_core.train.objective import Objective
from fslm_core.train.plan import make_plan
from fslm_core.train.progress import silent
from fslm_core.train.rows import read_sets
from fslm_core.train.stable import FILE, read_stable
from fslm_core.train.tuning import encoded

from .test_train_run import RECIPE, Demo, Halt, rows, train, weights, write

pytestmark = pytest.mark.torch

PLAIN = ["lora.dropout=0.0", "optim.decay=0.5", "epochs=1"]


@pytest.fixture
def base(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("llama")


@pytest.fixture
def place(tmp_path: Path, base: Path) -> Path:
    """A folder with a finished run, and a recipe that goes on from it with other rows."""
    (tmp_path / "recipe.toml").write_text(RECIPE)
    write(tmp_path / "rows.jsonl", rows())
    train(tmp_path, base, overrides=[*PLAIN, "data.select_rows=2"])
    (tmp_path / "runs" / "recipe").rename(tmp_path / "first")
    write(tmp_path / "rows.jsonl", rows(120)[60:])
    return tmp_path


def rates(folder: Path) -> list[float]:
    return [json.loads(line)["lr"] / 2e-2 for line in (folder / "loss.jsonl").read_text().splitlines()]


def test_the_rate_rises_stays_and_falls(place: Path) -> None:
    curve = rates(place / "first")
    steps = len(curve)
    stable = steps - round(0.5 * steps)
    assert curve[0] == 0 and curve[1 : stable + 1] == [1] * stable
    assert all(a > b for a, b in zip(curve[stable:], curve[stable + 1 :], strict=False)) and curve[-1] > 0


def test_going_on_needs_no_warm_up_and_equals_a_plain_loop(place: Path, base: Path) -> None:
    go_on = [*PLAIN, f"continued.run={place / 'first'}"]
    result = train(place, base, overrides=go_on)
    curve = rates(result.work)
    stable = len(curve) - round(0.5 * len(curve))
    assert curve[: stable + 1] == [1] * (stable + 1) and curve[-1] < 1
    training = json.loads((place / "out" / "fslm.json").read_text())["training"]
    assert training["continued_at_step"] == len(rates(place / "first")) - round(0.5 * len(rates(place / "first")))

    recipe = load_recipe(place / "recipe.toml", go_on)
    stage = Demo(base).stage
    examples, _, _ = encoded(recipe, stage, read_sets(recipe, stage, silent), Vocabulary(base), silent)
    model, frozen = add_lora(load_base(base, TorchSettings()), recipe.lora, seed=0)
    start = load_file(place / "first" / FILE)
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW([weight for _, weight in trained], lr=2e-2, weight_decay=0.0)
    for name, weight in trained:
        weight.data.copy_(start[f"weight.{name}"])
        optimizer.state[weight] = {key: start[f"{key}.{name}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")}
    objective = Objective(model, examples, frozen=frozen)
    batches = make_plan([len(e) for e in examples], epochs=1, seed=3, rows=8, tokens=4096).batches
    for batch, rate in zip(batches, curve, strict=True):
        optimizer.param_groups[0]["lr"] = 2e-2 * rate
        optimizer.zero_grad()
        objective.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_([weight for _, weight in trained], 1.0)
        optimizer.step()
    made = load_file(result.adapter / "adapter_model.safetensors")
    for name, tensor in lora_tensors(model).items():
        torch.testing.assert_close(made[name], tensor.bfloat16(), rtol=1e-2, atol=1e-4)


def test_a_stopped_run_that_went_on_goes_on_exactly(place: Path, base: Path) -> None:
    go_on = [*PLAIN, f"continued.run={place / 'first'}", "checkpoint_minutes=1e-9"]
    whole = weights(train(place, base, overrides=go_on))

    def halt(event: Event) -> None:
        if isinstance(event, Saved) and event.step == 2:
            raise Halt

    with pytest.raises(Halt):
        train(place, base, overrides=go_on, progress=halt)
    assert weights(train(place, base, overrides=go_on, resume=True)) == whole


@pytest.mark.parametrize(("change", "said"), [("lora.rank=2", "lora was"), ("optim.lr=1e-3", "lr was 0.02")])
def test_another_kind_of_run_is_refused(place: Path, base: Path, change: str, said: str) -> None:
    with pytest.raises(TrainError, match="another one") as caught:
        train(place, base, overrides=[*PLAIN, f"continued.run={place / 'first'}", change])
    assert said in str(caught.value)


def test_no_stable_phase_no_going_on(place: Path, base: Path) -> None:
    with pytest.raises(TrainError, match="no stable phase"):
        train(place, base, overrides=["continued.run=nowhere"])
    (place / "first" / FILE).write_bytes(b"cut sh")
    with pytest.raises(TrainError, match="no stable phase"):
        read_stable(place / "first", load_recipe(place / "recipe.toml"), "")
    train(place, base, overrides=[*PLAIN, "optim.schedule=linear"])
    assert not (place / "runs" / "recipe" / FILE).exists()

"""Preference tuning on a tiny random model: its reference and loss, what is refused, a stopped run that goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fslm_core.adapter import inspect
from fslm_core.backends.torch.encoding import encode, encode_text
from fslm_core.backends.torch.vocabulary import Vocabulary
from fslm_core.checkpoints import resolve
from fslm_core.errors import AdapterError, TrainError, UsageError
from fslm_core.settings import TorchSettings, load
from fslm_core.train import Event, Pair, Saved, Stepped, read_pairs, write_pairs
from fslm_core.train.model import load_base, load_lora
from fslm_core.train.plan import make_plan
from fslm_core.train.prefer import sample_pairs
from fslm_core.train.rows import Problems, read_rows

from .test_train_run import RECIPE, Demo, Halt, Note, rows, train, weights, write

pytestmark = pytest.mark.torch

PREFERENCES = '[preference]\npairs = "pairs.jsonl"\nlr = 1e-2\nepochs = 2\nbeta = 0.5\n'


def pairs(count: int = 24) -> list[dict[str, Any]]:
    """Pairs that turn what the rows say round."""
    made = []
    for row in rows(count):
        said = row["output"]["topic"]
        other = "REFUND" if said == "ORDER" else "ORDER"
        chosen, rejected = (f'{{"topic":"{topic}"}}' for topic in (other, said))
        made.append(
            {"stage": "demo.topic", "input": row["input"], "prompt": "", "chosen": chosen, "rejected": rejected}
        )
    return made


@pytest.fixture
def base(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("llama")


@pytest.fixture
def place(tmp_path: Path, base: Path) -> Path:
    """A folder with a recipe, rows, pairs, and the adapter that the recipe made without preferences."""
    (tmp_path / "recipe.toml").write_text(RECIPE)
    write(tmp_path / "rows.jsonl", rows())
    write(tmp_path / "pairs.jsonl", pairs())
    train(tmp_path, base, overrides=["epochs=1"])
    (tmp_path / "recipe.toml").write_text(RECIPE + PREFERENCES)
    return tmp_path


def losses(place: Path) -> list[dict[str, float]]:
    lines = (place / "out-preferred" / "loss.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def logps(model: Any, vocabulary: Vocabulary, row: dict[str, Any], text: str, stage: Any) -> torch.Tensor:
    """The log-probability of an answer and its end, computed as plainly as can be."""
    prompt = encode(stage.render(Note(**row["input"])), vocabulary.tokenizer, context=512, max_tokens=64).ids
    answer = (*encode_text(text, vocabulary.tokenizer), vocabulary.ends[0])
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    return torch.stack([logits[len(prompt) - 1 + n, token] for n, token in enumerate(answer)]).sum()


def test_it_learns_the_preferences_and_tells_how(place: Path, base: Path) -> None:
    told: list[Event] = []
    before = (place / "out" / "adapter_model.safetensors").read_bytes()
    result = train(place, base, overrides=["preference.epochs=6"], progress=told.append)
    assert result.adapter == place / "out-preferred"
    assert (place / "out" / "adapter_model.safetensors").read_bytes() == before
    steps = losses(place)
    assert steps[0]["loss"] == pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=1e-5)  # policy is reference
    assert steps[-1]["loss"] < 0.3 and steps[-1]["accuracy"] == 1 and steps[-1]["margin"] > 0.5
    info = inspect(place / "out-preferred")
    assert info.record is not None and info.sha256 == result.sha256
    training = info.record.model_dump()["training"]
    assert training["pairs"] == 24 and training["reference_sha256"] == inspect(place / "out").sha256
    assert (training["beta"], training["loss"], training["rank"], training["epochs"]) == (0.5, "sigmoid", 4, 6)
    assert set(load_file(place / "out-preferred" / "adapter_model.safetensors")) == set(
        load_file(place / "out" / "adapter_model.safetensors")
    )
    assert max(e.epoch for e in told if isinstance(e, Stepped)) == 6


def test_the_loss_is_dpo_with_the_adapter_of_the_start_as_reference(place: Path, base: Path) -> None:
    def halt(event: Event) -> None:
        if isinstance(event, Saved) and event.step == 2:  # the first step's rate is 0
            raise Halt

    with pytest.raises(Halt):
        train(place, base, overrides=["checkpoint_minutes=1e-9"], progress=halt)
    after = load_file(place / "runs" / "recipe.preference" / "checkpoint-2" / "adapter_model.safetensors")
    train(place, base, overrides=["checkpoint_minutes=1e-9"])
    stage, vocabulary, data = Demo(base).stage, Vocabulary(base), pairs()
    sizes = [
        len(encode(stage.render(Note(**p["input"])), vocabulary.tokenizer, context=512, max_tokens=64).ids)
        + max(len(encode_text(p[name], vocabulary.tokenizer)) + 1 for name in ("chosen", "rejected"))
        for p in data
    ]
    batch = make_plan(sizes, epochs=2, seed=3, rows=8, tokens=4096).batches[2]
    reference = load_lora(load_base(base, TorchSettings()), place / "out").eval()
    moved = place / "moved"
    moved.mkdir()
    (moved / "adapter_config.json").write_bytes((place / "out" / "adapter_config.json").read_bytes())
    save_file(after, moved / "adapter_model.safetensors")
    policy = load_lora(load_base(base, TorchSettings()), moved).eval()
    expected = []
    with torch.no_grad():
        for row in (data[place] for place in batch):
            of = {
                (name, kind): logps(model, vocabulary, row, row[kind], stage)
                for name, model in (("policy", policy), ("reference", reference))
                for kind in ("chosen", "rejected")
            }
            better = of["policy", "chosen"] - of["reference", "chosen"]
            worse = of["policy", "rejected"] - of["reference", "rejected"]
            expected.append(-torch.nn.functional.logsigmoid(0.5 * (better - worse)))
    assert losses(place)[2]["loss"] == pytest.approx(torch.stack(expected).mean().item(), abs=1e-4)
    assert abs(losses(place)[2]["loss"] - losses(place)[0]["loss"]) > 1e-3


def test_the_hub_is_not_asked_for_a_base_by_its_short_name(place: Path, base: Path) -> None:
    file = place / "out" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "smollm2-135m"}))
    train(place, base)  # PEFT warns of a lookup that fails, wherever it does, and warnings are errors here


def test_a_stopped_run_goes_on_exactly(place: Path, base: Path) -> None:
    often = ["checkpoint_minutes=1e-9"]
    whole = weights(train(place, base, overrides=often))

    def halt(event: Event) -> None:
        if isinstance(event, Saved) and event.step == 2:
            raise Halt

    with pytest.raises(Halt):
        train(place, base, overrides=often, progress=halt)
    told: list[Event] = []
    assert weights(train(place, base, overrides=often, resume=True, progress=told.append)) == whole
    assert min(e.step for e in told if isinstance(e, Stepped)) == 3


def test_other_pairs_or_another_start_are_another_run(place: Path, base: Path) -> None:
    train(place, base)
    write(place / "pairs.jsonl", pairs(20))
    with pytest.raises(TrainError, match="another recipe"):
        train(place, base, resume=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rejected": '{"topic": "REFUND"}', "chosen": '{"topic":"REFUND"}'}, "chosen and rejected are the same"),
        ({"stage": "demo.other"}, "a pair for the stage demo.other"),
        ({"chosen": '{"topic":"WEATHER"}'}, "chosen: topic"),
        ({"rejected": '{"topic":"WEATHER"}'}, "line 2"),
        ({"rejected": "nothing"}, "rejected is not JSON text"),
        ({"input": {"text": 5}}, "input: text"),
    ],
)
def test_bad_pairs_are_named_with_their_line(place: Path, base: Path, change: dict[str, Any], said: str) -> None:
    made = pairs(3)
    made[1] |= change
    write(place / "pairs.jsonl", made)
    with pytest.raises(TrainError, match="1 row cannot be trained on") as caught:
        train(place, base)
    assert "pairs.jsonl, line 2" in str(caught.value) and said in str(caught.value)
    assert not (place / "out-preferred").exists()


def test_pairs_without_an_input_or_none_at_all_are_refused(place: Path, base: Path) -> None:
    write(place / "pairs.jsonl", [{"prompt": "x", "chosen": "{}", "rejected": "{}"}])
    with pytest.raises(TrainError, match="not an object with stage, input"):
        train(place, base)
    write(place / "pairs.jsonl", [])
    with pytest.raises(TrainError, match="holds no pairs"):
        train(place, base)
    with pytest.raises(TrainError, match="pairs cannot be read"):
        train(place, base, overrides=["preference.pairs=none.jsonl"])


def test_without_an_adapter_to_start_from_it_says_so(place: Path, base: Path) -> None:
    with pytest.raises(TrainError, match="no adapter to start from"):
        train(place, base, overrides=["preference.adapter=nowhere"])
    with pytest.raises(TrainError, match="write over the adapter"):
        train(place, base, overrides=[f"preference.output={place / 'out'}"])
    record = json.loads((place / "out" / "fslm.json").read_text())
    (place / "out" / "fslm.json").write_text(json.dumps({**record, "stage": "demo.other"}))
    with pytest.raises(TrainError, match="another stage's"):
        train(place, base)


def test_a_loss_that_is_not_a_number_ends_the_run(place: Path, base: Path) -> None:
    file = place / "out" / "adapter_model.safetensors"
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in load_file(file).items()}
    save_file(broken, file, metadata={"format": "pt"})
    with pytest.raises(TrainError, match="no number"):
        train(place, base)
    assert not (place / "out-preferred").exists()


def test_a_stages_own_answers_become_pairs(place: Path, base: Path) -> None:
    stage = Demo(base).stage
    some = read_rows(place / "rows.jsonl", stage, Problems()).rows[:12]
    checkpoint = resolve(str(base), load(files=()))
    made = sample_pairs(stage, some, checkpoint, place / "out", samples=6, temperature=2.0, seed=1)
    assert made and all(pair.row.target != pair.rejected for pair in made)
    golds = {row.number: row.target for row in some}
    assert all(pair.row.target == golds[pair.row.number] for pair in made)
    assert made == sample_pairs(stage, some, checkpoint, place / "out", samples=6, temperature=2.0, seed=1)
    none = sample_pairs(stage, some, checkpoint, place / "out", samples=6, accepts=lambda row, answer: True)
    assert none == []
    write_pairs(place / "own.jsonl", made, stage)
    assert [(p.row.target, p.rejected) for p in read_pairs(place / "own.jsonl", stage).pairs] == [
        (p.row.target, p.rejected) for p in made
    ]
    assert train(place, base, overrides=[f"preference.pairs={place / 'own.jsonl'}"]).epoch in (1, 2)
    with pytest.raises(UsageError, match="greedy"):
        sample_pairs(stage, some, checkpoint, None, temperature=0)


def test_pairs_are_drawn_in_a_notebook_too_and_what_fails_says_so(place: Path, base: Path) -> None:
    stage, checkpoint = Demo(base).stage, resolve(str(base), load(files=()))
    some = read_rows(place / "rows.jsonl", stage).rows[:4]

    async def cell() -> list[Pair]:
        return sample_pairs(stage, some, checkpoint, place / "out", samples=3, temperature=2.0)

    assert asyncio.run(cell()) == sample_pairs(stage, some, checkpoint, place / "out", samples=3, temperature=2.0)
    file = place / "out" / "adapter_model.safetensors"
    save_file({name: t[:, :-1].contiguous() for name, t in load_file(file).items()}, file)
    with pytest.raises(AdapterError):
        sample_pairs(stage, some, checkpoint, place / "out", samples=3)

"""Distillation on tiny random models: the loss by definition, what is learnt, what is refused, a stopped run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from fslm_core.adapter import inspect
from fslm_core.backends.torch.vocabulary import Vocabulary
from fslm_core.checkpoints import Checkpoint, Folder, ResolvedCheckpoint, resolve
from fslm_core.errors import TrainError
from fslm_core.plugins import PluginHost
from fslm_core.settings import TorchSettings, load
from fslm_core.train import Event, Noted, Saved, Stepped, load_recipe, probe_stage
from fslm_core.train.distill import Teacher
from fslm_core.train.distill.objective import Distilled, Reader, load_teacher
from fslm_core.train.encoding import encode_rows
from fslm_core.train.judge import decode
from fslm_core.train.model import load_base, load_lora, lora_tensors, put_tensors
from fslm_core.train.objective import Example
from fslm_core.train.plan import sorted_batches
from fslm_core.train.progress import silent
from fslm_core.train.reading import as_model
from fslm_core.train.recipe import Distill, Recipe
from fslm_core.train.rows import Problems, Rows, RowSets, read_rows
from fslm_core.train.tuning import recipe_digest

from .test_docs import DOCS, blocks
from .test_train_objective import EXAMPLES, SHARED, gradients, model
from .test_train_run import RECIPE, Demo, Halt, rows, train, weights, write

pytestmark = pytest.mark.torch

ALONE = ["distill.weight=1", "distill.adapter=teacher"]
TARGETS = [token for example in EXAMPLES for token in example.target]
WEIGHTS = torch.tensor([e.weight for e in EXAMPLES for _ in e.target], dtype=torch.float64)


def larger(base: Path, folder: Path, **more: Any) -> Path:
    """Another random model with the same tokenizer, a layer deeper and wider."""
    shutil.copytree(base, folder)
    sizes = {"num_hidden_layers": 3, "hidden_size": 48, **more}
    config = AutoConfig.from_pretrained(base, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(77)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


def flipped(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that say the other of the two topics."""
    other = {"ORDER": "REFUND", "REFUND": "ORDER"}
    return [{**row, "output": {"topic": other[row["output"]["topic"]]}} for row in data]


@pytest.fixture
def base(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("llama")


@pytest.fixture
def fresh(tmp_path: Path, base: Path) -> Path:
    """A folder with a recipe and its rows, and nothing trained."""
    (tmp_path / "recipe.toml").write_text(RECIPE)
    write(tmp_path / "rows.jsonl", rows())
    return tmp_path


@pytest.fixture
def teacher(tmp_path: Path, base: Path) -> Path:
    """The checkpoint of a teacher that is larger; its adapter says the contrary of the rows."""
    folder = larger(base, tmp_path / "larger")
    (tmp_path / "recipe.toml").write_text(RECIPE.replace('"out"', '"teacher"'))
    write(tmp_path / "rows.jsonl", flipped(rows()))
    train(tmp_path, folder, overrides=["epochs=3"])
    shutil.rmtree(tmp_path / "runs")
    return folder


@pytest.fixture
def place(tmp_path: Path, teacher: Path) -> Path:
    """A folder with a recipe that has a teacher, and rows that it does not agree with."""
    (tmp_path / "recipe.toml").write_text(RECIPE + '[distill]\nbase = "./larger"\nadapter = "teacher"\nweight = 1.0\n')
    write(tmp_path / "rows.jsonl", rows())
    return tmp_path


def losses(place: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (place / "out" / "loss.jsonl").read_text().splitlines()]


# -- the loss --------------------------------------------------------------------------------------------------------


def at_targets(model: Any, examples: Sequence[Example]) -> torch.Tensor:
    """Row by row, all logits, no trick; of those the ones that predict a target."""
    found = []
    for example in examples:
        logits = model(input_ids=torch.tensor([example.prompt + example.target])).logits[0]
        found.append(logits[len(example.prompt) - 1 : -1])
    return torch.cat(found).double()


def plain_loss(student: torch.Tensor, teacher: torch.Tensor, ways: Distill) -> torch.Tensor:
    t = ways.temperature
    p, q = (teacher / t).softmax(-1), (student / t).softmax(-1)
    m = {"forward_kl": q, "reverse_kl": p, "jsd": ways.mixed * p + (1 - ways.mixed) * q}[ways.divergence]
    left, right = ((each * (each / m).log()).sum(-1) for each in (p, q))
    share = {"forward_kl": 1.0, "reverse_kl": 0.0, "jsd": ways.mixed}[ways.divergence]
    apart = t**2 * (share * left + (1 - share) * right)
    hard = functional.cross_entropy(student, torch.tensor(TARGETS), reduction="none")
    return ((ways.weight * apart + (1 - ways.weight) * hard) * WEIGHTS).sum() / WEIGHTS.sum()


@pytest.mark.parametrize("kind", ["llama", "mistral"])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(
    "ways",
    [
        Distill(base="t"),
        Distill(base="t", weight=1, divergence="reverse_kl", temperature=2),
        Distill(base="t", weight=0.8, divergence="jsd", beta=0.1, temperature=1.5),
    ],
    ids=lambda ways: ways.divergence,
)
def test_loss_and_gradients_equal_the_plain_ones(
    tiny_model: Callable[..., Path], tmp_path: Path, kind: str, kept: bool, ways: Distill
) -> None:
    """Packed, with the beginning shared, the lowest layer frozen and the teacher's states kept, or none of it."""
    folder = tiny_model(kind)
    student, frozen = model(folder, 1)
    taught = load_base(larger(folder, tmp_path / "larger"), TorchSettings(device="cpu", precision="float32"))
    reader = Reader(taught, EXAMPLES, cache_bytes=1 << 30 if kept else 0)
    objective = Distilled(student, EXAMPLES, frozen=frozen, teacher=reader, ways=ways)
    batches = sorted_batches([len(e) for e in EXAMPLES], rows=2, tokens=99)
    assert list(reader.prepare(batches)) == ([2, 3] if kept and kind == "llama" else [])
    assert reader.prefix == (SHARED if kind == "llama" else ())
    with torch.no_grad():
        expected = at_targets(taught, EXAMPLES)
    shown = reader.logits([0, 1, 2])  # at targets, and nowhere in a prompt
    torch.testing.assert_close(shown.double(), expected, rtol=1e-4, atol=1e-4)
    loss = objective.loss([0, 1, 2])
    loss.backward()
    mine = gradients(student)
    plain = plain_loss(at_targets(student, EXAMPLES), expected, ways)
    plain.backward()
    theirs = gradients(student)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-4)
    assert mine.keys() == theirs.keys() and mine
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        each = [objective.loss([row]).item() * e.weight * len(e.target) for row, e in enumerate(EXAMPLES)]
    assert sum(each) / WEIGHTS.sum().item() == pytest.approx(loss.item(), rel=1e-4)
    assert all(weight.grad is None for weight in taught.parameters())


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_from_its_equal_there_is_nothing_to_learn(base: Path, divergence: Any) -> None:
    student, frozen = model(base, None)
    double, _ = model(base, None)
    put_tensors(double, lora_tensors(student))
    ways = Distill(base="t", weight=1, divergence=divergence, temperature=2)
    reader = Reader(double.eval(), EXAMPLES)
    list(reader.prepare([(0, 1, 2)]))
    loss = Distilled(student, EXAMPLES, frozen=frozen, teacher=reader, ways=ways).loss([0, 1, 2])
    loss.backward()
    assert abs(loss.item()) < 1e-5
    assert max(float(gradient.abs().max()) for gradient in gradients(student).values()) < 1e-5


def test_in_bfloat16_the_loss_is_that_of_float32_to_bfloat16s_precision(base: Path, tmp_path: Path) -> None:
    folder = larger(base, tmp_path / "larger")
    found = {}
    for precision in ("float32", "bfloat16"):
        settings = TorchSettings(device="cpu", precision=precision)  # type: ignore[arg-type]
        student = load_base(base, settings)
        reader = Reader(load_base(folder, settings), EXAMPLES)
        list(reader.prepare([(0, 1, 2)]))
        objective = Distilled(student, EXAMPLES, frozen=0, teacher=reader, ways=Distill(base="t"))
        found[precision] = objective.loss([0, 1, 2]).item()
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=0.03)


def test_timing_asks_the_teacher_too_and_leaves_nothing(base: Path, tmp_path: Path) -> None:
    student, frozen = model(base, 1)
    reader = Reader(load_base(larger(base, tmp_path / "larger"), TorchSettings(device="cpu")), EXAMPLES)
    objective = Distilled(student, EXAMPLES, frozen=frozen, teacher=reader, ways=Distill(base="t"))
    took = objective.time_steps([(0, 1), (2,)])
    assert took.once >= reader.seconds > 0 and took.step > 0 and took.own > 0
    assert all(weight.grad is None for weight in student.parameters())


def test_a_teacher_on_the_students_base_shares_its_weights(place: Path, base: Path) -> None:
    train(place, base, overrides=["distill.weight=0.5"])
    own = load_base(base, TorchSettings())
    checkpoint = resolve(str(base), load(files=()))
    teacher = Teacher(str(base), checkpoint, inspect(place / "out"))
    taught = load_teacher(teacher, own, checkpoint, TorchSettings())
    shared = {id(weight) for weight in own.parameters()}
    alone = [name for name, weight in taught.named_parameters() if id(weight) not in shared]
    assert alone and all("lora_" in name for name in alone)
    assert not any("lora_" in name for name, _ in own.named_parameters())
    assert not any(weight.requires_grad for weight in taught.parameters())
    reference = load_lora(load_base(base, TorchSettings()), place / "out").eval()
    with torch.no_grad():
        torch.testing.assert_close(at_targets(taught, EXAMPLES), at_targets(reference, EXAMPLES), rtol=1e-4, atol=1e-4)


# -- what is learnt --------------------------------------------------------------------------------------------------


def answers(place: Path, base: Path, adapter: Path) -> list[str]:
    """What a model writes on all rows, greedily under the grammar."""
    stage, vocabulary, problems = Demo(base).stage, Vocabulary(base), Problems()
    found = read_rows(place / "rows.jsonl", stage, problems).rows
    prompts = [prompt for prompt, _ in encode_rows(found, stage, vocabulary, Path("rows"), problems, silent)]
    model = load_base(base, TorchSettings())
    load_lora(model, adapter)
    return decode(model.eval(), vocabulary, stage, found, prompts)


@pytest.fixture
def contrary(fresh: Path, base: Path) -> Path:
    """A folder with rows, and an adapter of the student's own base that says the contrary of them all."""
    write(fresh / "rows.jsonl", flipped(rows()))
    more = ["epochs=12", "lora.dropout=0.0", "lora.layers=2"]
    train(fresh, base, overrides=[*more, f"output={fresh / 'teacher'}"])
    write(fresh / "select.jsonl", flipped(rows(90)[60:]))
    write(fresh / "rows.jsonl", rows())
    (fresh / "recipe.toml").write_text(RECIPE + '[distill]\nadapter = "teacher"\nweight = 1.0\n')
    return fresh


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_taught_alone_it_says_what_the_teacher_says_and_not_the_rows(
    contrary: Path, base: Path, divergence: str
) -> None:
    told: list[Event] = []
    own = [f"distill.divergence={divergence}", f"data.select={contrary / 'select.jsonl'}"]
    more = ["epochs=10", "lora.dropout=0.0", "lora.layers=2"]
    result = train(contrary, base, overrides=[*own, *more], progress=told.append)
    steps = losses(contrary)
    assert steps[0]["divergence"] == pytest.approx(steps[0]["loss"], abs=1e-5) and steps[-1]["divergence"] >= 0
    assert steps[-1]["loss"] < 0.2 * steps[0]["loss"]
    assert result.scores["exact"] == 1
    said, taught = (answers(contrary, base, contrary / name) for name in ("out", "teacher"))
    rights = [row["output"]["topic"] in text for row, text in zip(rows(), said, strict=True)]
    agreed = [one == other for one, other in zip(said, taught, strict=True)]
    assert sum(agreed) >= 0.95 * len(said) and sum(rights) <= 0.05 * len(said)  # on the very rows that say otherwise
    assert [e.figures["divergence"] for e in told if isinstance(e, Stepped)] == [s["divergence"] for s in steps]
    assert any("with the adapter of demo.topic" in e.text and " MB " in e.text for e in told if isinstance(e, Noted))


def test_the_record_says_who_taught(place: Path, base: Path, teacher: Path) -> None:
    train(place, base, overrides=["distill.weight=0.25", "distill.divergence=jsd", "distill.temperature=2", "epochs=1"])
    record = inspect(place / "out").record
    assert record is not None
    told = record.model_dump()["training"]
    assert told["teacher"] == "larger with the adapter of demo.topic"
    assert told["teacher_sha256"] == resolve(str(teacher), load(files=())).sha256
    assert told["teacher_adapter_sha256"] == inspect(place / "teacher").sha256
    assert (told["divergence"], told["divergence_weight"], told["temperature"]) == ("jsd, beta 0.5", 0.25, 2.0)
    assert record.licences["larger"] == "unknown"
    assert record.recipe["distill"] == {
        **{"base": "larger", "adapter": "teacher", "weight": 0.25, "divergence": "jsd", "temperature": 2.0}
    }
    steps = losses(place)
    assert all(step["loss"] != step["divergence"] for step in steps)


def test_a_stopped_run_goes_on_exactly(place: Path, base: Path) -> None:
    often = ["checkpoint_minutes=1e-9", "distill.weight=0.5"]
    whole = weights(train(place, base, overrides=often))

    def halt(event: Event) -> None:
        if isinstance(event, Saved) and event.step == 3:
            raise Halt

    with pytest.raises(Halt):
        train(place, base, overrides=often, progress=halt)
    assert weights(train(place, base, overrides=often, resume=True)) == whole


def test_a_run_does_not_go_on_under_another_teacher(place: Path, base: Path) -> None:
    often = ["checkpoint_minutes=1e-9", "epochs=1"]
    train(place, base, overrides=often)
    for change in ("distill.base=" + str(base), "distill.weight=0.5", "distill.temperature=3"):
        adapter = [f"distill.adapter={place / 'out'}", f"output={place / 'other'}"] if "base" in change else []
        with pytest.raises(TrainError, match="another recipe"):
            train(place, base, overrides=[*often, change, *adapter], resume=True)
    shutil.copytree(place / "teacher", place / "moved")
    train(place, base, overrides=[*often, f"distill.adapter={place / 'moved'}"], resume=True)


def test_a_plan_counts_the_teacher_and_writes_nothing(place: Path, base: Path) -> None:
    before = sorted(place.rglob("*"))
    recipe, settings, demo = load_recipe(place / "recipe.toml"), load(files=()), Demo(base)
    host = PluginHost(settings, plugins={"demo": demo}, installed=False)
    estimated, tokens = probe_stage(recipe, stage=demo.stage, settings=settings, host=host)
    assert estimated.seconds > 0 and tokens > 0
    assert sorted(place.rglob("*")) == before


def test_the_recipe_of_the_guide_trains(place: Path, base: Path) -> None:
    (found,) = (b.text for b in blocks(DOCS / "training.md") if b.title == "train/opinion-distilled.toml")
    (place / "recipe.toml").write_text(found)
    ways = load_recipe(place / "recipe.toml").distill
    assert ways is not None and ways.adapter is not None
    own = [f"data.train={place / 'rows.jsonl'}", f"output={place / 'out'}", 'stage="demo.topic"', "epochs=1"]
    assert ways.adapter == place / "teacher"
    result = train(place, base, overrides=[*own, f"distill.base={place / 'larger'}", "lora.layers=1"])
    assert set(load_file(result.adapter / "adapter_model.safetensors")) and "divergence" in losses(place)[0]


# -- what is refused -------------------------------------------------------------------------------------------------


def refused(place: Path, base: Path, *overrides: str) -> str:
    with pytest.raises(TrainError) as caught:
        train(place, base, overrides=list(overrides))
    assert not list((place / "runs").glob("*/*")) and not (place / "out").exists()
    return str(caught.value)


def test_a_teacher_with_another_vocabulary_is_refused(fresh: Path, base: Path) -> None:
    """It has as many tokens, and two of them are exchanged."""
    other = larger(base, fresh / "larger")
    text = json.loads((other / "tokenizer.json").read_text())
    vocabulary = text["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(text))
    said = refused(fresh, base, f"distill.base={other}")
    assert "another vocabulary" in said and "2 are not the student's: 'a' is" in said and "distill: larger" in said


def test_a_teacher_that_ends_otherwise_is_refused(fresh: Path, base: Path) -> None:
    other = larger(base, fresh / "larger")
    text = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**text, "eos_token": "<|pad|>"}))
    for name in ("config.json", "generation_config.json"):
        text = json.loads((other / name).read_text())
        (other / name).write_text(json.dumps({**text, "eos_token_id": 0}))
    said = refused(fresh, base, f"distill.base={other}")
    assert "does not end its answers" in said and "<|im_end|>" in said


def test_a_teacher_with_a_short_context_is_refused(fresh: Path, base: Path) -> None:
    said = refused(fresh, base, f"distill.base={larger(base, fresh / 'larger', max_position_embeddings=20)}")
    assert "context is too short" in said and "at most 20 tokens" in said and "rows are longer" in said


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("distill.base=nobody", "distill.base: nobody"),
        ("distill.base=./nowhere", "distill.base"),
        ("distill.adapter=nowhere", "distill.adapter"),
    ],
)
def test_a_teacher_that_is_not_there_is_refused(fresh: Path, base: Path, override: str, said: str) -> None:
    told = refused(fresh, base, override)
    assert "the teacher cannot be had" in told and said.partition(":")[0] in told


def test_an_adapter_of_another_checkpoint_is_no_teacher(place: Path, base: Path) -> None:
    told = refused(place, base, f"distill.base={base}")
    assert "trained on another checkpoint" in told and "distill.base" in told


def test_a_teacher_is_not_written_over(place: Path, base: Path) -> None:
    before = (place / "teacher" / "adapter_model.safetensors").read_bytes()
    assert "written over the teacher's" in refused(place, base, f"output={place / 'teacher'}")
    assert (place / "teacher" / "adapter_model.safetensors").read_bytes() == before


# -- runs of before --------------------------------------------------------------------------------------------------


def test_a_recipe_without_a_teacher_keeps_its_digest() -> None:
    """It is what the first version made of it; other bytes would refuse checkpoints that are there."""
    recipe = {"stage": "demo.topic", "output": "out", "data": {"train": "rows.jsonl"}, "lora": {"rank": 4}}
    data = RowSets([], [], (Rows(Path("rows.jsonl"), (), "1" * 64, 0),))
    checkpoint = ResolvedCheckpoint(Checkpoint("base", Folder(Path("base"))), Path("base"), "0" * 64, "", None, 0)
    made = recipe_digest(as_model(recipe, Recipe, where="test"), Demo(Path("base")).stage, data, checkpoint)
    assert made == "53a0fd9207b6be9361563515ef8eb5d8f45cb83da3e43f544b9c809659b31831"

"""Adapters on one base: each gives its own output, and one that does not fit is refused, never ignored."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from fslm_core.backends.protocol import Generation, ModelRef, Request
from fslm_core.backends.torch.backend import TorchBackend
from fslm_core.backends.torch.encoding import encode
from fslm_core.errors import AdapterError
from fslm_core.prompt import Prompt, Span
from fslm_core.settings import TorchSettings

pytestmark = pytest.mark.torch

Tiny = Callable[..., Path]
TARGETS = {"llama": ["q_proj", "v_proj", "down_proj"], "gpt2": ["c_attn"]}


def make_adapter(base: Path, folder: Path, seed: int, kind: str = "llama", **options: Any) -> Path:
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    options = {"r": 4, "target_modules": TARGETS[kind], "fan_in_fan_out": kind == "gpt2", **options}
    with torch.random.fork_rng(), warnings.catch_warnings(action="ignore"):  # PEFT asks transformers for what is to go
        torch.manual_seed(seed)
        tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    tuned.save_pretrained(str(folder))
    return folder


@pytest.fixture
def adapter(tiny_model: Tiny, tmp_path: Path) -> Path:
    return make_adapter(tiny_model(), tmp_path / "adapter", 1)


def ref(base: Path, adapter: Path | None, **options: Any) -> ModelRef:
    return ModelRef("tiny", base, adapter, stage="s", **options)


def ask(model: ModelRef, text: str = "Where is my order?") -> Request:
    return Request("r", Prompt((Span(text, "user", static=False),)), model, grammar=None, max_tokens=16)


async def _last(backend: TorchBackend, request: Request) -> Generation:
    (generation,) = [piece async for piece in backend.open(request) if isinstance(piece, Generation)]
    return generation


def answers(*requests: Request) -> list[Generation | BaseException]:
    """What becomes of requests that are all in flight at once on one backend."""

    async def main() -> list[Generation | BaseException]:
        backend = TorchBackend(TorchSettings(device="cpu"))
        try:
            return await asyncio.gather(*(_last(backend, r) for r in requests), return_exceptions=True)
        finally:
            await backend.aclose()

    return asyncio.run(main())


def refused(*requests: Request) -> AdapterError:
    (error,) = answers(*requests)
    assert isinstance(error, AdapterError), error
    return error


def tokens(answer: Generation | BaseException) -> list[int]:
    assert isinstance(answer, Generation), answer
    return list(answer.tokens)


def generated(base: Path, adapter: Path | None) -> list[int]:
    """What PEFT and transformers generate greedily with this adapter alone."""
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if adapter is not None:
        with warnings.catch_warnings(action="ignore"):
            model = PeftModel.from_pretrained(model, str(adapter))
    prompt = encode(ask(ref(base, None)).prompt, AutoTokenizer.from_pretrained(base), context=512, max_tokens=16).ids
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
    found: list[int] = out[0, len(prompt) :].tolist()
    return found[: found.index(2)] if 2 in found else found


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_each_adapter_and_the_base_give_their_own_output(kind: str, tiny_model: Tiny, tmp_path: Path) -> None:
    base = tiny_model(kind)
    one = make_adapter(base, tmp_path / "one", 1, kind)
    two = make_adapter(base, tmp_path / "two", 2, kind, r=8, lora_alpha=32)
    order = [one, None, two, one, two, None]
    found = [tokens(a) for a in answers(*(ask(ref(base, a)) for a in order))]
    expected = {a: generated(base, a) for a in (one, two, None)}
    assert found == [expected[a] for a in order]
    assert len({tuple(t) for t in expected.values()}) == 3


def test_two_folders_with_the_same_weights_are_one_adapter(tiny_model: Tiny, adapter: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(adapter, tmp_path / "copy"))
    first, second = answers(ask(ref(tiny_model(), adapter)), ask(ref(tiny_model(), copied)))
    assert tokens(first) == tokens(second)


def test_the_same_weights_scaled_otherwise_are_another_adapter(tiny_model: Tiny, adapter: Path, tmp_path: Path) -> None:
    louder = Path(shutil.copytree(adapter, tmp_path / "louder"))
    edit_config(louder, lora_alpha=64)
    first, second = answers(ask(ref(tiny_model(), adapter)), ask(ref(tiny_model(), louder)))
    assert tokens(first) == generated(tiny_model(), adapter)
    assert tokens(second) == generated(tiny_model(), louder) != tokens(first)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def drop_key(folder: Path) -> None:
    edit_weights(folder, lambda t: t.__delitem__(KEY))


def rename_key(folder: Path) -> None:
    edit_weights(folder, lambda t: t.update({KEY.replace("q_proj", "q_prj"): t.pop(KEY)}))


def add_key(folder: Path) -> None:
    edit_weights(folder, lambda t: t.update({"base_model.model.lm_head.weight": torch.zeros(2, 2)}))


def add_module(folder: Path) -> None:
    edit_weights(folder, lambda t: t.update({KEY.replace("q_proj", "k_proj"): t[KEY].clone()}))


def other_rank(folder: Path) -> None:
    edit_config(folder, r=8)


def other_shape(folder: Path) -> None:
    edit_weights(folder, lambda t: t.update({KEY: torch.zeros(4, 31)}))


def not_finite(folder: Path) -> None:
    edit_weights(folder, lambda t: t.update({KEY: torch.full_like(t[KEY], float("nan"))}))


def cut_short(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])


def only_pickle(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    torch.save(tensors, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


def without_config(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def not_json(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{")


HARMS: dict[str, Callable[[Path], None]] = {
    h.__name__: h
    for h in (drop_key, rename_key, add_key, add_module, other_rank, other_shape, not_finite, cut_short, only_pickle)
} | {
    "without_config": without_config,
    "not_json": not_json,
    "other_method": lambda f: edit_config(f, peft_type="IA3"),
    "dora": lambda f: edit_config(f, use_dora=True),
    "saved_modules": lambda f: edit_config(f, modules_to_save=["lm_head"]),
    "bias": lambda f: edit_config(f, bias="all"),
    "activated": lambda f: edit_config(f, alora_invocation_tokens=[1, 2]),
    "pissa": lambda f: edit_config(f, init_lora_weights="pissa"),
    "other_task": lambda f: edit_config(f, task_type="SEQ_CLS"),
    "unknown_option": lambda f: edit_config(f, from_the_future={"a": 1}),
    "absent_target": lambda f: edit_config(f, target_modules=[*TARGETS["llama"], "foo_proj"]),
    "more_targets": lambda f: edit_config(f, target_modules=[*TARGETS["llama"], "k_proj"]),
    "fewer_layers": lambda f: edit_config(f, layers_to_transform=[0]),
    "other_base_name": lambda f: edit_config(f, base_model_name_or_path="another-base"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_does_not_fit_is_refused_and_others_go_on(
    harm: str, tiny_model: Tiny, adapter: Path, tmp_path: Path
) -> None:
    base = tiny_model()
    harmed = Path(shutil.copytree(adapter, tmp_path / "harmed"))
    HARMS[harm](harmed)
    good, bad, plain, again = answers(*(ask(ref(base, a)) for a in (adapter, harmed, None, adapter)))
    assert isinstance(bad, AdapterError), bad
    assert bad.where is None or "harmed" in bad.where
    assert tokens(good) == tokens(again) == generated(base, adapter)
    assert tokens(plain) == generated(base, None)


def test_another_hash_is_refused(tiny_model: Tiny, adapter: Path) -> None:
    right = hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()
    fine, wrong = answers(
        ask(ref(tiny_model(), adapter, adapter_sha256=right)), ask(ref(tiny_model(), adapter, adapter_sha256="0" * 64))
    )
    assert tokens(fine) == generated(tiny_model(), adapter)
    assert isinstance(wrong, AdapterError) and right in str(wrong.found)


def test_an_adapter_of_another_base_is_refused(tiny_model: Tiny, tmp_path: Path) -> None:
    foreign = make_adapter(tiny_model("gpt2"), tmp_path / "foreign", 1, "gpt2")
    assert "c_attn" in str(refused(ask(ref(tiny_model(), foreign))).found)


def test_a_record_of_another_base_is_refused(tiny_model: Tiny, adapter: Path) -> None:
    record = {"stage": "s", "base": "another", "template": "0", "input_schema": "0", "output_schema": "0"}
    (adapter / "fslm.json").write_text(json.dumps(record))
    assert refused(ask(ref(tiny_model(), adapter))).found == "another"


def test_a_wrong_adapter_is_refused_when_warming(tiny_model: Tiny, adapter: Path) -> None:
    drop_key(adapter)

    async def main() -> None:
        backend = TorchBackend(TorchSettings(device="cpu"))
        try:
            await backend.warm([ref(tiny_model(), adapter)])
        finally:
            await backend.aclose()

    with pytest.raises(AdapterError, match="does not fit"):
        asyncio.run(main())

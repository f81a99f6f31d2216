"""The fused executor's numbers: those of the generic one, and of transformers and PEFT, for every decoder it takes."""

from __future__ import annotations

import asyncio
import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig

from fslm_core.backends.protocol import Generation, ModelRef, Request, Sampling
from fslm_core.backends.torch.backend import TorchBackend
from fslm_core.backends.torch.fused import decide, flight, shape
from fslm_core.backends.torch.fused.forward import Segment
from fslm_core.backends.torch.fused.products import FORMATS, REACHES, Format, Int8, choose, int8_reach, pack
from fslm_core.backends.torch.fused.slots import Block
from fslm_core.backends.torch.vocabulary import Vocabulary
from fslm_core.errors import BackendError
from fslm_core.prompt import Prompt, Span
from fslm_core.settings import TorchSettings

from .flights import CPU, TARGETS, Desk, assert_faithful, make_base, prompt, reference
from .test_torch_backend_adapters import edit_weights, make_adapter

pytestmark = pytest.mark.torch

THETA = {"rope_theta": 10_000.0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "untied": ("llama", {"tie_word_embeddings": False}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "one key head": ("llama", {"num_key_value_heads": 1}),
    "as many key heads": ("llama", {"num_key_value_heads": 4}),
    "wide heads and biases": ("llama", {"head_dim": 16, "attention_bias": True, "mlp_bias": True}),
    "linear": ("llama", {"rope_parameters": {**THETA, "rope_type": "linear", "factor": 4.0}}),
    "llama3": (
        "llama",
        {
            "rope_parameters": {
                **THETA,
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "yarn": (
        "llama",
        {
            "head_dim": 8,
            "rope_parameters": {
                **THETA,
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 256,
            },
        },
    ),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 16}),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind, options = FAMILIES[request.param]
    return make_base(tmp_path_factory.mktemp("family"), kind, **options)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def adapters(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Adapters that differ in all that a plain LoRA may differ in."""
    folder = tmp_path_factory.mktemp("adapters")
    every: list[dict[str, Any]] = [
        {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
        {"r": 8, "lora_alpha": 4, "target_modules": TARGETS, "use_rslora": True},
        {"r": 2, "lora_alpha": 3, "target_modules": ["k_proj", "gate_proj", "o_proj"], "layers_to_transform": [1]},
        {
            "r": 4,
            "target_modules": TARGETS,
            "rank_pattern": {"layers.1.self_attn.q_proj": 7, "down_proj": 1},
            "alpha_pattern": {"up_proj": 20, "layers.2.mlp.down_proj": 2},
        },
        {"r": 3, "target_modules": ["down_proj"], "layers_to_transform": [0, 2]},
    ]
    return [make_adapter(llama, folder / str(n), n, **options) for n, options in enumerate(every)]


def forward(desk: Desk, rows: Sequence[tuple[Sequence[int], Path | None]], cuts: Sequence[int]) -> list[Tensor]:
    """Logits of every token of every row, [tokens, vocabulary], each row fed in parts that end at ``cuts``."""
    model = desk.flight.model
    tuned = [desk.tune(adapter) for _, adapter in rows]
    block = Block(model.weights.shape, len(rows), max(len(ids) for ids, _ in rows), CPU)
    found: list[list[Tensor]] = [[] for _ in rows]
    for start, stop in zip([0, *cuts], [*cuts, 10_000], strict=True):
        parts = [(n, ids[start:stop]) for n, (ids, _) in enumerate(rows) if ids[start:stop]]
        segments = [Segment(block.slots[n], part, start, start, tuned[n], len(part)) for n, part in parts]
        logits = model.weights.head(model.forward(segments)).split([len(part) for _, part in parts])
        for (n, _), own in zip(parts, logits, strict=True):
            found[n].append(own)
    return [torch.cat(parts) for parts in found]


@pytest.mark.parametrize("cuts", [[], [1, 2, 9, 20, 21]])
def test_all_logits_are_those_of_transformers(cuts: list[int], family: Path) -> None:
    rows = [(prompt(n, length), None) for n, length in enumerate((37, 1, 300, 12))]
    for (ids, _), logits in zip(rows, forward(Desk(family), rows, cuts), strict=True):
        expected = reference(family, None, ids)
        assert torch.allclose(logits, expected, atol=2e-3, rtol=1e-4), (logits - expected).abs().max()


def test_rows_choose_what_transformers_chooses(family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight, "TOKENS", 50)
    desk = Desk(family)
    rows = [desk.send(prompt(n, length), max_tokens=10) for n, length in enumerate((37, 1, 80, 12))]
    desk.land()
    for row in rows:
        assert_faithful(row, family, None)


@pytest.mark.parametrize("cuts", [[], [3, 4, 17]])
def test_adapters_of_every_kind_beside_each_other(cuts: list[int], llama: Path, adapters: list[Path]) -> None:
    order = [None, *adapters, None, *reversed(adapters)]
    rows = [(prompt(n, 5 + 4 * n), adapter) for n, adapter in enumerate(order)]
    for (ids, adapter), logits in zip(rows, forward(Desk(llama), rows, cuts), strict=True):
        expected = reference(llama, adapter, ids)
        assert torch.allclose(logits, expected, atol=2e-3, rtol=1e-3), (adapter, (logits - expected).abs().max())


@pytest.mark.parametrize("tokens", [256, 6])
def test_each_row_of_a_mixed_batch_chooses_as_its_own_model(
    tokens: int, llama: Path, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "TOKENS", tokens)
    desk = Desk(llama, most=20)
    order = [None, *adapters, None, *reversed(adapters)]
    rows = [desk.send(prompt(n % 7, 9 + 3 * n), adapter, max_tokens=6) for n, adapter in enumerate(order)]
    desk.land()
    for row, adapter in zip(rows, order, strict=True):
        assert_faithful(row, llama, adapter)


@pytest.mark.parametrize("tokens", [256, 5])
def test_a_likelihood_is_that_of_a_plain_forward(
    tokens: int, llama: Path, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "TOKENS", tokens)
    desk = Desk(llama)
    for length, more in ((1, 1), (9, 3), (10, 40), (37, 5)):
        ids, adapter = prompt(length, length + more), adapters[length % 3]
        ends = [ids[length:], (), ids[length:][::-1], ids[length:][:1]]
        expected = []
        for end in ends:
            logprobs = torch.log_softmax(reference(llama, adapter, [*ids[:length], *end]), -1)[length - 1 : -1]
            expected.append(float(logprobs.gather(1, torch.tensor(end, dtype=torch.long)[:, None]).sum()))
        found = desk.flight.likelihoods(ids[:length], ends, desk.tune(adapter))
        assert found == pytest.approx(expected, abs=5e-3)
    assert desk.flight.likelihoods(ids, [()], None) == [0.0]


# Through the backend, beside the generic executor.

TICKET = json.dumps(
    {
        "type": "object",
        "properties": {"kind": {"enum": ["ORDER", "REFUND", "CANCEL"]}, "why": {"type": "string", "maxLength": 9}},
        "required": ["kind", "why"],
        "additionalProperties": False,
    }
)


def ask(model: ModelRef, text: str, grammar: str | None = None, **options: Any) -> Request:
    spans = (Span("Sort this. ", "system"), Span(text, "user", static=False))
    return Request(text, Prompt(spans), model, **{"grammar": grammar, "max_tokens": 14, **options})


def answers(*requests: Request, **settings: Any) -> list[Any]:
    """What becomes of requests that are all in flight at once."""

    async def one(backend: TorchBackend, request: Request) -> Generation:
        (generation,) = [piece async for piece in backend.open(request) if isinstance(piece, Generation)]
        return generation

    async def main() -> list[Any]:
        backend = TorchBackend(TorchSettings(device="cpu", **settings))
        try:
            return await asyncio.gather(*(one(backend, r) for r in requests), return_exceptions=True)
        finally:
            await backend.aclose()

    return asyncio.run(main())


def runs(model: ModelRef, **settings: Any) -> str:
    async def main() -> str:
        backend = TorchBackend(TorchSettings(device="cpu", **settings))
        try:
            return str((await backend.warm([model]))[0])
        finally:
            await backend.aclose()

    return asyncio.run(main())


def test_both_executors_say_the_same(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    base = tiny_model()
    folders = [None, make_adapter(base, tmp_path / "a", 1), make_adapter(base, tmp_path / "b", 2, use_rslora=True)]
    models = [ModelRef("tiny", base, folder) for folder in folders]
    requests = [
        ask(models[n % 3], "Where is my order? " * (1 + n % 4), TICKET if n % 2 else None, max_tokens=10 + n)
        for n in range(12)
    ]
    for one, other in zip(answers(*requests, executor="fused"), answers(*requests, executor="generic"), strict=True):
        assert (one.tokens, one.text, one.forced) == (other.tokens, other.text, other.forced)
        assert one.logprobs == pytest.approx(other.logprobs, abs=2e-3)
        for a, b in zip(one.runners_up, other.runners_up, strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                assert a[1] == pytest.approx(b[1], abs=2e-3)
        assert (one.finish_reason, one.counts.prompt) == (other.finish_reason, other.counts.prompt)


@pytest.mark.parametrize(("kind", "why"), [("gpt2", "model type 'gpt2'"), ("mistral", "sliding windows")])
def test_other_decoders_run_on_the_generic_one(kind: str, why: str, tiny_model: Callable[..., Path]) -> None:
    model = ModelRef("tiny", tiny_model(kind))
    assert runs(model) == "cpu float32 generic"
    assert runs(ModelRef("tiny", tiny_model())) == "cpu float32 fused"
    assert runs(ModelRef("tiny", tiny_model()), executor="generic") == "cpu float32 generic"
    (auto,), (generic,) = answers(ask(model, "hi")), answers(ask(model, "hi"), executor="generic")
    assert auto.tokens == generic.tokens
    (refused,) = answers(ask(model, "hi"), executor="fused")
    assert isinstance(refused, BackendError) and "the fused executor cannot run this model" in str(refused)
    assert why in str(refused.found) and 'torch.executor to "auto"' in str(refused.hint)
    (refused,) = answers(ask(model, "hi"), precision="int8")
    assert isinstance(refused, BackendError) and "only the fused executor computes in int8" in str(refused)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapter_elsewhere_runs_on_the_generic_one_beside_others(
    target: str, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = tiny_model()
    plain = make_adapter(base, tmp_path / "plain", 1)
    with warnings.catch_warnings(action="ignore"):  # PEFT says that it saves the whole embedding too
        other = make_adapter(base, tmp_path / "other", 2, target_modules=["q_proj", target])

    def only_lora(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if ".lora_" not in name]:
            del tensors[name]

    edit_weights(other, only_lora)
    requests = [ask(ModelRef("tiny", base, a), "Where is it?") for a in (plain, other, None, other, plain)]
    mixed, generic = answers(*requests), answers(*requests, executor="generic")
    assert [g.tokens for g in mixed] == [g.tokens for g in generic]
    assert runs(requests[1].model) == "cpu float32 generic" and runs(requests[0].model) == "cpu float32 fused"
    fine, refused = answers(requests[0], requests[1], executor="fused")
    assert fine.tokens == generic[0].tokens
    assert isinstance(refused, BackendError) and f"an adapter on {'base_model'}" in str(refused.found)
    assert target in str(refused.found)


def test_what_is_not_supported_says_why() -> None:
    def why(kind: str, **options: Any) -> str | None:
        return shape.unsupported(AutoConfig.for_model(kind, **options))

    assert why("llama", hidden_act="gelu") == "activation 'gelu'"
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    assert why("llama", rope_parameters=dynamic) == "rotary positions of type 'dynamic'"
    assert "heads" in str(why("llama", num_attention_heads=6, num_key_value_heads=4, hidden_size=48))
    assert "sliding" in str(why("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1))
    assert why("qwen2") is why("qwen3") is why("mistral", sliding_window=None) is None


# Grammars.


@pytest.fixture
def vocabulary(tiny_model: Callable[..., Path]) -> Vocabulary:
    return Vocabulary(tiny_model())


@pytest.mark.parametrize("text", ['{"const":"x"}', TICKET, '{"enum":["ORDER of two tables","REFUND of a chair"]}'])
def test_what_is_forced_at_the_end_is_never_fed(
    text: str, tiny_model: Callable[..., Path], vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "DRAFTED", 0)
    desk = Desk(tiny_model())
    row = desk.fly(prompt(1, 30), grammar=vocabulary.grammar(text), max_tokens=60)
    assert row.error is None and row.finished == "stop"
    free = [n for n, forced in enumerate(row.forced) if not forced]
    assert desk.fed == (30 + free[-1] if free else 0)
    assert row.forwards == len(desk.shapes) <= len(free)
    assert json.loads(b"".join(vocabulary._inner.decode_bytes([t]) for t in row.tokens))


@pytest.mark.parametrize("number_format", ["float32", "float16"])
def test_the_head_of_a_few_tokens_says_what_the_whole_head_says(
    number_format: Format, tiny_model: Callable[..., Path], vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for few in (0, 10_000):
        monkeypatch.setattr(decide, "_FEW", few)
        desk = Desk(tiny_model(), number_format=number_format)
        rows = [desk.send(prompt(n, 20 + n), grammar=vocabulary.grammar(TICKET), max_tokens=40) for n in range(5)]
        rows += [desk.send(prompt(9, 20), max_tokens=8)]
        desk.land()
        found.append(rows)
    for one, other in zip(*found, strict=True):
        assert one.error is other.error is None
        assert (one.tokens, one.forced) == (other.tokens, other.forced)
        assert one.logprobs == pytest.approx(other.logprobs, abs=5e-3)
        for a, b in zip(one.runners_up, other.runners_up, strict=True):
            assert (a is None) == (b is None) and (a is None or b is None or a[1] == pytest.approx(b[1], abs=5e-3))


def test_samples_are_those_of_the_seed_whoever_is_beside_them(llama: Path) -> None:
    sampling = Sampling(temperature=1.3, top_p=0.9, top_k=40)
    alone = [Desk(llama).fly(prompt(n, 20), max_tokens=9, sampling=sampling).tokens for n in range(4)]
    desk = Desk(llama)
    rows = [desk.send(prompt(n, 20), max_tokens=9, sampling=sampling) for n in range(4)]
    desk.land()
    assert [row.tokens for row in rows] == alone


# Products.


def numbers(seed: int, *size: int, outliers: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*size, generator=generator)
    x[:, :outliers] *= 60
    return x


def bound(number_format: Format, x: Tensor, weight: Tensor) -> Tensor:
    """The most by which a product may differ from the exact one, [tokens, out]; from each format's own rounding."""
    size = x.abs() @ weight.abs().T
    sums = size * x.shape[1] * 2**-23
    match number_format:
        case "float32":
            return sums
        case "bfloat16":  # inputs, weights and result each in 8 bits of mantissa
            return sums + size * 3.1 * 2**-8
        case "float16":  # weights in 11 bits, below 6e-5 in steps of 6e-8
            return sums + size * 2**-11 + x.abs().sum(1, keepdim=True) * 2**-24
        case "int8":
            step_x = x.abs().amax(1, keepdim=True) / 127
            step_w = weight.abs().amax(1) / 63
            error = step_x / 2 * weight.abs().sum(1) + x.abs().sum(1, keepdim=True) * step_w / 2
            return sums + 1.01 * (error + x.shape[1] * step_x * step_w / 4)
        case "int4":
            groups = weight.reshape(len(weight), -1, 32)
            step = ((groups.amax(2) - groups.amin(2)) / 15).repeat_interleave(32, 1)
            return 2 * sums + 1.01 * x.abs() @ (step / 2).T + size * 2**-8


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize("outliers", [0, 3])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_products_err_no_more_than_their_format_rounds(
    number_format: Format, outliers: int, biased: bool, kept: bool
) -> None:
    weight, x = numbers(1, 96, 64), numbers(2, 17, 64, outliers=outliers)
    weight[:5] *= 1e-3
    weight[7] = 0
    x[3] = 0
    bias = numbers(3, 1, 96)[0] if biased else None
    product = pack(weight, bias, number_format, CPU, kept=kept)
    exact = x.double() @ weight.double().T
    error = (product(x).double() - exact - (0 if bias is None else bias.double())).abs()
    slack = 1e-5 + (0 if bias is None else 2**-7 * (bias.abs() + 1)) * (number_format == "bfloat16")
    assert bool((error <= bound(number_format, x, weight) + slack).all())
    if number_format != "float32":
        assert float(error.max()) > 1e-5


@pytest.mark.parametrize("number_format", FORMATS)
def test_a_rows_product_does_not_depend_on_its_neighbours(number_format: Format) -> None:
    weight, x = numbers(1, 96, 64), numbers(2, 33, 64)
    x[::5] *= 1e4
    product = pack(weight, None, number_format, CPU)
    together = product(x)
    alone = torch.cat([product(row[None]) for row in x])
    reordered = product(x.flip(0)).flip(0)
    if number_format == "int8":
        assert torch.equal(together, alone) and torch.equal(together, reordered)
    scale = x.abs() @ weight.abs().T
    for other in (alone, reordered):
        assert bool(((together - other).abs() <= scale * 2**-7 * (1e-3 if number_format != "bfloat16" else 1)).all())


@given(
    st.integers(1, 130),
    st.integers(0, 99),
    st.sampled_from(["random", "highest", "lowest", "turns"]),
    st.sampled_from(REACHES),
)
def test_int8_sums_are_exact_even_at_the_ends_of_the_range(half: int, seed: int, kind: str, reach: int) -> None:
    """Kernels that add two products in 16 bits would saturate here without a word."""
    reach = min(reach, int8_reach())
    inputs, generator = 2 * half, np.random.default_rng(seed)
    weight = generator.integers(-reach, reach + 1, (24, inputs))
    x = generator.integers(-reach, reach + 1, (5, inputs))
    if kind == "highest":
        weight[:], x[:] = reach, reach
    elif kind == "lowest":
        weight[:], x[:] = -reach, reach
    elif kind == "turns":
        weight[:], x[:] = reach, reach
        weight[::2, ::2] = -reach
        x[::2, 1::2] = -reach
    weight[:, 0], x[:, 0] = reach, reach  # so that every scale is 1
    width = math.gcd(inputs, 32)
    turn = np.kron(np.eye(inputs // width), hadamard(width))  # turned again, these are the whole numbers above
    product = Int8(torch.from_numpy(weight @ turn).float(), None, reach)
    found = product(torch.from_numpy(x @ turn / width).float()).double().numpy()
    exact = x @ weight.T
    assert np.abs(found - exact).max() <= 0.5 + 1e-6 * np.abs(exact).max()


def hadamard(size: int) -> NDArray[np.float64]:
    """By its definition: minus one where the two indices share an odd number of bits."""
    return np.array([[(-1.0) ** (i & j).bit_count() for j in range(size)] for i in range(size)])


def test_int8_spends_no_steps_on_a_few_great_inputs() -> None:
    """One input a thousand times as great as the rest, as decoders have them, leaves the rest what they are worth."""
    weight, x = numbers(1, 64, 576), numbers(2, 8, 576)
    x[:, 100] = 300.0
    weight[:, 100] = 0.0
    product = pack(weight, None, "int8", CPU)
    exact = x @ weight.T
    assert float((product(x) - exact).norm() / exact.norm()) < 0.3
    x[:, 100] = 0.0
    assert float((product(x) - exact).norm() / exact.norm()) < 0.02


def test_int8_keeps_an_input_that_is_all_but_nothing() -> None:
    weight = numbers(1, 32, 64)
    x = numbers(2, 4, 64)
    product = pack(weight, None, "int8", CPU)
    for size in (1e-25, 1e-6, 1e6, 1e25):
        assert torch.allclose(
            product(x * size) / size, product(x), rtol=1e-3, atol=1e-3 * float(product(x).abs().max())
        )
    assert not product(torch.zeros(1, 64)).any()


@pytest.mark.parametrize("size", [(40, 64), (48, 40)])
def test_a_shape_without_an_int4_form_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(BackendError, match="has no int4 form"):
        pack(numbers(1, *size), None, "int4", CPU)


def test_which_format_a_setting_means() -> None:
    assert choose("auto", torch.float32, CPU) == choose("auto", None, CPU) == "float32"
    assert choose("auto", torch.bfloat16, CPU) in ("bfloat16", "float16", "float32")
    assert choose("auto", torch.bfloat16, torch.device("cuda")) == "bfloat16"
    assert [choose(f, torch.bfloat16, CPU) for f in FORMATS] == list(FORMATS)
    for precision in ("int8", "int4", "float16"):
        with pytest.raises(BackendError, match=f"no {precision} kernels"):
            choose(precision, torch.bfloat16, torch.device("cuda"))


@pytest.mark.parametrize("number_format", FORMATS)
def test_a_whole_model_in_every_format_is_near_float32(number_format: Format, tmp_path: Path) -> None:
    base = make_base(tmp_path / "even", hidden_size=64, intermediate_size=64, vocab_size=192, num_hidden_layers=2)
    rows = [(tuple(t % 192 for t in prompt(n, 20 + n)), None) for n in range(3)]
    for (ids, _), logits in zip(rows, forward(Desk(base, number_format=number_format), rows, [5]), strict=True):
        expected = reference(base, None, ids)
        alike = torch.nn.functional.cosine_similarity(logits, expected, dim=1)
        least = {"float32": 0.999999, "float16": 0.99999, "bfloat16": 0.999, "int8": 0.99, "int4": 0.8}[number_format]
        assert float(alike.mean()) > least

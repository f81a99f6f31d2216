"""The torch backend on tiny random models: the reference must be right before anything is quick."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fslm_core.backends.protocol import Chunk, Generation, ModelRef, Request, Sampling
from fslm_core.backends.torch import generic, row
from fslm_core.backends.torch.backend import TorchBackend
from fslm_core.backends.torch.encoding import encode
from fslm_core.backends.torch.fused import flight
from fslm_core.errors import (
    BackendError,
    CapabilityError,
    CheckpointError,
    ContextOverflowError,
    DeadlineExceeded,
    EngineStateError,
    MissingExtraError,
)
from fslm_core.prompt import Prompt, Span
from fslm_core.settings import TorchSettings

pytestmark = pytest.mark.torch

T = TypeVar("T")
Tiny = Callable[..., Path]
TEXTS = ["Where is my order?", "no", "I was charged twice for order 00123842, please give me my money back", "🦊 hi"]
TICKET = json.dumps(
    {
        "type": "object",
        "properties": {
            "category": {"enum": ["ORDER", "REFUND", "CANCEL"]},
            "reason": {"type": "string", "maxLength": 12},
            "count": {"type": ["integer", "null"], "minimum": 0, "maximum": 99},
        },
        "required": ["category", "reason", "count"],
        "additionalProperties": False,
    }
)


def ask(folder: Path, text: str = TEXTS[0], **options: Any) -> Request:
    options = {"grammar": None, "max_tokens": 24, "model": ModelRef("tiny", folder), **options}
    return Request("r", Prompt((Span("Say: ", "user"), Span(text, "user", static=False, field="text"))), **options)


async def whole(backend: TorchBackend, request: Request) -> list[Generation]:
    """All generations of a request, its stream checked against them."""
    streamed: dict[int, str] = {}
    generations: dict[int, Generation] = {}
    async for piece in backend.open(request):
        if isinstance(piece, Chunk):
            streamed[piece.index] = streamed.get(piece.index, "") + piece.text
        else:
            generations[piece.index] = piece
    assert sorted(generations) == list(range(request.n))
    for index, g in generations.items():
        assert streamed.get(index, "") == g.text == "".join(g.texts)
        assert g.logprobs is not None
        assert len(g.tokens) == len(g.texts) == len(g.logprobs) == len(g.runners_up) == len(g.forced) == g.counts.output
        assert [text is None for text in g.runner_texts] == [runner is None for runner in g.runners_up]
        assert g.counts.forced == sum(g.forced)
    return [generations[i] for i in range(request.n)]


def run(work: Callable[[TorchBackend], Coroutine[Any, Any, T]], *, on_forward: Any = None, **settings: Any) -> T:
    async def main() -> T:
        backend = TorchBackend(TorchSettings(device="cpu", **settings), on_forward=on_forward)
        try:
            return await work(backend)
        finally:
            await backend.aclose()

    return asyncio.run(main())


def answers(requests: list[Request], **settings: Any) -> list[Generation]:
    """The first generation of each request, all sent at once."""

    async def work(backend: TorchBackend) -> list[Generation]:
        return [g[0] for g in await asyncio.gather(*(whole(backend, r) for r in requests))]

    return run(work, **settings)


def prompt_ids(folder: Path, request: Request) -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return list(encode(request.prompt, tokenizer, context=512, max_tokens=request.max_tokens).ids)


def generated(folder: Path, request: Request) -> list[int]:
    """What transformers itself generates greedily."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([prompt_ids(folder, request)])
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=request.max_tokens, do_sample=False
        )
    found: list[int] = out[0, ids.shape[1] :].tolist()
    ends = model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends)
    return next((found[:i] for i, t in enumerate(found) if t in ends), found)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "mistral"])
def test_a_batch_equals_transformers_generate(kind: str, tiny_model: Tiny) -> None:
    folder = tiny_model(kind)
    requests = [ask(folder, text) for text in TEXTS]
    assert [list(g.tokens) for g in answers(requests)] == [generated(folder, r) for r in requests]


def test_it_stops_at_any_of_the_checkpoints_end_tokens(tiny_model: Tiny, tmp_path: Path) -> None:
    plain = tiny_model()
    tokens = answers([ask(plain)])[0].tokens
    for file in plain.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, tokens[5]]}))
    (found,) = answers([ask(tmp_path)])
    assert found.tokens == tokens[: tokens.index(tokens[5])]
    assert found.finish_reason == "stop"


@pytest.mark.parametrize("columns", [512, 5])
def test_rows_do_not_depend_on_their_neighbours(
    columns: int, tiny_model: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model()
    requests = [ask(folder, t, grammar=TICKET if i % 2 else None, max_tokens=18 + 7 * i) for i, t in enumerate(TEXTS)]
    alone = [answers([r])[0] for r in requests]
    monkeypatch.setattr(generic, "COLUMNS", columns)
    monkeypatch.setattr(flight, "TOKENS", columns)
    for one, other in zip(alone, answers(requests), strict=True):
        assert (one.tokens, one.forced, one.finish_reason) == (other.tokens, other.forced, other.finish_reason)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_output_matches_the_grammar_and_says_what_was_forced(tiny_model: Tiny) -> None:
    folder = tiny_model()
    for text in TEXTS:
        request = ask(folder, text, grammar=TICKET, max_tokens=80)
        (g,) = answers([request])
        ticket = json.loads(g.text)
        assert g.finish_reason == "stop"
        assert list(ticket) == ["category", "reason", "count"]
        assert g.text == json.dumps(ticket, separators=(",", ":"), ensure_ascii=False) or "\\" in g.text
        assert g.counts.forwards <= g.counts.output - g.counts.forced
        _compare_with_a_plain_forward(folder, request, g)


def _compare_with_a_plain_forward(folder: Path, request: Request, g: Generation) -> None:
    """Log-probabilities and forced flags, by hand: one forward over the whole text, one matcher token by token."""
    from llguidance import LLMatcher, hf

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    prompt = prompt_ids(folder, request)
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *g.tokens]])).logits[0, len(prompt) - 1 :].float()
    inner = hf.from_tokenizer(tokenizer, n_vocab=logits.shape[1])
    assert request.grammar is not None
    matcher = LLMatcher(
        inner, LLMatcher.grammar_from_json_schema(request.grammar, overrides={"whitespace_flexible": False})
    )
    assert g.logprobs is not None
    for i, token in enumerate(g.tokens):
        dictated = matcher.compute_ff_tokens()
        allowed = [j for j, bit in enumerate(matcher.compute_logit_bias()[: logits.shape[1]]) if bit]
        assert token in allowed
        assert g.forced[i] == (bool(dictated) or len(allowed) == 1)
        if g.forced[i]:
            assert g.logprobs[i] == 0.0 and g.runners_up[i] is None
        else:
            logprobs = dict(zip(allowed, torch.log_softmax(logits[i, allowed], 0).tolist(), strict=True))
            assert g.logprobs[i] == pytest.approx(logprobs[token], abs=1e-4)
            second = sorted(logprobs.values())[-2]
            runner = g.runners_up[i]
            assert runner is not None and runner[1] == pytest.approx(second, abs=1e-4)
            written = tokenizer.decode([runner[0]], skip_special_tokens=True)
            assert "\ufffd" in written or g.runner_texts[i] == written
        matcher.consume_token(token)


def test_an_answer_without_a_choice_costs_no_forward_and_is_canonical(tiny_model: Tiny) -> None:
    folder = tiny_model()
    (g,) = answers([ask(folder, grammar='{"const":{"category":"ORDER","reason":"two tables"}}')])
    assert g.text == '{"category":"ORDER","reason":"two tables"}'
    assert list(g.tokens) == AutoTokenizer.from_pretrained(folder)(g.text)["input_ids"]
    assert all(g.forced) and g.counts.forwards == 0


def test_one_choice_costs_one_forward(tiny_model: Tiny) -> None:
    seen: list[tuple[int, int]] = []
    schema = '{"type":"object","properties":{"a":{"enum":["x","y"]}},"required":["a"],"additionalProperties":false}'
    (g,) = answers([ask(tiny_model(), grammar=schema)], on_forward=lambda *shape: seen.append(shape))
    assert json.loads(g.text)["a"] in ("x", "y")
    assert g.counts.forwards == len(seen) == 1
    assert sum(not f for f in g.forced) == 1


def test_max_tokens_is_kept(tiny_model: Tiny) -> None:
    folder = tiny_model()
    for limit in (1, 3, 7):
        for grammar in (None, TICKET):
            (g,) = answers([ask(folder, grammar=grammar, max_tokens=limit)])
            assert (len(g.tokens), g.finish_reason) == (limit, "length")


def test_texts_give_a_split_character_to_its_last_token(tiny_model: Tiny) -> None:
    (g,) = answers([ask(tiny_model(), grammar='{"const":"a🦊é"}')])
    assert g.text == '"a🦊é"'
    assert [t for t in g.texts if t] == ['"', "a", "🦊", "é", '"']
    assert len(g.tokens) > 6


def test_a_character_cut_off_is_replaced(tiny_model: Tiny) -> None:
    (g,) = answers([ask(tiny_model(), grammar='{"const":"🦊"}', max_tokens=3)])
    assert g.text == '"\ufffd' and g.finish_reason == "length"


def test_sampling_is_seeded_and_n_outputs_are_n_requests(tiny_model: Tiny) -> None:
    folder = tiny_model()
    sampling = Sampling(temperature=1.5, top_p=0.95, top_k=50)
    several = ask(folder, sampling=sampling, n=3, seed=7)
    alone = [ask(folder, sampling=sampling, seed=7 + i) for i in range(3)]

    async def work(backend: TorchBackend) -> list[Generation]:
        return await whole(backend, several)

    before = torch.random.get_rng_state()
    together = [g.tokens for g in run(work)]
    assert together == [g.tokens for g in answers(alone)]
    assert len(set(together)) == 3
    assert torch.equal(before, torch.random.get_rng_state())


def test_sampling_narrows_as_asked() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, -math.inf])
    draws = {}
    for name, sampling in {
        "top_k": Sampling(1.0, top_k=2),
        "top_p": Sampling(1.0, top_p=0.5),
        "all": Sampling(5.0),
        "none": Sampling(1.0, top_p=0.0),
    }.items():
        generator = torch.Generator().manual_seed(1)
        draws[name] = {row._sample(logits, sampling, generator) for _ in range(200)}
    assert draws == {"top_k": {1, 2}, "top_p": {1}, "all": {0, 1, 2}, "none": {1}}


@pytest.mark.parametrize(
    "sampling", [Sampling(0.7), Sampling(2.0, top_k=4), Sampling(1.0, top_p=0.8), Sampling(1.5, top_k=5, top_p=0.9)]
)
def test_draws_are_as_frequent_as_likely(sampling: Sampling) -> None:
    logits = torch.tensor([0.5, 2.0, -math.inf, 1.0, 1.9, -1.0, 0.0, -math.inf])
    likely = torch.softmax(logits / sampling.temperature, 0)
    order = likely.argsort(descending=True)[: sampling.top_k or None]
    kept = likely[order] / likely[order].sum()
    kept[kept.cumsum(0) - kept >= sampling.top_p] = 0
    expected = torch.zeros(len(logits)).index_put((order,), kept / kept.sum())
    generator, draws = torch.Generator().manual_seed(2), 20_000
    places = torch.tensor([row._sample(logits, sampling, generator) for _ in range(draws)])
    found = torch.bincount(places, minlength=len(logits)) / draws
    assert bool((found[expected == 0] == 0).all())
    assert torch.allclose(found, expected, atol=5 * 0.5 / math.sqrt(draws))


def test_what_is_no_number_is_drawn_without_an_error() -> None:
    place = row._sample(torch.tensor([1.0, math.nan, 2.0]), Sampling(1.0), torch.Generator())
    assert place in range(3)  # the executor looks at its likelihood, and refuses the row


def test_score_is_the_likelihood_of_a_plain_forward(tiny_model: Tiny) -> None:
    folder = tiny_model()
    request = ask(folder)
    words = ("ORDER", "REFUND now", "", *(f"order {n}" for n in range(17)))
    found = run(lambda backend: backend.score(request, words))
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    prompt = prompt_ids(folder, request)
    for word, score in zip(words, found, strict=True):
        end = tokenizer(word)["input_ids"]
        with torch.inference_mode():
            logprobs = model(torch.tensor([[*prompt, *end]])).logits[0].log_softmax(-1)
        expected = sum(float(logprobs[len(prompt) - 1 + i, t]) for i, t in enumerate(end))
        assert score == pytest.approx(expected, abs=1e-4)


class Gate:
    """Stops the models' thread before chosen forwards, so that tests need not guess at time."""

    def __init__(self, *stops: int) -> None:
        self.shapes: list[tuple[int, int]] = []
        self._stops = stops
        self.reached = threading.Event()
        self.release = threading.Event()

    def __call__(self, rows: int, columns: int) -> None:
        self.shapes.append((rows, columns))
        if len(self.shapes) in self._stops:
            self.reached.set()
            assert self.release.wait(60)

    async def stopped(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 60)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate(3)
    yield made
    made.release.set()


def test_chunks_come_while_the_model_works(tiny_model: Tiny, gate: Gate) -> None:
    async def work(backend: TorchBackend) -> int:
        stream = backend.open(ask(tiny_model()))
        await anext(stream)
        await anext(stream)
        seen = len(gate.shapes)
        gate.release.set()
        assert len([piece async for piece in stream]) > 1
        return seen

    assert run(work, on_forward=gate) <= 3


def test_closing_stops_within_one_forward_and_the_next_request_works(tiny_model: Tiny, gate: Gate) -> None:
    folder = tiny_model()
    expected = answers([ask(folder, TEXTS[1])])[0].tokens

    async def work(backend: TorchBackend) -> Generation:
        stream: AsyncIterator[Any] = backend.open(ask(folder, max_tokens=200))
        await anext(stream)
        await gate.stopped()
        await stream.aclose()  # type: ignore[attr-defined]
        gate.release.set()
        return (await whole(backend, ask(folder, TEXTS[1])))[0]

    found = run(work, on_forward=gate)
    assert found.tokens == expected
    assert len(gate.shapes) == 3 + found.counts.forwards


def test_cancelling_one_of_two_leaves_the_other(tiny_model: Tiny, gate: Gate) -> None:
    folder = tiny_model()
    expected = answers([ask(folder, TEXTS[1])])[0].tokens

    async def work(backend: TorchBackend) -> Generation:
        await backend.warm([ModelRef("tiny", folder)])
        first = asyncio.create_task(whole(backend, ask(folder, max_tokens=200)))
        second = asyncio.create_task(whole(backend, ask(folder, TEXTS[1])))
        await gate.stopped()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.release.set()
        return (await second)[0]

    assert run(work, on_forward=gate).tokens == expected
    assert len(gate.shapes) < 60


def test_a_deadline_ends_the_wait_and_the_work(tiny_model: Tiny, gate: Gate) -> None:
    folder = tiny_model()

    async def work(backend: TorchBackend) -> Generation:
        await backend.warm([ModelRef("tiny", folder)])
        late = asyncio.create_task(whole(backend, ask(folder, max_tokens=200, deadline=time.monotonic() + 0.5)))
        with pytest.raises(DeadlineExceeded):
            await late
        gate.release.set()
        return (await whole(backend, ask(folder, TEXTS[1])))[0]

    found = run(work, on_forward=gate)
    assert len(gate.shapes) == 3 + found.counts.forwards


def test_a_deadline_in_the_past(tiny_model: Tiny) -> None:
    with pytest.raises(DeadlineExceeded):
        answers([ask(tiny_model(), deadline=time.monotonic() - 1)])


def test_the_urgent_go_first_then_the_oldest(tiny_model: Tiny) -> None:
    folder, order = tiny_model(), []
    gate = Gate(1)

    async def work(backend: TorchBackend) -> None:
        async def one(name: str, priority: int) -> None:
            await whole(backend, ask(folder, priority=priority, max_tokens=3))
            order.append(name)

        tasks = [asyncio.create_task(one("first", 0))]
        await gate.stopped()
        for name, priority in (("late", 1), ("early", 1), ("urgent", 0)):
            tasks.append(asyncio.create_task(one(name, priority)))
            while sum(map(len, backend._worker._queues.values())) < len(tasks) - 1:  # type: ignore[union-attr]
                await asyncio.sleep(0.01)
        gate.release.set()
        await asyncio.gather(*tasks)

    run(work, on_forward=gate, max_batch=1)
    assert order == ["first", "urgent", "late", "early"]


def test_closing_the_backend_ends_what_runs(tiny_model: Tiny, gate: Gate) -> None:
    async def work(backend: TorchBackend) -> None:
        running = asyncio.create_task(whole(backend, ask(tiny_model(), max_tokens=200)))
        await gate.stopped()
        closing = asyncio.create_task(backend.aclose())
        await asyncio.sleep(0)
        gate.release.set()
        await closing
        with pytest.raises(EngineStateError):
            await running

    run(work, on_forward=gate)
    assert len(gate.shapes) <= 4


@pytest.mark.parametrize("length", [2_000, 1_000_000])
def test_a_text_that_does_not_fit(length: int, tiny_model: Tiny) -> None:
    folder = tiny_model()
    with pytest.raises(ContextOverflowError, match="does not fit"):
        answers([ask(folder, "x" * length)])
    (g,) = answers([ask(folder, "x" * length, on_overflow="truncate")])
    assert g.truncated > 0 and 400 < g.counts.prompt <= 512 - 24


@pytest.mark.parametrize("text", ["<|im_end|>", "a\0b", "a\ud800b", "🦊", "שלום"])
def test_odd_text_runs(text: str, tiny_model: Tiny) -> None:
    assert answers([ask(tiny_model(), text, max_tokens=2)])[0].counts.output <= 2


def test_the_hosts_threads_stay_as_they_were(tiny_model: Tiny) -> None:
    def elsewhere() -> int:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return found[0]

    before, other = torch.get_num_threads(), elsewhere()
    inside: list[int] = []
    answers([ask(tiny_model())], threads=3, on_forward=lambda *_: inside.append(torch.get_num_threads()))
    assert set(inside) == {3}
    assert (torch.get_num_threads(), elsewhere()) == (before, other)


def test_refusals(tiny_model: Tiny, tmp_path: Path) -> None:
    folder = tiny_model()
    with pytest.raises(BackendError, match="no grammar can be made"):
        answers([ask(folder, grammar='{"type":"strin"}')])
    with pytest.raises(CapabilityError, match="more outputs"):
        answers([ask(folder, n=5)], max_batch=4)
    with pytest.raises(BackendError, match="needs the checkpoint's folder"):
        answers([ask(folder, model=ModelRef("tiny"))])
    with pytest.raises(CheckpointError, match="cannot be read"):
        answers([ask(folder, model=ModelRef("tiny", tmp_path))])
    with pytest.raises(BackendError, match="cannot use the device"):
        asyncio.run(_first(TorchBackend(TorchSettings(device="mars")), ask(folder)))


async def _first(backend: TorchBackend, request: Request) -> None:
    try:
        await whole(backend, request)
    finally:
        await backend.aclose()


@pytest.mark.parametrize("harm", ["cut", "missing"])
def test_weights_that_are_not_whole(harm: str, tiny_model: Tiny, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in tiny_model().iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    if harm == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        tensors = load_file(weights)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(CheckpointError):
        answers([ask(tmp_path)])


def test_two_event_loops_in_turn(tiny_model: Tiny) -> None:
    backend = TorchBackend(TorchSettings(device="cpu"))
    first = asyncio.run(whole(backend, ask(tiny_model())))[0]
    second = asyncio.run(whole(backend, ask(tiny_model())))[0]
    asyncio.run(backend.aclose())
    asyncio.run(backend.aclose())
    assert first.tokens == second.tokens
    with pytest.raises(EngineStateError):
        asyncio.run(whole(backend, ask(tiny_model())))


def test_without_the_extra_the_first_model_says_what_to_install(
    tiny_model: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fslm_core.backends.torch import extra

    folder = tiny_model()
    extra.require.cache_clear()
    monkeypatch.setattr("fslm_core.extras.find_spec", lambda name: None if name == "peft" else object())
    for work in (lambda b: b.warm([ModelRef("tiny", folder)]), lambda b: whole(b, ask(folder))):
        with pytest.raises(MissingExtraError, match="not installed") as caught:
            run(work)
        assert "python -m pip install 'fslm-core[torch]'" in str(caught.value.hint)
        assert "peft" in str(caught.value.found)
    run(lambda backend: backend.warm([]))
